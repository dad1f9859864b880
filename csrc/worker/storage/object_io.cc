// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_io.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/base/log.h"
#include "worker/base/status.h"
#include "worker/memory/shared_bytes.h"

namespace lmshm {

namespace {

// docs/io_engines.md has the measurements behind these. The disk likes to have several parts at a
// time. Into and out of the page cache more threads gain nothing, but small pieces do: up to 1.8
// times what pieces of 8 MiB give.
constexpr uint64_t kMiB = 1024 * 1024;
constexpr uint64_t kDirectPartBytes = kMiB;
constexpr size_t kDirectParts = 4;
// Of a larger object no more parts are planned at a time: a turn is soon over, and makes new plans.
constexpr uint64_t kDirectPlanBytes = 64 * kMiB;
constexpr uint64_t kCachedPieceBytes = kMiB / 2;
// Between two of these a turn may end.
constexpr uint64_t kCachedStepBytes = kMiB;
// What of a large object may be on its way to the disk.
constexpr uint64_t kWriteBehindBytes = 16 * kMiB;
// Below this a disk's latency costs more than the page cache does.
constexpr uint64_t kLeastDirectBytes = kMiB;
// Smaller objects are likely to be in the cache still when the client looks at them.
constexpr uint64_t kLeastBounceBytes = kMiB / 2;

// What some file systems and devices say only when it comes to it.
bool IsRefusal(int error) { return error == EINVAL || error == EOPNOTSUPP; }

struct Part {
  bool begun = false;
  uint64_t done = 0;
  uint32_t crc = 0;
  int error = 0;
};

int MoveRange(int fd, Direction direction, const RangeIo& range, uint64_t* done, uint32_t* crc) {
  if (direction == Direction::kRead) return ReadRange(fd, range, done, crc);
  *done = range.data.size;
  return WriteRange(fd, range, crc);
}

bool Over(Turn* turn) { return turn != nullptr && turn->Over(); }

void Spend(Turn* turn, uint64_t bytes) {
  if (turn != nullptr) turn->Spend(bytes);
}

}  // namespace

int ObjectMove::Go(Turn* turn, bool* done) {
  *done = false;
  if (way_ == Way::kNone) {
    const bool direct =
        io_.UseDirect(fd_, data_, options_, direction_ == Direction::kWrite, begin_);
    way_ = direct ? Way::kDirect : Way::kCached;
    moved_.direct = direct;
  }
  int error = way_ == Way::kDirect ? GoDirect(turn) : GoCached(turn);
  if (way_ == Way::kDirect && IsRefusal(error)) {
    const bool writing = direction_ == Direction::kWrite;
    io_.CountFallback(std::string(writing ? "writing" : "reading") +
                      " with O_DIRECT: " + ErrnoName(error));
    way_ = Way::kCached;
    moved_ = Moved();
    ended_ = false;
    error = GoCached(turn);
  }
  *done = error == 0 && (ended_ || moved_.bytes == size());
  return error;
}

// The next `bytes`, in pieces for the page cache.
RangeIo ObjectMove::Next(uint64_t bytes) const {
  RangeIo range;
  range.data = {static_cast<char*>(data_.address) + moved_.bytes, bytes};
  range.offset = begin_ + moved_.bytes;
  range.piece_bytes = kCachedPieceBytes;
  range.cancel = options_.cancel;
  return range;
}

int ObjectMove::GoCached(Turn* turn) {
  while (!ended_ && moved_.bytes < size()) {
    const uint64_t begin = moved_.bytes;
    const uint64_t bytes = std::min(size() - begin, kCachedStepBytes);
    uint64_t moved = 0;
    RangeIo range = Next(bytes);
    range.bounce = size() >= kLeastBounceBytes;
    const int error = MoveRange(fd_, direction_, range, &moved, crc());
    moved_.bytes += moved;
    if (error != 0) return error;
    ended_ = moved < bytes;
    WriteBehind(begin);
    Spend(turn, bytes);
    if (Over(turn)) break;
  }
  return 0;
}

// Of what must be on the disk the kernel begins to write each step at once, and little is left for
// the end: waiting for all of a large object there would keep a thread for seconds. Errors are
// reported by the fsync() at the end.
void ObjectMove::WriteBehind(uint64_t begin) {
  if (direction_ == Direction::kRead || options_.durability == Durability::kNone) return;
  if (size() <= kWriteBehindBytes) return;
  const auto sync = [&](uint64_t from, unsigned flags) {
    const int ignored = sync_file_range(fd_, static_cast<off_t>(begin_ + from),
                                        static_cast<off_t>(kCachedStepBytes), flags);
    (void)ignored;
  };
  sync(begin, SYNC_FILE_RANGE_WRITE);
  if (begin < kWriteBehindBytes) return;
  sync(begin - kWriteBehindBytes,
       SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

// The aligned part past the page cache, then the rest through it.
int ObjectMove::GoDirect(Turn* turn) {
  const uint64_t aligned = size() - size() % io_.facts_.direct_offset;
  if (!ended_ && moved_.bytes < aligned) {
    int error = 0;
    do {
      error = GoDirectParts(std::min(aligned, moved_.bytes + kDirectPlanBytes), turn);
    } while (error == 0 && !ended_ && moved_.bytes < aligned && !Over(turn));
    const bool through = error != 0 || ended_ || moved_.bytes == aligned;
    if (through && fcntl(fd_, F_SETFL, 0) != 0 && error == 0) error = errno;
    if (error != 0 || moved_.bytes < aligned) return error;
  }
  return Over(turn) ? 0 : GoCached(turn);
}

// Up to the byte `end`, in parts, which are tried in any order; none is begun after one has failed,
// or when the turn is over. A part that was moved although one before it was not is moved again.
int ObjectMove::GoDirectParts(uint64_t end, Turn* turn) {
  const uint64_t first = moved_.bytes;
  const auto part_size = [&](size_t i) {
    return std::min(end - first - i * kDirectPartBytes, kDirectPartBytes);
  };
  std::vector<Part> parts(
      static_cast<size_t>((end - first + kDirectPartBytes - 1) / kDirectPartBytes));
  std::atomic<bool> failed{false};
  const auto move = [&](size_t i) {
    if (failed.load(std::memory_order_relaxed) || Over(turn)) return;
    Part& part = parts[i];
    part.begun = true;
    RangeIo range;
    range.offset = first + i * kDirectPartBytes;
    range.data = {static_cast<char*>(data_.address) + range.offset, part_size(i)};
    range.piece_bytes = kDirectPartBytes;
    range.cancel = options_.cancel;
    part.error =
        MoveRange(fd_, direction_, range, &part.done, crc() != nullptr ? &part.crc : nullptr);
    Spend(turn, range.data.size);
    if (part.error != 0) failed.store(true, std::memory_order_relaxed);
  };
  if (options_.parallel != nullptr && parts.size() > 1) {
    options_.parallel->Run(parts.size(), kDirectParts, Parallel::Pace::kSlow, move);
  } else {
    for (size_t i = 0; i < parts.size(); i++) move(i);
  }

  for (const Part& part : parts) {
    if (part.error != 0) return part.error;
  }
  for (size_t i = 0; i < parts.size() && parts[i].begun && !ended_; i++) {
    const Part& part = parts[i];
    if (crc() != nullptr) *crc() = Crc32cCombine(*crc(), part.crc, part.done);
    moved_.bytes += part.done;
    ended_ = part.done < part_size(i);
  }
  return 0;
}

void ObjectIo::CountFallback(const std::string& reason) const {
  if (metrics_->CountFallback(reason)) {
    Log(LogLevel::kInfo, "not past the page cache, for the first time: " + reason);
  }
}

bool ObjectIo::UseDirect(int fd, SharedBytes data, const TransferOptions& options, bool writing,
                         uint64_t begin) const {
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
  if (begin != 0) {
    CountFallback("a header before the bytes");
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
