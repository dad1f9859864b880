// SPDX-License-Identifier: Apache-2.0
//
// How objects go to and from the disk: past the page cache and through it, in parts, cut short,
// and until they are on the disk.
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "worker/base/crc32c.h"
#include "worker/storage/key_store.h"
#include "worker/storage/object_transfer.h"
#include "worker_fixture.hh"

using lmshm::Durability;
using lmshm::IoMode;
using lmshm::KeyStore;
using lmshm::ObjectGet;
using lmshm::ObjectInfo;
using lmshm::ObjectPut;
using lmshm::SharedBytes;
using lmshm::Status;
using lmshm::StorageFacts;
using lmshm::TransferOptions;
using lmshm::Turn;

namespace {

constexpr size_t kMiB = 1 << 20;

struct Synced {
  bool directory;
  size_t names;  // in the watched directory, at that time
};
std::mutex synced_mutex;
std::vector<Synced> synced;
const TempDir* watched = nullptr;

}  // namespace

// In place of the C library's: notes what is forced to the disk, and when.
extern "C" int fsync(int fd) {
  struct stat st;
  if (watched != nullptr && fstat(fd, &st) == 0) {
    const std::lock_guard<std::mutex> lock(synced_mutex);
    synced.push_back({S_ISDIR(st.st_mode), watched->Names().size()});
  }
  return static_cast<int>(syscall(SYS_fsync, fd));
}

namespace {

// A directory with a store on it.
class Store {
 public:
  explicit Store(const std::string& path)
      : fd_(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    REQUIRE(fd_.valid());
    facts = FactsOf(fd_.get());
    Make();
  }

  // After `facts` were changed.
  void Make() { keys_ = std::make_unique<KeyStore>(fd_.get(), facts); }
  const KeyStore* operator->() const { return keys_.get(); }
  int fd() const { return fd_.get(); }

  StorageFacts facts;

 private:
  lmshm::UniqueFd fd_;
  std::unique_ptr<KeyStore> keys_;
};

#define NEEDS_DIRECT(store) \
  if (!(store).facts.direct()) SKIP("no O_DIRECT here: " + (store).facts.direct_reason)

// Runs the parts on threads of its own, and remembers what it was asked for.
class TestParallel : public lmshm::Parallel {
 public:
  void Run(size_t parts, size_t at_once, Pace, const std::function<void(size_t)>& part) override {
    asked_parts = parts;
    most_parts = std::max(most_parts, parts);
    asked_at_once = at_once;
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i; (i = next++) < parts;) part(i);
    };
    std::vector<std::thread> threads;
    for (size_t t = 1; t < at_once; t++) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }

  bool Wanted() const override { return wanted; }

  bool wanted = false;
  size_t asked_parts = 0;
  size_t most_parts = 0;  // of all that it was asked for
  size_t asked_at_once = 0;
};

// Says so when asked for the nth time.
class CancelAfter : public lmshm::CancelCheck {
 public:
  explicit CancelAfter(int times) : left_(times) {}
  bool Cancelled() const override { return left_.fetch_sub(1) <= 0; }

 private:
  mutable std::atomic<int> left_;
};

TransferOptions Options(IoMode io, lmshm::Parallel* parallel = nullptr, bool checksum = true) {
  TransferOptions options;
  options.io = io;
  options.parallel = parallel;
  options.checksum = checksum;
  return options;
}

uint32_t CrcOf(const std::string& bytes) {
  return lmshm::Crc32cPortable(0, bytes.data(), bytes.size());
}

// Stores, looks at the file, and loads to another place.
void RoundTrip(const Store& store, TestSegment* segment, size_t offset, size_t size,
               const TransferOptions& options, const std::string& path) {
  segment->FillPattern(static_cast<unsigned>(size % 251));
  const std::string before = segment->Bytes(offset, size);
  uint32_t crc = 0;
  CHECK_OK(store->Put(Key("k"), {segment->data() + offset, size}, {{"a", "b"}}, options, &crc));
  CHECK_EQ(crc, options.checksum ? CrcOf(before) : 0u);
  CHECK(ReadFile(path) == before);
  struct stat st;
  REQUIRE_EQ(stat(path.c_str(), &st), 0);
  CHECK_EQ(st.st_mode & 07777, 0600u);

  segment->FillPattern(static_cast<unsigned>(size % 251) + 1);
  const std::string beyond = segment->Bytes(offset + size, 4096);
  ObjectInfo info;
  CHECK_OK(store->Get(Key("k"), {segment->data() + offset, size + 4096}, options, &info));
  CHECK_EQ(info.length, size);
  CHECK(segment->Bytes(offset, size) == before);
  CHECK(segment->Bytes(offset + size, 4096) == beyond);
}

}  // namespace

