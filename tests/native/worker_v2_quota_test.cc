// SPDX-License-Identifier: Apache-2.0
//
// The limit of what all directories below a root may take: what counts, what is removed in which
// order, what is never touched, and that those who write at the same time keep to it. First the
// table and the account by themselves, then with objects, then the worker.
#include <sys/file.h>
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
#include "worker/base/sha256.h"
#include "worker/storage/directories.h"
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

TEST(files_that_are_dated_in_the_future_go_as_others_do) {
  const TempDir dir;
  for (int i = 0; i < 90; i++) {
    WriteFile(dir / ("old" + std::to_string(i) + ".data"), Block(1));
    Age(dir / ("old" + std::to_string(i) + ".data"), -1);
  }
  Account account(dir, 100);
  CHECK_EQ(account.used(), 90 * kBlockBytes);
  for (int i = 0; i < 20; i++) CHECK_OK(account.Put("new" + std::to_string(i), 1));
  CHECK(account.Idle());
  const std::vector<std::string> left = dir.Names();
  for (int i = 0; i < 20; i++) {
    CHECK_EQ(std::count(left.begin(), left.end(), "new" + std::to_string(i) + ".data"), 1);
  }
}

TEST(what_others_remove_is_heard_of_however_fast_it_was_put) {
  const TempDir dir;
  Account account(dir, 100000);
  constexpr int kPuts = 200000;  // more than ticks in the time that they take
  struct stat st = {};
  st.st_size = 1;
  for (int i = 0; i < kPuts; i++) {
    QuotaRoom room(account.directory(), "fast.data", 1);
    bool taken;
    CHECK_OK(room.Take(milliseconds(1000), &taken));
    room.Commit(st, 0);
  }
  WriteFile(dir / "fast.data", Block(1));
  REQUIRE(std::filesystem::remove(dir / "fast.data"));
  for (int i = 0; i < 1000 && account.used() > 0; i++) usleep(2000);
  CHECK_EQ(account.used(), 0u);
}

