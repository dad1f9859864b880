// SPDX-License-Identifier: Apache-2.0
//
// ObjectTable: what the objects of one directory take of the disk and when each was last used, in
// 16 bytes an object. It knows no names, only their hashes: who needs the names reads the
// directory.
//
// Open addressing with linear probing, in shards that grow and shrink by themselves: at 4/5 full a
// shard doubles, at 1/5 it halves, so a table of more than a few objects takes 20 to 80 bytes for
// each, and nobody waits longer than one shard takes to be moved (a 64th of the table).
#ifndef LMSHM_WORKER_STORAGE_OBJECT_TABLE_H_
#define LMSHM_WORKER_STORAGE_OBJECT_TABLE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "worker/base/mutex.h"

namespace lmshm {

// Disk space is counted in blocks of this size, whatever the file system's are.
inline constexpr uint64_t kBlockBytes = 4096;

constexpr uint64_t BlocksOf(uint64_t bytes) {
  return bytes / kBlockBytes + (bytes % kBlockBytes != 0 ? 1 : 0);
}

// Time as the table keeps it: sixteenths of a millisecond since 1970, good until the year 2248.
using UseTick = uint64_t;
inline constexpr uint64_t kTicksPerMs = 16;

struct TableObject {
  uint64_t blocks = 0;  // at most kMaxBlocks, more is taken for that
  UseTick used = 0;     // last use
  bool put = false;     // the last use was its being stored
  bool lone = false;    // no object: the file with the key of one that is not there
};

// Thread safe.
class ObjectTable {
 public:
  static constexpr uint64_t kMaxBlocks = (uint64_t{1} << 28) - 1;  // a TiB

  ObjectTable() = default;
  ObjectTable(const ObjectTable&) = delete;
  ObjectTable& operator=(const ObjectTable&) = delete;

  // The same for the same name in this process, another one in the next: nobody can choose names
  // that meet. Two names of a million have the same with a probability of one in 500,000; they are
  // counted as one then.
  static uint64_t HashOf(std::string_view name);

  // Changes an entry in place. `change` is given what is there, or nothing, and leaves what is to
  // be there, or nothing. It is called with the shard locked: it must be short and must not use the
  // table. The entry counts as seen (BeginRound()). Returns what was there before.
  using Change = std::function<void(std::optional<TableObject>*)>;
  std::optional<TableObject> Update(uint64_t hash, const Change& change);

  std::optional<TableObject> Find(uint64_t hash) const;

  // The object was used at `now`. One that was put at `keep_from` or later is left as it is: that
  // it was put lately is worth more.
  void Touch(uint64_t hash, UseTick now, UseTick keep_from);

  // Calls `visit` for each entry, shard by shard, as Update() calls `change`.
  void ForEach(const std::function<void(const TableObject&)>& visit) const;

  // From here on entries that are updated, and no others, are seen. One round at a time.
  void BeginRound();
  // Removes those that were not seen since, and hands them to `removed`, without a lock.
  void RemoveUnseen(const std::function<void(const TableObject&)>& removed);

  size_t size() const { return size_.load(std::memory_order_relaxed); }
  // Of the entries. While a shard is moved it takes the sum of both sizes.
  size_t memory_bytes() const { return slots_.load(std::memory_order_relaxed) * sizeof(Entry); }

 private:
  static constexpr size_t kShards = 64;
  static constexpr unsigned kShardBits = 6;
  static constexpr unsigned kHashBits = 50;
  static constexpr unsigned kLowBits = 17;  // of the blocks
  static constexpr unsigned kHighBits = 11;

  // Empty when `used` is 0.
  struct Entry {
    uint64_t hash : kHashBits;
    uint64_t put : 1;
    uint64_t lone : 1;
    uint64_t round : 1;
    uint64_t blocks_high : kHighBits;
    uint64_t blocks_low : kLowBits;
    uint64_t used : 47;
  };
  static_assert(sizeof(Entry) == 16);

  struct Shard {
    mutable Mutex mutex;
    std::unique_ptr<Entry[]> entries GUARDED_BY(mutex);
    size_t capacity GUARDED_BY(mutex) = 0;  // 0 or a power of two
    size_t size GUARDED_BY(mutex) = 0;
  };

  static TableObject Read(const Entry& entry);
  static void Write(const TableObject& object, Entry* entry);
  static uint64_t Stored(uint64_t hash) {
    return (hash >> kShardBits) & ((uint64_t{1} << kHashBits) - 1);
  }
  const Shard& ShardOf(uint64_t hash) const { return shards_[hash % kShards]; }
  Shard& ShardOf(uint64_t hash) { return shards_[hash % kShards]; }
  // The slot of `stored`, or the empty one where it
  // belongs.
  static size_t SlotOf(const Shard& shard, uint64_t stored) REQUIRES(shard.mutex);
  void Resize(Shard* shard, size_t capacity) REQUIRES(shard->mutex);
  void Erase(Shard* shard, size_t slot) REQUIRES(shard->mutex);

  std::array<Shard, kShards> shards_;
  std::atomic<size_t> size_{0};
  std::atomic<size_t> slots_{0};
  std::atomic<uint32_t> round_{0};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_TABLE_H_