TEST(the_root_is_probed_and_nothing_is_left_there) {
  const TempDir dir;
  const Store store(dir.path());
  CHECK(dir.Names().empty());
  CHECK(!store.facts.file_system.empty());
  CHECK_EQ(store.facts.direct(), store.facts.direct_reason.empty());
  CHECK_EQ(store.facts.direct_offset == 0, store.facts.direct_memory == 0);
  CHECK(!lmshm::DescribeDirect(store.facts).empty());
  std::cout << "# " << store.facts.file_system << ": " << lmshm::DescribeDirect(store.facts)
            << std::endl;
  const Store shared("/dev/shm");
  CHECK_EQ(shared.facts.file_system, "tmpfs");
  CHECK(!shared.facts.direct());
}

// Each turn makes new plans: to plan all that is left of a huge object each time is quadratic.
TEST(of_a_large_object_few_parts_are_planned_at_a_time) {
  const TempDir dir;
  const Store store(dir.path());
  NEEDS_DIRECT(store);
  TestSegment segment(67 * kMiB);
  TestParallel parallel;
  RoundTrip(store, &segment, 0, 66 * kMiB + 777, Options(IoMode::kDirect, &parallel),
            dir / "k.data");
  CHECK_EQ(parallel.most_parts, 64u);
  CHECK_EQ(parallel.asked_parts, 3u);  // the get has room for more
  CHECK_EQ(store->share().metrics.puts_direct, 1u);
  CHECK_EQ(store->share().metrics.gets_direct, 1u);
}

TEST(objects_of_any_size_go_past_the_page_cache) {
  const TempDir dir;
  const Store store(dir.path());
  NEEDS_DIRECT(store);
  TestSegment segment(12 * kMiB);
  TestParallel parallel;
  const size_t sizes[] = {kMiB, kMiB + 1, 3 * kMiB + 777, 5 * kMiB + 4096 + 511, 9 * kMiB - 1};
  uint64_t count = 0;
  for (lmshm::Parallel* const help :
       {static_cast<lmshm::Parallel*>(nullptr), static_cast<lmshm::Parallel*>(&parallel)}) {
    for (const size_t size : sizes) {
      for (const bool checksum : {true, false}) {
        RoundTrip(store, &segment, 4096, size, Options(IoMode::kDirect, help, checksum),
                  dir / "k.data");
        count++;
      }
    }
  }
  CHECK(parallel.asked_parts > 1);
  CHECK(parallel.asked_at_once > 1);
  CHECK_EQ(store->share().metrics.puts_direct, count);
  CHECK_EQ(store->share().metrics.gets_direct, count);
  CHECK_EQ(store->share().metrics.puts_cached, 0u);
  CHECK_EQ(store->share().metrics.fallbacks(), 0u);
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(small_objects_and_cached_ones_go_through_the_page_cache) {
  const TempDir dir;
  const Store store(dir.path());
  TestSegment segment(20 * kMiB);
  TestParallel parallel;
  RoundTrip(store, &segment, 0, kMiB - 1, Options(IoMode::kDirect), dir / "k.data");
  RoundTrip(store, &segment, 0, 0, Options(IoMode::kDirect), dir / "k.data");
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{4096}, 128 * 1024 + size_t{1}, 17 * kMiB + 3}) {
    RoundTrip(store, &segment, 7, size, Options(IoMode::kCached, &parallel), dir / "k.data");
    RoundTrip(store, &segment, 0, size, Options(IoMode::kAuto, &parallel, false), dir / "k.data");
  }
  CHECK_EQ(store->share().metrics.puts_cached, 12u);
  CHECK_EQ(store->share().metrics.gets_cached, 12u);
  CHECK_EQ(store->share().metrics.puts_direct, 0u);
  CHECK_EQ(store->share().metrics.fallbacks(), 0u);
}

TEST(auto_goes_past_the_page_cache_only_with_what_must_reach_the_disk) {
  const TempDir dir;
  const Store store(dir.path());
  NEEDS_DIRECT(store);
  TestSegment segment(4 * kMiB);
  TransferOptions options = Options(IoMode::kAuto);
  for (const Durability durability : {Durability::kNone, Durability::kData, Durability::kFull}) {
    options.durability = durability;
    RoundTrip(store, &segment, 0, 2 * kMiB, options, dir / "k.data");
  }
  CHECK_EQ(store->share().metrics.puts_cached, 1u);
  CHECK_EQ(store->share().metrics.puts_direct, 2u);
  CHECK_EQ(store->share().metrics.gets_cached, 3u);
}

