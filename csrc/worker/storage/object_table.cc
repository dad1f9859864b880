// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_table.h"

#include <sys/auxv.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace lmshm {

namespace {

constexpr size_t kLeastCapacity = 4;

// The product of two words, both halves folded into one: every bit of either matters.
uint64_t Mix(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t Load(const char* from, size_t size) {
  uint64_t word = 0;
  memcpy(&word, from, size);
  return word;
}

// Random bytes that the kernel gives to each process; no file and no call is needed for them.
uint64_t Seed() {
  uint64_t seed = 0x9e3779b97f4a7c15u;
  const auto* const random = reinterpret_cast<const char*>(getauxval(AT_RANDOM));
  return random == nullptr ? seed : Mix(Load(random, 8) ^ seed, Load(random + 8, 8) | 1);
}

}  // namespace

uint64_t ObjectTable::HashOf(std::string_view name) {
  static const uint64_t seed = Seed();
  constexpr uint64_t kFactor = 0xa0761d6478bd642fu;
  uint64_t hash = seed ^ name.size();
  const char* at = name.data();
  size_t left = name.size();
  for (; left >= 8; left -= 8, at += 8) hash = Mix(hash ^ Load(at, 8), kFactor ^ seed);
  hash = Mix(hash ^ Load(at, left), kFactor);
  return Mix(hash, 0xe7037ed1a0b428dbu ^ seed);
}

TableObject ObjectTable::Read(const Entry& entry) {
  TableObject object;
  object.blocks = entry.blocks_low | (uint64_t{entry.blocks_high} << kLowBits);
  object.used = entry.used;
  object.put = entry.put != 0;
  object.lone = entry.lone != 0;
  return object;
}

void ObjectTable::Write(const TableObject& object, Entry* entry) {
  constexpr UseTick kLatest = (UseTick{1} << 47) - 1;
  const uint64_t blocks = std::min(object.blocks, kMaxBlocks);
  entry->blocks_low = blocks & ((uint64_t{1} << kLowBits) - 1);
  entry->blocks_high = (blocks >> kLowBits) & ((uint64_t{1} << kHighBits) - 1);
  entry->used = std::clamp<UseTick>(object.used, 1, kLatest) & kLatest;
  entry->put = object.put ? 1 : 0;
  entry->lone = object.lone ? 1 : 0;
}

size_t ObjectTable::SlotOf(const Shard& shard, uint64_t stored) {
  const size_t mask = shard.capacity - 1;
  size_t slot = stored & mask;
  while (shard.entries[slot].used != 0 && shard.entries[slot].hash != stored) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void ObjectTable::Resize(Shard* shard, size_t capacity) {
  const std::unique_ptr<Entry[]> old = std::exchange(shard->entries, nullptr);
  const size_t old_capacity = std::exchange(shard->capacity, capacity);
  slots_.fetch_add(capacity - old_capacity, std::memory_order_relaxed);  // modulo 2^64
  if (capacity == 0) return;
  shard->entries = std::make_unique<Entry[]>(capacity);
  for (size_t i = 0; i < old_capacity; i++) {
    if (old[i].used != 0) shard->entries[SlotOf(*shard, old[i].hash)] = old[i];
  }
}

// What follows moves up, so that no search ends too early.
void ObjectTable::Erase(Shard* shard, size_t slot) {
  const size_t mask = shard->capacity - 1;
  Entry* const entries = shard->entries.get();
  size_t hole = slot;
  for (size_t next = (hole + 1) & mask; entries[next].used != 0; next = (next + 1) & mask) {
    const size_t home = entries[next].hash & mask;
    // It may move if the hole is not before its home.
    if (((next - home) & mask) < ((next - hole) & mask)) continue;
    entries[hole] = entries[next];
    hole = next;
  }
  entries[hole] = Entry();
  shard->size--;
  size_.fetch_sub(1, std::memory_order_relaxed);
  if (shard->size == 0) {
    Resize(shard, 0);
  } else if (shard->size < shard->capacity / 5 && shard->capacity > kLeastCapacity) {
    Resize(shard, shard->capacity / 2);
  }
}

std::optional<TableObject> ObjectTable::Update(uint64_t hash, const Change& change) {
  Shard& shard = ShardOf(hash);
  const uint64_t stored = Stored(hash);
  const MutexLock lock(&shard.mutex);
  std::optional<TableObject> before;
  size_t slot = 0;
  if (shard.capacity > 0) {
    slot = SlotOf(shard, stored);
    if (shard.entries[slot].used != 0) before = Read(shard.entries[slot]);
  }
  std::optional<TableObject> after = before;
  change(&after);
  if (!after.has_value()) {
    if (before.has_value()) Erase(&shard, slot);
    return before;
  }
  if (!before.has_value()) {
    if ((shard.size + 1) * 5 > shard.capacity * 4) {
      Resize(&shard, std::max(kLeastCapacity, shard.capacity * 2));
      slot = SlotOf(shard, stored);
    }
    shard.entries[slot].hash = stored & ((uint64_t{1} << kHashBits) - 1);
    shard.size++;
    size_.fetch_add(1, std::memory_order_relaxed);
  }
  Write(*after, &shard.entries[slot]);
  shard.entries[slot].round = round_.load(std::memory_order_relaxed) & 1;
  return before;
}

std::optional<TableObject> ObjectTable::Find(uint64_t hash) const {
  const Shard& shard = ShardOf(hash);
  const MutexLock lock(&shard.mutex);
  if (shard.capacity == 0) return std::nullopt;
  const Entry& entry = shard.entries[SlotOf(shard, Stored(hash))];
  if (entry.used == 0) return std::nullopt;
  return Read(entry);
}

void ObjectTable::Touch(uint64_t hash, UseTick now, UseTick keep_from) {
  Shard& shard = ShardOf(hash);
  const MutexLock lock(&shard.mutex);
  if (shard.capacity == 0) return;
  Entry& entry = shard.entries[SlotOf(shard, Stored(hash))];
  if (entry.used == 0 || entry.used >= now) return;
  if (entry.put != 0 && entry.used >= keep_from) return;
  TableObject object = Read(entry);
  object.used = now;
  object.put = false;
  Write(object, &entry);
}

void ObjectTable::ForEach(const std::function<void(const TableObject&)>& visit) const {
  for (const Shard& shard : shards_) {
    const MutexLock lock(&shard.mutex);
    for (size_t i = 0; i < shard.capacity; i++) {
      if (shard.entries[i].used != 0) visit(Read(shard.entries[i]));
    }
  }
}

void ObjectTable::BeginRound() { round_.fetch_add(1, std::memory_order_relaxed); }

void ObjectTable::RemoveUnseen(const std::function<void(const TableObject&)>& removed) {
  const uint32_t round = round_.load(std::memory_order_relaxed) & 1;
  for (Shard& shard : shards_) {
    std::vector<TableObject> gone;
    {
      const MutexLock lock(&shard.mutex);
      std::vector<uint64_t> hashes;
      for (size_t i = 0; i < shard.capacity; i++) {
        const Entry& entry = shard.entries[i];
        if (entry.used != 0 && entry.round != round) hashes.push_back(entry.hash);
      }
      for (const uint64_t stored : hashes) {
        const size_t slot = SlotOf(shard, stored);
        gone.push_back(Read(shard.entries[slot]));
        Erase(&shard, slot);
      }
    }
    for (const TableObject& object : gone) removed(object);
  }
}

}  // namespace lmshm
