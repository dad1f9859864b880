// SPDX-License-Identifier: Apache-2.0
//
// What may be left in a directory by writers that died or failed, or that met others: temporaries,
// probes, and sidecars without an object.
#include <sys/file.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>

#include "worker/storage/atomic_file.h"
#include "worker/storage/key_listing.h"
#include "worker/storage/key_store.h"
#include "worker/storage/leftovers.h"
#include "worker/storage/sidecar.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

using lmshm::AtomicFile;
using lmshm::KeyStore;
using lmshm::RemoveLeftovers;
using lmshm::TransferOptions;

namespace {

constexpr std::chrono::seconds kNoAge(0);

lmshm::UniqueFd OpenDirectory(const TempDir& dir) {
  lmshm::UniqueFd fd(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(fd.valid());
  return fd;
}

void MakeOld(const std::string& path) {
  const struct timespec old[2] = {{1000000, 0}, {1000000, 0}};
  REQUIRE_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
}

bool Until(const std::function<bool()>& test) {
  for (int i = 0; i < 4000; i++) {
    if (test()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

}  // namespace

TEST(a_temporary_of_a_writer_that_was_killed_is_removed) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  int ready[2];
  REQUIRE_EQ(pipe2(ready, O_CLOEXEC), 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file;
    const bool made = file.Create(fd.get(), "object.data") == 0 && write(ready[1], "", 1) == 1;
    for (;;) pause();
    _exit(made ? 0 : 1);
  }
  char byte;
  REQUIRE_EQ(read(ready[0], &byte, 1), 1);
  REQUIRE_EQ(dir.Names().size(), 1u);
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).temporaries,
           0u);  // it lives, and holds its lock
  REQUIRE_EQ(kill(child, SIGKILL), 0);
  REQUIRE_EQ(waitpid(child, nullptr, 0), child);
  CHECK_EQ(RemoveLeftovers(fd.get(), std::chrono::seconds(60), nullptr).temporaries,
           0u);  // too young
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).temporaries, 1u);
  CHECK(dir.Names().empty());
  close(ready[0]);
  close(ready[1]);
}

TEST(only_temporaries_are_removed) {
  const TempDir dir;
  const std::string kept[] = {
      "object.data",
      ".object.data.123.0123456789abcdef.tmp.data",
      ".object.data.123.0123456789abcde.tmp",    // 15 digits
      ".object.data.123.0123456789abcdefa.tmp",  // 17
      ".object.data.123.0123456789ABCDEF.tmp",   // not ours
      ".object.data.x.0123456789abcdef.tmp",
      ".object.data..0123456789abcdef.tmp",
      "object.data.123.0123456789abcdef.tmp",
      ".123.0123456789abcdef.tmp",
      ".tmp",
  };
  for (const std::string& name : kept) {
    WriteFile(dir / name, "x");
    MakeOld(dir / name);
  }
  REQUIRE_EQ(mkdir((dir / ".d.1.0123456789abcdef.tmp").c_str(), 0700), 0);
  REQUIRE_EQ(symlink("object.data", (dir / ".l.1.0123456789abcdef.tmp").c_str()), 0);
  REQUIRE_EQ(mkfifo((dir / ".f.1.0123456789abcdef.tmp").c_str(), 0600), 0);
  WriteFile(dir / ".object.data.123.0123456789abcdef.tmp", "x");
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).temporaries, 1u);
  CHECK_EQ(dir.Names().size(), std::size(kept) + 3);
}

TEST(a_probe_is_an_object_but_never_listed_and_is_removed_when_it_was_left) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const KeyStore store(fd.get(), FactsOf(fd.get()));
  lmshm::OpenListings open(4);
  lmshm::KeyListings listing(store, &open);
  TestSegment segment(4096);
  const std::string probe = ".lmshm-probe.123.0123456789abcdef.tmp";
  // Like a probe, and an object as any other.
  const std::string object = ".lmshm-probe.123.x.0123456789abcdef.tmp";
  const lmshm::SharedBytes bytes = {segment.data(), 100};
  CHECK_OK(store.Put(Key(probe), bytes, {}, TransferOptions(), nullptr));
  CHECK_OK(store.Put(Key(object), bytes, {}, TransferOptions(), nullptr));
  bool there = false;
  CHECK_OK(store.Exists(Key(probe), &there));
  CHECK(there);
  lmshm::ListRequest request;
  request.limit = 10;
  request.max_bytes = 4096;
  lmshm::ListPage page;
  CHECK_OK(listing.List(request, nullptr, &page));
  REQUIRE_EQ(page.keys.size(), 1u);
  CHECK_EQ(page.keys[0], object);
  CHECK_EQ(RemoveLeftovers(fd.get(), std::chrono::seconds(60), nullptr).temporaries,
           0u);  // too young
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).temporaries, 1u);
  CHECK_OK(store.Exists(Key(probe), &there));
  CHECK(!there);
  CHECK(Exists(dir / (object + ".data")));
}

