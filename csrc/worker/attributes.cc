// SPDX-License-Identifier: Apache-2.0
#include "worker/attributes.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "worker/atomic_file.h"
#include "worker/unique_fd.h"

namespace lmshm {

namespace {

constexpr const char* kRecord = "user.lmshm";
constexpr std::string_view kPrefix = "user.lmshm.";
constexpr std::string_view kReserved[] = {"key",      "length", "crc32c", "crc",  "verify",
                                          "mtime_ms", "disk",   "io",     "sync", "prio"};
constexpr size_t kMaxListBytes = 64 * 1024;  // XATTR_LIST_MAX
// The worker's own come on top of the client's.
constexpr size_t kMaxFoundBytes = kMaxAttributeBytes + 4096;
// Most records fit into the first; a coded byte takes three.
constexpr size_t kUsualRecordBytes = 1024;
constexpr size_t kMaxRecordBytes = 3 * kMaxFoundBytes;

std::string FullName(std::string_view name) { return std::string(kPrefix).append(name); }

bool Unsupported(int error) { return error == EOPNOTSUPP || error == ENOSYS; }

int GetValue(int fd, const std::string& full_name, std::string* value) {
  value->resize(kMaxFoundBytes);
  const ssize_t size = fgetxattr(fd, full_name.c_str(), value->data(), value->size());
  if (size < 0) return errno == ERANGE ? E2BIG : errno;
  value->resize(static_cast<size_t>(size));
  return 0;
}

}  // namespace

bool IsAttributeName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxAttributeNameBytes &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos;
}

bool IsReservedAttribute(std::string_view name) {
  return std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved);
}

bool DetectAttributes(int dir_fd) {
  AtomicFile file;
  if (file.Create(dir_fd, "attribute-test") == 0) {
    const std::string name = FullName("test");
    return fsetxattr(file.fd(), name.c_str(), "1", 1, 0) == 0 &&
           fremovexattr(file.fd(), name.c_str()) == 0;
  }
  UniqueFd dir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.valid()) return false;
  char byte;
  return fgetxattr(dir.get(), FullName("test").c_str(), &byte, 1) >= 0 || !Unsupported(errno);
}

int SetRecord(int fd, std::string_view text) {
  return fsetxattr(fd, kRecord, text.data(), text.size(), 0) == 0 ? 0 : errno;
}

int GetRecord(int fd, std::string* text) {
  char usual[kUsualRecordBytes];
  ssize_t size = fgetxattr(fd, kRecord, usual, sizeof usual);
  if (size >= 0) {
    text->assign(usual, static_cast<size_t>(size));
    return 0;
  }
  text->clear();
  if (errno == ENODATA || Unsupported(errno)) return 0;
  if (errno != ERANGE) return errno;
  text->resize(kMaxRecordBytes);
  size = fgetxattr(fd, kRecord, text->data(), text->size());
  const int error = size < 0 ? errno : 0;
  text->resize(size < 0 ? 0 : static_cast<size_t>(size));
  if (error == ENODATA) return 0;  // removed in between
  return error == ERANGE ? E2BIG : error;
}

int GetAttributes(int fd, std::vector<Attribute>* attributes) {
  attributes->clear();
  std::string names(4096, '\0');
  ssize_t size = flistxattr(fd, names.data(), names.size());
  if (size < 0 && errno == ERANGE) {
    names.resize(kMaxListBytes);
    size = flistxattr(fd, names.data(), names.size());
  }
  if (size < 0) return Unsupported(errno) ? 0 : errno;
  names.resize(static_cast<size_t>(size));

  size_t total = 0;
  for (size_t at = 0; at < names.size();) {
    const std::string full_name(names.c_str() + at);
    at += full_name.size() + 1;
    if (full_name.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    Attribute attribute;
    attribute.name = full_name.substr(kPrefix.size());
    if (!IsAttributeName(attribute.name)) continue;
    const int error = GetValue(fd, full_name, &attribute.value);
    if (error == ENODATA) continue;  // removed in between
    if (error != 0) return error;
    total += attribute.name.size() + attribute.value.size();
    if (total > kMaxFoundBytes) return E2BIG;
    attributes->push_back(std::move(attribute));
  }
  std::sort(attributes->begin(), attributes->end(),
            [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
  return 0;
}

}  // namespace lmshm
