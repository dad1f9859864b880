// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "worker/storage/file_access.h"
#include "worker/storage/temporary_name.h"

namespace lmshm {

namespace {

// Below this a call more costs about what it gains. Above, reserving is never slower on ext4, and
// several times faster where the target exists: ext4 writes out a file with unreserved blocks
// before it lets the file replace another.
constexpr uint64_t kReserveAboveBytes = 8 * 1024;
constexpr unsigned kNoReplace = 1;  // RENAME_NOREPLACE; glibc has it only since 2.28
constexpr int kAttempts = 8;

// Before a file has its group, it is its user's alone.
mode_t ModeAtFirst() {
  const FileAccess& access = GetFileAccess();
  return access.group.has_value() ? 0600 : access.mode;
}

// Held until the file is closed. Where it cannot be locked, the collector cannot lock it either.
void LockTemporary(int fd) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EINTR) {
  }
}

}  // namespace

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) unlinkat(dir_fd_, temporary_.c_str(), 0);
}

int AtomicFile::Create(int dir_fd, const std::string& name, const AtomicFileOptions& options) {
  dir_fd_ = dir_fd;
  name_ = name;
  const int access = options.readable ? O_RDWR : O_WRONLY;
  if (options.unnamed) {
    int fd;
    do {
      fd = openat(dir_fd, ".", access | O_TMPFILE | O_CLOEXEC, ModeAtFirst());
    } while (fd < 0 && errno == EINTR);
    fd_.Reset(fd);
    unnamed_ = fd_.valid();
    // EPERM is ext4's word for a directory that was removed; with a name it says ENOENT.
    const bool impossible =
        errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == EPERM;
    if (!unnamed_ && !impossible) return errno;
  }
  if (!unnamed_) {
    const int error = CreateNamed(options);
    if (error != 0) return error;
  }
  if (options.exact_mode) return 0;
  return ApplyFileAccess(fd_.get(), GetFileAccess().mode, &had_exact_mode_);
}

int AtomicFile::CreateNamed(const AtomicFileOptions& options) {
  const int flags =
      (options.readable ? O_RDWR : O_WRONLY) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY;
  // EEXIST by chance is practically impossible; by malice it must not become an endless loop.
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    const std::string temporary = TemporaryName(name_);
    int fd;
    do {
      fd = openat(dir_fd_, temporary.c_str(), flags, ModeAtFirst());
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
      if (errno == EEXIST) continue;
      return errno;
    }
    fd_.Reset(fd);
    temporary_ = temporary;
    LockTemporary(fd);
    return 0;
  }
  return EEXIST;
}

