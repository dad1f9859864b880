// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/attributes.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "worker/base/unique_fd.h"

namespace lmshm {

namespace {

constexpr const char* kRecord = "user.lmshm";
constexpr std::string_view kReserved[] = {"key",      "length", "crc32c", "crc",  "verify",
                                          "mtime_ms", "disk",   "io",     "sync", "prio",
                                          "head",     "pad",    "if"};
// Most records fit into the first. A coded byte takes three, and what is the worker's own comes on
// top of the client's.
constexpr size_t kUsualRecordBytes = 1024;
constexpr size_t kMaxRecordBytes = 3 * (kMaxAttributeBytes + 4096);

bool Unsupported(int error) { return error == EOPNOTSUPP || error == ENOSYS; }

}  // namespace

bool IsAttributeName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxAttributeNameBytes &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos;
}

bool IsReservedAttribute(std::string_view name) {
  return std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved);
}

bool DetectAttributes(int dir_fd, int file_fd) {
  if (file_fd >= 0) return fsetxattr(file_fd, kRecord, "1", 1, 0) == 0;
  UniqueFd dir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.valid()) return false;
  char byte;
  return fgetxattr(dir.get(), kRecord, &byte, 1) >= 0 || !Unsupported(errno);
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

}  // namespace lmshm
