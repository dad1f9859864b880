// SPDX-License-Identifier: Apache-2.0
//
// Many requests in flight, with the real worker: every one is answered once, nobody waits for a
// client that does not listen, cancelling, and the end of a connection in all its forms.
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr size_t kLarge = 48 << 20;

struct Running {
  explicit Running(const std::vector<std::string>& more = {}) {
    WorkerSetup setup;
    socket = root.path() + ".sock";
    setup.arguments = {"--listen", "unix:" + socket, "--root", root.path()};
    setup.arguments.insert(setup.arguments.end(), more.begin(), more.end());
    worker = std::make_unique<WorkerProcess>(setup);
    CHECK_EQ(worker->Listening(), "unix:" + socket);
  }
  ~Running() {
    worker.reset();
    unlink(socket.c_str());
  }
  LineClient Connect() { return ConnectUnix(socket); }

  TempDir root;
  std::string socket;
  std::unique_ptr<WorkerProcess> worker;
};

void Begin(LineClient* client, const TestSegment& segment) {
  CHECK_STARTS(client->Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(client->Call("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -"),
           "1 OK");
}

// The next `count` answers by id, each id once.
std::map<uint64_t, std::string> Answers(LineClient* client, size_t count) {
  std::map<uint64_t, std::string> answers;
  for (size_t i = 0; i < count; i++) {
    const std::string line = client->Line();
    const size_t space = line.find(' ');
    if (line[0] == '<' || space == std::string::npos) {
      check::Fail(__FILE__, __LINE__, "instead of an answer: " + line);
      break;
    }
    CHECK(answers.emplace(std::stoull(line), line.substr(space + 1)).second);
  }
  return answers;
}

std::string PutLine(uint64_t id, const std::string& key, size_t bytes,
                    const std::string& more = "") {
  return std::to_string(id) + " PUT " + key + " 0 " + std::to_string(bytes) + more + "\n";
}

std::string InfoWord(LineClient* client, const std::string& name) {
  const std::string line = client->Call("999999 INFO") + " ";
  const size_t at = line.find(" " + name + "=");
  if (at == std::string::npos) return "<none>";
  const size_t begin = at + name.size() + 2;
  return line.substr(begin, line.find(' ', begin) - begin);
}

bool Eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    usleep(2000);
  }
  return true;
}

// A few hundred objects out and back again, each checked.
void MixedTraffic(LineClient* client, unsigned seed) {
  constexpr size_t kObjects = 300;
  constexpr size_t kBytes = 2000;
  TestSegment segment(kObjects * kBytes * 2);
  segment.FillPattern(seed);
  Begin(client, segment);
  const std::string prefix = "s" + std::to_string(seed) + "/";
  std::string lines;
  uint64_t id = 10;
  for (size_t i = 0; i < kObjects; i++) {
    lines += std::to_string(id++) + " PUT " + prefix + std::to_string(i) + " " +
             std::to_string(i * kBytes) + " " + std::to_string(i % kBytes) +
             (i % 3 == 0   ? " prio=high"
              : i % 3 == 1 ? " prio=low"
                           : "");
    if (i % 5 == 0 && ++i < kObjects) {
      lines += " ; " + prefix + std::to_string(i) + " " + std::to_string(i * kBytes) + " " +
               std::to_string(i % kBytes);
    }
    lines += "\n";
  }
  CHECK(client->Send(lines));
  for (const auto& [answered, answer] : Answers(client, id - 10)) CHECK_STARTS(answer, "OK ");
  lines.clear();
  id = 10;
  for (size_t i = 0; i < kObjects; i++) {
    lines += std::to_string(id++) + " GET " + prefix + std::to_string(i) + " " +
             std::to_string((kObjects + i) * kBytes) + " " + std::to_string(kBytes) + "\n";
    lines += std::to_string(id++) + " EXISTS " + prefix + std::to_string(i) + " nothing\n";
  }
  CHECK(client->Send(lines));
  for (const auto& [answered, answer] : Answers(client, id - 10)) {
    const size_t i = (answered - 10) / 2;
    if (answered % 2 == 0) {
      CHECK_STARTS(answer, "OK " + std::to_string(i % kBytes));
      CHECK(segment.Bytes((kObjects + i) * kBytes, i % kBytes) ==
            segment.Bytes(i * kBytes, i % kBytes));
    } else {
      CHECK_EQ(answer, "OK 10");
    }
  }
  CHECK_EQ(client->Call("5 QUIT"), "5 OK");
  CHECK_EQ(client->Line(), "<end>");
}

}  // namespace

