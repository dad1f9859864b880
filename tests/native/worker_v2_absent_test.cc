// SPDX-License-Identifier: Apache-2.0
//
// PUT with if=absent into a directory: what is there stays as it is, of several at a time one
// stores, and the others leave nothing behind.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>

#include "worker/storage/key_store.h"
#include "worker/storage/object_transfer.h"
#include "worker_v2_fixture.hh"

using lmshm::kBlockBytes;
using lmshm::KeyStore;
using lmshm::ObjectPut;
using lmshm::Quota;
using lmshm::Status;
using lmshm::StorageFacts;
using lmshm::TransferOptions;

namespace {

const std::string kLongKey(300, 'k');  // stored by its hash, with its key beside it

// A directory with a store on it, whose files have a temporary name at first or none.
class Store {
 public:
  Store(const std::string& path, bool unnamed, Quota::Directory quota = nullptr)
      : fd_(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    REQUIRE(fd_.valid());
    StorageFacts facts = FactsOf(fd_.get());
    facts.unnamed_files = facts.unnamed_files && unnamed;
    lmshm::KeptFilesRules rules;
    rules.limit = 16;
    rules.settled = std::chrono::milliseconds(0);
    share = std::make_shared<lmshm::StoresShare>(rules);
    keys_ = std::make_unique<KeyStore>(fd_.get(), facts, share, std::move(quota));
  }

  Status Put(const std::string& key, std::string value,
             const TransferOptions& options = TransferOptions()) const {
    return keys_->Put(Key(key), {value.data(), value.size()}, {}, options, nullptr);
  }
  Status PutNew(const std::string& key, std::string value,
                const lmshm::CancelCheck* cancel = nullptr) const {
    TransferOptions options;
    options.if_absent = true;
    options.cancel = cancel;
    return Put(key, std::move(value), options);
  }
  // The value, or the error's name.
  std::string Get(const std::string& key) const {
    std::string space(1 << 21, '?');
    lmshm::ObjectInfo info;
    const Status status =
        keys_->Get(Key(key), {space.data(), space.size()}, TransferOptions(), &info);
    return status.ok() ? space.substr(0, info.length) : lmshm::ErrnoName(status.number());
  }
  bool Remove(const std::string& key) const {
    bool removed = false;
    CHECK_OK(keys_->Remove(Key(key), &removed));
    return removed;
  }
  KeyStore* operator->() const { return keys_.get(); }

  std::shared_ptr<lmshm::StoresShare> share;

 private:
  lmshm::UniqueFd fd_;
  std::unique_ptr<KeyStore> keys_;
};

// Does something once: when the put has looked, and begins to write.
class Meanwhile : public lmshm::CancelCheck {
 public:
  explicit Meanwhile(std::function<void()> what) : what_(std::move(what)) {}
  bool Cancelled() const override {
    if (!done) what_();
    done = true;
    return false;
  }

  mutable bool done = false;

