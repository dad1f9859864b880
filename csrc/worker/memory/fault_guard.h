// SPDX-License-Identifier: Apache-2.0
//
// Reading shared memory from here although its owner may shorten it at any time.
//
// Everywhere else only the kernel touches such memory (shared_bytes.h), which fails with EFAULT. A
// checksum has to look at the bytes, and beyond the segment's new end that is SIGBUS. The guard
// turns it into EFAULT, for the one range and the one thread that asked; any other SIGBUS does what
// it did before.
#ifndef LMSHM_WORKER_MEMORY_FAULT_GUARD_H_
#define LMSHM_WORKER_MEMORY_FAULT_GUARD_H_

#include <cstdint>

#include "worker/memory/shared_bytes.h"

namespace lmshm {

// Continues the CRC-32C `*crc` over `data`. Returns 0, or EFAULT when some of the memory is gone
// (`*crc` is then as it was). Thread safe; blocks no signal while it works. The handler for SIGBUS
// is installed on the first call, for good.
[[nodiscard]] int SharedCrc32c(SharedBytes data, uint32_t* crc);

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_FAULT_GUARD_H_
