// SPDX-License-Identifier: Apache-2.0
#include "worker/key_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "worker/atomic_file.h"
#include "worker/checked_io.h"
#include "worker/crc32c.h"
#include "worker/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kKey = "key";
constexpr std::string_view kLength = "length";
constexpr std::string_view kCrc32c = "crc32c";
// A longer key is not stored as an attribute, for want of room: its hash is its file's name.
constexpr size_t kMaxKeyAttributeBytes = 1024;
// From here on ENOSPC is taken for "too many", not for a full disk.
constexpr size_t kManyAttributeBytes = 2048;
constexpr size_t kShownKeyBytes = 200;

std::string Action(const char* verb, std::string_view key) {
  std::string action = std::string(verb) + " ";
  AppendPrintable(key, kShownKeyBytes, &action);
  return action;
}

Status CheckType(mode_t mode, const std::string& action) {
  if (S_ISREG(mode)) return Status::OK();
  if (S_ISDIR(mode)) return Status::System(EISDIR, action);
  if (S_ISLNK(mode)) return Status::System(ELOOP, action, "a symbolic link is no object");
  return Status::Error(EINVAL, action + ": not a regular file");
}

Status Explain(int error, const std::string& action) {
  switch (error) {
    case EFAULT:
      return Status::System(error, action,
                            "the shared memory is shorter than when it was attached, or its file "
                            "system is full: recreate the segment and ATTACH again");
    case ELOOP:
      return Status::System(error, action, "symbolic links are not followed here");
    case ECANCELED:
      return Status::System(error, action, "the worker is ending");
    case EROFS:
    case EACCES:
    case EPERM:
      return Status::System(error, action, "the worker runs as user " + std::to_string(geteuid()));
    default:
      return Status::System(error, action);
  }
}

Status Mismatch(const std::string& action, const std::string& what) {
  return Status::Error(EBADMSG, action + ": " + what);
}

void Describe(const struct stat& st, ObjectInfo* info) {
  const int64_t ms = static_cast<int64_t>(st.st_mtim.tv_sec) * 1000 + st.st_mtim.tv_nsec / 1000000;
  info->length = static_cast<uint64_t>(st.st_size);
  info->mtime_ms = static_cast<uint64_t>(std::max<int64_t>(ms, 0));
  info->disk_bytes = static_cast<uint64_t>(st.st_blocks) * 512;
}

const std::string* Find(const std::vector<Attribute>& attributes, std::string_view name) {
  for (const Attribute& attribute : attributes) {
    if (attribute.name == name) return &attribute.value;
  }
  return nullptr;
}

// The client's attributes and ours. Ours are few and go first: they matter more.
int StoreAttributes(int fd, std::string_view key, uint64_t length, const uint32_t* crc,
                    const std::vector<Attribute>& attributes) {
  int error = SetAttribute(fd, kLength, std::to_string(length));
  if (error == 0 && crc != nullptr) error = SetAttribute(fd, kCrc32c, Crc32cHex(*crc));
  if (error == 0 && key.size() <= kMaxKeyAttributeBytes) error = SetAttribute(fd, kKey, key);
  for (size_t i = 0; error == 0 && i < attributes.size(); i++) {
    error = SetAttribute(fd, attributes[i].name, attributes[i].value);
  }
  return error;
}

// ext4 says ENOSPC both when the disk is full and when one file's attributes are too many. Data of
// the object has found its place already, so with many attributes it is most likely the second.
Status ExplainAttributes(int error, const std::string& action, std::string_view key,
                         const std::vector<Attribute>& attributes) {
  size_t bytes = key.size() <= kMaxKeyAttributeBytes ? key.size() : 0;
  for (const Attribute& attribute : attributes) {
    bytes += attribute.name.size() + attribute.value.size();
  }
  if (error == E2BIG || error == ERANGE || (error == ENOSPC && bytes >= kManyAttributeBytes)) {
    return Status::Error(E2BIG, action + ": the file system has no room for " +
                                    std::to_string(bytes) +
                                    " bytes of attributes with one file; give fewer (on ext4, "
                                    "about 4000 bytes are the limit, the key among them)");
  }
  return Explain(error, action + ": store attributes");
}

}  // namespace

