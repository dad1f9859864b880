// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/fellow_workers.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lmshm {

namespace {

// By number: glibc has had the names only since 2.20.
constexpr int kGetLock = 36;  // F_OFD_GETLK
constexpr int kSetLock = 37;  // F_OFD_SETLK

struct flock Lock(short type, int64_t from, int64_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = from;
  lock.l_len = length;
  return lock;
}

// Another one for each process, and for each open file of one.
int64_t Place(int fd, int64_t places) {
  uint64_t random = 0;
  const auto* const bytes = reinterpret_cast<const char*>(getauxval(AT_RANDOM));
  if (bytes != nullptr) memcpy(&random, bytes + 8, sizeof random);
  random = (random ^ static_cast<uint64_t>(getpid())) + static_cast<uint64_t>(fd) * 0x9e3779b9u;
  return static_cast<int64_t>(random % static_cast<uint64_t>(places));
}

}  // namespace

FellowWorkers::FellowWorkers(int dir_fd) : dir_fd_(dir_fd) {
  struct flock lock = Lock(F_RDLCK, Place(dir_fd, kPlaces), 1);
  const int ignored = fcntl(dir_fd_, kSetLock, &lock);
  (void)ignored;  // without it others do not know of this one
}

size_t FellowWorkers::CountIn(int64_t from, int64_t to, size_t known) const {
  if (from >= to || known >= kMost) return 0;
  struct flock lock = Lock(F_WRLCK, from, to - from);
  if (fcntl(dir_fd_, kGetLock, &lock) != 0 || lock.l_type == F_UNLCK) return 0;
  size_t count = 1;
  count += CountIn(from, lock.l_start, known + count);
  count += CountIn(lock.l_start + 1, to, known + count);
  return count;
}

bool FellowWorkers::LockRoom() const {
  // Where there are no such locks nobody else can hold one.
  return flock(dir_fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

void FellowWorkers::UnlockRoom() const { flock(dir_fd_, LOCK_UN); }

}  // namespace lmshm
