// SPDX-License-Identifier: Apache-2.0
//
// Whose turn it is while one client has huge requests waiting: others are answered between the
// turns of a huge one, not between whole ones. Told by what was finished in which order: how many
// huge ones between the first and the last of somebody else's. How long anybody waits is measured
// elsewhere (tests/soak/hostile_soak.ts).
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr size_t kMiB = 1 << 20;
// A dozen turns.
constexpr size_t kHuge = 48 * kMiB;
constexpr int kHugeOnes = 8;
// Two turns, so that they are left in the middle, too; and less than one.
constexpr size_t kHonest[] = {8 * kMiB, kMiB};
constexpr int kHonestOnes = 8;

// In memory: a disk has turns of its own.
struct Running {
  explicit Running(const std::vector<std::string>& more) : root("/dev/shm") {
    WorkerSetup setup;
    socket = root.path() + ".sock";
    // One thread: with more it is up to the scheduler how much each of them does.
    setup.arguments = {"--listen", "unix:" + socket, "--root", root.path(), "--io-threads", "1"};
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

// One of the huge requests: a line without its id. None writes to memory that another uses. Its
// file is the last thing that one stores.
using Huge = std::function<std::string(int)>;

std::string OnePut(int i) {
  return " PUT huge" + std::to_string(i) + " 0 " + std::to_string(kHuge);
}

std::string OneGet(int i) {
  return " GET huge0 " + std::to_string(static_cast<size_t>(i + 1) * kHuge) + " " +
         std::to_string(kHuge);
}

std::string BatchOfChunks(int i) {
  std::string line = " PUT";
  for (size_t at = 0; at < kHuge; at += 16 * kMiB) {
    const bool last = at + 16 * kMiB == kHuge;
    line += std::string(at == 0 ? " " : " ; ") +
            (last ? "huge" : "part" + std::to_string(at / kMiB) + ".") + std::to_string(i) + " " +
            std::to_string(at) + " " + std::to_string(16 * kMiB);
  }
  return line;
}

// When an object got its name, as the file system noted it.
using Moment = std::pair<int64_t, int64_t>;
Moment StoredAt(const TempDir& root, const std::string& key) {
  struct stat st;
  REQUIRE_EQ(stat((root / (key + ".data")).c_str(), &st), 0);
  return {st.st_ctim.tv_sec, st.st_ctim.tv_nsec};
}

// Counts the answers that have come.
int Answers(LineClient* client) {
  int count = 0;
  for (std::string line; (line = client->Line(0)) != "<timeout>"; count++) {
    REQUIRE(line[0] != '<');
    CHECK_CONTAINS(line, " OK ");
  }
  return count;
}

// Two clients; one has `kHugeOnes` waiting when the other comes with its own.
void CheckTurns(const std::vector<std::string>& options, const Huge& huge, size_t segment_bytes,
                size_t honest_bytes) {
  TestSegment segment(segment_bytes);
  memset(segment.data(), 'h', kHuge);
  const Running running(options);
  LineClient greedy = Connect(running, segment);
  LineClient honest = Connect(running, segment);
  const bool gets = segment_bytes > kHuge;
  if (gets) CHECK_STARTS(honest.Call("2" + OnePut(0)), "2 OK ");

  std::string lines;
  for (int i = 0; i < kHugeOnes; i++) lines += std::to_string(10 + i) + huge(i) + "\n";
  REQUIRE(greedy.Send(lines));
  CHECK_CONTAINS(greedy.Line(), " OK ");
  lines.clear();
  for (int i = 0; i < kHonestOnes; i++) {
    lines += std::to_string(10 + i) + " PUT mine" + std::to_string(i) + " 0 " +
             std::to_string(honest_bytes) + "\n";
  }
  REQUIRE(honest.Send(lines));
  CHECK_CONTAINS(honest.Line(), " OK ");
  const int before = 1 + Answers(&greedy);
  for (int i = 1; i < kHonestOnes; i++) CHECK_CONTAINS(honest.Line(), " OK ");
  const int since = Answers(&greedy);
  for (int i = before + since; i < kHugeOnes; i++) CHECK_CONTAINS(greedy.Line(), " OK ");

  int between = since;
  if (!gets) {
    std::vector<Moment> mine;
    for (int i = 0; i < kHonestOnes; i++) {
      mine.push_back(StoredAt(running.root, "mine" + std::to_string(i)));
    }
    const auto [first, last] = std::minmax_element(mine.begin(), mine.end());
    between = 0;
    for (int i = 0; i < kHugeOnes; i++) {
      const Moment one = StoredAt(running.root, "huge" + std::to_string(i));
      if (*first < one && one < *last) between++;
    }
  }
  std::cout << "# " << between << " huge ones between the first and the last of " << kHonestOnes
            << " of " << honest_bytes / kMiB << " MiB" << std::endl;
  // One for each of the others, if each waited for a whole one; by turns there are two.
  CHECK(between <= 3);
}

void CheckTurns(const std::vector<std::string>& options, const Huge& huge,
                size_t segment_bytes = kHuge) {
  for (const size_t bytes : kHonest) CheckTurns(options, huge, segment_bytes, bytes);
}

}  // namespace

TEST(nobody_waits_for_whole_huge_puts) { CheckTurns({}, OnePut); }

TEST(nobody_waits_for_puts_that_are_larger_than_the_bytes_in_flight) {
  CheckTurns({"--max-bytes-in-flight", std::to_string(32 * kMiB)}, OnePut);
}

TEST(nobody_waits_for_whole_huge_gets) { CheckTurns({}, OneGet, (1 + kHugeOnes) * kHuge); }

TEST(nobody_waits_for_whole_huge_batches) { CheckTurns({}, BatchOfChunks); }

CHECK_MAIN
