// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_write.h"

#include <algorithm>
#include <cerrno>

#include "worker/storage/file_io.h"

namespace lmshm {

namespace {

// Reserving takes a fraction of the time that moving takes, but as memory (tmpfs) not a small one.
constexpr uint64_t kReserveBytes = 32 << 20;
constexpr uint64_t kReserveCost = 8;  // bytes that are reserved as fast as one is moved

}  // namespace

Status ObjectWrite::Explain(int error, const char* step) const {
  return ExplainStorage(error, ActionOn(verb_, what_) + (*step == '\0' ? "" : ": ") + step);
}

Status ObjectWrite::Begin() {
  AtomicFileOptions how;
  how.unnamed = io_.facts().unnamed_files;
  how.exact_mode = io_.facts().exact_mode;
  file_.emplace();
  const int error = file_->Create(dir_fd_, name_, how);
  return error == 0 ? Status::OK() : Explain(error, "create temporary file");
}

Status ObjectWrite::Go(Turn* turn, bool* done) {
  *done = false;
  if (!file_.has_value()) {
    Status status = Begin();
    if (!status.ok()) return status;
  }
  while (reserved_ < data_.size) {
    const uint64_t bytes = std::min(data_.size - reserved_, kReserveBytes);
    if (options_.cancel != nullptr && options_.cancel->Cancelled()) return Explain(ECANCELED, "");
    const int error = file_->Reserve(reserved_, bytes);
    if (error != 0) {
      return Explain(error, ("reserve " + std::to_string(data_.size) + " bytes").c_str());
    }
    reserved_ += bytes;
    if (reserved_ == data_.size || turn == nullptr) continue;
    turn->Spend(bytes / kReserveCost);
    if (turn->Over()) return Status::OK();
  }
  if (!move_.has_value()) move_.emplace(io_, file_->fd(), Direction::kWrite, data_, options_);
  const int error = move_->Go(turn, done);
  return error == 0 ? Status::OK() : Explain(error, "");
}

Status ObjectWrite::Publish() {
  mode_t existing;
  const int error = file_->PublishOverFile(&existing);
  if (existing != 0) return CheckObjectType(existing, ActionOn(verb_, what_));
  return error == 0 ? Status::OK() : Explain(error, "publish");
}

void ObjectWrite::Reset() {
  move_.reset();
  file_.reset();
  reserved_ = 0;
}

}  // namespace lmshm
