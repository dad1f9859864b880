// SPDX-License-Identifier: Apache-2.0
//
// A client that goes away at the worst moment: it has taken none of its answers, so nothing more is
// begun for it, and a thread has a lot of its requests in hand, the first of which takes long. The
// connection must end all the same. And one of version 1, whose request waits for room.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "worker/base/shutdown.h"
#include "worker/net/wire.h"
#include "worker/server/connection.h"
#include "worker/storage/directories.h"
#include "worker/storage/quota.h"
#include "worker_fixture.hh"

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Opening a file whose name has "slow" in it takes until the gate opens.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  bool waited_for = false;
  std::thread::id by;

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex);
    waited_for = true;
    by = std::this_thread::get_id();
    changed.notify_all();
    changed.wait(lock, [&] { return open; });
  }
  void Open() {
    const std::lock_guard<std::mutex> lock(mutex);
    open = true;
    changed.notify_all();
  }
  bool SomebodyWaits(milliseconds limit) {
    std::unique_lock<std::mutex> lock(mutex);
    return changed.wait_for(lock, limit, [&] { return waited_for; });
  }
};
std::atomic<Gate*> gate{nullptr};

struct Served {
  explicit Served(lmshm::Engine* engine) {
    REQUIRE(lmshm::ObjectDir::OpenConfined(dir.path(), lmshm::DetectBeneathMethod(), &root).ok());
    directories = std::make_unique<lmshm::Directories>(*root, lmshm::Directories::Limits());
    REQUIRE(directories->Start().ok());
    service.stores = directories.get();
    service.boot_id = "0123456789abcdef";
    service.engine = engine;
    int fds[2];
    REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    client.Reset(fds[0]);
    own.Reset(fds[1]);
  }