int AtomicFile::Reserve(uint64_t offset, uint64_t length) {
  if (offset + length <= kReserveAboveBytes) return 0;
  for (;;) {
    if (fallocate(fd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
      return 0;
    }
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return 0;
    return errno;
  }
}

int AtomicFile::Link(const std::string& name) const {
  if (linkat(fd_.get(), "", dir_fd_, name.c_str(), AT_EMPTY_PATH) == 0) return 0;
  // ENOENT is how kernels before 6.10 refuse this to all but a superuser.
  if (errno != ENOENT) return errno;
  char self[32];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd_.get());
  return linkat(AT_FDCWD, self, dir_fd_, name.c_str(), AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

// Gives a file without a name the target's, and closes it. What close() has to say of the data a
// copy of the descriptor is told before: once the object can be seen, it has been stored.
int AtomicFile::LinkTarget() {
  const int copy = fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return errno;
  if (close(copy) != 0 && errno != EINTR) return errno;
  const int error = Link(name_);
  if (error == 0) fd_.Reset();
  return error;
}

// Gives it the temporary one.
int AtomicFile::LinkTemporary() {
  LockTemporary(fd_.get());
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    const std::string temporary = TemporaryName(name_);
    const int error = Link(temporary);
    if (error == EEXIST) continue;
    if (error == 0) temporary_ = temporary;
    return error;
  }
  return EEXIST;
}

int AtomicFile::Publish(UniqueFd* lock) { return PublishAs(nullptr, lock); }

int AtomicFile::PublishOverFile(mode_t* existing) {
  *existing = 0;
  return PublishAs(existing, nullptr);
}

// The temporary's lock is the copy's as well, and is held until the renaming is over.
int AtomicFile::Close(UniqueFd* lock) {
  if (!temporary_.empty()) lock->Reset(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  // Linux has closed the descriptor whatever close() returns; EINTR says nothing about the data.
  return close(fd_.Release()) == 0 || errno == EINTR ? 0 : errno;
}

// By number: glibc has had the function only since 2.28.
int AtomicFile::Rename(unsigned flags) const {
  return syscall(SYS_renameat2, dir_fd_, temporary_.c_str(), dir_fd_, name_.c_str(), flags) == 0
             ? 0
             : errno;
}

int AtomicFile::LinkTemporaryAsTarget() const {
  if (linkat(dir_fd_, temporary_.c_str(), dir_fd_, name_.c_str(), 0) == 0) return 0;
  if (errno == EPERM || errno == ENOSYS || errno == EMLINK) return EOPNOTSUPP;
  if (errno != EEXIST) return errno;
  // NFS says so too when it has made the link and its answer was lost.
  struct stat own, named;
  const bool is_ours = fstatat(dir_fd_, temporary_.c_str(), &own, AT_SYMLINK_NOFOLLOW) == 0 &&
                       fstatat(dir_fd_, name_.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                       own.st_dev == named.st_dev && own.st_ino == named.st_ino;
  return is_ours ? 0 : EEXIST;
}

int AtomicFile::PublishNew() {
  if (unnamed_) return LinkTarget();
  UniqueFd lock;
  int error = Close(&lock);
  if (error != 0) return error;
  error = Rename(kNoReplace);
  if (error == 0) {
    temporary_.clear();
    return 0;
  }
  // Not with this file system or kernel: then it has both names for a moment.
  if (error == EINVAL || error == ENOSYS) error = LinkTemporaryAsTarget();
  if (error == 0 && unlinkat(dir_fd_, temporary_.c_str(), 0) == 0) temporary_.clear();
  return error;
}

int AtomicFile::PublishAs(mode_t* existing, UniqueFd* kept_lock) {
  if (unnamed_) {
    int error = LinkTarget();
    if (error == 0) return 0;
    if (error == EEXIST) error = LinkTemporary();
    if (error != 0) return error;
  }
  UniqueFd lock;
  int error = Close(&lock);
  if (error != 0) return error;
  if (existing != nullptr) {
    error = Rename(kNoReplace);
    if (error == 0) {
      temporary_.clear();
      return 0;
    }
    // EINVAL, ENOSYS: not with this file system or kernel.
    if (error != EEXIST && error != EINVAL && error != ENOSYS) return error;
    struct stat st;
    if (fstatat(dir_fd_, name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
      if (!S_ISREG(st.st_mode)) {
        *existing = st.st_mode;
        return EEXIST;
      }
    } else if (errno != ENOENT) {
      return errno;
    }
  }
  if (renameat(dir_fd_, temporary_.c_str(), dir_fd_, name_.c_str()) != 0) return errno;
  temporary_.clear();
  if (kept_lock != nullptr) *kept_lock = std::move(lock);
  return 0;
}

bool CanPublishUnnamed(int dir_fd) {
  AtomicFile probe;
  const std::string name = TemporaryName("publish-test");
  AtomicFileOptions options;
  options.unnamed = true;
  if (probe.Create(dir_fd, name, options) != 0) return false;
  return probe.unnamed() && probe.Publish() == 0 && unlinkat(dir_fd, name.c_str(), 0) == 0;
}

}  // namespace lmshm
