// SPDX-License-Identifier: Apache-2.0
//
// The limit of what all directories below a root may take: what counts, what is removed in which
// order, what is never touched, and that those who write at the same time keep to it. First the
// table and the account by themselves, then with objects, then the worker.
#include <sys/stat.h>
#include <sys/time.h>
#include <utime.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "small_mount.hh"
#include "worker/storage/key_store.h"
#include "worker/storage/object_table.h"
#include "worker/storage/quota.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

using lmshm::kBlockBytes;
using lmshm::ObjectTable;
using lmshm::Quota;
using lmshm::QuotaDirectory;
using lmshm::QuotaRoom;
using lmshm::QuotaRules;
using lmshm::Status;
using lmshm::TableObject;

namespace {

using std::chrono::milliseconds;

constexpr int64_t kDay = 86400;

std::string Block(size_t count) { return std::string(count * kBlockBytes, 'x'); }

// What the objects in a directory take of the disk.
uint64_t DiskBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    struct stat st;
    if (extension != ".data" && extension != ".key") continue;
    if (lstat(entry.path().c_str(), &st) == 0) bytes += static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return bytes;
}

void Age(const std::string& path, double days) {
  const double then = static_cast<double>(time(nullptr)) - days * static_cast<double>(kDay);
  const struct timespec times[2] = {{static_cast<time_t>(then), 0}, {static_cast<time_t>(then), 0}};
  REQUIRE_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

// A directory with a quota, which has counted what was there.
class Account {
 public:
  explicit Account(const TempDir& dir, uint64_t blocks, QuotaRules rules = QuotaRules())
      : dir_(dir), root_(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    REQUIRE(root_.valid());
    rules.max_bytes = blocks * kBlockBytes;
    quota_ = std::make_unique<Quota>(root_.get(), rules);
    CHECK_OK(quota_->Start());
    CHECK_OK(quota_->Find(root_.get(), &directory_));
    quota_->Recount();
    CHECK(quota_->WaitUntilIdle(milliseconds(kPatienceMs)));
  }

  // As a put does it: takes room, writes, commits.
  Status Put(const std::string& key, size_t blocks) {
    QuotaRoom room(directory_, key + ".data", blocks * kBlockBytes);
    bool taken = false;
    while (!taken) {
      Status status = room.Take(milliseconds(100), &taken);
      if (!status.ok()) return status;
    }
    WriteFile(dir_ / (key + ".data"), Block(blocks));
    struct stat st;
    REQUIRE_EQ(stat((dir_ / (key + ".data")).c_str(), &st), 0);
    room.Commit(st, 0);
    return Status::OK();
  }

  // Objects that are there, by key.
  std::string Keys() const {
    std::set<std::string> keys;
    for (const std::string& name : dir_.Names()) {
      if (name.size() > 5 && name.substr(name.size() - 5) == ".data") {
        keys.insert(name.substr(0, name.size() - 5));
      }
    }
    std::string text;
    for (const std::string& key : keys) text += (text.empty() ? "" : " ") + key;
    return text;
  }

  bool Idle() { return quota_->WaitUntilIdle(milliseconds(kPatienceMs)); }
  uint64_t used() const { return quota_->stats().used_bytes; }
  Quota& quota() { return *quota_; }
  const Quota::Directory& directory() { return directory_; }
  int root() const { return root_.get(); }

 private:
  const TempDir& dir_;
  lmshm::UniqueFd root_;
  std::unique_ptr<Quota> quota_;
  Quota::Directory directory_;
};

}  // namespace

// ------------------------------------------------------------------------------------ the table

TEST(a_table_agrees_with_a_plain_map) {
  ObjectTable table;
  std::map<uint64_t, TableObject> model;
  std::mt19937_64 random(7);
  const auto name = [](uint64_t number) { return "object-" + std::to_string(number) + ".data"; };
  for (size_t step = 0; step < 200000; step++) {
    const uint64_t hash = ObjectTable::HashOf(name(random() % 5000));
    if (random() % 3 != 0) {
      TableObject object;
      object.blocks = random() % ObjectTable::kMaxBlocks;
      object.used = 1 + random() % 1000000;
      object.put = random() % 2 == 0;
      table.Update(hash, [&](std::optional<TableObject>* entry) { *entry = object; });
      model[hash] = object;
    } else {
      table.Update(hash, [](std::optional<TableObject>* entry) { entry->reset(); });
      model.erase(hash);
    }
  }
  CHECK_EQ(table.size(), model.size());
  for (uint64_t number = 0; number < 5000; number++) {
    const uint64_t hash = ObjectTable::HashOf(name(number));
    const auto found = table.Find(hash);
    const auto expected = model.find(hash);
    REQUIRE_EQ(found.has_value(), expected != model.end());
    if (!found.has_value()) continue;
    CHECK_EQ(found->blocks, expected->second.blocks);
    CHECK_EQ(found->used, expected->second.used);
    CHECK_EQ(found->put, expected->second.put);
  }
}

