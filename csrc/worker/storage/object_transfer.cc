// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_transfer.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "worker/storage/durable.h"
#include "worker/storage/object_record.h"
#include "worker/storage/sidecar.h"
#include "worker/storage/storage_error.h"

namespace lmshm {

namespace {

// A longer key is not stored in the record, for want of room: its sidecar has it.
constexpr size_t kMaxKeyAttributeBytes = 1024;
// From here on ENOSPC is taken for "too many", not for a full disk.
constexpr size_t kManyRecordBytes = 2048;
// Reserving takes a fraction of the time that moving takes, but as memory (tmpfs) not a small one.
constexpr uint64_t kReserveBytes = 32 << 20;
constexpr uint64_t kReserveCost = 8;  // bytes that are reserved as fast as one is moved
// A thread is held that long by a put that waits for others to be removed.
constexpr std::chrono::milliseconds kRoomWait(2);

std::string MakeRecord(std::string_view key, const KeyFile& names, uint64_t length,
                       const uint32_t* crc, const std::vector<Attribute>& attributes) {
  ObjectRecord record;
  record.length = length;
  if (crc != nullptr) record.crc32c = *crc;
  record.key_check = KeyCheck(key);
  if (!names.sidecar_name.empty() && key.size() <= kMaxKeyAttributeBytes) record.key = key;
  record.attributes = attributes;
  return FormatRecord(record);
}

// ext4 says ENOSPC both when the disk is full and when one file's attributes are too many. Data of
// the object has found its place already, so with many attributes it is most likely the second.
Status ExplainRecord(int error, const std::string& action, size_t bytes) {
  if (error == E2BIG || error == ERANGE || (error == ENOSPC && bytes >= kManyRecordBytes)) {
    return Status::Error(E2BIG, action + ": the file system has no room for " +
                                    std::to_string(bytes) +
                                    " bytes of attributes with one file; give fewer (on ext4, "
                                    "about 4000 bytes are the limit, the key among them)");
  }
  return ExplainStorage(error, action + ": store attributes");
}

std::string PutAction(std::string_view key) { return KeyStore::Action("put", key); }

}  // namespace

ObjectPut::ObjectPut(const KeyStore& store, std::string_view key, SharedBytes data,
                     std::vector<Attribute> attributes, const TransferOptions& options)
    : store_(store),
      key_(key),
      data_(data),
      attributes_(std::move(attributes)),
      options_(options),
      patience_(&store.share(), true) {}

Status ObjectPut::Go(Turn* turn, bool* done) {
  for (;;) {
    Status status = GoOnce(turn, done);
    if (status.ok() || !patience_.TryAgain(status)) {
      *done = *done || !status.ok();
      if (*done) {
        file_.reset();
        room_.reset();
      }
      return status;
    }
    // From the beginning.
    move_.reset();
    file_.reset();
    if (!has_room_) room_.reset();
  }
}

Status ObjectPut::GoOnce(Turn* turn, bool* done) {
  *done = false;
  if (!has_room_) {
    Status status = TakeRoom(turn);
    if (!status.ok() || !has_room_) return status;
  }
  if (!file_.has_value()) {
    Status status = Begin();
    if (!status.ok()) return status;
  }
  while (reserved_ < data_.size) {
    const uint64_t bytes = std::min(data_.size - reserved_, kReserveBytes);
    if (options_.cancel != nullptr && options_.cancel->Cancelled()) {
      return ExplainStorage(ECANCELED, PutAction(key_));
    }
    const int error = file_->Reserve(reserved_, bytes);
    if (error != 0) {
      return ExplainStorage(error,
                            PutAction(key_) + ": reserve " + std::to_string(data_.size) + " bytes");
    }
    reserved_ += bytes;
    if (reserved_ == data_.size || turn == nullptr) continue;
    turn->Spend(bytes / kReserveCost);
    if (turn->Over()) return Status::OK();
  }
  if (!move_.has_value()) {
    move_.emplace(store_.io_, file_->fd(), Direction::kWrite, data_, options_);
  }
  bool moved;
  const int error = move_->Go(turn, &moved);
  if (error != 0) return ExplainStorage(error, PutAction(key_));
  if (!moved) return Status::OK();
  *done = true;
  return Finish();
}

// Where there is none it waits for a moment, and then has others' turns come.
Status ObjectPut::TakeRoom(Turn* turn) {
  if (!room_.has_value()) {
    Status status = FindKeyFile(key_, &names_);
    has_room_ = store_.quota_ == nullptr;
    if (!status.ok() || has_room_) return status;
    uint64_t blocks = std::max<uint64_t>(BlocksOf(data_.size), 1);
    if (!names_.sidecar_name.empty()) blocks += BlocksOf(key_.size());
    // A record that is not short may take a block of its own.
    if (!names_.sidecar_name.empty() || !attributes_.empty()) blocks++;
    room_.emplace(store_.quota_, names_.file_name, blocks * kBlockBytes);
  }
  do {
    if (options_.cancel != nullptr && options_.cancel->Cancelled()) {
      return ExplainStorage(ECANCELED, PutAction(key_));
    }
    const Status status = room_->Take(kRoomWait, &has_room_);
    if (!status.ok()) {
      return Status::Error(status.number(), PutAction(key_) + ": " + status.text());
    }
  } while (!has_room_ && turn == nullptr);
  return Status::OK();
}

Status ObjectPut::Begin() {
  AtomicFileOptions how;
  how.unnamed = store_.facts_.unnamed_files;
  how.exact_mode = store_.facts_.exact_mode;
  reserved_ = 0;
  file_.emplace();
  const int error = file_->Create(store_.dir_fd_, names_.file_name, how);
  return error == 0 ? Status::OK()
                    : ExplainStorage(error, PutAction(key_) + ": create temporary file");
}

Status ObjectPut::Finish() {
  const std::string action = PutAction(key_);
  const bool sync = options_.durability != Durability::kNone;
  const Moved& moved = move_->moved();
  int error = 0;
  if (store_.facts_.attributes) {
    const std::string record = MakeRecord(key_, names_, data_.size,
                                          options_.checksum ? &moved.crc32c : nullptr, attributes_);
    error = SetRecord(file_->fd(), record);
    if (error != 0) return ExplainRecord(error, action, record.size());
  }
  if (sync) error = SyncData(file_->fd());
  if (error != 0) return ExplainStorage(error, action + ": wait for the disk");

  Sidecar sidecar(store_.dir_fd_, names_.sidecar_name, names_.file_name);
  // Descriptors may be lacking here: the bytes need not be moved again for that.
  Status status = store_.share().WithSpareRoom([&] {
    const int failed = sidecar.Store(key_, sync);
    return failed == 0 ? Status::OK()
                       : ExplainStorage(failed, action + ": store the key beside it");
  });
  if (!status.ok()) return status;
  struct stat st = {};
  if (store_.quota_ != nullptr && fstat(file_->fd(), &st) != 0) {
    return ExplainStorage(errno, action);
  }
  mode_t existing;
  error = file_->PublishOverFile(&existing);
  if (existing != 0) return CheckObjectType(existing, action);
  if (error != 0) return ExplainStorage(error, action + ": publish");
  if (room_.has_value()) room_->Commit(st, names_.sidecar_name.empty() ? 0 : key_.size());
  store_.share().kept_files.Drop(store_.dir_fd_, names_.file_name);
  error = sidecar.Confirm(key_, sync);
  if (error != 0) return ExplainStorage(error, action + ": store the key beside it");
  if (options_.durability == Durability::kFull) {
    status = store_.share().WithSpareRoom([&] {
      const int failed = SyncNames(store_.dir_fd_);
      return failed == 0 ? Status::OK()
                         : ExplainStorage(failed, action + ": wait for the disk to have its name");
    });
    if (!status.ok()) return status;
  }
  store_.share().metrics.CountPut(data_.size, moved.direct);
  return Status::OK();
}

ObjectGet::ObjectGet(const KeyStore& store, std::string_view key, UniqueFd fd, SharedBytes space,
                     const TransferOptions& options, KeyStore::Stored stored,
                     const struct stat& before)
    : store_(store),
      key_(key),
      fd_(std::move(fd)),
      options_(options),
      stored_(std::move(stored)),
      before_(before),
      move_(store.io_, fd_.get(), Direction::kRead, space, [&] {
        TransferOptions own = options;
        own.checksum = options.checksum && stored_.crc32c.has_value();
        return own;
      }()) {}

Status ObjectGet::Go(Turn* turn, bool* done, ObjectInfo* info) {
  const int error = move_.Go(turn, done);
  if (error == 0 && !*done) return Status::OK();
  *done = true;
  return error != 0 ? ExplainStorage(error, KeyStore::Action("get", key_)) : Finish(info);
}

Status ObjectGet::Finish(ObjectInfo* info) {
  const Moved& moved = move_.moved();
  // A file of this worker never changes its content. Others may write theirs in place.
  struct stat after;
  if (fstat(fd_.get(), &after) != 0) {
    return ExplainStorage(errno, KeyStore::Action("get", key_));
  }
  const bool touched =
      !stored_.has_length && KeyStore::MtimeMs(after) != KeyStore::MtimeMs(before_);
  const auto length = static_cast<uint64_t>(before_.st_size);
  if (moved.bytes != length || after.st_size != before_.st_size || touched) {
    return KeyStore::Changed(KeyStore::Action("get", key_));
  }
  Status status = store_.CheckSum(key_, options_, moved.crc32c, stored_.crc32c);
  if (!status.ok()) return status;
  store_.share().metrics.CountGet(length, moved.direct);
  info->length = length;
  info->crc32c = stored_.crc32c;
  info->attributes = std::move(stored_.attributes);
  return status;
}

}  // namespace lmshm