TEST(every_request_of_several_clients_is_answered_once) {
  Running running;
  std::vector<LineClient> clients;
  for (int i = 0; i < 3; i++) clients.push_back(running.Connect());
  // One is checked while the others' lines are under way.
  TestSegment noise(1 << 20);
  for (int i = 1; i < 3; i++) Begin(&clients[static_cast<size_t>(i)], noise);
  std::string lines;
  for (uint64_t id = 10; id < 400; id++) lines += PutLine(id, "noise" + std::to_string(id), 9000);
  CHECK(clients[1].Send(lines));
  CHECK(clients[2].Send(lines));
  MixedTraffic(&clients[0], 1);
  for (size_t i = 1; i < 3; i++) {
    for (const auto& [id, answer] : Answers(&clients[i], 390)) CHECK_STARTS(answer, "OK 9000");
  }
}

TEST(over_tcp) {
  TempDir root;
  WorkerSetup setup;
  setup.arguments = {"--listen", "127.0.0.1:0", "--root", root.path(), "--no-auth"};
  WorkerProcess worker(setup);
  LineClient client = ConnectTcp(worker.ListeningPort());
  MixedTraffic(&client, 2);
}

TEST(over_pipes_and_over_sockets_as_stdin_and_stdout) {
  for (const bool sockets : {false, true}) {
    TempDir root;
    WorkerSetup setup;
    setup.socket_stdio = sockets;
    setup.arguments = {"--root", root.path(), "--io-threads", "2"};
    WorkerProcess worker(setup);
    MixedTraffic(&worker.client(), 3);
    CHECK_EQ(worker.Wait(), 0);
  }
}

TEST(one_thread_is_enough) {
  Running running({"--io-threads", "1", "--max-bytes-in-flight", "1"});
  LineClient client = running.Connect();
  MixedTraffic(&client, 4);
}