 private:
  const std::function<void()> what_;
};

std::vector<std::string> Sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> NamesOf(const std::string& key) {
  const lmshm::ObjectKey parsed = Key(key);
  if (parsed.sidecar_name.empty()) return {parsed.file_name};
  return Sorted({parsed.file_name, parsed.sidecar_name});
}

// From now on, in this process, the system call fails.
void Forbid(long number, int error) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {static_cast<unsigned short>(std::size(filter)), filter};
  REQUIRE_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  REQUIRE_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

// In a process of its own, whose checks count here.
void InChild(const std::function<void()>& body) {
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    check::Failures() = 0;
    try {
      body();
    } catch (const check::Abort&) {
    }
    _exit(check::Failures() == 0 ? 0 : 1);
  }
  int status = 0;
  REQUIRE_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void CheckThatOneThatAppearsMeanwhileStays(bool unnamed) {
  for (const std::string& key : {std::string("k"), kLongKey}) {
    for (const size_t size : {size_t{10}, size_t{1} << 20}) {
      const TempDir dir;
      const Store store(dir.path(), unnamed);
      const Store other(dir.path(), true);  // another worker's
      const Meanwhile stored([&] { CHECK_OK(other.Put(key, "the other's")); });
      const Status status = store.PutNew(key, std::string(size, 'x'), &stored);
      CHECK(stored.done);
      CHECK_EQ(status.ToString(), lmshm::ThereAlready(key).ToString());
      CHECK_EQ(store.Get(key), "the other's");
      CHECK(Sorted(dir.Names()) == NamesOf(key));
      // One that was there and is gone again stops nobody.
      const Meanwhile gone([&] {
        CHECK_OK(other.Put(key, "the other's"));
        CHECK(other.Remove(key));
      });
      CHECK(store.Remove(key));
      CHECK_OK(store.PutNew(key, std::string(size, 'y'), &gone));
      CHECK(gone.done);
      CHECK(store.Get(key) == std::string(size, 'y'));
      CHECK(Sorted(dir.Names()) == NamesOf(key));
    }
  }
  const TempDir dir;
  const Store store(dir.path(), unnamed);
  const Meanwhile made([&] { CHECK_EQ(mkdir((dir / "k.data").c_str(), 0700), 0); });
  CHECK_EQ(store.PutNew("k", "x", &made).ToString(), "EISDIR put k: Is a directory");
  CHECK(made.done);
  CHECK_EQ(dir.Names().size(), 1u);
}

// Eight threads of two workers put the same keys, each its own value.
void CheckThatOneOfManyStores(bool unnamed) {
  const TempDir dir;
  const Store one(dir.path(), unnamed);
  const Store another(dir.path(), unnamed);
  constexpr int kThreads = 8;
  constexpr int kKeys = 60;
  const auto key = [](int i) { return (i % 3 == 0 ? kLongKey : "key-") + std::to_string(i); };
  std::atomic<int> stored[kKeys] = {};
  std::atomic<int> winner[kKeys] = {};
  std::atomic<int> others{0};
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      waiting--;
      while (waiting > 0) std::this_thread::yield();
      for (int i = 0; i < kKeys; i++) {
        const Status status =
            (t % 2 == 0 ? one : another).PutNew(key(i), "value of " + std::to_string(t));
        if (status.ok()) {
          stored[i]++;
          winner[i] = t;
        } else if (status.number() != EEXIST) {
          others++;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(others.load(), 0);
  std::vector<std::string> names;
  for (int i = 0; i < kKeys; i++) {
    CHECK_EQ(stored[i].load(), 1);
    CHECK_EQ(one.Get(key(i)), "value of " + std::to_string(winner[i]));
    for (const std::string& name : NamesOf(key(i))) names.push_back(name);
  }
  CHECK(Sorted(dir.Names()) == Sorted(names));
}

}  // namespace

TEST(an_object_that_is_there_stays_as_it_is_and_is_told) {
  TalkV2 talk;
  TestSegment segment(8192);
  segment.FillPattern(1);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT a/b 0 100 by=first if=absent"), "2 OK 100");
  const std::string before = ReadFile(talk.root / "a-SEP-b.data");
  CHECK_EQ(talk.Say("3 PUT a/b 4096 200 by=second if=absent"),
           "3 ERROR EEXIST put a/b: there is an object already, and if=absent leaves it as it is");
  CHECK(ReadFile(talk.root / "a-SEP-b.data") == before);
  CHECK_CONTAINS(talk.Say("4 STAT a/b"), "4 OK 100 ");
  CHECK_CONTAINS(talk.Say("5 INFO"), " errors=0 ");
  CHECK_STARTS(talk.Say("6 PUT a/b 4096 200 by=third if=any"), "6 OK 200");
  CHECK_EQ(talk.Say("7 REMOVE a/b"), "7 OK 1");
  CHECK_STARTS(talk.Say("8 PUT a/b 0 300 if=absent"), "8 OK 300");
  CHECK_EQ(talk.root.Names().size(), 1u);
}

TEST(of_a_batch_those_that_are_there_stay) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  std::filesystem::create_directory(talk.root / "dir.data");
  CHECK_EQ(talk.Say("2 PUT b 0 10 crc=0"), "2 OK 10");
  CHECK_EQ(talk.Say("3 PUT a 0 20 crc=0 if=absent ; b 0 20 if=absent ; dir 0 20 if=absent ; "
                    "c 0 20 crc=0 if=absent"),
           "3 OK 20 ; -EEXIST ; -EISDIR put%20dir:%20Is%20a%20directory ; 20");
  // What is said for one counts for that one alone.
  CHECK_EQ(talk.Say("4 PUT a 0 30 crc=0 ; b 0 30 if=absent"), "4 OK 30 ; -EEXIST");
  CHECK_STARTS(talk.Say("5 STAT b"), "5 OK 10 ");
  CHECK_STARTS(talk.Say("6 STAT a"), "6 OK 30 ");
}

TEST(where_there_is_an_object_nothing_is_read_and_nothing_written) {
  for (const std::string& key : {std::string("k"), kLongKey}) {
    const TempDir dir;
    const Store store(dir.path(), false);
    CHECK_OK(store.Put(key, "old"));
    const lmshm::ObjectKey parsed = Key(key);
    // Which would be made again if anything were stored.
    if (!parsed.sidecar_name.empty()) {
      REQUIRE_EQ(unlink((dir / parsed.sidecar_name).c_str()), 0);
    }
    CHECK_EQ(store.Get(key), "old");
    CHECK_EQ(store.Get(key), "old");
    const size_t kept = store.share->kept_files.size();
    const struct timespec times[2] = {{1000, 0}, {1000, 0}};
    REQUIRE_EQ(utimensat(AT_FDCWD, dir.path().c_str(), times, 0), 0);
    TransferOptions options;
    options.if_absent = true;
    options.checksum = false;
    // There are no bytes at that address.
    Status status = store->Put(Key(key), {nullptr, 1 << 20}, {}, options, nullptr);
    CHECK_EQ(status.ToString(), lmshm::ThereAlready(key).ToString());
    struct stat st;
    REQUIRE_EQ(stat(dir.path().c_str(), &st), 0);
    CHECK_EQ(st.st_mtim.tv_sec, 1000);  // no name was made or taken away
    CHECK(dir.Names() == std::vector<std::string>({parsed.file_name}));
    CHECK_EQ(store.share->kept_files.size(), kept);
    // Without an object the bytes count.
    CHECK(store.Remove(key));
    status = store->Put(Key(key), {nullptr, 1 << 20}, {}, options, nullptr);
    CHECK_EQ(status.number(), EFAULT);
    CHECK(dir.Names().empty());
  }
}

TEST(what_is_no_object_is_the_same_error_as_ever) {
  const TempDir dir;
  const Store store(dir.path(), true);
  REQUIRE_EQ(mkdir((dir / "directory.data").c_str(), 0700), 0);
  REQUIRE_EQ(symlink("nowhere", (dir / "link.data").c_str()), 0);
  REQUIRE_EQ(mkfifo((dir / "fifo.data").c_str(), 0600), 0);
  const std::pair<std::string, int> all[] = {
      {"directory", EISDIR}, {"link", ELOOP}, {"fifo", EINVAL}};
  for (const auto& [key, number] : all) {
    const Status status = store.PutNew(key, "x");
    CHECK_EQ(status.number(), number);
    CHECK_EQ(status.ToString(), store.Put(key, "x").ToString());
  }
  CHECK_EQ(dir.Names().size(), 3u);
}

TEST(one_that_appears_meanwhile_stays) {
  CheckThatOneThatAppearsMeanwhileStays(true);
  CheckThatOneThatAppearsMeanwhileStays(false);
}

// RENAME_NOREPLACE is not everywhere: NFS does not have it, nor have old kernels.
TEST(one_that_appears_meanwhile_stays_where_a_renaming_always_replaces) {
  for (const int error : {EINVAL, ENOSYS}) {
    InChild([error] {
      Forbid(SYS_renameat2, error);
      CheckThatOneThatAppearsMeanwhileStays(false);
    });
  }
}

TEST(where_nothing_can_be_published_without_replacing_that_is_said) {
  InChild([] {
    const TempDir dir;
    const Store store(dir.path(), false);
    Forbid(SYS_renameat2, EINVAL);
    Forbid(SYS_linkat, EPERM);
    const Status status = store.PutNew("k", "x");
    CHECK_EQ(status.number(), EOPNOTSUPP);
    CHECK_CONTAINS(status.text(),
                   "if=absent needs a file system that can rename without replacing");
    CHECK(dir.Names().empty());
    CHECK_OK(store.Put("k", "x"));
    CHECK_EQ(store.PutNew("k", "x").number(), EEXIST);
  });
}

TEST(of_many_at_a_time_one_stores) {
  CheckThatOneOfManyStores(true);
  CheckThatOneOfManyStores(false);
}

TEST(of_many_at_a_time_one_stores_where_a_renaming_always_replaces) {
  InChild([] {
    Forbid(SYS_renameat2, EINVAL);
    CheckThatOneOfManyStores(false);
  });
}

// A key beside an object is nobody's alone: one that stores no object takes none away.
TEST(one_that_comes_too_late_leaves_the_key_beside_the_object) {
  TalkV2 talk;
  TestSegment segment(4096);
  talk.Begin(segment);
  const Store store(talk.root.path(), false);
  const Meanwhile stored([&] { CHECK_OK(store.Put(kLongKey, "first")); });
  CHECK_EQ(store.PutNew(kLongKey, "second", &stored).number(), EEXIST);
  CHECK_EQ(talk.Say("2 LIST 10 -"), "2 OK - " + kLongKey);
  // Where it finds no object, it leaves no key alone.
  const std::string key(301, 'd');
  const Meanwhile made([&] { CHECK_EQ(mkdir((talk.root / Key(key).file_name).c_str(), 0700), 0); });
  CHECK_EQ(store.PutNew(key, "x", &made).number(), EISDIR);
  CHECK(store.Remove(kLongKey));
  CHECK_EQ(talk.root.Names().size(), 1u);
}

TEST(one_that_appears_between_two_turns_ends_the_put) {
  struct Hurried : lmshm::Parallel {
    void Run(size_t parts, size_t, Pace, const std::function<void(size_t)>& part) override {
      for (size_t i = 0; i < parts; i++) part(i);
    }
    bool Wanted() const override { return true; }
  } parallel;
  for (const bool unnamed : {true, false}) {
    const TempDir dir;
    const Store store(dir.path(), unnamed);
    std::string large(40 << 20, 'x');
    TransferOptions options;
    options.if_absent = true;
    ObjectPut put(*store.operator->(), Key("k"), {large.data(), large.size()}, {}, options);
    bool done = false;
    {
      lmshm::Turn turn(&parallel);
      CHECK_OK(put.Go(&turn, &done));
      CHECK(!done);
    }
    CHECK_OK(store.Put("k", "the other's"));
    lmshm::Turn turn(&parallel);
    CHECK_EQ(put.Go(&turn, &done).number(), EEXIST);
    CHECK(done);
    CHECK(dir.Names() == std::vector<std::string>({"k.data"}));  // its own is gone already
  }
}

// As when the disk or a descriptor is lacking for what comes behind the publishing.
TEST(one_that_is_done_again_does_not_find_its_own_object) {
  for (const bool unnamed : {true, false}) {
    const TempDir dir;
    const lmshm::UniqueFd fd(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    StorageFacts facts = FactsOf(fd.get());
    facts.unnamed_files = facts.unnamed_files && unnamed;
    lmshm::Metrics metrics;
    const lmshm::ObjectIo io(facts, &metrics);
    const std::string name = "k.data";
    std::string value = "value";
    TransferOptions options;
    options.if_absent = true;
    lmshm::ObjectWrite write(fd.get(), name, io, {value.data(), value.size()}, options, "put", "k");
    for (int i = 0; i < 2; i++) {
      bool done = false;
      CHECK_OK(write.Go(nullptr, &done));
      REQUIRE(done);
      CHECK_OK(write.Publish());
      write.Reset();
    }
    CHECK(dir.Names() == std::vector<std::string>({"k.data"}));
  }
}

TEST(room_is_taken_only_by_what_is_stored) {
  for (const bool unnamed : {true, false}) {
    const TempDir dir;
    const lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    lmshm::QuotaRules rules;
    rules.max_bytes = 40 * kBlockBytes;
    rules.patience = std::chrono::milliseconds(200);
    Quota quota(root.get(), rules);
    CHECK_OK(quota.Start());
    Quota::Directory directory;
    CHECK_OK(quota.Find(root.get(), &directory));
    const Store store(dir.path(), unnamed, directory);
    const std::string block(kBlockBytes / 2, 'x');
    CHECK_OK(store.Put("k", block));
    const uint64_t used = quota.stats().used_bytes;
    CHECK(used > 0);
    // More than there will ever be room for.
    TransferOptions options;
    options.if_absent = true;
    std::string huge(100 * kBlockBytes, 'x');
    const auto put_huge = [&](const std::string& key) {
      return store->Put(Key(key), {huge.data(), huge.size()}, {}, options, nullptr).number();
    };
    CHECK_EQ(put_huge("k"), EEXIST);
    CHECK_EQ(put_huge("l"), ENOSPC);
    CHECK_EQ(quota.stats().used_bytes, used);
    const Meanwhile stored([&] {
      std::string value = block;
      CHECK_OK(store.Put("m", value));
    });
    CHECK_EQ(store.PutNew("m", std::string(20 * kBlockBytes, 'y'), &stored).number(), EEXIST);
    CHECK_EQ(quota.stats().used_bytes, 2 * used);
    CHECK_EQ(quota.stats().objects, 2u);
    CHECK_EQ(quota.stats().evictions, 0u);
  }
}

TEST(an_object_that_was_found_was_used) {
  const TempDir dir;
  const lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  lmshm::QuotaRules rules;
  rules.max_bytes = 4 * kBlockBytes;
  Quota quota(root.get(), rules);
  CHECK_OK(quota.Start());
  Quota::Directory directory;
  CHECK_OK(quota.Find(root.get(), &directory));
  const Store store(dir.path(), true, directory);
  for (const char* key : {"a", "b", "c", "d"}) CHECK_OK(store.Put(key, "value"));
  CHECK_EQ(store.PutNew("a", "value").number(), EEXIST);
  CHECK_OK(store.Put("e", "value"));
  CHECK(quota.WaitUntilIdle(std::chrono::seconds(30)));
  CHECK(std::filesystem::exists(dir / "a.data"));
  CHECK(!std::filesystem::exists(dir / "b.data"));
}

CHECK_MAIN
