// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_write.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "worker/base/text.h"
#include "worker/storage/file_io.h"
#include "worker/storage/object_record.h"
#include "worker/storage/object_store.h"

namespace lmshm {

namespace {

// Reserving takes a fraction of the time that moving takes, but as memory (tmpfs) not a small one.
constexpr uint64_t kReserveBytes = 32 << 20;
constexpr uint64_t kReserveCost = 8;  // bytes that are reserved as fast as one is moved
// A thread is held that long by a put that waits for others to be removed.
constexpr std::chrono::milliseconds kRoomWait(2);

}  // namespace

Status ObjectWrite::Explain(int error, const char* step) const {
  return ExplainStorage(error, ActionOn(verb_, what_) + (*step == '\0' ? "" : ": ") + step);
}

void ObjectWrite::CountIn(Quota::Directory quota, uint64_t beside) {
  quota_ = std::move(quota);
  beside_ = beside;
  has_room_ = quota_ == nullptr;
}

Status ObjectWrite::TakeRoom(const Turn* turn) {
  if (!room_.has_value()) {
    const uint64_t blocks = std::max<uint64_t>(BlocksOf(FileBytes()), 1) + BlocksOf(beside_);
    room_.emplace(quota_, name_, blocks * kBlockBytes);
  }
  do {
    if (options_.cancel != nullptr && options_.cancel->Cancelled()) return Explain(ECANCELED, "");
    if (options_.client != nullptr && options_.client->Cancelled()) {
      return Status::Error(
          ECANCELED, ActionOn(verb_, what_) + " was broken off: " + options_.client->Reason());
    }
    const Status status = room_->Take(kRoomWait, &has_room_);
    if (!status.ok()) {
      return Status::Error(status.number(), ActionOn(verb_, what_) + ": " + status.text());
    }
  } while (!has_room_ && turn == nullptr);
  return Status::OK();
}

Status ObjectWrite::CheckAbsent() const {
  struct stat st;
  if (fstatat(dir_fd_, name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? Status::OK() : Explain(errno, "look for it");
  }
  Status status = CheckObjectType(st.st_mode, ActionOn(verb_, what_));
  if (!status.ok()) return status;
  // Whoever would have stored it needs it: it is not the next to be removed.
  if (quota_ != nullptr) quota_->Used(name_);
  return ThereAlready(what_);
}

Status ObjectWrite::Begin() {
  AtomicFileOptions how;
  how.unnamed = io_.facts().unnamed_files;
  how.exact_mode = io_.facts().exact_mode;
  file_.emplace();
  const int error = file_->Create(dir_fd_, name_, how);
  return error == 0 ? Status::OK() : Explain(error, "create temporary file");
}

Status ObjectWrite::WriteHead() {
  if (head_.empty()) return Status::OK();
  const int error = WriteFully(file_->fd(), {head_.data(), head_.size()}, options_.cancel);
  return error == 0 ? Status::OK() : Explain(error, "write the header");
}

uint64_t ObjectWrite::FileBytes() const {
  return RoundedUp(head_.size() + data_.size, options_.pad_bytes);
}

Status ObjectWrite::Go(Turn* turn, bool* done) {
  *done = false;
  if (options_.if_absent) {
    Status status = CheckAbsent();
    if (!status.ok()) return status;
  }
  if (!has_room_) {
    Status status = TakeRoom(turn);
    if (!status.ok() || !has_room_) return status;
  }
  if (!file_.has_value()) {
    Status status = Begin();
    if (!status.ok()) return status;
  }
  const uint64_t file_bytes = FileBytes();
  while (reserved_ < file_bytes) {
    const uint64_t bytes = std::min(file_bytes - reserved_, kReserveBytes);
    if (options_.cancel != nullptr && options_.cancel->Cancelled()) return Explain(ECANCELED, "");
    const int error = file_->Reserve(reserved_, bytes);
    if (error != 0) {
      return Explain(error, ("reserve " + std::to_string(file_bytes) + " bytes").c_str());
    }
    reserved_ += bytes;
    if (reserved_ == file_bytes || turn == nullptr) continue;
    turn->Spend(bytes / kReserveCost);
    if (turn->Over()) return Status::OK();
  }
  if (!move_.has_value()) {
    Status status = WriteHead();
    if (!status.ok()) return status;
    move_.emplace(io_, file_->fd(), Direction::kWrite, data_, options_, head_.size());
  }
  int error = move_->Go(turn, done);
  // Zeros fill it up, where reserving has not done so.
  if (error == 0 && *done && file_bytes > head_.size() + data_.size &&
      ftruncate(file_->fd(), static_cast<off_t>(file_bytes)) != 0) {
    error = errno;
  }
  return error == 0 ? Status::OK() : Explain(error, "");
}

Status ObjectWrite::Publish(uint64_t sidecar_bytes) {
  struct stat st = {};
  if (room_.has_value() && fstat(file_->fd(), &st) != 0) return Explain(errno, "look at it");
  mode_t existing = 0;
  const int error = options_.if_absent ? file_->PublishNew() : file_->PublishOverFile(&existing);
  if (existing != 0) return CheckObjectType(existing, ActionOn(verb_, what_));
  if (error == EEXIST && options_.if_absent) {
    Status status = CheckAbsent();
    return status.ok() ? ThereAlready(what_) : status;  // in that moment it was there
  }
  if (error == EOPNOTSUPP && options_.if_absent) {
    return Status::System(
        error, ActionOn(verb_, what_) + ": publish",
        "if=absent needs a file system that can rename without replacing, or give "
        "a file a second name");
  }
  if (error != 0) return Explain(error, "publish");
  options_.if_absent = false;  // whoever does it again, because what follows failed, finds its own
  if (room_.has_value()) room_->Commit(st, sidecar_bytes);
  return Status::OK();
}

void ObjectWrite::Reset() {
  move_.reset();
  file_.reset();
  reserved_ = 0;
  if (!has_room_) room_.reset();
}

}  // namespace lmshm