TEST(a_million_objects_take_at_most_100_bytes_each_while_they_come_and_go) {
  ObjectTable table;
  size_t most = 0;
  const auto check = [&] {
    if (table.size() >= 10000) most = std::max(most, table.memory_bytes() / table.size());
  };
  const auto hash = [](size_t number) { return ObjectTable::HashOf(std::to_string(number)); };
  for (size_t i = 0; i < 1000000; i++) {
    table.Update(hash(i), [&](std::optional<TableObject>* entry) {
      *entry = TableObject();
      (*entry)->blocks = 1;
      (*entry)->used = i + 1;
    });
    if (i % 1000 == 0) check();
  }
  CHECK_EQ(table.size(), 1000000u);
  // A shard that grows has twice its size, and once more while it is moved: a 64th of all.
  CHECK(most <= 100 - 2);
  for (size_t i = 0; i < 1000000; i++) {
    table.Update(hash(i), [](std::optional<TableObject>* entry) { entry->reset(); });
    if (i % 1000 == 0) check();
  }
  CHECK(most <= 100 - 2);
  CHECK_EQ(table.size(), 0u);
  CHECK_EQ(table.memory_bytes(), 0u);
}

TEST(a_round_removes_what_was_not_seen) {
  ObjectTable table;
  const auto see = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
      table.Update(ObjectTable::HashOf(std::to_string(i)), [](std::optional<TableObject>* entry) {
        *entry = TableObject();
        (*entry)->blocks = 2;
        (*entry)->used = 5;
      });
    }
  };
  see(0, 1000);
  table.BeginRound();
  see(300, 1000);
  uint64_t blocks = 0;
  table.RemoveUnseen([&](const TableObject& object) { blocks += object.blocks; });
  CHECK_EQ(blocks, 600u);
  CHECK_EQ(table.size(), 700u);
  CHECK(!table.Find(ObjectTable::HashOf("299")).has_value());
  CHECK(table.Find(ObjectTable::HashOf("300")).has_value());
}

// ---------------------------------------------------------------------------------- the account

TEST(a_directory_is_counted_and_brought_below_the_limit) {
  const TempDir dir;
  for (int i = 0; i < 8; i++) {
    const std::string path = dir / ("k" + std::to_string(i) + ".data");
    WriteFile(path, Block(2));
    Age(path, 8 - i);
  }
  {
    Account roomy(dir, 100);
    const Quota::Stats stats = roomy.quota().stats();
    CHECK_EQ(stats.used_bytes, 16 * kBlockBytes);
    CHECK_EQ(stats.objects, 8u);
    CHECK_EQ(stats.evictions, 0u);
    CHECK(stats.counted);
  }
  Account tight(dir, 7);
  CHECK_EQ(tight.Keys(), "k5 k6 k7");  // those used last
  CHECK_EQ(tight.used(), DiskBytes(dir.path()));
  CHECK_EQ(tight.quota().stats().evictions, 5u);
  CHECK_EQ(tight.quota().stats().evicted_bytes, 10 * kBlockBytes);
}

TEST(what_was_used_longest_ago_goes_first_before_and_after_a_restart) {
  const TempDir dir;
  {
    Account account(dir, 4);
    for (const char* key : {"a", "b", "c", "d"}) CHECK_OK(account.Put(key, 1));
    account.directory()->Used("a.data");
    CHECK_OK(account.Put("e", 1));
    CHECK(account.Idle());
    CHECK_EQ(account.Keys(), "a c d e");
  }
  // As a reader leaves them: the access time tells of the use, the other does not.
  int days = 10;
  for (const char* key : {"c", "a", "e", "d"}) {
    const time_t now = time(nullptr);
    const struct timespec times[2] = {{now - days-- * kDay, 0}, {now - 50 * kDay, 0}};
    REQUIRE_EQ(utimensat(AT_FDCWD, (dir / (std::string(key) + ".data")).c_str(), times, 0), 0);
  }
  Account account(dir, 4);
  CHECK_OK(account.Put("f", 2));
  CHECK_EQ(account.Keys(), "d e f");
}

