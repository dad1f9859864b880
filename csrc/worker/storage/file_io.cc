// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "worker/base/crc32c.h"
#include "worker/base/text.h"
#include "worker/base/unique_fd.h"
#include "worker/memory/shared_bytes.h"
#include "worker/storage/bounce_buffer.h"

namespace lmshm {

namespace {

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

int WriteRange(int fd, const RangeIo& range, uint32_t* crc) {
  for (uint64_t done = 0; done < range.data.size;) {
    if (range.cancel != nullptr && range.cancel->Cancelled()) return ECANCELED;
    const uint64_t size = std::min(range.data.size - done, range.piece_bytes);
    const SharedBytes piece = Part(range.data, done, size);
    int error = crc != nullptr ? SharedCrc32c(piece, crc) : 0;
    if (error == 0) error = WriteAt(fd, piece, range.offset + done);
    if (error != 0) return error;
    done += size;
  }
  return 0;
}

int ReadRange(int fd, const RangeIo& range, uint64_t* done, uint32_t* crc) {
  *done = 0;
  const BounceBuffer bounce(range.bounce && crc != nullptr && CopiesCrc32c());
  const uint64_t most = bounce.get() == nullptr
                            ? range.piece_bytes
                            : std::min<uint64_t>(range.piece_bytes, BounceBuffer::kBytes);
  while (*done < range.data.size) {
    if (range.cancel != nullptr && range.cancel->Cancelled()) return ECANCELED;
    SharedBytes piece = Part(range.data, *done, std::min(range.data.size - *done, most));
    void* const into = bounce.get() == nullptr ? piece.address : bounce.get();
    const ssize_t n = pread(fd, into, piece.size, static_cast<off_t>(range.offset + *done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    piece.size = static_cast<uint64_t>(n);
    int error = 0;
    if (into != piece.address) {
      error = SharedCopyCrc32c(into, piece, crc);
    } else if (crc != nullptr) {
      error = SharedCrc32c(piece, crc);
    }
    if (error != 0) return error;
    *done += piece.size;
  }
  return 0;
}

int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel) {
  RangeIo range;
  range.data = data;
  range.cancel = cancel;
  return WriteRange(fd, range, nullptr);
}

int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done) {
  RangeIo range;
  range.data = data;
  range.cancel = cancel;
  return ReadRange(fd, range, done, nullptr);
}

int SyncData(int fd) {
  // Not fdatasync(): that may leave out attributes, and for a new file it is no faster.
  while (fsync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int SyncNames(int dir_fd) {
  const UniqueFd dir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return dir.valid() ? SyncData(dir.get()) : errno;
}

Status ExplainStorage(int error, const std::string& action) {
  switch (error) {
    case EFAULT:
      return Status::System(error, action,
                            "the shared memory is shorter than when it was attached, or its file "
                            "system is full: recreate the segment and ATTACH again");
    case ELOOP:
      return Status::System(error, action, "symbolic links are not followed here");
    case ECANCELED:
      return Status::System(error, action, "the worker is ending");
    case EROFS:
    case EACCES:
    case EPERM:
      return Status::System(error, action, "the worker runs as user " + std::to_string(geteuid()));
    default:
      return Status::System(error, action);
  }
}

Status CheckObjectType(mode_t mode, const std::string& action) {
  if (S_ISREG(mode)) return Status::OK();
  if (S_ISDIR(mode)) return Status::System(EISDIR, action);
  if (S_ISLNK(mode)) return Status::System(ELOOP, action, "a symbolic link is no object");
  return Status::Error(EINVAL, action + ": not a regular file");
}

}  // namespace lmshm
