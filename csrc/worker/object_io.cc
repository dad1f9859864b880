// SPDX-License-Identifier: Apache-2.0
#include "worker/object_io.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <vector>

#include "worker/checked_io.h"
#include "worker/crc32c.h"
#include "worker/fault_guard.h"
#include "worker/log.h"
#include "worker/status.h"

namespace lmshm {

namespace {

// docs/io_engines.md has the measurements behind these. The disk likes to have several parts at a
// time. Into and out of the page cache more threads gain nothing, but small pieces do: up to 1.8
// times what pieces of 8 MiB give.
constexpr uint64_t kMiB = 1024 * 1024;
constexpr uint64_t kDirectPartBytes = kMiB;
constexpr size_t kDirectParts = 4;
constexpr uint64_t kCachedPieceBytes = kMiB / 2;
// Below this a disk's latency costs more than the page cache does.
constexpr uint64_t kLeastDirectBytes = kMiB;

// What some file systems and devices say only when it comes to it.
bool IsRefusal(int error) { return error == EINVAL || error == EOPNOTSUPP; }

struct Part {
  uint64_t done = 0;
  uint32_t crc = 0;
  int error = 0;
};

enum class Direction { kWrite, kRead };

int MoveRange(int fd, Direction direction, const RangeIo& range, uint64_t* done, uint32_t* crc) {
  if (direction == Direction::kRead) return ReadRange(fd, range, done, crc);
  *done = range.data.size;
  return WriteRange(fd, range, crc);
}

RangeIo Sub(const RangeIo& range, uint64_t begin, uint64_t size) {
  RangeIo result = range;
  result.offset += begin;
  result.data.address = static_cast<char*>(range.data.address) + begin;
  result.data.size = size;
  return result;
}

// Moves `range.data` in parts, which are tried in any order; none is begun after one has failed.
// Adds to `*done`, and continues `*crc` unless it is null.
int MoveParts(int fd, Direction direction, const RangeIo& range, Parallel* parallel, uint64_t* done,
              uint32_t* crc) {
  const uint64_t size = range.data.size;
  const auto part_size = [&](size_t i) {
    return std::min(size - i * kDirectPartBytes, kDirectPartBytes);
  };
  std::vector<Part> parts(static_cast<size_t>((size + kDirectPartBytes - 1) / kDirectPartBytes));
  std::atomic<bool> failed{false};
  const auto move = [&](size_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    Part& part = parts[i];
    RangeIo own = Sub(range, i * kDirectPartBytes, part_size(i));
    own.piece_bytes = kDirectPartBytes;
    part.error = MoveRange(fd, direction, own, &part.done, crc != nullptr ? &part.crc : nullptr);
    if (part.error != 0) failed.store(true, std::memory_order_relaxed);
  };
  if (parallel != nullptr && parts.size() > 1) {
    parallel->Run(parts.size(), kDirectParts, Parallel::Pace::kSlow, move);
  } else {
    for (size_t i = 0; i < parts.size(); i++) move(i);
  }

  for (const Part& part : parts) {
    if (part.error != 0) return part.error;
  }
  for (size_t i = 0; i < parts.size(); i++) {
    if (crc != nullptr) *crc = Crc32cCombine(*crc, parts[i].crc, parts[i].done);
    *done += parts[i].done;
    if (parts[i].done < part_size(i)) break;  // the file's end
  }
  return 0;
}

// Adds to `*done`, and continues `*crc` unless it is null.
int MoveCached(int fd, Direction direction, RangeIo range, uint64_t* done, uint32_t* crc) {
  range.piece_bytes = kCachedPieceBytes;
  uint64_t moved = 0;
  const int error = MoveRange(fd, direction, range, &moved, crc);
  *done += moved;
  return error;
}

// The aligned part past the page cache, then the rest through it.
int MoveDirect(int fd, Direction direction, const RangeIo& range, uint32_t alignment,
               Parallel* parallel, uint64_t* done, uint32_t* crc) {
  const uint64_t aligned = range.data.size - range.data.size % alignment;
  int error = MoveParts(fd, direction, Sub(range, 0, aligned), parallel, done, crc);
  if (fcntl(fd, F_SETFL, 0) != 0 && error == 0) error = errno;
  if (error != 0 || *done < aligned || aligned == range.data.size) return error;
  return MoveCached(fd, direction, Sub(range, aligned, range.data.size - aligned), done, crc);
}

int Move(int fd, Direction direction, SharedBytes data, const TransferOptions& options,
         uint32_t alignment, Moved* moved) {
  *moved = Moved();
  moved->direct = alignment != 0;
  RangeIo range;
  range.data = data;
  range.cancel = options.cancel;
  uint32_t* const crc = options.checksum ? &moved->crc32c : nullptr;
  return alignment != 0
             ? MoveDirect(fd, direction, range, alignment, options.parallel, &moved->bytes, crc)
             : MoveCached(fd, direction, range, &moved->bytes, crc);
}

}  // namespace

void ObjectIo::CountFallback(const std::string& reason) const {
  if (counters_->CountFallback(reason)) {
    Log(LogLevel::kInfo, "not past the page cache, for the first time: " + reason);
  }
}

bool ObjectIo::UseDirect(int fd, SharedBytes data, const TransferOptions& options,
                         bool writing) const {
  if (options.io == IoMode::kCached || data.size < kLeastDirectBytes) return false;
  if (options.io == IoMode::kAuto) {
    // Only what must be on the disk anyway goes there at once. Everything else measured faster
    // through the page cache, cold reading as well: the kernel reads far ahead.
    const bool must_reach_disk = writing && options.durability != Durability::kNone;
    if (!must_reach_disk || !facts_.direct()) return false;
  }
  if (!facts_.direct()) {
    CountFallback(facts_.direct_reason);
    return false;
  }
  if (reinterpret_cast<uintptr_t>(data.address) % facts_.direct_memory != 0) {
    CountFallback("memory that is no multiple of " + std::to_string(facts_.direct_memory) +
                  " bytes");
    return false;
  }
  if (fcntl(fd, F_SETFL, O_DIRECT) == 0) return true;
  CountFallback("O_DIRECT: " + ErrnoName(errno));
  return false;
}

int ObjectIo::Write(int fd, SharedBytes data, const TransferOptions& options, Moved* moved) const {
  if (UseDirect(fd, data, options, true)) {
    const int error = Move(fd, Direction::kWrite, data, options, facts_.direct_offset, moved);
    if (!IsRefusal(error)) return error;
    CountFallback("writing with O_DIRECT: " + ErrnoName(error));
  }
  return Move(fd, Direction::kWrite, data, options, 0, moved);
}

int ObjectIo::Read(int fd, SharedBytes data, const TransferOptions& options, Moved* moved) const {
  if (UseDirect(fd, data, options, false)) {
    const int error = Move(fd, Direction::kRead, data, options, facts_.direct_offset, moved);
    if (!IsRefusal(error)) return error;
    CountFallback("reading with O_DIRECT: " + ErrnoName(error));
  }
  return Move(fd, Direction::kRead, data, options, 0, moved);
}

int ObjectIo::ReadSmall(int fd, SharedBytes data, bool checksum, Moved* moved) const {
  *moved = Moved();
  // One byte more than there should be, into a place of its own: so the end is seen as well.
  char beyond;
  struct iovec parts[2] = {{data.address, static_cast<size_t>(data.size)}, {&beyond, 1}};
  ssize_t n;
  do {
    n = preadv(fd, parts, 2, 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return errno;
  moved->bytes = static_cast<uint64_t>(n);
  if (moved->bytes < data.size) {
    // Shorter, or the memory is: the next call says which.
    RangeIo range;
    range.data = data;
    return ReadRange(fd, range, &moved->bytes, checksum ? &moved->crc32c : nullptr);
  }
  return checksum ? SharedCrc32c(data, &moved->crc32c) : 0;
}

}  // namespace lmshm