TEST(a_replaced_object_counts_once_with_its_new_size) {
  const TempDir dir;
  Account account(dir, 10);
  for (const size_t blocks : {1, 5, 2, 4}) {
    CHECK_OK(account.Put("same", blocks));
    CHECK_EQ(account.used(), blocks * kBlockBytes);
    CHECK_EQ(account.quota().stats().objects, 1u);
  }
  CHECK_EQ(account.quota().stats().evictions, 0u);
}

TEST(disk_blocks_count_not_lengths) {
  const TempDir dir;
  WriteFile(dir / "tiny.data", "1");
  WriteFile(dir / "hole.data", "");
  REQUIRE_EQ(truncate((dir / "hole.data").c_str(), 1000 * kBlockBytes), 0);
  Account account(dir, 20);
  CHECK_EQ(account.used(), DiskBytes(dir.path()));
  CHECK_EQ(account.Keys(), "hole tiny");
  CHECK(account.used() < 10 * kBlockBytes);
}

TEST(what_is_larger_than_the_limit_is_enospc_and_costs_the_others_nothing) {
  const TempDir dir;
  Account account(dir, 4);
  for (const char* key : {"a", "b", "c"}) CHECK_OK(account.Put(key, 1));
  const Status status = account.Put("big", 5);
  CHECK_EQ(status.number(), ENOSPC);
  CHECK_CONTAINS(status.text(), "20480 bytes do not fit: --max-bytes is 16384");
  CHECK_CONTAINS(status.text(), "give the worker a larger one");
  CHECK_EQ(account.Keys(), "a b c");
  CHECK_OK(account.Put("whole", 4));  // exactly the limit fits
  CHECK_EQ(account.Keys(), "whole");
}

TEST(what_is_being_written_counts_and_gives_its_room_back_when_it_fails) {
  const TempDir dir;
  QuotaRules rules;
  rules.patience = milliseconds(50);
  Account account(dir, 4, rules);
  CHECK_OK(account.Put("kept", 1));
  {
    std::list<QuotaRoom> rooms;
    for (const char* name : {"a.data", "b.data", "c.data"}) {
      rooms.emplace_back(account.directory(), name, kBlockBytes);
      bool taken;
      CHECK_OK(rooms.back().Take(milliseconds(0), &taken));
      CHECK(taken);
    }
    CHECK_EQ(account.used(), 4 * kBlockBytes);
    const Status status = account.Put("d", 2);
    CHECK_EQ(status.number(), ENOSPC);
    CHECK_CONTAINS(status.text(), "objects take 4096, and 12288 more are being written");
    CHECK_EQ(account.Keys(), "kept");  // nothing is given up for what cannot fit
    rooms.pop_back();
    CHECK_OK(account.Put("d", 2));
    CHECK_EQ(account.Keys(), "d");
  }
  CHECK_EQ(account.used(), 2 * kBlockBytes);
}

TEST(a_put_that_finds_no_room_waits_for_those_that_are_written) {
  const TempDir dir;
  Account account(dir, 4);
  auto room = std::make_unique<QuotaRoom>(account.directory(), "slow.data", 4 * kBlockBytes);
  bool taken;
  CHECK_OK(room->Take(milliseconds(0), &taken));
  CHECK(taken);
  std::atomic<bool> done{false};
  std::thread other([&] {
    CHECK_OK(account.Put("waits", 2));
    done.store(true);
  });
  usleep(50000);
  CHECK(!done.load());
  room.reset();
  other.join();
  CHECK_EQ(account.Keys(), "waits");
}

TEST(an_object_that_is_being_replaced_is_not_removed_under_its_writer) {
  const TempDir dir;
  Account account(dir, 4);
  CHECK_OK(account.Put("old", 1));
  CHECK_OK(account.Put("other", 1));
  {
    QuotaRoom room(account.directory(), "old.data", kBlockBytes);
    bool taken;
    CHECK_OK(room.Take(milliseconds(0), &taken));
    CHECK(taken);
    CHECK_OK(account.Put("new", 2));
    CHECK_EQ(account.Keys(), "new old");  // the younger one went
  }
  CHECK_EQ(account.used(), 3 * kBlockBytes);
}

