// SPDX-License-Identifier: Apache-2.0
//
// How an object's bytes go to and from its file: what a user may choose, and what one transfer is
// given. The names are those of the protocol and of the command line.
#ifndef LMSHM_WORKER_STORAGE_IO_MODE_H_
#define LMSHM_WORKER_STORAGE_IO_MODE_H_

#include <cstdint>
#include <string_view>

#include "worker/base/work.h"

namespace lmshm {

enum class IoMode : uint8_t {
  kAuto,    // by a rule, see docs/worker.md
  kDirect,  // past the page cache (O_DIRECT), where file system and alignment allow it
  kCached,  // through the page cache
};

// "auto", "direct" or "cached"; false for anything else.
[[nodiscard]] bool ParseIoMode(std::string_view text, IoMode* mode);
std::string_view IoModeName(IoMode mode);

// What is on the disk when a PUT has been answered.
enum class Durability : uint8_t {
  kNone,  // nothing need be: the kernel writes when it likes
  kData,  // the object's bytes and attributes
  kFull,  // and its name
};

// "none", "data" or "full"; false for anything else.
[[nodiscard]] bool ParseDurability(std::string_view text, Durability* durability);
std::string_view DurabilityName(Durability durability);

struct TransferOptions {
  IoMode io = IoMode::kAuto;
  Durability durability = Durability::kNone;  // PUT
  bool checksum = true;                       // PUT: compute and store; GET: verify
  bool lmcache_header = false;                // PUT: LMCache's header before the bytes
  bool if_absent = false;                     // PUT: what is there stays, and that is EEXIST
  uint64_t pad_bytes = 0;               // PUT: the file's length is made a multiple of it; GET: of
                                        // a file without a record it may be. 0, 1: of nothing
  const CancelCheck* cancel = nullptr;  // may be null
  const CancelCheck* client = nullptr;  // may be null; asked while it waits for room
  Parallel* parallel = nullptr;         // helpers for one large object; null: none
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_IO_MODE_H_
