// SPDX-License-Identifier: Apache-2.0
//
// File I/O in full, and in words. Whole transfers between a file and memory: short counts and EINTR
// are dealt with here, once. The CRC-32C of the bytes is computed on the way where it is asked for:
// piece by piece, while a piece is in the processor's cache, which costs much less than a second
// pass. Waiting until something is on the disk; and what a failed call means.
#ifndef LMSHM_WORKER_STORAGE_FILE_IO_H_
#define LMSHM_WORKER_STORAGE_FILE_IO_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/memory/shared_bytes.h"

namespace lmshm {

struct RangeIo {
  SharedBytes data;
  uint64_t offset = 0;  // in the file
  // One system call moves at most this. Larger pieces are slower (docs/io_engines.md), and
  // cancelling would take effect later on a slow file system.
  uint64_t piece_bytes = 512 * 1024;
  const CancelCheck* cancel = nullptr;  // asked before each piece; may be null
  // Reading through the page cache, with a checksum: by way of a BounceBuffer, if there is one and
  // this processor gains by it. The bytes are not in its cache afterwards.
  bool bounce = false;
};

// Writes all of it. `*crc`, unless `crc` is null, is continued with what was written. The bytes
// must not be changed meanwhile; if they are, checksum and file may not agree, and reading will
// tell. Returns 0 or an errno value; EFAULT when the memory is gone, ECANCELED when `cancel` says
// so. Blocks.
[[nodiscard]] int WriteRange(int fd, const RangeIo& range, uint32_t* crc);

// Reads until it is full or the file ends. `*done` is the number of bytes, also upon failure, and
// `*crc`, unless `crc` is null, is continued with them. Returns as above.
[[nodiscard]] int ReadRange(int fd, const RangeIo& range, uint64_t* done, uint32_t* crc);

// From offset 0 on, without a checksum; as WriteRange() and ReadRange().
[[nodiscard]] int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel);
[[nodiscard]] int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done);

// Waits until the content and attributes of an open file are on the disk. Returns 0 or an errno
// value; EIO: they are not, and may never be. Blocks for as long as the disk takes.
[[nodiscard]] int SyncData(int fd);

// The same for the names in the directory `dir_fd` (may be O_PATH).
[[nodiscard]] int SyncNames(int dir_fd);

// The errno value `error` with what usually is behind it, for whoever asked for something to be
// done with a file. `action`: what was tried, on what.
Status ExplainStorage(int error, const std::string& action);

// Nothing but a regular file is an object: EISDIR, ELOOP or EINVAL for all else. `mode` is its
// st_mode.
Status CheckObjectType(mode_t mode, const std::string& action);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_FILE_IO_H_