TEST(what_was_put_within_the_last_tenth_stays_although_everything_else_is_used_since) {
  const TempDir dir;
  Account account(dir, 100);
  for (int i = 0; i < 92; i++) CHECK_OK(account.Put("old" + std::to_string(i), 1));
  for (int i = 0; i < 8; i++) CHECK_OK(account.Put("new" + std::to_string(i), 1));
  CHECK(account.Idle());
  for (int i = 0; i < 92; i++) account.directory()->Used("old" + std::to_string(i) + ".data");
  for (int round = 0; round < 2; round++) {
    CHECK_OK(account.Put("more" + std::to_string(round), 1));
    CHECK(account.Idle());
  }
  const std::vector<std::string> left = dir.Names();
  for (int i = 0; i < 8; i++) {
    CHECK(std::count(left.begin(), left.end(), "new" + std::to_string(i) + ".data") == 1);
  }
  CHECK(account.quota().stats().evictions > 0);
}

TEST(writers_at_the_same_time_never_exceed_the_limit) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  const SmallMount mounted(dir.path(), "1m");
  constexpr size_t kLimit = 16;
  Account account(dir, kLimit);
  std::atomic<uint64_t> most{0};
  std::atomic<bool> ending{false};
  std::thread watcher([&] {
    while (!ending.load()) most.store(std::max(most.load(), mounted.used()));
  });
  std::vector<std::thread> writers;
  for (int index = 0; index < 8; index++) {
    writers.emplace_back([&, index] {
      for (int round = 0; round < 40; round++) {
        const std::string key = "k" + std::to_string(index) + "-" + std::to_string(round % 4);
        CHECK_OK(account.Put(key, static_cast<size_t>(1 + (index * 7 + round * 3) % 5)));
        if (round % 5 == 0) account.directory()->Used("k" + std::to_string(index) + "-0.data");
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  ending.store(true);
  watcher.join();
  CHECK(account.Idle());
  CHECK(most.load() > kLimit * kBlockBytes / 2);
  CHECK(most.load() <= kLimit * kBlockBytes);
  CHECK_EQ(account.used(), DiskBytes(dir.path()));
}

TEST(random_operations_agree_with_a_plain_model) {
  const TempDir dir("/dev/shm");
  constexpr size_t kLimit = 12;
  Account account(dir, kLimit);
  std::vector<std::pair<std::string, size_t>> model;  // used longest ago in front
  const auto forget = [&](const std::string& key) {
    const auto same = [&](const auto& one) { return one.first == key; };
    model.erase(std::remove_if(model.begin(), model.end(), same), model.end());
  };
  const auto sum = [&] {
    size_t blocks = 0;
    for (const auto& one : model) blocks += one.second;
    return blocks;
  };
  std::mt19937_64 random(12345);
  std::string last;  // put, if that takes no more than a tenth of the limit
  for (int step = 0; step < 600; step++) {
    usleep(100);  // longer than a tick, so that the order is known
    const std::string key = "k" + std::to_string(random() % 15);
    const uint64_t what = random() % 10;
    if (what < 6) {
      const size_t blocks = 1 + random() % 4;
      // Of an object that is replaced the old one counts until the new one is there.
      while (sum() + blocks > kLimit) model.erase(model.begin());
      CHECK_OK(account.Put(key, blocks));
      forget(key);
      model.emplace_back(key, blocks);
      last = blocks == 1 ? key : "";
    } else if (what < 9) {
      account.directory()->Used(key + ".data");
      const auto same = [&](const auto& one) { return one.first == key; };
      const auto found = std::find_if(model.begin(), model.end(), same);
      if (found != model.end() && key != last) std::rotate(found, found + 1, model.end());
    } else {
      unlink((dir / (key + ".data")).c_str());
      account.directory()->Removed(key + ".data");
      forget(key);
    }
    CHECK(account.Idle());
    std::set<std::string> expected;
    for (const auto& one : model) expected.insert(one.first);
    std::string keys;
    for (const std::string& one : expected) keys += (keys.empty() ? "" : " ") + one;
    REQUIRE_EQ(account.Keys(), keys);
    REQUIRE_EQ(account.used(), sum() * kBlockBytes);
  }
  CHECK(account.quota().stats().evictions > 50);
}

CHECK_MAIN