TEST(unaligned_memory_goes_through_the_page_cache_and_is_counted) {
  const TempDir dir;
  const Store store(dir.path());
  NEEDS_DIRECT(store);
  TestSegment segment(4 * kMiB);
  RoundTrip(store, &segment, 1, 2 * kMiB, Options(IoMode::kDirect), dir / "k.data");
  CHECK_EQ(store->share().metrics.puts_cached, 1u);
  CHECK_EQ(store->share().metrics.gets_cached, 1u);
  CHECK_EQ(store->share().metrics.fallbacks(), 2u);
  CHECK_STARTS(store->share().metrics.fallback_reason(), "memory that is no multiple of ");
}

TEST(a_file_system_without_it_is_counted) {
  std::string path = "/dev/shm/lmshm_test." + std::to_string(getpid()) + ".XXXXXX";
  REQUIRE(mkdtemp(path.data()) != nullptr);
  {
    const Store store(path);
    TestSegment segment(4 * kMiB);
    RoundTrip(store, &segment, 0, 2 * kMiB, Options(IoMode::kDirect), path + "/k.data");
    CHECK_EQ(store->share().metrics.fallbacks(), 2u);
    CHECK_EQ(store->share().metrics.fallback_reason(), store.facts.direct_reason);
    CHECK_EQ(store->share().metrics.gets_cached, 1u);
  }
  std::filesystem::remove_all(path);
}

