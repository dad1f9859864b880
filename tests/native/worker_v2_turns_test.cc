// SPDX-License-Identifier: Apache-2.0
//
// How long a client waits while another one always has huge requests in flight. The yardstick is
// how long one whole huge request takes alone, on this machine and in this run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

using Seconds = std::chrono::duration<double>;

constexpr size_t kMiB = 1 << 20;
constexpr size_t kHuge = 192 * kMiB;
constexpr size_t kHonest = 8 * kMiB;  // more than a turn: it goes through the queue
constexpr int kRequests = 40;

Seconds Time(const std::function<void()>& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::steady_clock::now() - begun;
}

Seconds Median(std::vector<Seconds> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// In memory: a disk would be measured otherwise.
struct Running {
  explicit Running(const std::vector<std::string>& more) : root("/dev/shm") {
    WorkerSetup setup;
    socket = root.path() + ".sock";
    setup.arguments = {"--listen", "unix:" + socket, "--root", root.path()};
    setup.arguments.insert(setup.arguments.end(), more.begin(), more.end());
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

LineClient Connect(const Running& running, const TestSegment& segment) {
  LineClient client = ConnectUnix(running.socket);
  CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(client.Call("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -"),
           "1 OK");
  return client;
}

// What one client repeats: a line without its id, of about kHuge bytes. None writes to memory that
// another uses.
using Huge = std::function<std::string(int)>;

std::string OnePut(int i) {
  return " PUT huge" + std::to_string(i) + " 0 " + std::to_string(kHuge);
}

std::string OneGet(int i) {
  return " GET huge0 " + std::to_string(static_cast<size_t>(i) * kHuge) + " " +
         std::to_string(kHuge);
}

std::string BatchOfChunks(int i) {
  std::string line = " PUT";
  for (size_t at = 0; at < kHuge; at += 16 * kMiB) {
    line += std::string(at == 0 ? " " : " ; ") + "chunk" + std::to_string(i) + "." +
            std::to_string(at / kMiB) + " " + std::to_string(at) + " " + std::to_string(16 * kMiB);
  }
  return line;
}

// Honest requests beside a client that has always four of `huge` in flight.
void CheckWaits(const std::vector<std::string>& options, const Huge& huge) {
  TestSegment segment(4 * kHuge + kHonest);
  memset(segment.data(), 'h', kHuge);
  const Running running(options);
  LineClient greedy = Connect(running, segment);
  LineClient honest = Connect(running, segment);
  CHECK_STARTS(honest.Call("2" + OnePut(0)), "2 OK ");
  std::vector<Seconds> alone;
  for (int i = 0; i < 8; i++) {
    alone.push_back(Time([&] { CHECK_STARTS(greedy.Call("2" + huge(i % 4)), "2 OK "); }));
    // The first of each has to make what the others find: pages, files.
    if (i == 3) alone.clear();
  }
  const Seconds whole = Median(alone);
  const std::string bytes = std::to_string(kHonest);
  const std::string mine = " mine " + std::to_string(4 * kHuge) + " " + bytes;
  const auto request = [&](int i) {
    const std::string line = i % 2 == 0 ? "3 PUT" + mine : "3 GET" + mine;
    return Time([&] { CHECK_STARTS(honest.Call(line), "3 OK " + bytes); });
  };
  alone.clear();
  for (int i = 0; i < 6; i++) alone.push_back(request(i));
  const Seconds itself = Median(alone);

  std::atomic<bool> enough{false};
  std::atomic<int> rounds{0};
  std::thread repeating([&] {
    for (int i = 0; i < 4; i++) CHECK(greedy.Send(std::to_string(10 + i) + huge(i) + "\n"));
    for (int open = 4; open > 0;) {
      const std::string line = greedy.Line();
      CHECK_CONTAINS(line, " OK ");
      if (line[0] == '<') return;
      open--;
      rounds++;
      if (enough) continue;
      const int i = std::stoi(line) - 10;
      CHECK(greedy.Send(std::to_string(10 + i) + huge(i) + "\n"));
      open++;
    }
  });
  std::vector<Seconds> waits;
  while (rounds == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (int i = 0; i < kRequests; i++) waits.push_back(request(i) - itself);
  enough = true;
  repeating.join();

  const Seconds usual = Median(waits);
  const Seconds longest = *std::max_element(waits.begin(), waits.end());
  std::cout << "# a huge one alone " << whole.count() * 1e3 << " ms, " << kHonest / kMiB
            << " MiB alone " << itself.count() * 1e3 << " ms, and waits beside four of them "
            << usual.count() * 1e3 << " ms, at most " << longest.count() * 1e3 << " ms, " << rounds
            << " huge ones" << std::endl;
  // Without turns it would be one whole one and more, each time.
  CHECK(usual < whole / 2);
  CHECK(longest < whole * 2);
}

}  // namespace

TEST(nobody_waits_for_whole_huge_puts) { CheckWaits({"--io-threads", "2"}, OnePut); }

TEST(nobody_waits_for_puts_that_are_larger_than_the_bytes_in_flight) {
  CheckWaits({"--io-threads", "2", "--max-bytes-in-flight", std::to_string(32 * kMiB)}, OnePut);
}

TEST(nobody_waits_for_whole_huge_gets) { CheckWaits({"--io-threads", "2"}, OneGet); }

TEST(nobody_waits_for_whole_huge_batches) { CheckWaits({"--io-threads", "2"}, BatchOfChunks); }

CHECK_MAIN
