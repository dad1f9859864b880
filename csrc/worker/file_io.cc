// SPDX-License-Identifier: Apache-2.0
#include "worker/file_io.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace lmshm {

namespace {

// One system call moves at most this much. Larger pieces are slower (docs/io_engines.md), and
// cancelling would take effect later on a slow file system.
constexpr uint64_t kPieceBytes = 512 * 1024;

}  // namespace

int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel) {
  const char* from = static_cast<const char*>(data.address);
  uint64_t done = 0;
  while (done < data.size) {
    if (cancel != nullptr && cancel->Cancelled()) return ECANCELED;
    const uint64_t piece = std::min(data.size - done, kPieceBytes);
    const ssize_t n = pwrite(fd, from + done, piece, static_cast<off_t>(done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (n == 0) return EIO;  // no file system should; it must not become an endless loop
    done += static_cast<uint64_t>(n);
  }
  return 0;
}

int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done) {
  char* to = static_cast<char*>(data.address);
  *done = 0;
  while (*done < data.size) {
    if (cancel != nullptr && cancel->Cancelled()) return ECANCELED;
    const uint64_t piece = std::min(data.size - *done, kPieceBytes);
    const ssize_t n = pread(fd, to + *done, piece, static_cast<off_t>(*done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (n == 0) return 0;
    *done += static_cast<uint64_t>(n);
  }
  return 0;
}

}  // namespace lmshm
