// SPDX-License-Identifier: Apache-2.0
//
// Moving a whole object between memory and its file, by the way that was asked for: past the page
// cache or through it, in one piece or in several at a time, with its CRC-32C or without.
//
// docs/worker.md states the rules, docs/io_engines.md the measurements behind them. What goes past
// the page cache is the part of the object that is a multiple of the file system's alignment; the
// rest goes through it. Where that fails for a file, the whole object goes through the page cache,
// and the counters say how often and why.
//
// As in file_io.h only the kernel touches the memory, but for checksums (fault_guard.h).
#ifndef LMSHM_WORKER_OBJECT_IO_H_
#define LMSHM_WORKER_OBJECT_IO_H_

#include <cstdint>
#include <string>

#include "worker/file_io.h"
#include "worker/io_counters.h"
#include "worker/io_mode.h"
#include "worker/storage_facts.h"

namespace lmshm {

// What one transfer did.
struct Moved {
  uint64_t bytes = 0;   // of a reading: how many there were
  uint32_t crc32c = 0;  // of them, if it was asked for
  bool direct = false;  // the greater part went past the page cache
};

// Thread safe. Both referenced objects are the caller's and must live as long as this.
class ObjectIo {
 public:
  ObjectIo(const StorageFacts& facts, IoCounters* counters) : facts_(facts), counters_(counters) {}

  // Writes `data` to `fd`, an empty file or one with reserved space, open for writing only and for
  // this alone: its flags are changed meanwhile. Returns 0 or an errno value as WriteFully() does.
  [[nodiscard]] int Write(int fd, SharedBytes data, const TransferOptions& options,
                          Moved* moved) const;

  // Reads from offset 0 until `data` is full or the file ends; a file that shrinks meanwhile ends
  // there. `fd` as above, for reading. Returns 0 or an errno value as ReadFully() does.
  [[nodiscard]] int Read(int fd, SharedBytes data, const TransferOptions& options,
                         Moved* moved) const;

  // The same for a file that is known to have `data.size` bytes, at most kSmallBytes, and by one
  // system call: `moved->bytes` is data.size + 1 if there are more. `options` may not ask for
  // anything but a checksum.
  static constexpr uint64_t kSmallBytes = 128 * 1024;
  [[nodiscard]] int ReadSmall(int fd, SharedBytes data, bool checksum, Moved* moved) const;

 private:
  bool UseDirect(int fd, SharedBytes data, const TransferOptions& options, bool writing) const;
  void CountFallback(const std::string& reason) const;

  const StorageFacts& facts_;
  IoCounters* const counters_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_OBJECT_IO_H_