Status KeyStore::Put(std::string_view key, SharedBytes data,
                     const std::vector<Attribute>& attributes, const CancelCheck* cancel,
                     uint32_t* crc) const {
  KeyFile names;
  Status status = FindKeyFile(key, &names);
  if (!status.ok()) return status;
  const std::string action = Action("put", key);
  struct stat st;
  if (fstatat(root_fd_, names.file_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    status = CheckType(st.st_mode, action);
    if (!status.ok()) return status;
  } else if (errno != ENOENT) {
    return Explain(errno, action);
  }

  AtomicFile file;
  int error = file.Create(root_fd_, names.file_name);
  if (error != 0) return Explain(error, action + ": create temporary file");
  error = file.Reserve(data.size);
  if (error != 0) {
    return Explain(error, action + ": reserve " + std::to_string(data.size) + " bytes");
  }
  error = crc != nullptr ? WriteChecked(file.fd(), data, cancel, crc)
                         : WriteFully(file.fd(), data, cancel);
  if (error != 0) return Explain(error, action);
  if (attributes_) {
    error = StoreAttributes(file.fd(), key, data.size, crc, attributes);
    if (error != 0) return ExplainAttributes(error, action, key, attributes);
  }
  // Before the object, so that there is none without. Again after it, because a removal of the
  // same key in between takes the sidecar along.
  error = StoreSidecar(names, key);
  if (error == 0) {
    error = file.Publish();
    if (error != 0) return Explain(error, action + ": publish");
    error = StoreSidecar(names, key);
  }
  return error == 0 ? Status::OK() : Explain(error, action + ": store the key beside it");
}

Status KeyStore::Open(std::string_view key, const KeyFile& names, const char* verb, UniqueFd* fd,
                      ObjectInfo* info) const {
  const std::string action = Action(verb, key);
  // O_NONBLOCK: opening a FIFO would wait for its writer. It has no effect on a regular file.
  int got;
  do {
    got = openat(root_fd_, names.file_name.c_str(),
                 O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno == ENXIO) return CheckType(S_IFSOCK, action);
  if (got < 0) return Explain(errno, action);
  fd->Reset(got);
  struct stat st;
  if (fstat(got, &st) != 0) return Explain(errno, action);
  Status status = CheckType(st.st_mode, action);
  if (status.ok()) Describe(st, info);
  return status;
}

Status KeyStore::ReadAttributes(int fd, std::string_view key, const char* verb, ObjectInfo* info,
                                std::vector<Attribute>* ours) const {
  info->attributes.clear();
  info->crc32c.reset();
  std::vector<Attribute> found;
  const int error = attributes_ ? GetAttributes(fd, &found) : 0;
  if (error == E2BIG) {
    return Mismatch(Action(verb, key), "it has more attributes than this worker would store");
  }
  if (error != 0) return Explain(error, Action(verb, key) + ": read attributes");
  for (Attribute& attribute : found) {
    std::vector<Attribute>* const to =
        IsReservedAttribute(attribute.name) ? ours : &info->attributes;
    to->push_back(std::move(attribute));
  }
  uint32_t crc;
  const std::string* const text = Find(*ours, kCrc32c);
  if (text != nullptr && ParseCrc32cHex(*text, &crc)) info->crc32c = crc;
  return Status::OK();
}

Status KeyStore::Get(std::string_view key, SharedBytes space, bool verify,
                     const CancelCheck* cancel, ObjectInfo* info) const {
  KeyFile names;
  Status status = FindKeyFile(key, &names);
  if (!status.ok()) return status;
  UniqueFd fd;
  status = Open(key, names, "get", &fd, info);
  if (!status.ok()) return status;
  std::vector<Attribute> ours;
  status = ReadAttributes(fd.get(), key, "get", info, &ours);
  if (!status.ok()) return status;

  const std::string action = Action("get", key);
  const std::string* const stored_key = Find(ours, kKey);
  if (stored_key != nullptr && *stored_key != key) {
    return Mismatch(action, "the file was stored for the key " + Printable(*stored_key));
  }
  const std::string length = std::to_string(info->length);
  const std::string* const stored_length = Find(ours, kLength);
  if (stored_length != nullptr && *stored_length != length) {
    return Mismatch(action, "the file has " + length + " bytes, and was stored with " +
                                Printable(*stored_length));
  }
  const std::string* const stored_crc = Find(ours, kCrc32c);
  if (stored_crc != nullptr && !info->crc32c.has_value()) {
    return Mismatch(action, "its attribute crc32c is no checksum: " + Printable(*stored_crc));
  }
  if (info->length > space.size) {
    return Status::Error(EMSGSIZE, length + " bytes in the object, space for " +
                                       std::to_string(space.size) + ": " + action);
  }

  SharedBytes target = space;
  target.size = info->length;
  uint64_t done = 0;
  uint32_t crc = 0;
  const bool check = verify && info->crc32c.has_value();
  const int error = check ? ReadChecked(fd.get(), target, cancel, &done, &crc)
                          : ReadFully(fd.get(), target, cancel, &done);
  if (error != 0) return Explain(error, action);
  if (check && done == info->length && crc != *info->crc32c) {
    return Mismatch(action, "its checksum is " + Crc32cHex(crc) + ", and it was stored with " +
                                Crc32cHex(*info->crc32c));
  }
  // A file of this worker never changes its content. Others may write theirs in place.
  ObjectInfo after;
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Explain(errno, action);
  Describe(st, &after);
  const bool touched = stored_length == nullptr && after.mtime_ms != info->mtime_ms;
  if (done != info->length || after.length != info->length || touched) {
    return Mismatch(action, "the file changed while it was read");
  }
  return Status::OK();
}

Status KeyStore::Stat(std::string_view key, ObjectInfo* info) const {
  KeyFile names;
  Status status = FindKeyFile(key, &names);
  if (!status.ok()) return status;
  UniqueFd fd;
  status = Open(key, names, "stat", &fd, info);
  if (!status.ok()) return status;
  std::vector<Attribute> ours;
  return ReadAttributes(fd.get(), key, "stat", info, &ours);
}

Status KeyStore::Exists(std::string_view key, bool* exists) const {
  KeyFile names;
  Status status = FindKeyFile(key, &names);
  if (!status.ok()) return status;
  struct stat st;
  *exists = false;
  if (fstatat(root_fd_, names.file_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    *exists = S_ISREG(st.st_mode);
  } else if (errno != ENOENT) {
    return Explain(errno, Action("look for", key));
  }
  return Status::OK();
}

Status KeyStore::Remove(std::string_view key, bool* removed) const {
  KeyFile names;
  Status status = FindKeyFile(key, &names);
  if (!status.ok()) return status;
  status = Exists(key, removed);
  if (!status.ok()) return status;
  if (*removed && unlinkat(root_fd_, names.file_name.c_str(), 0) != 0) {
    if (errno != ENOENT) return Explain(errno, Action("remove", key));
    *removed = false;  // somebody else was faster
  }
  if (!names.sidecar_name.empty() && unlinkat(root_fd_, names.sidecar_name.c_str(), 0) != 0 &&
      errno != ENOENT) {
    return Explain(errno, Action("remove the sidecar of", key));
  }
  return Status::OK();
}

int KeyStore::StoreSidecar(const KeyFile& names, std::string_view key) const {
  if (names.sidecar_name.empty()) return 0;
  if (ReadSidecar(names.sidecar_name) == key) return 0;
  AtomicFile file;
  int error = file.Create(root_fd_, names.sidecar_name);
  if (error != 0) return error;
  std::string copy(key);
  error = WriteFully(file.fd(), {copy.data(), copy.size()}, nullptr);
  return error != 0 ? error : file.Publish();
}

std::string KeyStore::ReadSidecar(const std::string& name) const {
  UniqueFd fd(
      openat(root_fd_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return std::string();
  std::string text(kMaxKeyBytes + 1, '\0');
  uint64_t done = 0;
  if (ReadFully(fd.get(), {text.data(), text.size()}, nullptr, &done) != 0) return std::string();
  text.resize(done);
  return text;
}

bool KeyStore::KeyOfHashed(const std::string& file_name, std::string* key) const {
  const auto belongs = [&](const std::string& candidate) {
    KeyFile names;
    return FindKeyFile(candidate, &names).ok() && names.file_name == file_name;
  };
  std::string found = ReadSidecar(SidecarOf(file_name));
  if (!belongs(found)) {
    found.clear();
    UniqueFd fd(openat(root_fd_, file_name.c_str(),
                       O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    std::vector<Attribute> attributes;
    if (!attributes_ || !fd.valid() || GetAttributes(fd.get(), &attributes) != 0) return false;
    const std::string* const stored = Find(attributes, kKey);
    if (stored == nullptr || !belongs(*stored)) return false;
    found = *stored;
  }
  *key = std::move(found);
  return true;
}

}  // namespace lmshm
