// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/key_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "worker/base/crc32c.h"
#include "worker/base/text.h"
#include "worker/base/words.h"
#include "worker/storage/directory_listing.h"
#include "worker/storage/file_io.h"
#include "worker/storage/lmcache_header.h"
#include "worker/storage/object_record.h"
#include "worker/storage/object_transfer.h"
#include "worker/storage/object_write.h"
#include "worker/storage/sidecar.h"

namespace lmshm {

namespace {

constexpr uint64_t kMostPadBytes = 1 << 20;
constexpr int kOpenFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

Status Mismatch(const std::string& action, const std::string& what) {
  return Status::Error(EBADMSG, action + ": " + what);
}

// Of a file without a record and without a header, of `*length` bytes, as many are the object's as
// `space` asks for, if the rest of them can be padding to a multiple of `pad`.
Status CutPadding(const std::string& action, uint64_t pad, uint64_t space, uint64_t* length) {
  if (pad <= 1 || *length == space) return Status::OK();
  const uint64_t padded = RoundedUp(space, pad);
  if (*length == padded) {
    *length = space;
    return Status::OK();
  }
  return Mismatch(action, "the file has " + std::to_string(*length) + " bytes; with " +
                              std::to_string(space) + " asked for and padding to multiples of " +
                              std::to_string(pad) + " it would have that, or " +
                              std::to_string(padded));
}

std::string LengthMismatch(uint64_t now, const std::string& stored) {
  return "the file has " + std::to_string(now) + " bytes, and was stored with " + stored;
}

// Whether somebody wants no more of this.
bool Stopped(const TransferOptions& options, const char* verb, std::string_view key,
             Status* status) {
  if (options.cancel == nullptr || !options.cancel->Cancelled()) return false;
  *status = Status::System(ECANCELED, ActionOn(verb, key), options.cancel->Reason());
  return true;
}

}  // namespace

KeyStore::KeyStore(int dir_fd, const StorageFacts& facts, std::shared_ptr<StoresShare> share,
                   Quota::Directory quota)
    : dir_fd_(dir_fd),
      facts_(facts),
      share_(std::move(share)),
      quota_(std::move(quota)),
      keeps_files_(facts.tells_changes && facts.attributes),
      io_(facts_, &share_->metrics) {
  store_facts_.engine = "directory";
  store_facts_.attributes = facts.attributes;
  store_facts_.durability = true;
  store_facts_.io_modes = true;
  struct stat st;
  if (fstat(dir_fd, &st) == 0) device_ = st.st_dev;
  if (quota_ == nullptr) return;
  // While it stays open a file that is removed keeps its place on the disk.
  quota_->AddListener(this,
                      [this](const std::string& name) { share_->kept_files.Drop(dir_fd_, name); });
}

KeyStore::~KeyStore() {
  if (quota_ != nullptr) quota_->RemoveListener(this);
  share_->kept_files.DropDirectory(dir_fd_);
}

Status KeyStore::Changed(const std::string& action) {
  return Mismatch(action, "the file changed while it was read");
}

uint64_t KeyStore::MtimeMs(const struct stat& st) {
  const int64_t ms = static_cast<int64_t>(st.st_mtim.tv_sec) * 1000 + st.st_mtim.tv_nsec / 1000000;
  return static_cast<uint64_t>(std::max<int64_t>(ms, 0));
}

void KeyStore::Put(PutItem* items, size_t count, Turn* turn) {
  for (size_t i = 0; i < count; i++) {
    PutItem& item = items[i];
    if (item.done) continue;
    if (turn != nullptr && turn->Over()) return;
    if (item.rest == nullptr) {
      if (Stopped(item.options, "put", item.key, &item.status)) {
        item.done = true;
        continue;
      }
      if (turn != nullptr) turn->Spend(kNewObjectCost);
      item.rest = std::make_unique<ObjectPut>(*this, CheckedKey(item.key), item.data,
                                              std::move(item.attributes), item.options);
    }
    auto* const put = static_cast<ObjectPut*>(item.rest.get());
    item.status = put->Go(turn, &item.done);
    if (!item.done) return;
    if (item.options.checksum && item.status.ok()) item.crc32c = put->crc32c();
    item.rest.reset();
  }
}

void KeyStore::Get(GetItem* items, size_t count, Turn* turn) {
  for (size_t i = 0; i < count; i++) {
    GetItem& item = items[i];
    if (item.done) continue;
    if (turn != nullptr && turn->Over()) return;
    if (item.rest != nullptr) {
      item.status = static_cast<ObjectGet*>(item.rest.get())->Go(turn, &item.done, &item.info);
      if (!item.done) return;
      item.rest.reset();
      continue;
    }
    if (!Stopped(item.options, "get", item.key, &item.status)) {
      if (turn != nullptr) turn->Spend(kObjectCost);
      std::unique_ptr<ObjectGet> rest;
      item.status =
          BeginGet(CheckedKey(item.key), item.space, item.options, turn, &item.info, &rest);
      item.rest = std::move(rest);
      if (item.rest != nullptr) return;
    }
    item.done = true;
  }
}

Status KeyStore::Stat(std::string_view key, const CancelCheck*, ObjectInfo* info) {
  return Stat(CheckedKey(key), info);
}

Status KeyStore::Exists(const std::vector<std::string>& keys, const CancelCheck*,
                        std::vector<bool>* yes) {
  for (size_t i = 0; i < keys.size(); i++) {
    bool exists;
    Status status = Exists(CheckedKey(keys[i]), &exists);
    if (!status.ok()) return status;
    (*yes)[i] = exists;
  }
  return Status::OK();
}

Status KeyStore::Remove(const std::vector<std::string>& keys, const CancelCheck*,
                        std::vector<bool>* removed) {
  for (size_t i = 0; i < keys.size(); i++) {
    bool was_there;
    Status status = Remove(CheckedKey(keys[i]), &was_there);
    if (!status.ok()) return status;
    (*removed)[i] = was_there;
  }
  return Status::OK();
}

Status KeyStore::BeginListing(const std::string& prefix, std::unique_ptr<ObjectListing>* listing) {
  return DirectoryListing::Begin(*this, prefix, listing);
}

std::string KeyStore::Describe() const {
  Words words;
  if (facts_.direct()) {
    words.Add("direct",
              std::to_string(facts_.direct_offset) + "/" + std::to_string(facts_.direct_memory));
  } else {
    words.Add("direct", "no");
    words.Add("direct_reason", facts_.direct_reason);
  }
  words.Add("fs", facts_.file_system);
  if (quota_ != nullptr) {
    words.Add("dir_used_bytes", quota_->bytes());
    words.Add("dir_objects", quota_->objects());
  }
  return words.Take();
}

Status KeyStore::Put(const ObjectKey& key, SharedBytes data,
                     const std::vector<Attribute>& attributes, const TransferOptions& options,
                     uint32_t* crc) const {
  ObjectPut put(*this, key, data, attributes, options);
  bool done;
  Status status = put.Go(nullptr, &done);
  if (status.ok() && options.checksum && crc != nullptr) *crc = put.crc32c();
  return status;
}

// What is opened may be no regular file: a directory, or a FIFO. The flags keep all of these from
// doing harm, reading them fails, and whoever calls fstat() checks it.
Status KeyStore::Open(const ObjectKey& key, const char* verb, UniqueFd* fd) const {
  return share_->WithSpareRoom([&] {
    int got;
    do {
      got = openat(dir_fd_, key.file_name.c_str(), kOpenFlags);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == ENXIO) return CheckObjectType(S_IFSOCK, ActionOn(verb, key.text));
    if (got < 0) return ExplainStorage(errno, ActionOn(verb, key.text));
    fd->Reset(got);
    return Status::OK();
  });
}

Status KeyStore::ReadStored(int fd, std::string_view key, const char* verb, Stored* stored) const {
  if (!facts_.attributes) return Status::OK();
  std::string text;
  const int error = GetRecord(fd, &text);
  if (error == E2BIG) {
    stored->mismatch = "its record is larger than any that this worker would store";
    return Status::OK();
  }
  if (error != 0) return ExplainStorage(error, ActionOn(verb, key) + ": read attributes");
  if (text.empty()) return Status::OK();
  ObjectRecord record;
  if (!ParseRecord(text, &record)) {
    stored->mismatch = "its record cannot be read: " + Printable(text);
    return Status::OK();
  }
  stored->has_length = true;
  stored->length = record.length;
  stored->head = record.head;
  stored->file_bytes = FileBytesOf(record);
  stored->crc32c = record.crc32c;
  stored->attributes = std::move(record.attributes);
  if (record.key_check != KeyCheck(key) || (!record.key.empty() && record.key != key)) {
    stored->mismatch = "the file was stored for another key" +
                       (record.key.empty() ? std::string() : ": " + Printable(record.key));
  }
  return Status::OK();
}

Status KeyStore::ReadForeign(int fd, std::string_view key, const char* verb, uint64_t file_bytes,
                             uint64_t pad, Stored* stored) const {
  stored->length = file_bytes;
  if (file_bytes < kLeastHeaderBytes) return Status::OK();
  char begin[kMaxHeaderBytes];
  const SharedBytes space = {begin, std::min<uint64_t>(sizeof begin, file_bytes)};
  uint64_t done = 0;
  const int error = ReadFully(fd, space, nullptr, &done);
  if (error != 0) return ExplainStorage(error, ActionOn(verb, key));
  LmcacheHeader header;
  if (!ParseLmcacheHeader({begin, done}, &header)) {
    if (!HasUnfitLmcacheHeader({begin, done}, file_bytes)) return Status::OK();
    return Mismatch(ActionOn(verb, key),
                    "LMCache's header says other things of shape and dtype than of the length");
  }
  const uint64_t told = header.bytes + header.length;
  if (told != file_bytes && RoundedUp(told, pad) != file_bytes) {
    return Mismatch(ActionOn(verb, key),
                    "LMCache's header says that " + std::to_string(header.length) +
                        " bytes follow it, and they are " +
                        std::to_string(file_bytes - std::min(file_bytes, header.bytes)));
  }
  stored->head = header.bytes;
  stored->length = header.length;
  stored->attributes = std::move(header.attributes);
  return Status::OK();
}

Status KeyStore::Get(const ObjectKey& key, SharedBytes space, const TransferOptions& options,
                     ObjectInfo* info) const {
  std::unique_ptr<ObjectGet> rest;
  return BeginGet(key, space, options, nullptr, info, &rest);
}

Status KeyStore::BeginGet(ObjectKey key, SharedBytes space, const TransferOptions& options,
                          Turn* turn, ObjectInfo* info, std::unique_ptr<ObjectGet>* rest) const {
  if (const KeptFiles::File kept = share_->kept_files.Find(dir_fd_, key.file_name)) {
    if (kept->length <= space.size) {
      if (quota_ != nullptr) quota_->Used(key.file_name);
      return GetKept(*kept, key.text, space, options, info);
    }
  }
  UniqueFd fd;
  Status status = Open(key, "get", &fd);
  if (!status.ok()) return status;
  if (quota_ != nullptr) quota_->Used(key.file_name);
  std::optional<FileState> state;
  if (keeps_files_ && share_->kept_files.Wants(dir_fd_, key.file_name)) {
    state = share_->kept_files.Look(fd.get(), device_);
  }
  Stored stored;
  status = ReadStored(fd.get(), key.text, "get", &stored);
  if (!status.ok()) return status;

  const bool small = stored.has_length && stored.mismatch.empty() &&
                     stored.file_bytes == stored.length &&
                     stored.length <= std::min(space.size, ObjectIo::kSmallBytes);
  if (small) {
    info->length = stored.length;
    status = GetSmall(fd.get(), key.text, {space.address, stored.length}, options, stored.crc32c);
    if (status.ok() && state.has_value()) {
      auto kept = std::make_shared<KeptFile>();
      kept->dir_fd = dir_fd_;
      kept->name = std::move(key.file_name);
      kept->fd = std::move(fd);
      kept->state = *state;
      kept->length = stored.length;
      kept->crc32c = stored.crc32c;
      kept->attributes = stored.attributes;
      share_->kept_files.Keep(std::move(kept));
    }
  } else {
    const std::string action = ActionOn("get", key.text);
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return ExplainStorage(errno, action);
    status = CheckObjectType(st.st_mode, action);
    if (!status.ok()) return status;
    const auto file_bytes = static_cast<uint64_t>(st.st_size);
    info->length = file_bytes;
    if (!stored.mismatch.empty()) return Mismatch(action, stored.mismatch);
    if (!stored.has_length) {
      status = ReadForeign(fd.get(), key.text, "get", file_bytes, options.pad_bytes, &stored);
      if (status.ok() && stored.head == 0) {
        status = CutPadding(action, options.pad_bytes, space.size, &stored.length);
      }
      if (!status.ok()) return status;
    } else if (stored.file_bytes != file_bytes) {
      return Mismatch(action, LengthMismatch(file_bytes, std::to_string(stored.file_bytes)));
    }
    info->length = stored.length;
    if (info->length > space.size) {
      return Status::Error(EMSGSIZE, std::to_string(info->length) +
                                         " bytes in the object, space for " +
                                         std::to_string(space.size) + ": " + action);
    }
    const SharedBytes target = {space.address, info->length};
    auto get = std::make_unique<ObjectGet>(*this, key.text, std::move(fd), target, options,
                                           std::move(stored), st);
    bool done;
    status = get->Go(turn, &done, info);
    if (!done) *rest = std::move(get);
    return status;
  }
  info->crc32c = stored.crc32c;
  info->attributes = std::move(stored.attributes);
  return status;
}

Status KeyStore::GetKept(const KeptFile& file, std::string_view key, SharedBytes space,
                         const TransferOptions& options, ObjectInfo* info) const {
  info->length = file.length;
  info->crc32c = file.crc32c;
  info->attributes = file.attributes;
  return GetSmall(file.fd.get(), key, {space.address, file.length}, options, file.crc32c);
}

// Of a file that was stored with its length: the reading itself tells whether it still has it.
Status KeyStore::GetSmall(int fd, std::string_view key, SharedBytes target,
                          const TransferOptions& options,
                          std::optional<uint32_t> stored_crc) const {
  Moved moved;
  const int error = io_.ReadSmall(fd, target, options.checksum && stored_crc.has_value(), &moved);
  if (error != 0) return ExplainStorage(error, ActionOn("get", key));
  if (moved.bytes != target.size) {
    struct stat st;
    const uint64_t now = fstat(fd, &st) == 0 ? static_cast<uint64_t>(st.st_size) : moved.bytes;
    if (now == target.size) return Changed(ActionOn("get", key));
    return Mismatch(ActionOn("get", key), LengthMismatch(now, std::to_string(target.size)));
  }
  Status status = CheckSum(key, options, moved.crc32c, stored_crc);
  if (status.ok()) share_->metrics.CountGetWay(moved.direct);
  return status;
}

// `crc` counts only where one was stored and is to be looked at.
Status KeyStore::CheckSum(std::string_view key, const TransferOptions& options, uint32_t crc,
                          std::optional<uint32_t> stored_crc) const {
  if (!options.checksum || !stored_crc.has_value() || crc == *stored_crc) return Status::OK();
  return Mismatch(ActionOn("get", key), "its checksum is " + Crc32cHex(crc) +
                                            ", and it was stored with " + Crc32cHex(*stored_crc));
}

Status KeyStore::Stat(const ObjectKey& key, ObjectInfo* info) const {
  UniqueFd fd;
  Status status = Open(key, "stat", &fd);
  if (!status.ok()) return status;
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ExplainStorage(errno, ActionOn("stat", key.text));
  status = CheckObjectType(st.st_mode, ActionOn("stat", key.text));
  if (!status.ok()) return status;
  Stored stored;
  status = ReadStored(fd.get(), key.text, "stat", &stored);
  if (!status.ok()) return status;
  const auto file_bytes = static_cast<uint64_t>(st.st_size);
  if (!stored.has_length) {
    // Nobody says what it may have been padded to: the largest power of two that its length allows.
    const uint64_t pad = file_bytes & (~file_bytes + 1);
    status =
        ReadForeign(fd.get(), key.text, "stat", file_bytes, std::min(pad, kMostPadBytes), &stored);
    if (!status.ok()) return status;
  }
  // Of a file that is not what its record says: what it has now.
  const bool kept = !stored.has_length || stored.file_bytes == file_bytes;
  info->length = kept ? stored.length : file_bytes;
  info->mtime_ms = MtimeMs(st);
  info->disk_bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  info->crc32c = stored.crc32c;
  info->attributes = std::move(stored.attributes);
  return status;
}

Status KeyStore::Exists(const ObjectKey& key, bool* exists) const {
  struct stat st;
  *exists = false;
  if (fstatat(dir_fd_, key.file_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    *exists = S_ISREG(st.st_mode);
  } else if (errno != ENOENT) {
    return ExplainStorage(errno, ActionOn("look for", key.text));
  }
  return Status::OK();
}

Status KeyStore::Remove(const ObjectKey& key, bool* removed) const {
  Sidecar sidecar(dir_fd_, key.sidecar_name, key.file_name);
  sidecar.LockForRemoval();
  Status status = Exists(key, removed);
  if (!status.ok()) return status;
  if (*removed && unlinkat(dir_fd_, key.file_name.c_str(), 0) != 0) {
    if (errno != ENOENT) return ExplainStorage(errno, ActionOn("remove", key.text));
    *removed = false;  // somebody else was faster
  }
  share_->kept_files.Drop(dir_fd_, key.file_name);
  const int error = sidecar.Remove();
  if (quota_ != nullptr) quota_->Removed(key.file_name);
  if (error != 0) return ExplainStorage(error, ActionOn("remove the sidecar of", key.text));
  return Status::OK();
}

Status KeyStore::KeyOfHashed(const std::string& file_name, std::string* key) const {
  const auto belongs = [&](const std::string& candidate) {
    ObjectKey of;
    return ParseKey(candidate, &of).ok() && of.file_name == file_name;
  };
  const auto failed = [&](int error) {
    // What is lacking for the moment does not mean that there is no key.
    const bool lacking = error == EMFILE || error == ENFILE || error == ENOMEM;
    return ExplainStorage(lacking ? error : ENOENT, "find the key of " + Printable(file_name));
  };
  std::string found;
  int error = ReadSidecar(dir_fd_, SidecarOf(file_name), &found);
  if (error == EMFILE || error == ENFILE) return failed(error);
  if (!belongs(found)) {
    const UniqueFd fd(openat(dir_fd_, file_name.c_str(), kOpenFlags));
    if (!fd.valid()) return failed(errno);
    std::string text;
    ObjectRecord record;
    error = facts_.attributes ? GetRecord(fd.get(), &text) : ENOENT;
    if (error != 0) return failed(error);
    if (!ParseRecord(text, &record)) return failed(ENOENT);
    found = std::move(record.key);
    if (!belongs(found)) return failed(ENOENT);
  }
  *key = std::move(found);
  return Status::OK();
}

}  // namespace lmshm