TEST(a_small_request_overtakes_large_ones) {
  Running running({"--io-threads", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  WriteFile(running.root / "small.data", "x");
  CHECK(client.Send(PutLine(2, "a", kLarge) + PutLine(3, "b", kLarge) + PutLine(4, "c", kLarge) +
                    "5 EXISTS small\n6 PING\n"));
  std::vector<uint64_t> order;
  for (int i = 0; i < 5; i++) order.push_back(std::stoull(client.Line()));
  CHECK(order.back() != 5 && order.back() != 6);
}

// Its thread would not read the next ones while it is at one of them.
TEST(large_requests_of_a_client_that_has_several_in_flight_are_not_carried_out_on_its_thread) {
  constexpr size_t kBytes = 1 << 20;
  TempDir root;
  WorkerSetup setup;
  setup.arguments = {"--root", root.path(), "--io-threads", "2"};
  WorkerProcess worker(setup);
  LineClient& client = worker.client();
  constexpr size_t kAtOnce = 4;
  TestSegment segment(kAtOnce * kBytes);
  segment.FillPattern(3);
  Begin(&client, segment);
  CHECK_STARTS(client.Call("2 PUT a 0 " + std::to_string(kBytes)), "2 OK");
  // The client of a pipe is served by the process's first thread.
  const std::string pid = std::to_string(worker.pid());
  const auto read_there = [&] {
    std::ifstream file("/proc/" + pid + "/task/" + pid + "/io");
    std::string word;
    uint64_t bytes = 0;
    REQUIRE(static_cast<bool>(file >> word >> bytes));
    CHECK_EQ(word, "rchar:");
    return bytes;
  };
  uint64_t id = 10;
  const auto get = [&](size_t place) {
    return std::to_string(id++) + " GET a " + std::to_string(place * kBytes) + " " +
           std::to_string(kBytes) + "\n";
  };
  // Whether a request that is alone is carried out there.
  const auto lone_get_is_there = [&] {
    const uint64_t before = read_there();
    REQUIRE(client.Send(get(0)));
    const std::map<uint64_t, std::string> answers = Answers(&client, 1);
    REQUIRE_EQ(answers.size(), 1u);
    CHECK_STARTS(answers.begin()->second, "OK ");
    return read_there() - before >= kBytes;
  };
  CHECK(lone_get_is_there());
  std::string lines;
  for (size_t i = 0; i < kAtOnce; i++) lines += get(i);
  CHECK(client.Send(lines));
  for (const auto& [answered, answer] : Answers(&client, kAtOnce)) CHECK_STARTS(answer, "OK ");
  CHECK(!lone_get_is_there());
  for (int i = 0; i < 20; i++) lone_get_is_there();
  CHECK(lone_get_is_there());
  CHECK_EQ(client.Call("5 QUIT"), "5 OK");
  CHECK_EQ(worker.Wait(), 0);
}

TEST(a_request_that_waits_is_cancelled_at_once) {
  Running running({"--io-threads", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  CHECK(client.Send(PutLine(2, "a", kLarge) + PutLine(3, "b", kLarge) + PutLine(4, "c", kLarge) +
                    "5 CANCEL 4\n6 CANCEL 4\n7 CANCEL 88\n"));
  std::map<uint64_t, std::string> answers = Answers(&client, 6);
  CHECK_STARTS(answers[2], "OK ");
  CHECK_STARTS(answers[3], "OK ");
  CHECK_STARTS(answers[4], "ERROR ECANCELED ");
  CHECK_CONTAINS(answers[4], "the client cancelled it");
  CHECK_EQ(answers[5], "OK 1");
  CHECK_EQ(answers[7], "OK 0");
  CHECK_EQ(client.Call("8 EXISTS a b c"), "8 OK 110");
  CHECK_EQ(running.root.Names().size(), 2u);
  CHECK_EQ(InfoWord(&client, "cancelled"), "1");
}

TEST(a_request_at_work_is_cancelled_and_leaves_nothing_behind) {
  Running running;
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  // It may be through before the word arrives; not every time.
  bool cancelled = false;
  for (int i = 0; i < 200 && !cancelled; i++) {
    const std::string key = "k" + std::to_string(i);
    CHECK(client.Send(PutLine(2, key, kLarge)));
    usleep(2000);
    CHECK(client.Send("3 CANCEL 2\n"));
    std::map<uint64_t, std::string> answers = Answers(&client, 2);
    cancelled = check::StartsWith(answers[2], "ERROR ECANCELED ");
    if (cancelled) CHECK_EQ(answers[3], "OK 1");
    CHECK_EQ(client.Call("4 REMOVE " + key), cancelled ? "4 OK 0" : "4 OK 1");
    CHECK_EQ(running.root.Names().size(), 0u);
  }
  CHECK(cancelled);
}

TEST(an_id_in_flight_is_not_used_twice) {
  Running running({"--io-threads", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  CHECK(client.Send(PutLine(2, "a", kLarge) + PutLine(3, "b", kLarge) +
                    "3 PING\n3 EXISTS a\n3 nonsense\n"));
  int refused = 0;
  std::set<std::string> others;
  for (int i = 0; i < 5; i++) {
    const std::string line = client.Line();
    if (check::StartsWith(line, "0 ERROR EEXIST ")) {
      refused++;
    } else {
      others.insert(line.substr(0, 5));
    }
  }
  CHECK_EQ(refused, 3);
  CHECK(others == std::set<std::string>({"2 OK ", "3 OK "}));
  CHECK_EQ(client.Call("3 EXISTS a b"), "3 OK 11");
}

TEST(quit_is_answered_last) {
  Running running;
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  CHECK(client.Send(PutLine(2, "a", kLarge) + PutLine(3, "b", 10) + "4 PING\n5 QUIT\n6 PING\n"));
  std::set<std::string> before;
  for (int i = 0; i < 3; i++) before.insert(client.Line().substr(0, 5));
  CHECK(before == std::set<std::string>({"2 OK ", "3 OK ", "4 OK "}));
  CHECK_EQ(client.Line(), "5 OK");
  CHECK_EQ(client.Line(), "<end>");
}

TEST(what_came_before_the_end_of_input_is_carried_out_and_answered) {
  Running running({"--io-threads", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  std::string lines;
  for (uint64_t id = 2; id < 8; id++) lines += PutLine(id, "k" + std::to_string(id), kLarge / 4);
  CHECK(client.Send(lines + "8 EXIS"));
  client.CloseOut();
  for (const auto& [id, answer] : Answers(&client, 6)) CHECK_STARTS(answer, "OK ");
  CHECK_EQ(client.Line(), "<end>");
  CHECK_EQ(running.root.Names().size(), 6u);
}

TEST(more_requests_than_the_window_are_all_answered) {
  Running running;
  LineClient client = running.Connect();
  TestSegment segment(8192);
  Begin(&client, segment);
  // Nothing is read meanwhile; what the worker does not take waits in the socket.
  std::thread writer([&] {
    std::string lines;
    for (uint64_t id = 2; id < 20002; id++) {
      lines += std::to_string(id) + (id % 100 == 0 ? " PUT k 0 100\n" : " EXISTS k nothing\n");
    }
    client.Send(lines);
  });
  usleep(200000);
  CHECK_EQ(Answers(&client, 20000).size(), 20000u);
  writer.join();
}

TEST(a_client_that_does_not_take_its_answers_delays_nobody) {
  Running running({"--io-threads", "2"});
  LineClient deaf = running.Connect();
  CHECK_STARTS(deaf.Call("HELLO 2"), "OK 2 ");
  std::string keys;
  while (keys.size() < 60000) keys += " k";
  // Each answer has 30 kB: soon the worker cannot get rid of them.
  for (uint64_t id = 2; id < 200; id++) {
    if (!deaf.TrySend(std::to_string(id) + " EXISTS" + keys + "\n", 300)) break;
  }
  LineClient other = running.Connect();
  TestSegment segment(1 << 20);
  Begin(&other, segment);
  for (int i = 0; i < 20; i++) {
    CHECK_STARTS(other.Call("2 PUT o 0 1048576"), "2 OK ");
    CHECK_STARTS(other.Call("2 GET o 0 1048576"), "2 OK ");
  }
  CHECK_CONTAINS(deaf.Line(), " OK 000");
  CHECK_EQ(other.Call("3 QUIT"), "3 OK");
}

TEST(requests_of_a_client_that_is_gone_are_dropped) {
  Running running({"--io-threads", "1"});
  TestSegment segment(kLarge);
  {
    LineClient gone = running.Connect();
    Begin(&gone, segment);
    std::string lines;
    for (uint64_t id = 2; id < 200; id++) lines += PutLine(id, "k" + std::to_string(id), kLarge);
    CHECK(gone.Send(lines));
  }
  LineClient client = running.Connect();
  CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
  CHECK(Eventually([&] { return InfoWord(&client, "clients") == "1"; }));
  CHECK_EQ(InfoWord(&client, "queued"), "0");
  CHECK_EQ(InfoWord(&client, "running"), "0");
  CHECK_EQ(InfoWord(&client, "bytes_in_flight"), "0");
  CHECK(running.root.Names().size() < 100);
  for (const std::string& name : running.root.Names()) CHECK(name[0] == 'k');
}

TEST(a_signal_lets_what_is_at_work_finish_and_drops_the_rest) {
  Running running({"--io-threads", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  std::string lines;
  for (uint64_t id = 2; id < 100; id++) lines += PutLine(id, "k" + std::to_string(id), kLarge);
  CHECK(client.Send(lines));
  CHECK_STARTS(client.Line(), "2 OK ");
  running.worker->Kill(SIGTERM);
  size_t answered = 1;
  for (std::string line = client.Line(); line != "<end>"; line = client.Line()) {
    if (line == "<timeout>") break;
    CHECK_CONTAINS(line, " OK ");
    answered++;
  }
  CHECK_EQ(running.worker->Wait(), 0);
  CHECK_EQ(running.root.Names().size(), answered);
  CHECK(answered < 50);
}

TEST(a_parent_that_is_gone_ends_the_worker_whatever_waits) {
  TempDir root;
  WorkerSetup setup;
  setup.arguments = {"--root", root.path(), "--io-threads", "1"};
  WorkerProcess worker(setup);
  TestSegment segment(kLarge);
  Begin(&worker.client(), segment);
  std::string lines;
  for (uint64_t id = 2; id < 200; id++) lines += PutLine(id, "k" + std::to_string(id), kLarge);
  CHECK(worker.client().Send(lines));
  worker.client().Close();
  CHECK(worker.Wait() >= 0);
  CHECK(root.Names().size() < 100);
}

TEST(an_idle_limit_does_not_end_who_waits_for_an_answer) {
  Running running({"--io-threads", "1", "--idle-timeout", "1"});
  LineClient client = running.Connect();
  TestSegment segment(kLarge);
  Begin(&client, segment);
  CHECK(client.Send(PutLine(2, "a", kLarge, " sync=full") + PutLine(3, "b", kLarge, " sync=full")));
  CHECK_EQ(Answers(&client, 2).size(), 2u);
  CHECK_EQ(client.Line(), "<end>");
}

TEST(what_the_command_line_bounds) {
  Running running({"--io-threads", "3", "--max-bytes-in-flight", "1000000"});
  LineClient client = running.Connect();
  CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(InfoWord(&client, "threads"), "3");
  CHECK_EQ(InfoWord(&client, "max_bytes_in_flight"), "1000000");
  CHECK_EQ(InfoWord(&client, "window"), "1024");
}

CHECK_MAIN
