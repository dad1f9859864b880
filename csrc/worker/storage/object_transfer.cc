// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_transfer.h"

#include <cerrno>
#include <utility>

#include "worker/base/text.h"
#include "worker/storage/file_io.h"
#include "worker/storage/lmcache_header.h"
#include "worker/storage/object_record.h"
#include "worker/storage/sidecar.h"

namespace lmshm {

namespace {

// A longer key is not stored in the record, for want of room: its sidecar has it.
constexpr size_t kMaxKeyAttributeBytes = 1024;
// From here on ENOSPC is taken for "too many", not for a full disk.
constexpr size_t kManyRecordBytes = 2048;

std::string MakeRecord(const ObjectKey& key, ObjectRecord record, const uint32_t* crc,
                       const std::vector<Attribute>& attributes) {
  if (crc != nullptr) record.crc32c = *crc;
  record.key_check = KeyCheck(key.text);
  if (!key.sidecar_name.empty() && key.text.size() <= kMaxKeyAttributeBytes) {
    record.key = key.text;
  }
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

}  // namespace

ObjectPut::ObjectPut(const KeyStore& store, ObjectKey key, SharedBytes data,
                     std::vector<Attribute> attributes, const TransferOptions& options)
    : store_(store),
      key_(std::move(key)),
      data_(data),
      attributes_(std::move(attributes)),
      options_(options),
      write_(store.dir_fd_, key_.file_name, store.io_, data, options, "put", key_.text),
      patience_(&store.share(), true) {
  if (store.quota_ == nullptr) return;
  // A record that is not short may take a block of its own.
  const bool block = !key_.sidecar_name.empty() || !attributes_.empty();
  sidecar_bytes_ = key_.sidecar_name.empty() ? 0 : key_.text.size();
  write_.CountIn(store.quota_, BlocksOf(sidecar_bytes_) * kBlockBytes + (block ? kBlockBytes : 0));
}

Status ObjectPut::Begin() {
  if (begun_ || !options_.lmcache_header) return Status::OK();
  std::string head;
  Status status = MakeLmcacheHeader(data_.size, attributes_, &head);
  if (!status.ok()) {
    return Status::Error(status.number(), ActionOn("put", key_.text) + ": " + status.text());
  }
  head_bytes_ = head.size();
  write_.SetHead(std::move(head));
  begun_ = true;
  return status;
}

Status ObjectPut::Go(Turn* turn, bool* done) {
  for (;;) {
    Status status = Begin();
    if (!status.ok()) {
      *done = true;
      return status;
    }
    status = write_.Go(turn, done);
    if (status.ok() && !*done) return status;  // its turn is over
    if (status.ok()) status = Finish();
    *done = true;
    if (status.ok()) return status;
    // What is lacking is not waited for with a file in hand: from the beginning, if at all.
    write_.Reset();
    if (!patience_.TryAgain(status)) return status;
  }
}

Status ObjectPut::Finish() {
  const bool sync = options_.durability != Durability::kNone;
  const Moved& moved = write_.moved();
  int error = 0;
  if (store_.facts_.attributes) {
    ObjectRecord file;
    file.length = data_.size;
    file.head = head_bytes_;
    file.pad = options_.pad_bytes;
    const std::string record =
        MakeRecord(key_, std::move(file), options_.checksum ? &moved.crc32c : nullptr, attributes_);
    error = SetRecord(write_.fd(), record);
    if (error != 0) return ExplainRecord(error, ActionOn("put", key_.text), record.size());
  }
  if (sync) error = SyncData(write_.fd());
  if (error != 0) return write_.Explain(error, "wait for the disk");

  Sidecar sidecar(store_.dir_fd_, key_.sidecar_name, key_.file_name);
  const auto explain = [&](int failed, const char* step) {
    return failed == 0 ? Status::OK() : write_.Explain(failed, step);
  };
  constexpr const char* kStoreKey = "store the key beside it";
  // Descriptors may be lacking here: the bytes need not be moved again for that.
  Status status = store_.share().WithSpareRoom(
      [&] { return explain(sidecar.Store(key_.text, sync), kStoreKey); });
  if (status.ok()) status = write_.Publish(sidecar_bytes_);
  if (!status.ok()) return status;
  store_.share().kept_files.Drop(store_.dir_fd_, key_.file_name);
  status = explain(sidecar.Confirm(key_.text, sync), kStoreKey);
  if (status.ok() && options_.durability == Durability::kFull) {
    status = store_.share().WithSpareRoom(
        [&] { return explain(SyncNames(store_.dir_fd_), "wait for the disk to have its name"); });
  }
  if (status.ok()) store_.share().metrics.CountPutWay(moved.direct);
  return status;
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
      move_(
          store.io_, fd_.get(), Direction::kRead, space,
          [&] {
            TransferOptions own = options;
            own.checksum = options.checksum && stored_.crc32c.has_value();
            return own;
          }(),
          stored_.head) {}

Status ObjectGet::Go(Turn* turn, bool* done, ObjectInfo* info) {
  const int error = move_.Go(turn, done);
  if (error == 0 && !*done) return Status::OK();
  *done = true;
  return error != 0 ? ExplainStorage(error, ActionOn("get", key_)) : Finish(info);
}

Status ObjectGet::Finish(ObjectInfo* info) {
  const Moved& moved = move_.moved();
  // A file of this worker never changes its content. Others may write theirs in place.
  struct stat after;
  if (fstat(fd_.get(), &after) != 0) {
    return ExplainStorage(errno, ActionOn("get", key_));
  }
  const bool touched =
      !stored_.has_length && KeyStore::MtimeMs(after) != KeyStore::MtimeMs(before_);
  const uint64_t length = stored_.length;
  if (moved.bytes != length || after.st_size != before_.st_size || touched) {
    return KeyStore::Changed(ActionOn("get", key_));
  }
  Status status = store_.CheckSum(key_, options_, moved.crc32c, stored_.crc32c);
  if (!status.ok()) return status;
  store_.share().metrics.CountGetWay(moved.direct);
  info->length = length;
  info->crc32c = stored_.crc32c;
  info->attributes = std::move(stored_.attributes);
  return status;
}

}  // namespace lmshm
