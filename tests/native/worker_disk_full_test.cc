// SPDX-License-Identifier: Apache-2.0
//
// Full file systems: small tmpfs mounts in a mount namespace of this process alone. Needs the
// right to make one; where it cannot, the tests are skipped.
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "small_mount.hh"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

// Writes `path` until nothing more fits.
void FillUp(const std::string& path) {
  const std::string page(4096, 'x');
  std::ofstream filler(path, std::ios::binary);
  while (filler.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
  }
}

}  // namespace

TEST(a_full_disk_is_said_and_the_old_object_stays) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  const SmallMount mounted(dir.path(), "1m");
  TestSegment segment(8 << 20);
  segment.FillPattern(1);
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path()};
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", "f", 0, 500000)), "OK 500000");
  CHECK_STARTS(c.Call(segment.Line("WRITE", "f", 0, 4 << 20)),
               "ERROR ENOSPC write f: reserve 4194304 bytes: No space left on device");
  CHECK(ReadFile(dir / "f") == segment.Bytes(0, 500000));
  CHECK_EQ(dir.Names().size(), 1u);
  // What does not fit beside the old object does not fit at all: both exist for a moment.
  CHECK_STARTS(c.Call(segment.Line("WRITE", "f", 0, 600000)), "ERROR ENOSPC ");
  CHECK_EQ(c.Call(segment.Line("WRITE", "f", 1, 400000)), "OK 400000");
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(a_full_disk_is_said_in_version_2_as_well) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  const SmallMount mounted(dir.path(), "1m");
  TestSegment segment(8 << 20);
  segment.FillPattern(1);
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path()};
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_STARTS(c.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(c.Call("1 ATTACH " + segment.name() + " 8388608 -"), "1 OK");
  CHECK_STARTS(c.Call("2 PUT f 0 500000"), "2 OK 500000");
  for (const char* mode : {"auto", "direct", "cached"}) {
    CHECK_STARTS(c.Call(std::string("3 PUT f 0 4194304 io=") + mode),
                 "3 ERROR ENOSPC put f: reserve 4194304 bytes: No space left on device");
  }
  CHECK(ReadFile(dir / "f.data") == segment.Bytes(0, 500000));
  // So full that a sidecar has no place: then the object is not stored, and nothing is left.
  FillUp(dir / "filler");
  CHECK_STARTS(c.Call("4 PUT " + std::string(300, 'k') + " 0 0"), "4 ERROR ENOSPC ");
  CHECK_EQ(dir.Names().size(), 2u);
}

namespace {

// On a full disk, most of it held by objects that others removed and that are still open.
void PutOnFullDisk(size_t size) {
  const TempDir dir;
  const SmallMount mounted(dir.path(), "1m");
  TestSegment segment(1 << 20);
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path()};
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_STARTS(c.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(c.Call("1 ATTACH " + segment.name() + " 1048576 -"), "1 OK");
  for (int i = 0; i < 14; i++) {
    CHECK_STARTS(c.Call("1 PUT " + std::to_string(i) + " 0 60000"), "1 OK 60000");
  }
  // What was stored just now is not kept.
  std::this_thread::sleep_for(std::chrono::milliseconds(2200));
  for (int i = 0; i < 3 * 14; i++) {
    CHECK_STARTS(c.Call("1 GET " + std::to_string(i % 14) + " 0 60000"), "1 OK 60000");
  }
  if (c.Call("1 INFO").find(" kept_open=14 ") == std::string::npos) SKIP("nothing is kept here");
  FillUp(dir / "filler");
  for (int i = 0; i < 14; i++) unlink((dir / (std::to_string(i) + ".data")).c_str());
  const std::string bytes = std::to_string(size);
  CHECK_STARTS(c.Call("1 PUT new 0 " + bytes), "1 OK " + bytes);
}

}  // namespace

TEST(objects_that_others_removed_and_that_are_still_open_make_room) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  for (const size_t size : {100u, 500000u}) PutOnFullDisk(size);
}

TEST(a_segment_without_pages_behind_it_is_survived) {
  const std::string why = EnterNamespace();
  if (!why.empty()) SKIP(why);
  const TempDir dir;
  WriteFile(dir / "f", std::string(4 << 20, 'x'));
  const SmallMount mounted("/dev/shm", "1m");
  TestSegment segment(8 << 20);  // sparse: more than the file system has
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path()};
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_STARTS(c.Call(segment.Line("READ", "f", 0, 4 << 20)), "ERROR EFAULT ");
  CHECK_EQ(c.Call(segment.Line("READ", "f", 0, 1000)), "OK 1000");
}

CHECK_MAIN
