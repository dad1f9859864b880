// SPDX-License-Identifier: Apache-2.0
//
// Waiting until something is on the disk.
#ifndef LMSHM_WORKER_STORAGE_DURABLE_H_
#define LMSHM_WORKER_STORAGE_DURABLE_H_

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "worker/base/unique_fd.h"

namespace lmshm {

// The content and attributes of an open file. Returns 0 or an errno value; EIO: it is not, and may
// never be. Blocks for as long as the disk takes.
[[nodiscard]] inline int SyncData(int fd) {
  // Not fdatasync(): that may leave out attributes, and for a new file it is no faster.
  while (fsync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

// The names in the directory `dir_fd` (may be O_PATH). Returns as above.
[[nodiscard]] inline int SyncNames(int dir_fd) {
  const UniqueFd dir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return dir.valid() ? SyncData(dir.get()) : errno;
}

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_DURABLE_H_
