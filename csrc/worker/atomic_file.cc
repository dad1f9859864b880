// SPDX-License-Identifier: Apache-2.0
#include "worker/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdio>

namespace lmshm {

namespace {

// Below this a call more costs about what it gains. Above, reserving is never slower on ext4, and
// several times faster where the target exists: ext4 writes out a file with unreserved blocks
// before it lets the file replace another.
constexpr uint64_t kReserveAboveBytes = 8 * 1024;

// The first bytes of `name`, at most 64, that do not end in the middle of a UTF-8 character: there
// are file systems that refuse such a name.
std::string Stem(const std::string& name) {
  size_t length = 64;
  if (name.size() <= length) return name;
  while (length > 60 && (static_cast<unsigned char>(name[length]) & 0xc0) == 0x80) length--;
  return name.substr(0, length);
}

int TemporaryName(const std::string& target, std::string* result) {
  uint64_t random;
  long got;  // by number: glibc has had the function only since 2.25
  do {
    got = syscall(SYS_getrandom, &random, sizeof random, 0);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<long>(sizeof random)) return got < 0 ? errno : EIO;
  char tail[48];
  snprintf(tail, sizeof tail, ".%ld.%016llx.tmp", static_cast<long>(getpid()),
           static_cast<unsigned long long>(random));
  *result = "." + Stem(target) + tail;
  return 0;
}

}  // namespace

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) unlinkat(dir_fd_, temporary_.c_str(), 0);
}

int AtomicFile::Create(int dir_fd, const std::string& name) {
  dir_fd_ = dir_fd;
  name_ = name;
  // EEXIST by chance is practically impossible; by malice it must not become an endless loop.
  for (int attempt = 0; attempt < 8; attempt++) {
    std::string temporary;
    const int error = TemporaryName(name, &temporary);
    if (error != 0) return error;
    int fd;
    do {
      fd = openat(dir_fd, temporary.c_str(),
                  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
      if (errno == EEXIST) continue;
      return errno;
    }
    fd_.Reset(fd);
    temporary_ = temporary;
    // A umask that takes from the owner (0277, say) would make a file nobody can read back.
    struct stat st;
    if (fstat(fd, &st) != 0) return errno;
    if ((st.st_mode & 07777) != 0600 && fchmod(fd, 0600) != 0) return errno;
    return 0;
  }
  return EEXIST;
}

int AtomicFile::Reserve(uint64_t length) {
  if (length <= kReserveAboveBytes) return 0;
  for (;;) {
    if (fallocate(fd_.get(), 0, 0, static_cast<off_t>(length)) == 0) return 0;
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return 0;
    return errno;
  }
}

int AtomicFile::Publish() {
  // Linux has closed the descriptor whatever close() returns; EINTR says nothing about the data.
  if (close(fd_.Release()) != 0 && errno != EINTR) return errno;
  if (renameat(dir_fd_, temporary_.c_str(), dir_fd_, name_.c_str()) != 0) return errno;
  temporary_.clear();
  return 0;
}

}  // namespace lmshm
