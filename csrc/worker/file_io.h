// SPDX-License-Identifier: Apache-2.0
//
// Whole transfers between a file and memory: short counts and EINTR are dealt with here, once.
//
// The memory may be a mapping that another process can shorten at any time. Touching that from
// here would be SIGBUS, so only the kernel touches it, through pwrite and pread, and the failure
// is EFAULT. SharedBytes exists so that nobody dereferences such memory by accident.
#ifndef LMSHM_WORKER_FILE_IO_H_
#define LMSHM_WORKER_FILE_IO_H_

#include <cstdint>

#include "worker/cancel.h"

namespace lmshm {

// A range of shared memory, for system calls only. Does not own it.
struct SharedBytes {
  void* address = nullptr;
  uint64_t size = 0;  // bytes
};

// Writes all of `data` to `fd` from offset 0 on. Returns 0 or an errno value; EFAULT when the
// memory is gone, ECANCELED when `cancel` (may be null) says so. Blocks.
[[nodiscard]] int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel);

// Reads from offset 0 until `data` is full or the file ends. `*done` is the number of bytes read,
// also upon failure. Returns as WriteFully().
[[nodiscard]] int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done);

}  // namespace lmshm

#endif  // LMSHM_WORKER_FILE_IO_H_