// Others may do something all the time.
TEST(one_look_at_what_others_do_has_an_end) {
  const TempDir dir;
  lmshm::DirectoryWatch watch;
  const lmshm::UniqueFd fd(open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!watch.Add(fd.get(), &watch)) SKIP("no inotify");
  const auto make = [&](int i) { WriteFile(dir / ("f" + std::to_string(i % 50) + ".data"), "x"); };
  for (int i = 0; i < 20; i++) make(i);
  int heard = 0;
  bool more;
  CHECK(watch.Drain(
      1 << 20,
      [&](void*, const std::string&, lmshm::DirectoryWatch::What) {
        if (++heard < 5000) make(heard);
      },
      &more));
  CHECK(!more);
  CHECK(heard >= 20 && heard < 5000);
  CHECK(watch.Drain(
      100, [](void*, const std::string&, lmshm::DirectoryWatch::What) {}, &more));
  CHECK(more);
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

// ---------------------------------------------------------------------------------- the objects

TEST(what_others_write_and_remove_is_heard_of) {
  const TempDir dir("/dev/shm");
  Account account(dir, 100);
  WriteFile(dir / "foreign.data", Block(3));
  const auto reaches = [&](uint64_t blocks) {
    for (int i = 0; i < 2000 && account.used() != blocks * kBlockBytes; i++) usleep(2000);
    return account.used() == blocks * kBlockBytes;
  };
  CHECK(reaches(3));
  REQUIRE_EQ(rename((dir / "foreign.data").c_str(), (dir / "renamed.data").c_str()), 0);
  CHECK(reaches(3));
  WriteFile(dir / ".tmp", Block(5));
  REQUIRE_EQ(rename((dir / ".tmp").c_str(), (dir / "renamed.data").c_str()), 0);
  CHECK(reaches(5));
  REQUIRE_EQ(unlink((dir / "renamed.data").c_str()), 0);
  CHECK(reaches(0));
  CHECK_EQ(account.quota().stats().objects, 0u);
}

TEST(what_others_wrote_is_removed_when_it_is_too_much) {
  const TempDir dir("/dev/shm");
  Account account(dir, 100);
  for (int i = 0; i < 200; i++) WriteFile(dir / ("f" + std::to_string(i) + ".data"), Block(1));
  for (int i = 0; i < 5000 && DiskBytes(dir.path()) > 100 * kBlockBytes; i++) usleep(2000);
  CHECK(DiskBytes(dir.path()) <= 100 * kBlockBytes);
  account.quota().Recount();
  CHECK(account.Idle());
  CHECK_EQ(account.used(), DiskBytes(dir.path()));
  // Many of the files are heard of at one time.
  CHECK(account.used() >= 85 * kBlockBytes);
}

TEST(directories_below_the_root_count_and_links_do_not) {
  const TempDir dir;
  const TempDir elsewhere;
  WriteFile(elsewhere / "precious.data", Block(50));
  std::filesystem::create_directories(dir / "one/two");
  std::filesystem::create_directory(dir / "empty");
  std::filesystem::create_directory_symlink(elsewhere.path(), dir / "linked");
  std::filesystem::create_symlink(elsewhere / "precious.data", dir / "link.data");
  WriteFile(dir / "a.data", Block(1));
  WriteFile(dir / "one/b.data", Block(2));
  WriteFile(dir / "one/two/c.data", Block(3));
  Age(dir / "one/two/c.data", 3);
  {
    Account account(dir, 100);
    CHECK_EQ(account.used(), 6 * kBlockBytes);
    CHECK_EQ(account.quota().stats().objects, 3u);
    CHECK_EQ(account.quota().stats().directories, 4u);
    // One that appears later.
    std::filesystem::create_directory(dir / "late");
    WriteFile(dir / "late/d.data", Block(4));
    for (int i = 0; i < 2000 && account.used() != 10 * kBlockBytes; i++) usleep(2000);
    CHECK_EQ(account.used(), 10 * kBlockBytes);
  }
  std::filesystem::remove_all(dir / "late");
  Account account(dir, 4);
  CHECK(account.used() <= 4 * kBlockBytes);
  CHECK(!std::filesystem::exists(dir / "one/two/c.data"));  // the one used longest ago
  CHECK_EQ(std::filesystem::file_size(elsewhere / "precious.data"), 50 * kBlockBytes);
  CHECK(std::filesystem::is_symlink(dir / "link.data"));
}

TEST(foreign_files_are_neither_counted_nor_touched) {
  const TempDir dir;
  const std::vector<std::string> foreign = {"README", "model.safetensors", "orphan.key",
                                            ".hidden.tmp"};
  for (const std::string& name : foreign) {
    WriteFile(dir / name, Block(50));
    Age(dir / name, 100);
  }
  std::filesystem::create_directory(dir / "directory.data");
  Account account(dir, 4);
  CHECK_EQ(account.used(), 0u);
  for (int i = 0; i < 10; i++) CHECK_OK(account.Put("k" + std::to_string(i), 2));
  for (const std::string& name : foreign) CHECK(std::filesystem::exists(dir / name));
  CHECK(std::filesystem::is_directory(dir / "directory.data"));
  CHECK(account.used() <= 4 * kBlockBytes);
}

TEST(what_cannot_be_removed_is_named_and_does_not_keep_the_rest) {
  const TempDir dir;
  Account account(dir, 4);
  CHECK_OK(account.Put("a", 2));
  CHECK_OK(account.Put("b", 1));
  // A directory in its place: no file can be removed there, not even by root. As if nobody had
  // told.
  account.quota().Recount();
  REQUIRE_EQ(unlink((dir / "a.data").c_str()), 0);
  REQUIRE(std::filesystem::create_directories(dir / "a.data/full"));
  usleep(50000);
  account.directory()->Used("a.data");
  CHECK_OK(account.Put("c", 3));
  CHECK(std::filesystem::exists(dir / "c.data"));
}

TEST(a_directory_that_another_process_keeps_locked_does_not_keep_the_rest) {
  // Whichever of them comes first, and also when it has the oldest objects.
  const std::pair<std::string, int> cases[] = {{"one", 5}, {"two", 5}, {"one", 10}, {"two", 10}};
  for (const auto& [locked, age] : cases) {
    const TempDir dir;
    for (const std::string name : {"one", "two"}) {
      REQUIRE(std::filesystem::create_directory(dir / name));
      WriteFile(dir / (name + "/old.data"), Block(4));
      Age(dir / (name + "/old.data"), name == locked ? age : 5);
    }
    QuotaRules rules;
    rules.lock_patience = milliseconds(50);
    Account account(dir, 10, rules);
    const lmshm::UniqueFd lock(open((dir / locked).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(lock.valid());
    REQUIRE_EQ(flock(lock.get(), LOCK_EX | LOCK_NB), 0);
    CHECK_OK(account.Put("new", 5));
    CHECK(std::filesystem::exists(dir / "new.data"));
    CHECK(std::filesystem::exists(dir / (locked + "/old.data")));
  }
}

TEST(a_key_beside_its_object_counts_with_it_and_goes_with_it) {
  const TempDir dir;
  const std::string stem = "sha256-" + lmshm::Sha256Hex("key");
  WriteFile(dir / (stem + ".data"), Block(1));
  WriteFile(dir / (stem + ".key"), "key");
  Age(dir / (stem + ".data"), 5);
  Account account(dir, 4);
  CHECK_EQ(account.used(), 2 * kBlockBytes);
  CHECK_EQ(account.quota().stats().objects, 1u);
  CHECK_OK(account.Put("a", 3));
  CHECK_EQ(account.Keys(), "a");
  CHECK_EQ(dir.Names().size(), 1u);
  CHECK_EQ(account.quota().stats().evicted_bytes, 2 * kBlockBytes);
}

TEST(a_key_without_an_object_counts_and_is_removed_when_it_is_old) {
  const TempDir dir;
  const std::string old = "sha256-" + lmshm::Sha256Hex("old") + ".key";
  const std::string young = "sha256-" + lmshm::Sha256Hex("young") + ".key";
  for (const std::string& name : {old, young}) WriteFile(dir / name, "the key");
  Age(dir / old, 1);
  Account account(dir, 100);
  CHECK(!std::filesystem::exists(dir / old));
  CHECK_EQ(account.used(), kBlockBytes);
  CHECK_EQ(account.quota().stats().objects, 0u);
  CHECK_EQ(account.quota().stats().stale_keys, 1u);
  Age(dir / young, 1);
  account.quota().Recount();
  CHECK(dir.Names().empty());
  CHECK_EQ(account.used(), 0u);
  CHECK_EQ(account.quota().stats().stale_keys, 2u);
}

TEST(temporaries_of_dead_writers_are_removed_also_while_it_runs) {
  const TempDir dir;
  const std::string dead = ".dead.data.123.0123456789abcdef.tmp";
  const std::string young = ".young.data.123.0123456789abcdef.tmp";
  const std::string foreign = ".bash_history.tmp";
  for (const std::string& name : {dead, young, foreign}) WriteFile(dir / name, "partial");
  for (const std::string& name : {dead, foreign}) Age(dir / name, 1);
  Account account(dir, 100);
  CHECK(!std::filesystem::exists(dir / dead));
  CHECK(std::filesystem::exists(dir / young));
  CHECK_EQ(account.quota().stats().stale_temporaries, 1u);
  Age(dir / young, 1);
  account.quota().Recount();
  CHECK_EQ(account.quota().stats().stale_temporaries, 2u);
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(directories_that_nobody_uses_give_way_to_others) {
  const TempDir dir;
  QuotaRules rules;
  rules.directories = 3;
  Account account(dir, 100, rules);
  Quota::Directory held;
  for (int i = 0; i < 10; i++) {
    const std::string path = dir / ("d" + std::to_string(i));
    REQUIRE(std::filesystem::create_directory(path));
    const lmshm::UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    Quota::Directory directory;
    CHECK_OK(account.quota().Find(fd.get(), &directory));
    if (i == 0) held = directory;
    account.quota().Recount();
  }
  WriteFile(dir / "d0/x.data", Block(1));
  account.quota().Recount();
  CHECK_EQ(held->objects(), 1u);
  CHECK_EQ(account.quota().stats().directories, 3u);
}

TEST(a_directory_that_stays_open_without_a_user_gives_way_in_the_account) {
  const TempDir dir;
  QuotaRules rules;
  rules.directories = 4;
  rules.max_bytes = 100 * kBlockBytes;
  std::unique_ptr<lmshm::ObjectDir> root;
  CHECK_OK(lmshm::ObjectDir::OpenConfined(dir.path(), lmshm::DetectBeneathMethod(), &root));
  Quota quota(root->root_fd(), rules);
  CHECK_OK(quota.Start());
  // More may be open than the account has places for.
  lmshm::Directories directories(*root, lmshm::Directories::Limits(), lmshm::ProbeStorage, &quota);
  CHECK_OK(directories.Start());
  for (int i = 0; i < 12; i++) {
    lmshm::Directories::Store store;
    CHECK_OK(directories.Open("d" + std::to_string(i), &store));
  }
}

// ----------------------------------------------------------------------------------- the worker

namespace {

// The value of a word of INFO; -1 if it is not there.
int64_t InfoOf(LineClient* client, const std::string& name) {
  const std::string answer = " " + client->Call("99 INFO") + " ";
  const size_t at = answer.find(" " + name + "=");
  return at == std::string::npos ? -1 : atoll(answer.c_str() + at + name.size() + 2);
}

// Until everything that was there is counted.
bool Counted(LineClient* client) {
  for (int i = 0; i < 5000; i++) {
    if (InfoOf(client, "counted") == 1) return true;
    usleep(2000);
  }
  return false;
}

// Whether account and disk agree, once no more room is being made in advance.
bool Agrees(LineClient* client, const std::string& path) {
  for (int i = 0; i < 2000; i++) {
    if (InfoOf(client, "used_bytes") == static_cast<int64_t>(DiskBytes(path))) return true;
    usleep(2000);
  }
  return false;
}

// A worker with a limit, on a Unix socket, and clients of it.
class LimitedWorker {
 public:
  LimitedWorker(const std::string& root, uint64_t max_bytes, const std::string& socket)
      : address_(socket), process_([&] {
          WorkerSetup setup;
          setup.arguments = {"--root",         root,          "--listen",
                             "unix:" + socket, "--max-bytes", std::to_string(max_bytes)};
          return setup;
        }()) {
    process_.Listening();
  }

  // A client of version 2 that has attached `segment`, and of `directory` below the root.
  LineClient Connect(const TestSegment& segment, const std::string& directory = "") {
    LineClient client = ConnectUnix(address_);
    CHECK_STARTS(client.Call("HELLO 2" + (directory.empty() ? "" : " dir=" + directory)), "OK 2 ");
    CHECK_EQ(
        client.Call("1 ATTACH /" + segment.name() + " " + std::to_string(segment.size()) + " -"),
        "1 OK");
    return client;
  }
  LineClient ConnectV1() { return ConnectUnix(address_); }
  WorkerProcess& process() { return process_; }

 private:
  const std::string address_;
  WorkerProcess process_;
};

}  // namespace

TEST(one_account_for_all_directories_and_both_versions) {
  const TempDir dir;
  const TempDir sockets;
  const TempDir& root = dir;
  REQUIRE(std::filesystem::create_directory(root / "v1"));
  TestSegment segment(1 << 20);
  LimitedWorker worker(root.path(), 64 * kBlockBytes, sockets / "w");
  LineClient one = worker.Connect(segment);
  LineClient two = worker.Connect(segment, "models/two");
  LineClient old = worker.ConnectV1();
  CHECK_EQ(old.Call(segment.AttachLine()), "OK");
  CHECK(Counted(&one));
  CHECK_STARTS(one.Call("2 PUT a 0 40960"), "2 OK 40960");
  CHECK_STARTS(two.Call("2 PUT a 0 81920"), "2 OK 81920");
  CHECK_EQ(old.Call(segment.Line("WRITE", root / "v1/old.data", 0, 20480)), "OK 20480");
  CHECK_EQ(old.Call(segment.Line("WRITE", root / "v1/readme", 0, 20480)), "OK 20480");
  CHECK_EQ(InfoOf(&one, "used_bytes"), 35 * 4096);
  CHECK_EQ(InfoOf(&one, "objects"), 3);
  CHECK_EQ(InfoOf(&one, "max_bytes"), 64 * 4096);
  CHECK_EQ(InfoOf(&one, "dir_used_bytes"), 10 * 4096);
  CHECK_EQ(InfoOf(&two, "dir_used_bytes"), 20 * 4096);
  CHECK_EQ(InfoOf(&two, "dir_objects"), 1);
  CHECK_CONTAINS(one.Call("90 INFO") + " ",
                 " directory_use=1:81920:models/two,1:40960:,1:20480:v1 ");
  // What version 1 writes makes the oldest go, wherever it is.
  CHECK_EQ(old.Call(segment.Line("WRITE", root / "v1/more.data", 0, 36 * 4096)), "OK 147456");
  CHECK_STARTS(one.Call("3 STAT a"), "3 ERROR ENOENT");
  CHECK_STARTS(two.Call("3 STAT a"), "3 OK");
  CHECK_EQ(InfoOf(&one, "evictions"), 1);
  CHECK_EQ(InfoOf(&one, "evicted_bytes"), 10 * 4096);
  CHECK_STARTS(old.Call(segment.Line("WRITE", root / "v1/much.data", 0, 65 * 4096)),
               "ERROR ENOSPC write ");
  CHECK_STARTS(one.Call("4 PUT much 0 266240"),
               "4 ERROR ENOSPC put much: 266240 bytes do not fit: --max-bytes is 262144");
  CHECK_EQ(two.Call("5 REMOVE a"), "5 OK 1");
  CHECK_EQ(InfoOf(&one, "used_bytes"), 41 * 4096);
  // What nobody could evict is not written.
  const std::string key_file = "v1/sha256-" + std::string(64, 'a') + ".key";
  CHECK_STARTS(old.Call(segment.Line("WRITE", root / key_file, 0, 4096)), "ERROR EINVAL write ");
}

TEST(a_directory_that_is_moved_beside_the_root_is_told_of_no_more) {
  const TempDir dir;
  const TempDir sockets;
  const std::string root = dir / "store";
  REQUIRE(std::filesystem::create_directory(root));
  TestSegment segment(1 << 20);
  LimitedWorker worker(root, 64 * kBlockBytes, sockets / "w");
  LineClient one = worker.Connect(segment);
  LineClient two = worker.Connect(segment, "two");
  CHECK(Counted(&one));
  CHECK_STARTS(one.Call("2 PUT a 0 4096"), "2 OK 4096");
  CHECK_STARTS(two.Call("2 PUT a 0 8192"), "2 OK 8192");
  CHECK_CONTAINS(one.Call("3 INFO") + " ", " directory_use=1:8192:two,1:4096: ");
  // Its path begins as the root's does.
  REQUIRE_EQ(rename((root + "/two").c_str(), (dir / "store2").c_str()), 0);
  CHECK_CONTAINS(one.Call("4 INFO") + " ", " directory_use=1:4096: ");
}

TEST(the_limit_holds_for_a_directory_that_is_renamed_while_the_worker_runs) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir parent;
  const SmallMount mounted(parent.path(), "64m");
  const TempDir sockets;
  REQUIRE(std::filesystem::create_directory(parent / "kv"));
  TestSegment segment(1 << 20);
  constexpr uint64_t kLimit = 4 << 20;
  LimitedWorker worker(parent / "kv", kLimit, sockets / "w");
  LineClient client = worker.Connect(segment);
  CHECK(Counted(&client));
  CHECK_STARTS(client.Call("2 PUT before 0 1048576"), "2 OK");
  REQUIRE_EQ(rename((parent / "kv").c_str(), (parent / "moved").c_str()), 0);
  REQUIRE(std::filesystem::create_directory(parent / "kv"));
  for (int i = 0; i < 24; i++) {
    CHECK_STARTS(client.Call("3 PUT k" + std::to_string(i) + " 0 1048576"), "3 OK");
    CHECK(mounted.used() <= kLimit);
  }
  CHECK(DiskBytes(parent / "moved") >= kLimit / 2);
  CHECK(Agrees(&client, parent / "moved"));
  CHECK(std::filesystem::is_empty(parent / "kv"));
}

TEST(puts_batches_and_overwrites_of_many_clients_stay_within_the_limit) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  const SmallMount mounted(dir.path(), "64m");
  const TempDir sockets;
  TestSegment segment(1 << 20);
  constexpr uint64_t kLimit = 8 << 20;
  LimitedWorker worker(dir.path(), kLimit, sockets / "w");
  LineClient info = worker.Connect(segment);
  CHECK(Counted(&info));
  std::atomic<bool> ending{false};
  std::atomic<uint64_t> most{0};
  std::thread watcher([&] {
    while (!ending.load()) most.store(std::max(most.load(), mounted.used()));
  });
  std::atomic<int> stored{0};
  std::vector<std::thread> clients;
  for (int number = 0; number < 4; number++) {
    clients.emplace_back([&, number] {
      LineClient client = worker.Connect(segment);
      const std::string own = "c" + std::to_string(number) + "-";
      for (int round = 0; round < 40; round++) {
        std::string line = "2 PUT";
        for (int i = 0; i < 8; i++) {
          line += (i > 0 ? " ; " : " ") + own + std::to_string((round * 8 + i) % 50) + " 0 " +
                  std::to_string(20000 + 30000 * (i % 4));
        }
        const std::string answer = client.Call(line);
        CHECK_STARTS(answer, "2 OK ");
        CHECK(answer.find(" -E") == std::string::npos);
        stored.fetch_add(8);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ending.store(true);
  watcher.join();
  CHECK(most.load() > kLimit / 2);
  CHECK(most.load() <= kLimit);
  CHECK(InfoOf(&info, "evictions") > 50);
  CHECK(Agrees(&info, dir.path()));
}

TEST(a_restart_with_a_lower_limit_serves_at_once_and_shrinks) {
  const TempDir dir("/dev/shm");
  const TempDir sockets;
  for (int i = 0; i < 3000; i++) {
    WriteFile(dir / ("k" + std::to_string(i) + ".data"), Block(1));
    Age(dir / ("k" + std::to_string(i) + ".data"), 3000 - i);
  }
  TestSegment segment(1 << 20);
  LimitedWorker worker(dir.path(), 1000 * kBlockBytes, sockets / "w");
  LineClient client = worker.Connect(segment);
  CHECK_STARTS(client.Call("2 GET k2999 0 4096"), "2 OK 4096");
  CHECK(Counted(&client));
  for (int i = 0; i < 5000 && DiskBytes(dir.path()) > 1000 * kBlockBytes; i++) usleep(2000);
  CHECK(DiskBytes(dir.path()) <= 1000 * kBlockBytes);
  CHECK(DiskBytes(dir.path()) >= 850 * kBlockBytes);
  CHECK_STARTS(client.Call("3 STAT k0"), "3 ERROR ENOENT");
  CHECK_STARTS(client.Call("4 STAT k2998"), "4 OK");
}

TEST(two_workers_on_one_directory_stay_in_the_band_and_keep_what_was_put_lately) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  const SmallMount mounted(dir.path(), "256m");
  const TempDir sockets;
  TestSegment segment(1 << 20);
  constexpr uint64_t kLimit = 16 << 20;
  constexpr uint64_t kObject = 128 << 10;
  LimitedWorker first(dir.path(), kLimit, sockets / "a");
  LimitedWorker second(dir.path(), kLimit, sockets / "b");
  LineClient info = first.Connect(segment);
  CHECK(Counted(&info));
  LineClient other = second.Connect(segment);
  CHECK(Counted(&other));
  std::atomic<bool> ending{false};
  std::atomic<bool> full{false};
  std::atomic<uint64_t> most{0};
  std::atomic<uint64_t> least{UINT64_MAX};
  std::thread watcher([&] {
    while (!ending.load()) {
      const uint64_t used = mounted.used();
      most.store(std::max(most.load(), used));
      if (used >= kLimit * 97 / 100) full.store(true);
      if (full.load()) least.store(std::min(least.load(), used));
    }
  });
  std::mutex order;
  std::vector<std::string> put;  // in this order, by both
  std::atomic<int> lost{0};
  std::vector<std::thread> clients;
  for (int number = 0; number < 4; number++) {
    clients.emplace_back([&, number] {
      LineClient client = (number % 2 == 0 ? first : second).Connect(segment);
      for (int round = 0; round < 150; round++) {
        const std::string key = "k" + std::to_string(number) + "-" + std::to_string(round);
        CHECK_STARTS(client.Call("2 PUT " + key + " 0 " + std::to_string(kObject)), "2 OK");
        std::string lately;
        size_t then = 0;
        {
          const std::lock_guard<std::mutex> lock(order);
          put.push_back(key);
          then = put.size();
          // A little less than a tenth of the limit ago, because others put meanwhile.
          if (then > 6) lately = put[then - 6];
        }
        if (lately.empty() || client.Call("3 EXISTS " + lately) == "3 OK 1") continue;
        // On a busy machine the others may have put so much since that it was its turn to go.
        const std::lock_guard<std::mutex> lock(order);
        if (put.size() - then < kLimit / kObject / 2) lost.fetch_add(1);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ending.store(true);
  watcher.join();
  CHECK(full.load());
  CHECK(most.load() <= kLimit / 100 * 110);
  CHECK(least.load() >= kLimit / 100 * 85);
  CHECK_EQ(lost.load(), 0);
  CHECK(InfoOf(&info, "evictions") > 0);
  std::cout << "# from " << least.load() * 100 / kLimit << " % to " << most.load() * 100 / kLimit
            << " %" << std::endl;
}

CHECK_MAIN
