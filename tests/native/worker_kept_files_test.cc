// SPDX-License-Identifier: Apache-2.0
//
// Files that stay open: that they are found when nothing has happened to them, and never when
// something has, whoever did it; and that they are let go.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/storage/kept_files.h"
#include "worker/storage/key_store.h"
#include "worker_fixture.hh"

using lmshm::KeptFile;
using lmshm::KeptFiles;
using lmshm::KeptFilesRules;
using lmshm::KeyStore;

namespace {

using std::chrono::milliseconds;

// What was made a moment ago is kept, and the sweeper does not come by itself.
KeptFilesRules Lax(size_t limit = 64) {
  KeptFilesRules rules;
  rules.limit = limit;
  rules.settled = milliseconds(0);
  rules.sweep = std::chrono::hours(1);
  return rules;
}

// A directory, and files of it that are kept.
struct Kept : KeptFiles {
  explicit Kept(const TempDir& directory, const KeptFilesRules& rules = Lax())
      : KeptFiles(rules), dir(directory) {
    dir_fd = open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    REQUIRE_EQ(fstat(dir_fd, &st), 0);
    device = st.st_dev;
  }
  ~Kept() { close(dir_fd); }

  File Find(const std::string& name) { return KeptFiles::Find(dir_fd, name); }
  bool Wants(const std::string& name) { return KeptFiles::Wants(dir_fd, name); }
  void Drop(const std::string& name) { KeptFiles::Drop(dir_fd, name); }
  std::optional<lmshm::FileState> Look(int fd) const { return KeptFiles::Look(fd, device); }
  // As it was when it was looked at; null if it must not be kept.
  std::shared_ptr<KeptFile> Opened(const std::string& name) const {
    auto file = std::make_shared<KeptFile>();
    file->dir_fd = dir_fd;
    file->name = name;
    file->fd.Reset(open((dir / name).c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(file->fd.valid());
    const std::optional<lmshm::FileState> state = Look(file->fd.get());
    if (!state.has_value()) return nullptr;
    file->state = *state;
    return file;
  }
  using KeptFiles::Keep;
  void Keep(const std::string& name) {
    std::shared_ptr<KeptFile> file = Opened(name);
    REQUIRE(file != nullptr);
    Keep(std::move(file));
  }

  const TempDir& dir;
  int dir_fd = -1;
  dev_t device = 0;
};

// Two files change their names at one stroke. Inodes may not notice.
bool Exchange(const std::string& a, const std::string& b) {
  constexpr unsigned kExchange = 2;
  return syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) == 0;
}

bool Until(const std::function<bool()>& test) {
  for (int i = 0; i < 2000; i++) {
    if (test()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return false;
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    count++;
  }
  return count;
}

// A store in a directory whose file system tells changes; skips the test where it does not.
struct Store {
  explicit Store(const KeptFilesRules& rules) {
    root.Reset(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(root.valid());
    const lmshm::StorageFacts facts = FactsOf(root.get());
    if (!facts.tells_changes || !facts.attributes) SKIP("not on this " + facts.file_system);
    keys =
        std::make_unique<KeyStore>(root.get(), facts, std::make_shared<lmshm::StoresShare>(rules));
  }

  lmshm::Status Put(const std::string& key, const std::string& text) {
    std::copy(text.begin(), text.end(), memory.data());
    uint32_t crc = 0;
    return keys->Put(Key(key), {memory.data(), text.size()}, {}, {}, &crc);
  }
  // The content, or the error's name.
  std::string Get(const std::string& key, size_t space = 4096) {
    std::fill(memory.data(), memory.data() + space, '?');
    lmshm::ObjectInfo info;
    const lmshm::Status status = keys->Get(Key(key), {memory.data(), space}, {}, &info);
    return status.ok() ? std::string(memory.data(), info.length)
                       : lmshm::ErrnoName(status.number());
  }
  // Makes it a kept one: at the latest the third time it is got from the file that stayed open.
  void Keep(const std::string& key, const std::string& text) {
    CHECK_EQ(Get(key), text);
    CHECK_EQ(Get(key), text);
    const uint64_t before = keys->share().kept_files.found();
    CHECK_EQ(Get(key), text);
    CHECK_EQ(keys->share().kept_files.found(), before + 1);
  }

  TempDir dir;
  lmshm::UniqueFd root;
  std::unique_ptr<KeyStore> keys;
  std::string memory = std::string(64 * 1024, '\0');
};

}  // namespace

TEST(a_kept_file_is_found_until_something_is_done_to_it) {
  const std::vector<std::pair<const char*, std::function<void(const TempDir&)>>> deeds = {
      {"exchanged for another",
       [](const TempDir& dir) {
         WriteFile(dir / "new", "12345");
         if (!Exchange(dir / "new", dir / "a")) unlink((dir / "a").c_str());
       }},
      {"its name a symbolic link to it",
       [](const TempDir& dir) {
         rename((dir / "a").c_str(), (dir / "b").c_str());
         REQUIRE_EQ(symlink("b", (dir / "a").c_str()), 0);
       }},
      {"given an attribute",
       [](const TempDir& dir) {
         const std::string path = dir / "a";
         if (setxattr(path.c_str(), "user.t", "x", 1, 0) != 0) unlink(path.c_str());
       }},
      {"looked up in a directory that is gone",
       [](const TempDir& dir) { std::filesystem::remove_all(dir.path()); }},
      {"removed", [](const TempDir& dir) { unlink((dir / "a").c_str()); }},
      {"renamed", [](const TempDir& dir) { rename((dir / "a").c_str(), (dir / "b").c_str()); }},
      {"replaced",
       [](const TempDir& dir) {
         WriteFile(dir / "new", "12345");
         rename((dir / "new").c_str(), (dir / "a").c_str());
       }},
      {"linked, and then replaced",
       [](const TempDir& dir) {
         REQUIRE_EQ(link((dir / "a").c_str(), (dir / "backup").c_str()), 0);
         WriteFile(dir / "new", "12345");
         rename((dir / "new").c_str(), (dir / "a").c_str());
       }},
      {"written to", [](const TempDir& dir) { WriteFile(dir / "a", "54321"); }},
      {"cut", [](const TempDir& dir) { REQUIRE_EQ(truncate((dir / "a").c_str(), 1), 0); }},
  };
  for (const auto& [what, deed] : deeds) {
    TempDir dir;
    WriteFile(dir / "a", "12345");
    Kept kept(dir);
    CHECK(kept.Find("a") == nullptr);
    kept.Keep("a");
    CHECK_EQ(kept.size(), 1u);
    CHECK(kept.Find("a") != nullptr);
    CHECK(kept.Find("b") == nullptr);
    // Older kernels count changes by the tick.
    std::this_thread::sleep_for(milliseconds(20));
    deed(dir);
    if (kept.Find("a") != nullptr)
      check::Fail(__FILE__, __LINE__, std::string("not seen: ") + what);
    CHECK_EQ(kept.size(), 0u);
  }
}

TEST(what_was_changed_just_now_is_not_kept) {
  TempDir dir;
  WriteFile(dir / "a", "1");
  KeptFilesRules rules = Lax();
  rules.settled = milliseconds(60'000);
  Kept kept(dir, rules);
  CHECK(kept.Opened("a") == nullptr);
  CHECK(!kept.Look(-1).has_value());
  const lmshm::UniqueFd no_file(open(dir.path().c_str(), O_RDONLY | O_CLOEXEC));
  CHECK(!Kept(dir).Look(no_file.get()).has_value());
}

TEST(what_changed_between_the_look_and_keeping_it_is_not_found) {
  for (const bool replaced : {false, true}) {
    TempDir dir;
    WriteFile(dir / "a", "1");
    Kept kept(dir);
    std::shared_ptr<KeptFile> file = kept.Opened("a");
    // Here a thread may have been held up for long.
    std::this_thread::sleep_for(milliseconds(20));
    WriteFile(dir / (replaced ? "new" : "a"), "2");
    if (replaced) rename((dir / "new").c_str(), (dir / "a").c_str());
    kept.Keep(std::move(file));
    CHECK(kept.Find("a") == nullptr);
    CHECK_EQ(kept.size(), 0u);
  }
}

TEST(a_file_is_wanted_when_it_is_asked_for_again) {
  TempDir dir;
  Kept kept(dir, Lax(64));
  CHECK(!kept.Wants("a"));
  CHECK(kept.Wants("a"));
  // As many in between as may be kept at all.
  int forgotten = 0;
  for (int i = 0; i < 64; i++) forgotten += kept.Wants("x" + std::to_string(i)) ? 1 : 0;
  for (int i = 0; i < 64; i++) forgotten += kept.Wants("x" + std::to_string(i)) ? 0 : 1;
  CHECK(forgotten < 16);
  Kept none(dir, Lax(0));
  CHECK(!none.Wants("a"));
  CHECK(!none.Wants("a"));
}

TEST(the_limit_holds_and_who_is_used_stays) {
  TempDir dir;
  for (int i = 0; i < 100; i++) WriteFile(dir / std::to_string(i), std::to_string(i));
  for (const size_t limit : {1u, 2u, 7u, 8u, 9u, 20u}) {
    Kept few(dir, Lax(limit));
    for (int i = 0; i < 100; i++) {
      few.Keep(std::to_string(i));
      CHECK(few.size() <= limit);
      CHECK(few.Find(std::to_string(i)) != nullptr);
    }
    CHECK(few.size() >= (limit + 1) / 2);
  }
  Kept kept(dir, Lax(16));
  const size_t before = OpenDescriptors();
  for (int i = 0; i < 100; i++) kept.Keep(std::to_string(i));
  CHECK(kept.size() >= 8);
  CHECK_EQ(OpenDescriptors(), before + kept.size());
  CHECK(kept.Find("99") != nullptr);
  kept.Drop("99");
  CHECK(kept.Find("99") == nullptr);
  CHECK(kept.DropAll(kept.let_go()));
  CHECK(!kept.DropAll(kept.let_go()));
  CHECK(kept.DropAll(kept.let_go() - 1));  // somebody else did
  CHECK_EQ(kept.size(), 0u);
  CHECK_EQ(OpenDescriptors(), before);
}

TEST(a_file_with_many_bytes_of_attributes_is_not_kept) {
  TempDir dir;
  WriteFile(dir / "a", "a");
  Kept kept(dir);
  const auto keep = [&](size_t count, size_t bytes) {
    const std::shared_ptr<KeptFile> file = kept.Opened("a");
    REQUIRE(file != nullptr);
    for (size_t i = 0; i < count; i++)
      file->attributes.push_back({"name", std::string(bytes, 'x')});
    kept.Keep(file);
    const bool found = kept.Find("a") != nullptr;
    kept.Drop("a");
    return found;
  };
  CHECK(keep(0, 0));
  CHECK(keep(3, 50));
  CHECK(!keep(1, 500));
  CHECK(!keep(32, 100));
  CHECK(!keep(32, 0));
  CHECK_EQ(kept.size(), 0u);
}

TEST(a_file_in_use_stays_open_although_it_is_dropped) {
  TempDir dir;
  WriteFile(dir / "a", "1");
  Kept kept(dir);
  kept.Keep("a");
  const KeptFiles::File file = kept.Find("a");
  REQUIRE(file != nullptr);
  kept.Drop("a");
  char byte = 0;
  CHECK_EQ(pread(file->fd.get(), &byte, 1, 0), 1);
  CHECK_EQ(byte, '1');
}

TEST(only_what_is_gone_is_closed_when_that_is_asked_for) {
  TempDir dir;
  Kept kept(dir);
  for (const char* name : {"gone", "there"}) {
    WriteFile(dir / name, "1");
    kept.Keep(name);
  }
  CHECK(!kept.DropGone(kept.let_go()));
  unlink((dir / "gone").c_str());
  const size_t before = OpenDescriptors();
  CHECK(kept.DropGone(kept.let_go()));
  CHECK_EQ(OpenDescriptors(), before - 1);
  CHECK(!kept.DropGone(kept.let_go()));
  CHECK(kept.Find("there") != nullptr);
}

TEST(removed_and_idle_files_are_closed_without_being_asked_for) {
  TempDir dir;
  KeptFilesRules rules = Lax();
  rules.sweep = milliseconds(20);
  Kept kept(dir, rules);
  const size_t before = OpenDescriptors();
  for (const char* name : {"gone", "used", "idle"}) {
    WriteFile(dir / name, "1");
    kept.Keep(name);
  }
  unlink((dir / "gone").c_str());
  CHECK(Until([&] { return kept.size() <= 2; }));
  // 10 rounds of 20 ms without being asked for.
  CHECK(Until([&] {
    CHECK(kept.Find("used") != nullptr);
    return kept.size() == 1;
  }));
  CHECK(kept.Find("used") != nullptr);
  CHECK(Until([&] { return kept.size() == 0; }));
  CHECK_EQ(OpenDescriptors(), before);
  // The sweeper, which slept, wakes again.
  kept.Keep("used");
  CHECK(Until([&] { return kept.size() == 0; }));
}

TEST(many_threads_keep_find_and_drop) {
  TempDir dir;
  for (int i = 0; i < 40; i++) WriteFile(dir / std::to_string(i), std::to_string(i));
  KeptFilesRules rules = Lax(32);
  rules.sweep = milliseconds(2);
  Kept kept(dir, rules);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3000; i++) {
        const std::string name = std::to_string((i * 7 + t * 13) % 40);
        if (const KeptFiles::File file = kept.Find(name)) {
          char bytes[8] = {};
          const ssize_t n = pread(file->fd.get(), bytes, sizeof bytes, 0);
          if (std::string(bytes, n > 0 ? static_cast<size_t>(n) : 0) != name) wrong++;
        } else if (kept.Wants(name)) {
          kept.Keep(name);
        }
        if (i % 50 == t) kept.Drop(name);
        if (i % 1000 == 999) kept.DropAll(0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0);
  CHECK(kept.found() > 0);
}

TEST(a_store_gives_what_is_there_now) {
  Store store(Lax());
  CHECK(store.Put("k/1", "first").ok());
  store.Keep("k/1", "first");
  // Its own doing.
  CHECK(store.Put("k/1", "second one").ok());
  CHECK_EQ(store.Get("k/1"), "second one");
  store.Keep("k/1", "second one");
  bool removed = false;
  CHECK(store.keys->Remove(Key("k/1"), &removed).ok());
  CHECK(removed);
  CHECK_EQ(store.Get("k/1"), "ENOENT");
  // Somebody else's.
  CHECK(store.Put("k/1", "third").ok());
  CHECK(store.Put("other", "of another key").ok());
  store.Keep("k/1", "third");
  const std::string path = store.dir / "k-SEP-1.data";
  REQUIRE_EQ(rename((store.dir / "other.data").c_str(), path.c_str()), 0);
  CHECK_EQ(store.Get("k/1"), "EBADMSG");
  WriteFile(store.dir / "plain", "without a record");
  REQUIRE_EQ(rename((store.dir / "plain").c_str(), path.c_str()), 0);
  CHECK_EQ(store.Get("k/1"), "without a record");
  REQUIRE_EQ(unlink(path.c_str()), 0);
  CHECK_EQ(store.Get("k/1"), "ENOENT");
}

TEST(an_object_that_is_exchanged_for_another_is_not_taken_for_it) {
  Store store(Lax());
  CHECK(store.Put("a", "content of a").ok());
  CHECK(store.Put("b", "content of b").ok());
  store.Keep("a", "content of a");
  store.Keep("b", "content of b");
  if (!Exchange(store.dir / "a.data", store.dir / "b.data")) SKIP("not on this file system");
  CHECK_EQ(store.Get("a"), "EBADMSG");
  CHECK_EQ(store.Get("b"), "EBADMSG");
}

TEST(a_kept_object_is_checked_like_any_other) {
  Store store(Lax());
  CHECK(store.Put("k", "0123456789").ok());
  store.Keep("k", "0123456789");
  // Too little space, also for what is kept.
  CHECK_EQ(store.Get("k", 4), "EMSGSIZE");
  CHECK_EQ(store.Get("k", 10), "0123456789");
  // A byte that changes and leaves the times as they were is found by the checksum.
  const std::string path = store.dir / "k.data";
  struct stat st;
  REQUIRE_EQ(stat(path.c_str(), &st), 0);
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK_EQ(pwrite(fd, "X", 1, 5), 1);
  close(fd);
  CHECK_EQ(store.Get("k"), "EBADMSG");
}

TEST(where_changes_are_not_told_nothing_is_kept) {
  TempDir dir;
  lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  lmshm::StorageFacts facts = FactsOf(root.get());
  facts.tells_changes = false;
  KeyStore keys(root.get(), facts, std::make_shared<lmshm::StoresShare>(Lax()));
  std::string memory = "12345";
  uint32_t crc = 0;
  CHECK(keys.Put(Key("k"), {memory.data(), 5}, {}, {}, &crc).ok());
  lmshm::ObjectInfo info;
  for (int i = 0; i < 4; i++) CHECK(keys.Get(Key("k"), {memory.data(), 5}, {}, &info).ok());
  CHECK_EQ(keys.share().kept_files.size(), 0u);
  CHECK_EQ(keys.share().kept_files.found(), 0u);
}

TEST(a_key_that_cannot_be_read_for_want_of_descriptors_is_not_taken_for_none) {
  Store store(Lax());
  const std::string key(300, 'k');
  CHECK(store.Put(key, "x").ok());
  std::string file;
  for (const std::string& name : store.dir.Names()) {
    if (name.find(".data") != std::string::npos) file = name;
  }
  std::string found;
  CHECK(store.keys->KeyOfHashed(file, &found).ok());
  CHECK_EQ(found, key);
  CHECK_EQ(store.keys->KeyOfHashed("sha256-none.data", &found).number(), ENOENT);
  struct rlimit old, low;
  REQUIRE_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  low = old;
  low.rlim_cur = OpenDescriptors() + 8;
  REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<lmshm::UniqueFd> all;
  do {
    all.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  } while (all.back().valid());
  const lmshm::Status status = store.keys->KeyOfHashed(file, &found);
  all.clear();
  REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  CHECK_EQ(status.number(), EMFILE);
}

TEST(kept_files_give_way_when_descriptors_run_out) {
  Store store(Lax(256));
  for (int i = 0; i < 40; i++) CHECK(store.Put(std::to_string(i), "x").ok());
  struct rlimit old, low;
  REQUIRE_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  low = old;
  low.rlim_cur = OpenDescriptors() + 8;
  REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 40; i++) CHECK_EQ(store.Get(std::to_string(i)), "x");
  }
  CHECK(store.keys->share().kept_files.size() > 0);
  CHECK(store.Put("new", "y").ok());
  REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  CHECK_EQ(store.Get("new"), "y");
}

// Those of this process are of use to the whole system.
TEST(kept_files_give_way_when_the_system_has_no_descriptors_and_then_it_is_waited) {
  for (const int error : {EMFILE, ENFILE}) {
    Store store(Lax(256));
    CHECK(store.Put("a", "x").ok());
    store.Keep("a", "x");
    CHECK_EQ(store.keys->share().kept_files.size(), 1u);
    int tries = 0;
    const auto fail_twice = [&] {
      return ++tries > 2 ? lmshm::Status::OK() : lmshm::Status::Error(error, "none left");
    };
    CHECK_OK(store.keys->share().WithSpareRoom(fail_twice));
    CHECK_EQ(tries, 3);
    CHECK_EQ(store.keys->share().kept_files.size(), 0u);
  }
}

CHECK_MAIN
