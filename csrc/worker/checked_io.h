// SPDX-License-Identifier: Apache-2.0
//
// Whole transfers as in file_io.h that compute the CRC-32C of the bytes on the way: piece by piece,
// while a piece is in the processor's cache, which costs much less than a second pass.
#ifndef LMSHM_WORKER_CHECKED_IO_H_
#define LMSHM_WORKER_CHECKED_IO_H_

#include <cstdint>

#include "worker/cancel.h"
#include "worker/file_io.h"

namespace lmshm {

// WriteFully(), and `*crc` is the checksum of what was written. The bytes must not be changed
// meanwhile; if they are, checksum and file may not agree, and reading will tell.
[[nodiscard]] int WriteChecked(int fd, SharedBytes data, const CancelCheck* cancel, uint32_t* crc);

// ReadFully(), and `*crc` is the checksum of the `*done` bytes as they lie in memory.
[[nodiscard]] int ReadChecked(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done,
                              uint32_t* crc);

}  // namespace lmshm

#endif  // LMSHM_WORKER_CHECKED_IO_H_