TEST(a_sidecar_without_an_object_is_removed) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const KeyStore store(fd.get(), FactsOf(fd.get()));
  TestSegment segment(4096);
  const std::string key(300, 'k'), other(300, 'o');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  CHECK_OK(store.Put(Key(other), {segment.data(), 100}, {}, TransferOptions(), nullptr));
  WriteFile(dir / names.sidecar_name, key);
  WriteFile(dir / "not-ours.key", key);
  CHECK_EQ(RemoveLeftovers(fd.get(), std::chrono::seconds(60), nullptr).sidecars, 0u);  // too young
  {
    lmshm::Sidecar storing(fd.get(), names.sidecar_name, names.file_name);
    CHECK_EQ(storing.Store(key, false), 0);
    CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).sidecars,
             0u);  // somebody is about to publish
    WriteFile(dir / names.file_name, "x");
    CHECK_EQ(storing.Confirm(key, false), 0);
  }
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).sidecars, 0u);  // it has an object
  REQUIRE_EQ(unlink((dir / names.file_name).c_str()), 0);
  CHECK_EQ(RemoveLeftovers(fd.get(), kNoAge, nullptr).sidecars, 1u);
  CHECK(!Exists(dir / names.sidecar_name));
  CHECK_EQ(dir.Names().size(), 3u);
}

TEST(a_put_that_fails_takes_the_sidecar_of_a_dead_one_along) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const KeyStore store(fd.get(), FactsOf(fd.get()));
  TestSegment segment(4096);
  const std::string key(300, 'k');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  WriteFile(dir / names.sidecar_name, key);
  REQUIRE_EQ(mkdir((dir / names.file_name).c_str(), 0700), 0);
  CHECK_EQ(store.Put(Key(key), {segment.data(), 100}, {}, TransferOptions(), nullptr).number(),
           EISDIR);
  CHECK(!Exists(dir / names.sidecar_name));
  WriteFile(dir / names.sidecar_name, key);
  REQUIRE_EQ(rmdir((dir / names.file_name).c_str()), 0);
  bool removed = true;
  CHECK_OK(store.Remove(Key(key), &removed));
  CHECK(!removed);
  CHECK(dir.Names().empty());
}

// Collectors at work all the time, beside those who store and remove: none is missed or taken.
TEST(collecting_never_takes_the_sidecar_of_an_object_that_is_being_stored) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const lmshm::StorageFacts facts = FactsOf(fd.get());
  TestSegment segment(4096);
  const std::string key(300, 'k');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  std::atomic<bool> over{false};
  std::thread collector([&] {
    while (!over) lmshm::Sidecar(fd.get(), names.sidecar_name, names.file_name).RemoveOrphan();
  });
  std::string wrong;
  const KeyStore store(fd.get(), facts);
  for (int round = 0; round < 300; round++) {
    bool removed;
    const lmshm::Status put =
        store.Put(Key(key), {segment.data(), 100}, {}, TransferOptions(), nullptr);
    if (!put.ok()) {
      wrong = put.ToString();
    } else if (!Exists(dir / names.sidecar_name)) {
      wrong = "an object without its sidecar";
    }
    const lmshm::Status remove = store.Remove(Key(key), &removed);
    if (!remove.ok()) wrong = remove.ToString();
  }
  over = true;
  collector.join();
  CHECK_EQ(wrong, "");
  CHECK(dir.Names().empty());
}

