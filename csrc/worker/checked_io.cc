// SPDX-License-Identifier: Apache-2.0
#include "worker/checked_io.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "worker/fault_guard.h"

namespace lmshm {

namespace {

constexpr uint64_t kPieceBytes = 512 * 1024;

SharedBytes Part(SharedBytes data, uint64_t offset, uint64_t size) {
  return {static_cast<char*>(data.address) + offset, size};
}

int WriteAt(int fd, SharedBytes piece, uint64_t offset) {
  const char* from = static_cast<const char*>(piece.address);
  for (uint64_t done = 0; done < piece.size;) {
    const ssize_t n = pwrite(fd, from + done, piece.size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO;  // no file system should; it must not become an endless loop
    done += static_cast<uint64_t>(n);
  }
  return 0;
}

}  // namespace

int WriteChecked(int fd, SharedBytes data, const CancelCheck* cancel, uint32_t* crc) {
  *crc = 0;
  for (uint64_t done = 0; done < data.size;) {
    if (cancel != nullptr && cancel->Cancelled()) return ECANCELED;
    const SharedBytes piece = Part(data, done, std::min(data.size - done, kPieceBytes));
    int error = SharedCrc32c(piece, crc);
    if (error == 0) error = WriteAt(fd, piece, done);
    if (error != 0) return error;
    done += piece.size;
  }
  return 0;
}

int ReadChecked(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done,
                uint32_t* crc) {
  *done = 0;
  *crc = 0;
  while (*done < data.size) {
    if (cancel != nullptr && cancel->Cancelled()) return ECANCELED;
    SharedBytes piece = Part(data, *done, std::min(data.size - *done, kPieceBytes));
    const ssize_t n = pread(fd, piece.address, piece.size, static_cast<off_t>(*done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    piece.size = static_cast<uint64_t>(n);
    const int error = SharedCrc32c(piece, crc);
    if (error != 0) return error;
    *done += piece.size;
  }
  return 0;
}

}  // namespace lmshm
