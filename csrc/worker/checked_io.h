// SPDX-License-Identifier: Apache-2.0
//
// Transfers of a range of a file, and the CRC-32C of the bytes on the way where it is asked for:
// piece by piece, while a piece is in the processor's cache, which costs much less than a second
// pass.
#ifndef LMSHM_WORKER_CHECKED_IO_H_
#define LMSHM_WORKER_CHECKED_IO_H_

#include <cstdint>

#include "worker/cancel.h"
#include "worker/file_io.h"

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
// tell. Returns 0 or an errno value as WriteFully().
[[nodiscard]] int WriteRange(int fd, const RangeIo& range, uint32_t* crc);

// Reads until it is full or the file ends. `*done` is the number of bytes, also upon failure, and
// `*crc`, unless `crc` is null, is continued with them as they lie in memory. Returns as above.
[[nodiscard]] int ReadRange(int fd, const RangeIo& range, uint64_t* done, uint32_t* crc);

}  // namespace lmshm

#endif  // LMSHM_WORKER_CHECKED_IO_H_
