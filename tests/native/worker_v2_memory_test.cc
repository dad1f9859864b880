// SPDX-License-Identifier: Apache-2.0
//
// What clients that flood the worker with requests and take no answers can make it hold, and that
// it gives that back.
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr size_t kMiB = 1 << 20;
constexpr size_t kLine = 60000;
// docs/worker.md: 4 MiB of requests and a line, 256 KiB of answers and those of what was begun, a
// thread and its buffer; what parsing takes, and the allocator. All clients together: 64 MiB.
constexpr size_t kClientBytes = 8 * kMiB;
constexpr size_t kAllBytes = 80 * kMiB;
constexpr size_t kAnyClientBytes = 1 * kMiB;
// What may stay: heaps that are not empty, and code that has run meanwhile.
constexpr size_t kLeftBytes = 6 * kMiB;

size_t StatusBytes(pid_t pid, const char* what) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; in >> word;) {
    size_t kib;
    if (word == what && in >> kib) return kib * 1024;
  }
  check::Fail(__FILE__, __LINE__, std::string("no ") + what);
  return 0;
}

// Resident memory of a process, and the most that it was.
size_t ResidentBytes(pid_t pid) { return StatusBytes(pid, "VmRSS:"); }
size_t MostResidentBytes(pid_t pid) { return StatusBytes(pid, "VmHWM:"); }

// One line of about kLine bytes.
using Flood = std::function<std::string(uint64_t id)>;

std::string Attributes(uint64_t id) {
  std::string line = std::to_string(id) + " PUT";
  for (int object = 0; line.size() < kLine; object++) {
    line += (object == 0 ? " k" : " ; k") + std::to_string(object) + " 0 0";
    for (int i = 0; i < 32; i++)
      line += std::string(" a") + static_cast<char>('a' + i % 26) + (i < 26 ? "" : "x") + "=";
  }
  return line + "\n";
}

std::string SmallObjects(uint64_t id) {
  std::string line = std::to_string(id) + " GET k 0 0";
  for (int object = 1; object < 1000; object++) line += " ; k 0 0";
  return line + "\n";
}

std::string ShortKeys(uint64_t id) {
  std::string line = std::to_string(id) + " EXISTS";
  while (line.size() < kLine) line += " k";
  return line + "\n";
}

std::string LongKeys(uint64_t id) {
  return std::to_string(id) + " EXISTS " + std::string(16000, 'k') + " " + std::string(16000, 'l') +
         "\n";
}

std::string ShortLines(uint64_t id) {
  std::string lines;
  for (uint64_t i = 0; i < 1000; i++) lines += std::to_string(id * 1000 + i) + " STAT k\n";
  return lines;
}

struct Running {
  Running() {
    WorkerSetup setup;
    socket = root.path() + ".sock";
    setup.arguments = {"--listen", "unix:" + socket, "--root", root.path()};
    worker = std::make_unique<WorkerProcess>(setup);
    REQUIRE_EQ(worker->Listening(), "unix:" + socket);
  }
  ~Running() {
    worker.reset();
    unlink(socket.c_str());
  }

  TempDir root;
  std::string socket;
  std::unique_ptr<WorkerProcess> worker;
};

// Clients that send as much as is taken from them, and take nothing.
void CheckFlood(size_t clients, const Flood& flood) {
  TestSegment segment(kMiB);
  const Running running;
  const pid_t pid = running.worker->pid();
  const auto connect = [&] {
    LineClient client = ConnectUnix(running.socket);
    CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
    CHECK_EQ(
        client.Call("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -"),
        "1 OK");
    return client;
  };
  // What any worker has that did something.
  { CHECK_STARTS(connect().Call("2 PUT k 0 100"), "2 OK "); }
  const size_t before = ResidentBytes(pid);
  {
    std::vector<LineClient> all;
    for (size_t i = 0; i < clients; i++) all.push_back(connect());
    std::vector<std::thread> threads;
    const int patience_ms = check::LongForm() ? 1500 : 400;
    for (LineClient& client : all) {
      threads.emplace_back([&client, &flood, patience_ms] {
        // More than socket buffers and all limits together take.
        for (uint64_t id = 2; id < 2000; id++) {
          if (!client.TrySend(flood(id), patience_ms)) return;
        }
        check::Fail(__FILE__, __LINE__, "the worker took everything");
      });
    }
    size_t most = 0;
    for (std::thread& thread : threads) {
      thread.join();
      most = std::max(most, ResidentBytes(pid));
    }
    const size_t bound = std::min(clients * kClientBytes, kAllBytes + clients * kAnyClientBytes);
    std::cout << "# " << clients << " clients: " << (most - before) / kMiB << " MiB, at most "
              << bound / kMiB << std::endl;
    CHECK(most < before + bound);
  }
  size_t after = 0;
  for (int i = 0; i < 200; i++) {
    after = ResidentBytes(pid);
    if (after < before + kLeftBytes) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  std::cout << "# left: " << (static_cast<double>(after) - static_cast<double>(before)) / kMiB
            << " MiB" << std::endl;
  CHECK(after < before + kLeftBytes);
  LineClient client = connect();
  CHECK_STARTS(client.Call("2 GET k 0 100"), "2 OK 100");
}

}  // namespace

// The bounds are those of the C library's allocator.
#if defined(__SANITIZE_THREAD__)
constexpr bool kOwnAllocator = false;
#else
constexpr bool kOwnAllocator = !kAddressSanitizer;
#endif

#define NEEDS_REAL_MEMORY() \
  if (!kOwnAllocator) SKIP("the sanitizer's allocator keeps what is freed")

TEST(one_client_holds_little) {
  NEEDS_REAL_MEMORY();
  for (const Flood& flood : {Flood(Attributes), Flood(SmallObjects), Flood(ShortKeys),
                             Flood(LongKeys), Flood(ShortLines)}) {
    CheckFlood(1, flood);
  }
}

TEST(eight_clients_hold_eight_times_that) {
  NEEDS_REAL_MEMORY();
  CheckFlood(8, Attributes);
}

TEST(many_clients_share_a_bound) {
  NEEDS_REAL_MEMORY();
  CheckFlood(40, Attributes);
}

TEST(a_batch_of_gets_holds_no_more_of_its_answers_than_it_can_tell) {
  NEEDS_REAL_MEMORY();
  TestSegment segment(kMiB);
  const Running running;
  LineClient client = ConnectUnix(running.socket);
  const std::string hello = client.Call("HELLO 2");
  if (hello.find("xattr=1") == std::string::npos) SKIP("no extended attributes here");
  CHECK_EQ(client.Call("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -"),
           "1 OK");
  // As much as ext4 takes.
  std::string attributes;
  for (int i = 0; i < 10; i++) {
    attributes += " a" + std::to_string(i) + "=" + std::string(350, 'x');
  }
  std::string gets;
  for (int i = 0; i < 1024; i++) {
    const std::string key = "k" + std::to_string(i);
    REQUIRE_EQ(client.Call("2 PUT " + key + " 0 10 crc=0" + attributes), "2 OK 10");
    gets += (i == 0 ? " " : " ; ") + key + " 0 10";
  }
  const size_t before = MostResidentBytes(running.worker->pid());
  for (int i = 0; i < 4; i++) {
    CHECK(client.Call("3 GET" + gets).find(" ; -EOVERFLOW") != std::string::npos);
  }
  const size_t more = MostResidentBytes(running.worker->pid()) - before;
  std::cout << "# " << static_cast<double>(more) / kMiB << " MiB" << std::endl;
  CHECK(more < 2 * kMiB);
}

CHECK_MAIN