  void Put(const std::string& key, const std::vector<lmshm::Attribute>& attributes) {
    std::string memory = "12345";
    uint32_t crc = 0;
    CHECK(directories->root()
              .Put(Key(key), {memory.data(), memory.size()}, attributes, {}, &crc)
              .ok());
  }
  void Send(const std::string& lines) const {
    CHECK_EQ(write(client.get(), lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  }

  TempDir dir;
  std::unique_ptr<lmshm::ObjectDir> root;
  std::unique_ptr<lmshm::Directories> directories;
  lmshm::Service service;
  lmshm::UniqueFd client;
  lmshm::UniqueFd own;
};

// Whether the slow request was begun, before the outbox was full, and by another thread than the
// connection's, which then was free to see its client go.
bool GoesAway(size_t before_slow) {
  Gate slow;
  lmshm::EngineLimits limits;
  limits.threads = 2;
  lmshm::Engine engine(limits);
  CHECK(engine.Start().ok());
  Served served(&engine);
  std::vector<lmshm::Attribute> attributes;
  for (int i = 0; i < 30; i++)
    attributes.push_back({"a" + std::to_string(i), std::string(120, 'x')});
  served.Put("big", attributes);
  served.Put("slow", {});
  if (!served.directories->root().has_attributes()) SKIP("this file system has no attributes");
  gate = &slow;

  lmshm::Wire wire(served.own.get(), served.own.get(), lmshm::Shutdown::Get());
  const lmshm::ConnectionLimits no_limits;
  std::promise<lmshm::ConnectionEnd> ended;
  std::future<lmshm::ConnectionEnd> end = ended.get_future();
  std::thread connection([&] {
    ended.set_value(
        lmshm::ServeClient(&wire, served.service, "test", no_limits, lmshm::Shutdown::Get()));
  });
  // Each answer has nearly 4 kB.
  std::string lines = "HELLO 2\n";
  for (size_t i = 0; i < 800; i++) {
    lines += std::to_string(i + 1) + (i == before_slow ? " STAT slow\n" : " STAT big\n");
  }
  served.Send(lines);
  const bool begun = slow.SomebodyWaits(milliseconds(500));
  std::this_thread::sleep_for(milliseconds(200));  // others fill the outbox
  served.client.Reset();
  std::this_thread::sleep_for(milliseconds(200));  // the connection gives up what waits
  slow.Open();
  if (end.wait_for(seconds(20)) != std::future_status::ready) {
    check::Fail(__FILE__, __LINE__, "the connection does not end");
    std::fflush(nullptr);
    _exit(1);  // its thread uses what is on this stack
  }
  const lmshm::ConnectionEnd how = end.get();
  CHECK(how == lmshm::ConnectionEnd::kBroken || how == lmshm::ConnectionEnd::kClosed);
  const bool by_other = begun && slow.by != connection.get_id();
  connection.join();
  gate = nullptr;
  CHECK_EQ(engine.counts().queued, 0u);
  CHECK_EQ(engine.counts().running, 0u);
  return by_other;
}

}  // namespace

// Instead of the C library's, for all of this program.
extern "C" int openat(int dir_fd, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  Gate* const closed = gate;
  if (closed != nullptr && std::strstr(path, "slow") != nullptr) closed->Wait();
  return static_cast<int>(syscall(SYS_openat, dir_fd, path, flags, mode));
}

TEST(a_connection_ends_whatever_a_thread_has_in_hand) {
  REQUIRE(lmshm::Shutdown::Get().Install().ok());
  size_t by_others = 0;
  for (size_t i = 0; i < 40 && by_others < 4; i++) by_others += GoesAway(i % 20) ? 1 : 0;
  CHECK(by_others > 0);
}

TEST(a_write_of_version_1_that_waits_for_room_ends_with_its_client) {
  const TempDir dir;
  TestSegment segment(16 * lmshm::kBlockBytes);
  std::unique_ptr<lmshm::ObjectDir> root;
  REQUIRE(lmshm::ObjectDir::OpenConfined(dir.path(), lmshm::DetectBeneathMethod(), &root).ok());
  const lmshm::UniqueFd root_fd(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  lmshm::QuotaRules rules;
  rules.max_bytes = 64 * lmshm::kBlockBytes;
  rules.patience = std::chrono::hours(1);
  lmshm::Quota quota(root_fd.get(), rules);
  REQUIRE(quota.Start().ok());
  lmshm::Quota::Directory directory;
  REQUIRE(quota.Find(root_fd.get(), &directory).ok());
  quota.Recount();
  // Somebody else writes, and does not end.
  lmshm::QuotaRoom room(directory, "other.data", 60 * lmshm::kBlockBytes);
  bool taken = false;
  CHECK(room.Take(milliseconds(0), &taken).ok());
  REQUIRE(taken);
  lmshm::Service service;
  service.objects = root.get();
  service.quota = &quota;

  int fds[2];
  REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  lmshm::UniqueFd client(fds[0]);
  const lmshm::UniqueFd own(fds[1]);
  lmshm::Wire wire(own.get(), own.get(), lmshm::Shutdown::Get());
  const lmshm::ConnectionLimits no_limits;
  std::promise<void> ended;
  std::future<void> end = ended.get_future();
  std::thread connection([&] {
    lmshm::ServeClient(&wire, service, "test", no_limits, lmshm::Shutdown::Get());
    ended.set_value();
  });
  const std::string lines =
      segment.AttachLine() + "\n" + segment.Line("WRITE", "mine.data", 0, segment.size()) + "\n";
  CHECK_EQ(write(client.get(), lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  CHECK(end.wait_for(milliseconds(100)) == std::future_status::timeout);
  client.Reset();
  if (end.wait_for(seconds(60)) != std::future_status::ready) {
    check::Fail(__FILE__, __LINE__, "the request goes on waiting");
    std::fflush(nullptr);
    _exit(1);  // its thread uses what is on this stack
  }
  connection.join();
  CHECK(dir.Names().empty());
}

CHECK_MAIN