// What was found out at the start need not be true for every file.
TEST(a_refusal_when_it_comes_to_it_falls_back) {
  const TempDir dir;
  Store store(dir.path());
  NEEDS_DIRECT(store);
  store.facts.direct_offset = 1;
  store.facts.direct_memory = 1;
  store.Make();
  TestSegment segment(8 * kMiB);
  TestParallel parallel;
  RoundTrip(store, &segment, 1, 3 * kMiB + 5, Options(IoMode::kDirect, &parallel), dir / "k.data");
  if (store->share().metrics.fallbacks() == 0) {
    SKIP("this " + store.facts.file_system + " does by itself what O_DIRECT cannot");
  }
  CHECK_EQ(store->share().metrics.fallbacks(), 2u);
  CHECK_EQ(store->share().metrics.fallback_reason(), "reading with O_DIRECT: EINVAL");
  CHECK_EQ(store->share().metrics.puts_cached, 1u);
  CHECK_EQ(store->share().metrics.puts_direct, 0u);
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(a_segment_that_is_cut_is_an_error_in_every_mode) {
  const TempDir dir;
  const Store store(dir.path());
  TestSegment segment(8 * kMiB);
  TestParallel parallel;
  const SharedBytes all = {segment.data(), segment.size()};
  CHECK_OK(store->Put(Key("old"), all, {}, Options(IoMode::kCached), nullptr));
  REQUIRE_EQ(ftruncate(segment.fd(), 5 * kMiB + 4096), 0);
  for (const IoMode io : {IoMode::kDirect, IoMode::kCached}) {
    for (lmshm::Parallel* const help :
         {static_cast<lmshm::Parallel*>(nullptr), static_cast<lmshm::Parallel*>(&parallel)}) {
      for (const bool checksum : {true, false}) {
        const TransferOptions options = Options(io, help, checksum);
        CHECK_EQ(store->Put(Key("new"), all, {}, options, nullptr).number(), EFAULT);
        ObjectInfo info;
        CHECK_EQ(store->Get(Key("old"), all, options, &info).number(), EFAULT);
      }
    }
  }
  // The small ones, too.
  CHECK_OK(store->Put(Key("old"), {segment.data(), 100000}, {}, Options(IoMode::kAuto), nullptr));
  REQUIRE_EQ(ftruncate(segment.fd(), 50000), 0);
  ObjectInfo info;
  for (const bool checksum : {true, false}) {
    const TransferOptions options = Options(IoMode::kAuto, nullptr, checksum);
    CHECK_EQ(store->Get(Key("old"), {segment.data(), 100000}, options, &info).number(), EFAULT);
    CHECK_EQ(store->Put(Key("new"), {segment.data(), 100000}, {}, options, nullptr).number(),
             EFAULT);
  }
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(a_transfer_is_cancelled_between_pieces) {
  const TempDir dir;
  const Store store(dir.path());
  TestSegment segment(8 * kMiB);
  segment.FillPattern(3);
  const std::string before = segment.Bytes(0, segment.size());
  TestParallel parallel;
  const SharedBytes all = {segment.data(), segment.size()};
  CHECK_OK(store->Put(Key("k"), all, {}, Options(IoMode::kCached), nullptr));
  segment.FillPattern(4);
  for (const IoMode io : {IoMode::kDirect, IoMode::kCached}) {
    for (lmshm::Parallel* const help :
         {static_cast<lmshm::Parallel*>(nullptr), static_cast<lmshm::Parallel*>(&parallel)}) {
      for (const int times : {0, 3}) {
        TransferOptions options = Options(io, help);
        const CancelAfter put(times), get(times);
        options.cancel = &put;
        CHECK_EQ(store->Put(Key("k"), all, {}, options, nullptr).number(), ECANCELED);
        options.cancel = &get;
        ObjectInfo info;
        CHECK_EQ(store->Get(Key("k"), all, options, &info).number(), ECANCELED);
      }
    }
  }
  CHECK_EQ(dir.Names().size(), 1u);
  CHECK(ReadFile(dir / "k.data") == before);
}

TEST(durability_is_what_was_asked_for) {
  const TempDir dir;
  const Store store(dir.path());
  TestSegment segment(4096);
  const std::string hashed(300, 'k');
  watched = &dir;
  size_t objects = 0;
  for (const std::string& key : {std::string("a"), hashed}) {
    for (const Durability durability : {Durability::kNone, Durability::kData, Durability::kFull}) {
      synced.clear();
      TransferOptions options = Options(IoMode::kAuto);
      options.durability = durability;
      CHECK_OK(store->Put(Key(key), {segment.data(), 4096}, {}, options, nullptr));
      const size_t names = objects;
      objects = dir.Names().size();
      if (durability == Durability::kNone) {
        CHECK(synced.empty());
        continue;
      }
      REQUIRE(!synced.empty());
      CHECK(!synced.front().directory);
      // Before it has its name (it may have a temporary one).
      CHECK(synced.front().names <= names + 1);
      CHECK_EQ(synced.back().directory, durability == Durability::kFull);
      if (durability == Durability::kFull) {
        CHECK_EQ(synced.back().names, objects);
      } else {
        CHECK(synced.back().names <= names + 1);
      }
      // Of a long key the file beside it, too.
      const size_t files = key == hashed ? 2 : 1;
      CHECK_EQ(synced.size(), files + (durability == Durability::kFull ? 1 : 0));
      for (const std::string& name : dir.Names()) {
        if (name.ends_with(".data")) REQUIRE_EQ(unlink((dir / name).c_str()), 0);
      }
      objects = dir.Names().size();
    }
  }
  watched = nullptr;
}

TEST(without_unnamed_files_and_exact_modes_it_works_as_well) {
  const TempDir dir;
  Store store(dir.path());
  store.facts.unnamed_files = false;
  store.facts.exact_mode = false;
  store.Make();
  TestSegment segment(4 * kMiB);
  const mode_t before = umask(0277);
  RoundTrip(store, &segment, 0, 3 * kMiB, Options(IoMode::kAuto), dir / "k.data");
  RoundTrip(store, &segment, 0, 3000, Options(IoMode::kAuto), dir / "k.data");
  umask(before);
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(a_hard_umask_is_noticed_by_the_probe) {
  const TempDir dir;
  const mode_t before = umask(0277);
  const Store store(dir.path());
  umask(before);
  const Store usual(dir.path());
  CHECK(!store.facts.exact_mode);
  CHECK(usual.facts.exact_mode);
}

CHECK_MAIN

// The same put and get in as many turns as there can be.
TEST(an_object_that_is_moved_in_turns_is_the_same) {
  const TempDir dir;
  const Store store(dir.path());
  constexpr size_t kSize = 41 * kMiB + 777;
  TestSegment segment(kSize);
  segment.FillPattern(3);
  const std::string before = segment.Bytes(0, kSize);
  TestParallel parallel;
  parallel.wanted = true;
  for (const IoMode mode : {IoMode::kCached, IoMode::kDirect}) {
    for (const Durability durability : {Durability::kNone, Durability::kData}) {
      for (const bool helped : {false, true}) {
        TransferOptions options = Options(mode, helped ? &parallel : nullptr);
        options.durability = durability;
        const std::string key = mode == IoMode::kCached ? "cached" : "direct";
        size_t turns = 0;
        ObjectPut put(*store.operator->(), Key(key), {segment.data(), kSize}, {{"a", "b"}},
                      options);
        for (bool done = false; !done; turns++) {
          // Of an object that is not complete nobody sees anything.
          CHECK_EQ(store->Get(Key(key), {segment.data(), 0}, options, nullptr).number(), ENOENT);
          Turn turn(&parallel);
          REQUIRE(put.Go(&turn, &done).ok());
        }
        CHECK(turns >= 5);
        CHECK_EQ(put.crc32c(), CrcOf(before));
        CHECK(ReadFile(dir / key + ".data") == before);

        segment.FillPattern(4);
        ObjectInfo info;
        std::unique_ptr<ObjectGet> rest;
        Turn first(&parallel);
        CHECK_OK(store->BeginGet(Key(key), {segment.data(), kSize}, options, &first, &info, &rest));
        REQUIRE(rest != nullptr);
        turns = 1;
        for (bool done = false; !done; turns++) {
          Turn turn(&parallel);
          REQUIRE(rest->Go(&turn, &done, &info).ok());
        }
        CHECK(turns >= 5);
        CHECK_EQ(info.length, kSize);
        CHECK_EQ(info.crc32c.value_or(0), CrcOf(before));
        CHECK_EQ(info.attributes.size(), 1u);
        CHECK(segment.Bytes(0, kSize) == before);
        bool removed = false;
        CHECK_OK(store->Remove(Key(key), &removed));
        CHECK(removed);
      }
    }
  }
  CHECK(dir.Names().empty());
}

TEST(what_is_left_in_the_middle_leaves_nothing_behind) {
  const TempDir dir;
  Store store(dir.path());
  constexpr size_t kSize = 20 * kMiB;
  TestSegment segment(kSize);
  TestParallel parallel;
  parallel.wanted = true;
  for (const bool unnamed : {true, false}) {
    store.facts.unnamed_files = store.facts.unnamed_files && unnamed;
    store.Make();
    bool done = true;
    {
      ObjectPut put(*store.operator->(), Key("k"), {segment.data(), kSize}, {}, TransferOptions());
      Turn turn(&parallel);
      CHECK_OK(put.Go(&turn, &done));
      CHECK(!done);
      CHECK_EQ(dir.Names().size(), store.facts.unnamed_files ? 0u : 1u);
    }
    CHECK(dir.Names().empty());
    // Cancelled between two turns.
    CancelAfter cancel(6);
    TransferOptions options;
    options.cancel = &cancel;
    ObjectPut put(*store.operator->(), Key("k"), {segment.data(), kSize}, {}, options);
    Status status;
    for (done = false; !done;) {
      Turn turn(&parallel);
      status = put.Go(&turn, &done);
    }
    CHECK_EQ(status.number(), ECANCELED);
    CHECK(dir.Names().empty());
  }
}

// An object is replaced, or written in place by somebody else, while it is read.
TEST(a_file_that_changes_between_two_turns_is_noticed) {
  const TempDir dir;
  const Store store(dir.path());
  constexpr size_t kSize = 12 * kMiB;
  TestSegment segment(2 * kSize);
  segment.FillPattern(1);
  const std::string old_bytes = segment.Bytes(0, kSize);
  TestParallel parallel;
  parallel.wanted = true;
  const SharedBytes space = {segment.data() + kSize, kSize};
  const auto get = [&](const std::function<void()>& meanwhile) {
    ObjectInfo got;
    std::unique_ptr<ObjectGet> rest;
    Turn first(&parallel);
    CHECK_OK(store->BeginGet(Key("k"), space, TransferOptions(), &first, &got, &rest));
    CHECK(rest != nullptr);
    meanwhile();
    bool done = rest == nullptr;
    Status end;
    while (!done) {
      Turn turn(&parallel);
      end = rest->Go(&turn, &done, &got);
    }
    return end;
  };
  CHECK_OK(store->Put(Key("k"), {segment.data(), kSize}, {}, TransferOptions(), nullptr));
  // Who has begun to read the old one gets it.
  const Status replaced = get([&] {
    memset(segment.data(), 'n', kSize);
    CHECK_OK(store->Put(Key("k"), {segment.data(), kSize}, {}, TransferOptions(), nullptr));
  });
  CHECK_OK(replaced);
  CHECK(segment.Bytes(kSize, kSize) == old_bytes);
  const lmshm::UniqueFd fd(open((dir / "k.data").c_str(), O_WRONLY | O_CLOEXEC));
  CHECK_EQ(get([&] { CHECK(pwrite(fd.get(), "!", 1, kSize - 1) == 1); }).number(), EBADMSG);
  CHECK_EQ(get([&] { CHECK(ftruncate(fd.get(), kSize / 2) == 0); }).number(), EBADMSG);
}
