// SPDX-License-Identifier: Apache-2.0
//
// SharedBytes: a range of memory that another process can shorten at any time. Touching it then is
// SIGBUS, so only the kernel touches it (pread, pwrite), and the failure is EFAULT. The type exists
// so that nobody dereferences such memory by accident.
#ifndef LMSHM_WORKER_MEMORY_SHARED_BYTES_H_
#define LMSHM_WORKER_MEMORY_SHARED_BYTES_H_

#include <cstdint>

namespace lmshm {

// Does not own the memory.
struct SharedBytes {
  void* address = nullptr;
  uint64_t size = 0;  // bytes
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_SHARED_BYTES_H_