TEST(publishing_without_a_name_replaces_and_refuses_as_with_one) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  if (!lmshm::CanPublishUnnamed(fd.get())) SKIP("no files without a name here");
  CHECK(dir.Names().empty());
  REQUIRE_EQ(mkdir((dir / "directory").c_str(), 0700), 0);
  lmshm::AtomicFileOptions options;
  for (const bool unnamed : {true, false}) {
    options.unnamed = unnamed;
    for (const std::string text : {"first", "second"}) {
      AtomicFile file;
      REQUIRE_EQ(file.Create(fd.get(), "f", options), 0);
      CHECK_EQ(file.unnamed(), unnamed);
      REQUIRE_EQ(write(file.fd(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
      mode_t existing = 1;
      CHECK_EQ(file.PublishOverFile(&existing), 0);
      CHECK_EQ(existing, 0u);
      CHECK_EQ(ReadFile(dir / "f"), text);
    }
    {
      AtomicFile file;
      REQUIRE_EQ(file.Create(fd.get(), "directory", options), 0);
      mode_t existing = 0;
      CHECK_EQ(file.PublishOverFile(&existing), EEXIST);
      CHECK(S_ISDIR(existing));
    }
    {
      AtomicFile file;
      REQUIRE_EQ(file.Create(fd.get(), "never", options), 0);
    }
    CHECK_EQ(dir.Names().size(), 2u);
    REQUIRE_EQ(unlink((dir / "f").c_str()), 0);
  }
}

TEST(a_put_that_fails_leaves_no_sidecar) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const KeyStore store(fd.get(), FactsOf(fd.get()));
  TestSegment segment(4096);
  const std::string key(300, 'k');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  REQUIRE_EQ(mkdir((dir / names.file_name).c_str(), 0700), 0);
  const lmshm::SharedBytes bytes = {segment.data(), 100};
  CHECK_EQ(store.Put(Key(key), bytes, {}, TransferOptions(), nullptr).number(), EISDIR);
  REQUIRE_EQ(rmdir((dir / names.file_name).c_str()), 0);
  CHECK(dir.Names().empty());

  {
    lmshm::Sidecar sidecar(fd.get(), names.sidecar_name, names.file_name);
    CHECK_EQ(sidecar.Store(key, false), 0);
    CHECK_EQ(ReadFile(dir / names.sidecar_name), key);
  }  // and no object has appeared
  CHECK(dir.Names().empty());
  CHECK_OK(store.Put(Key(key), bytes, {}, TransferOptions(), nullptr));
  CHECK_EQ(dir.Names().size(), 2u);
}

// Whoever removes waits for whoever stores, in whatever process.
TEST(an_object_and_its_sidecar_come_and_go_together) {
  const TempDir dir;
  const lmshm::UniqueFd fd = OpenDirectory(dir);
  const lmshm::StorageFacts facts = FactsOf(fd.get());
  TestSegment segment(4096);
  const std::string key(300, 'k');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  for (int round = 0; round < 40; round++) {
    std::vector<std::thread> threads;
    std::string wrong[4];
    for (size_t t = 0; t < 4; t++) {
      threads.emplace_back([&, t] {
        const KeyStore store(fd.get(), facts);  // as other processes have their own
        for (int i = 0; i < 5; i++) {
          bool removed;
          const lmshm::Status status = t % 2 == 0 ? store.Put(Key(key), {segment.data(), 100}, {},
                                                              TransferOptions(), nullptr)
                                                  : store.Remove(Key(key), &removed);
          if (!status.ok()) wrong[t] = status.ToString();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : wrong) CHECK_EQ(text, "");
    CHECK_EQ(Exists(dir / names.file_name), Exists(dir / names.sidecar_name));
    for (const std::string& name : dir.Names()) {
      CHECK(name == names.file_name || name == names.sidecar_name);
    }
  }
}

TEST(a_worker_that_starts_removes_what_dead_ones_left) {
  const TempDir dir;
  const std::string dead = dir / ".a.data.123.0123456789abcdef.tmp";
  const std::string young = dir / ".b.data.123.0123456789abcdef.tmp";
  const std::string locked = dir / ".c.data.123.0123456789abcdef.tmp";
  const std::string probe = dir / ".lmshm-probe.123.0123456789abcdef.tmp.data";
  const std::string sidecar = dir / ("sha256-" + std::string(64, '0') + ".key");
  for (const std::string& path : {dead, young, locked, probe, sidecar}) WriteFile(path, "x");
  for (const std::string& path : {dead, probe, sidecar}) MakeOld(path);
  MakeOld(locked);
  const lmshm::UniqueFd holder(open(locked.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE_EQ(flock(holder.get(), LOCK_EX | LOCK_NB), 0);
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path(), "--log-level", "info", "--io", "direct", "--sync=data"};
  WorkerProcess worker(setup);
  CHECK_STARTS(worker.client().Call("HELLO 2"), "OK 2 ");
  CHECK(Until([&] { return !Exists(dead) && !Exists(probe) && !Exists(sidecar); }));
  CHECK(Exists(young));
  CHECK(Exists(locked));
  CHECK_EQ(worker.client().Call("1 QUIT"), "1 OK");
  CHECK_EQ(worker.Wait(), 0);
  const std::string log = worker.Errors();
  CHECK_CONTAINS(log, "removed what dead writers left: 2 temporaries, 1 keys without an object");
  CHECK_CONTAINS(log, "io: direct, sync: data");
  CHECK_CONTAINS(log, "past the page cache: ");
}

TEST(a_directory_that_is_opened_is_rid_of_what_dead_ones_left) {
  const TempDir dir;
  REQUIRE_EQ(mkdir((dir / "sub").c_str(), 0700), 0);
  const std::string dead = dir / "sub/.a.data.123.0123456789abcdef.tmp";
  WriteFile(dead, "x");
  MakeOld(dead);
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path()};
  WorkerProcess worker(setup);
  CHECK_EQ(worker.client().Call("PING"), "OK");
  CHECK(Exists(dead));
  CHECK_STARTS(worker.client().Call("HELLO 2 dir=sub"), "OK 2 ");
  CHECK(Until([&] { return !Exists(dead); }));
}

CHECK_MAIN
