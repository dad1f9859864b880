// SPDX-License-Identifier: Apache-2.0
//
// SharedBytes: a range of memory that another process can shorten at any time. Touching it then is
// SIGBUS, so only the kernel touches it (pread, pwrite), and the failure is EFAULT; or one of the
// functions here, which make EFAULT of it. The type exists so that nobody dereferences such memory
// by accident.
#ifndef LMSHM_WORKER_MEMORY_SHARED_BYTES_H_
#define LMSHM_WORKER_MEMORY_SHARED_BYTES_H_

#include <cstdint>

#include "worker/base/sha256.h"

namespace lmshm {

// Does not own the memory.
struct SharedBytes {
  void* address = nullptr;
  uint64_t size = 0;  // bytes
};

// Continues the CRC-32C `*crc` over `data`. Beyond the segment's new end that is SIGBUS, which is
// turned into EFAULT, for the one range and the one thread that asked; any other SIGBUS does what
// it did before. Returns 0, or EFAULT when some of the memory is gone (`*crc` is then as it was).
// Thread safe; blocks no signal while it works. The handler for SIGBUS is installed on the first
// call, for good.
[[nodiscard]] int SharedCrc32c(SharedBytes data, uint32_t* crc);

// Fills `data` with the bytes at `from`, which is memory of this process alone, and continues
// `*crc` with them; see Crc32cCopy(). Fails likewise, with a part of it copied.
[[nodiscard]] int SharedCopyCrc32c(const void* from, SharedBytes data, uint32_t* crc);

// The SHA-256 of `data` in the same way; some fifty times slower.
[[nodiscard]] int SharedSha256(SharedBytes data, Sha256Digest* digest);

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_SHARED_BYTES_H_
