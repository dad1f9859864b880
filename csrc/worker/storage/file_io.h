// SPDX-License-Identifier: Apache-2.0
//
// Whole transfers between a file and memory: short counts and EINTR are dealt with here, once. The
// CRC-32C of the bytes is computed on the way where it is asked for: piece by piece, while a piece
// is in the processor's cache, which costs much less than a second pass.
#ifndef LMSHM_WORKER_STORAGE_FILE_IO_H_
#define LMSHM_WORKER_STORAGE_FILE_IO_H_

#include <cstdint>

#include "worker/base/cancel.h"
#include "worker/memory/shared_bytes.h"

namespace lmshm {

struct RangeIo {
  SharedBytes data;
  uint64_t offset = 0;  // in the file
  // One system call moves at most this. Larger pieces are slower (docs/io_engines.md), and
  // cancelling would take effect later on a slow file system.
  uint64_t piece_bytes = 512 * 1024;
  const CancelCheck* cancel = nullptr;  // asked before each piece; may be null
};

// Writes all of it. `*crc`, unless `crc` is null, is continued with what was written. The bytes
// must not be changed meanwhile; if they are, checksum and file may not agree, and reading will
// tell. Returns 0 or an errno value; EFAULT when the memory is gone, ECANCELED when `cancel` says
// so. Blocks.
[[nodiscard]] int WriteRange(int fd, const RangeIo& range, uint32_t* crc);

// Reads until it is full or the file ends. `*done` is the number of bytes, also upon failure, and
// `*crc`, unless `crc` is null, is continued with them as they lie in memory. Returns as above.
[[nodiscard]] int ReadRange(int fd, const RangeIo& range, uint64_t* done, uint32_t* crc);

// From offset 0 on, without a checksum; as WriteRange() and ReadRange().
[[nodiscard]] int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel);
[[nodiscard]] int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_FILE_IO_H_
