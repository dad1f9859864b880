// SPDX-License-Identifier: Apache-2.0
//
// Moving a whole object between memory and its file, by the way that was asked for: past the page
// cache or through it, in one piece or in several at a time, with its CRC-32C or without.
//
// docs/worker.md states the rules, docs/io_engines.md the measurements behind them. What goes past
// the page cache is the part of the object that is a multiple of the file system's alignment; the
// rest goes through it. Where that fails for a file, the whole object goes through the page cache,
// and the metrics say how often and why.
//
// As in file_io.h only the kernel touches the memory, but for checksums, and for the copies on
// which they are computed (bounce_buffer.h, shared_bytes.h).
#ifndef LMSHM_WORKER_STORAGE_OBJECT_IO_H_
#define LMSHM_WORKER_STORAGE_OBJECT_IO_H_

#include <cstdint>
#include <string>

#include "worker/base/metrics.h"
#include "worker/base/work.h"
#include "worker/storage/file_io.h"
#include "worker/storage/io_mode.h"
#include "worker/storage/storage_facts.h"

namespace lmshm {

// What one transfer did.
struct Moved {
  uint64_t bytes = 0;   // of a reading: how many there were
  uint32_t crc32c = 0;  // of them, if it was asked for
  bool direct = false;  // the greater part went past the page cache
};

enum class Direction { kWrite, kRead };

// How objects are moved here, for all transfers. Thread safe. Both referenced objects are the
// caller's and must live as long as this.
class ObjectIo {
 public:
  ObjectIo(const StorageFacts& facts, Metrics* metrics) : facts_(facts), metrics_(metrics) {}

  const StorageFacts& facts() const { return facts_; }

  // Reads a file that is known to have `data.size` bytes, at most kSmallBytes, with one system
  // call: `moved->bytes` is data.size + 1 if there are more. Returns 0 or an errno value as
  // ReadFully() does.
  static constexpr uint64_t kSmallBytes = 128 * 1024;
  [[nodiscard]] int ReadSmall(int fd, SharedBytes data, bool checksum, Moved* moved) const;

 private:
  friend class ObjectMove;
  bool UseDirect(int fd, SharedBytes data, const TransferOptions& options, bool writing,
                 uint64_t begin) const;
  void CountFallback(const std::string& reason) const;

  const StorageFacts& facts_;
  Metrics* const metrics_;
};

// One object on its way between memory and its file. It can be left in the middle, when its turn is
// over (work.h), and goes on later, on any thread.
class ObjectMove {
 public:
  // Writes `data` to `fd`, an empty file or one with reserved space; or reads until `data` is full
  // or the file ends: a file that shrinks meanwhile ends there. The first byte is that at `begin`.
  // `fd` is open for this direction only and for this alone: its flags are changed meanwhile. `io`
  // and what `options` points to must live as long as this.
  ObjectMove(const ObjectIo& io, int fd, Direction direction, SharedBytes data,
             const TransferOptions& options, uint64_t begin = 0)
      : io_(io), fd_(fd), direction_(direction), data_(data), options_(options), begin_(begin) {}

  // Goes on until all is moved, and sets `*done`, or until the turn is over; `turn` may be null.
  // Returns 0 or an errno value as WriteFully() and ReadFully() do, after which it cannot go on.
  [[nodiscard]] int Go(Turn* turn, bool* done);

  const Moved& moved() const { return moved_; }

 private:
  enum class Way { kNone, kDirect, kCached };

  uint64_t size() const { return data_.size; }
  uint32_t* crc() { return options_.checksum ? &moved_.crc32c : nullptr; }
  RangeIo Next(uint64_t bytes) const;
  int GoDirect(Turn* turn);
  int GoDirectParts(uint64_t end, Turn* turn);
  int GoCached(Turn* turn);
  void WriteBehind(uint64_t begin);

  const ObjectIo& io_;
  const int fd_;
  const Direction direction_;
  const SharedBytes data_;
  const TransferOptions options_;
  const uint64_t begin_;
  Way way_ = Way::kNone;
  bool ended_ = false;  // the file has
  Moved moved_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_IO_H_
