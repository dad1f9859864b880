// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/sidecar.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "worker/storage/atomic_file.h"
#include "worker/storage/file_io.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

// A lock is held for a few system calls. Whoever holds it longer has been stopped, and is not
// waited for: at worst an object is listed by its record, or a sidecar is left.
constexpr std::chrono::milliseconds kPatience(2000);
constexpr std::chrono::milliseconds kPause(1);
constexpr int kAttempts = 16;

UniqueFd OpenForReading(int dir_fd, const std::string& name) {
  UniqueFd fd(
      openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st;
  if (fd.valid() && (fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode))) fd.Reset();
  return fd;
}

std::string Content(int fd) {
  std::string text(kMaxKeyBytes + 1, '\0');
  uint64_t done = 0;
  if (ReadFully(fd, {text.data(), text.size()}, nullptr, &done) != 0) return std::string();
  text.resize(done);
  return text;
}

}  // namespace

int ReadSidecar(int dir_fd, const std::string& name, std::string* key) {
  errno = ENOENT;  // of what is no regular file
  const UniqueFd fd = OpenForReading(dir_fd, name);
  if (!fd.valid()) return errno;
  *key = Content(fd.get());
  return 0;
}

Sidecar::~Sidecar() {
  if (!settled_) RemoveOrphan();
}

bool Sidecar::RemoveOrphan() {
  settled_ = true;
  if (name_.empty() || HasObject()) return false;
  if (!fd_.valid() && !Open()) return false;
  // Somebody else may be storing the object: then the sidecar is theirs.
  if (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 || !IsCurrent()) return false;
  // Again, now that nobody can be between sidecar and object.
  return !HasObject() && unlinkat(dir_fd_, name_.c_str(), 0) == 0;
}

// True if it cannot be told.
bool Sidecar::HasObject() const {
  struct stat st;
  if (fstatat(dir_fd_, object_name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno != ENOENT;
  }
  return S_ISREG(st.st_mode);
}

bool Sidecar::Open() {
  fd_ = OpenForReading(dir_fd_, name_);
  return fd_.valid();
}

bool Sidecar::Lock(int how) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (flock(fd_.get(), how | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

bool Sidecar::IsCurrent() const {
  struct stat own, named;
  return fstat(fd_.get(), &own) == 0 &&
         fstatat(dir_fd_, name_.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

// Leaves it open, and locked for this alone.
int Sidecar::Write(std::string_view key, bool sync) {
  AtomicFile file;
  int error = file.Create(dir_fd_, name_);
  if (error != 0) return error;
  std::string copy(key);
  error = WriteFully(file.fd(), {copy.data(), copy.size()}, nullptr);
  if (error == 0 && sync) error = SyncData(file.fd());
  return error != 0 ? error : file.Publish(&fd_);
}

int Sidecar::Store(std::string_view key, bool sync) {
  if (name_.empty()) return 0;
  settled_ = false;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    if (!Open() || Content(fd_.get()) != key) {
      const int error = Write(key, sync);
      if (error != 0) return error;
      if (!fd_.valid()) continue;
    }
    // If it was removed before the lock was there: once more. If somebody removes it all the time,
    // Confirm() will look.
    if (!Lock(LOCK_SH) || IsCurrent()) break;
  }
  // Whoever made it may not have waited for the disk.
  return sync && fd_.valid() ? SyncData(fd_.get()) : 0;
}

int Sidecar::Confirm(std::string_view key, bool sync) {
  if (name_.empty()) return 0;
  if (fd_.valid() && IsCurrent()) {
    settled_ = true;
    return 0;
  }
  // Whoever found no sidecar to lock may have removed the object by now: the destructor looks.
  return Write(key, sync);
}

void Sidecar::LockForRemoval() {
  if (name_.empty()) return;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    if (!Open() || !Lock(LOCK_EX) || IsCurrent()) return;
  }
}

int Sidecar::Remove() {
  settled_ = true;
  // Who could not be waited for has stored the object again: the sidecar is that one's.
  if (name_.empty() || HasObject()) return 0;
  return unlinkat(dir_fd_, name_.c_str(), 0) == 0 || errno == ENOENT ? 0 : errno;
}

}  // namespace lmshm
