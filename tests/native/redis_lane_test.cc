// SPDX-License-Identifier: Apache-2.0
//
// Small requests that are under way together, in the real worker: they leave without waiting for
// each other's replies, and answers, failures and cancelling are each request's own. The server
// withholds replies until a certain command has come, so nothing here depends on who is fast.
#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "redis_liar.hh"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

using Words = std::vector<std::string>;

// What a server answers at once; all values of a key are its name.
std::string Honest(const Words& words) {
  if (words[0] == "INFO") return Bulk("redis_version:0.0.0\r\ncluster_enabled:0\r\n");
  if (words[0] == "CONFIG") return "*0\r\n";
  if (words[0] == "SET") return "+OK\r\n";
  if (words[0] == "EXISTS") return ":1\r\n";
  return words[0] == "GET" ? Bulk(words.at(1)) : "-ERR unknown command\r\n";
}

// Withholds what it would answer on one connection, until it is let go.
class Withheld {
 public:
  // Keeps `reply` for later.
  std::string Keep(const std::string& reply) {
    kept_ += reply;
    return "";
  }
  std::string LetGo(const std::string& reply) { return std::exchange(kept_, "") + reply; }

 private:
  std::string kept_;
};

WorkerSetup On(const RedisLiar& server, const std::string& timeout = "60") {
  WorkerSetup setup;
  setup.arguments = {"--store", server.url("?layout=payload&timeout=" + timeout)};
  return setup;
}

void Begin(LineClient& client, const TestSegment& segment) {
  CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
  const std::string size = std::to_string(segment.size());
  CHECK_EQ(client.Call("1 ATTACH " + segment.name() + " " + size + " -"), "1 OK");
}

// Answers by their id, which is left out.
std::map<int, std::string> Answers(LineClient& client, size_t count) {
  std::map<int, std::string> answers;
  while (answers.size() < count) {
    const std::string line = client.Line();
    const size_t space = line.find(' ');
    if (space == std::string::npos) {
      check::Fail(__FILE__, __LINE__, line);
      break;
    }
    answers[std::stoi(line)] = line.substr(space + 1);
  }
  return answers;
}

std::string Get(int id, const std::string& key, const std::string& more = "") {
  return std::to_string(id) + " GET " + key + " " + std::to_string(id * 100) + " 100" + more + "\n";
}

class Flag {
 public:
  void Set() { set_ = true; }
  void Wait() const {
    for (int i = 0; i < kPatienceMs && !set_; i++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

 private:
  std::atomic<bool> set_{false};
};

}  // namespace

TEST(small_requests_leave_without_waiting_for_each_others_replies) {
  TestSegment segment(1 << 16);
  segment.FillPattern(1);
  Withheld withheld;
  int commands = 0;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "INFO" || words[0] == "CONFIG") return Honest(words);
    return ++commands < 12 ? withheld.Keep(Honest(words)) : withheld.LetGo(Honest(words));
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  std::string lines;
  for (int id = 2; id < 6; id++)
    lines += std::to_string(id) + " PUT p" + std::to_string(id) + " 0 99\n";
  for (int id = 6; id < 10; id++) lines += Get(id, "g" + std::to_string(id));
  for (int id = 10; id < 14; id++) lines += std::to_string(id) + " EXISTS e\n";
  REQUIRE(client.Send(lines));
  const std::map<int, std::string> answers = Answers(client, 12);
  for (const auto& [id, answer] : answers) {
    CHECK_STARTS(answer, id < 6 ? "OK 99" : id < 10 ? "OK 2" : "OK 1");
  }
  for (int id = 6; id < 10; id++) {
    CHECK_EQ(segment.Bytes(static_cast<size_t>(id) * 100, 2), "g" + std::to_string(id));
  }
  CHECK_EQ(server.connections(), 1);
}

TEST(each_answer_leaves_when_its_own_reply_is_there) {
  TestSegment segment(1 << 16);
  Withheld withheld;
  bool holds = false;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words.size() > 1 && words[1] == "slow") holds = true;
    if (words.size() > 1 && words[1] == "wrong") return "-WRONGTYPE of another kind\r\n";
    if (words.size() > 1 && words[1] == "none") return "$-1\r\n";
    if (words.size() > 1 && words[1] == "large") return Bulk(std::string(5000, 'x'));
    if (words[0] == "EXISTS") return withheld.LetGo(Honest(words));
    return holds ? withheld.Keep(Honest(words)) : Honest(words);
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  REQUIRE(client.Send(Get(2, "a") + Get(3, "wrong") + Get(4, "none") + Get(5, "large") +
                      Get(6, "b") + Get(7, "slow") + Get(8, "c")));
  std::map<int, std::string> answers = Answers(client, 5);
  CHECK_STARTS(answers[2], "OK 1");
  CHECK_STARTS(answers[3], "ERROR EINVAL");
  CHECK_STARTS(answers[4], "ERROR ENOENT");
  CHECK_STARTS(answers[5], "ERROR EMSGSIZE 5000 ");
  CHECK_STARTS(answers[6], "OK 1");
  REQUIRE(client.Send("9 EXISTS go\n"));
  answers = Answers(client, 3);
  CHECK_STARTS(answers[7], "OK 4");
  CHECK_STARTS(answers[8], "OK 1");
  CHECK_EQ(answers[9], "OK 1");
  CHECK_EQ(segment.Bytes(200, 1), "a");
  CHECK_EQ(segment.Bytes(600, 1), "b");
  CHECK_EQ(segment.Bytes(700, 4), "slow");
  CHECK_EQ(segment.Bytes(800, 1), "c");
  CHECK_EQ(server.connections(), 1);
}

TEST(what_a_broken_connection_had_under_way_is_done_again) {
  TestSegment segment(1 << 16);
  std::atomic<int> gets{0};
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "GET" || ++gets != 3) return Honest(words);
    return "$5\r\nth" + std::string(RedisLiar::kClose);  // the third breaks off in its value
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  std::string lines;
  for (int id = 2; id < 10; id++) lines += Get(id, "key" + std::to_string(id));
  REQUIRE(client.Send(lines));
  for (const auto& [id, answer] : Answers(client, 8)) {
    CHECK_STARTS(answer, "OK 4");
    CHECK_EQ(segment.Bytes(static_cast<size_t>(id) * 100, 4), "key" + std::to_string(id));
  }
}

TEST(what_is_there_already_is_told_and_a_put_that_may_have_happened_is_done_without_asking) {
  TestSegment segment(1 << 16);
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> last;  // of each key, the last word of its SETs
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "SET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<std::string>& mine = last[words[1]];
    mine.push_back(words.size() > 3 ? words.back() : "");
    if (words[1] == "there") return "$-1\r\n";
    return words[1] == "lost" && mine.size() == 1 ? std::string(RedisLiar::kClose) : "+OK\r\n";
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_EQ(client.Call("2 PUT new 0 100 if=absent crc=0"), "2 OK 100");
  CHECK_STARTS(client.Call("3 PUT there 0 100 if=absent"), "3 ERROR EEXIST put there");
  CHECK_STARTS(client.Call("4 PUT lost 0 100 if=absent"), "4 OK 100");
  {
    const std::lock_guard<std::mutex> lock(mutex);
    CHECK(last["new"] == std::vector<std::string>({"NX"}));
    CHECK(last["lost"] == std::vector<std::string>({"NX", ""}));
  }
  CHECK_EQ(client.Call("5 PUT there 0 100 if=absent ; new 0 100 crc=0"), "5 OK -EEXIST ; 100");
  const std::string info = client.Call("6 INFO");
  CHECK_CONTAINS(info, " errors=0 ");
  CHECK_CONTAINS(info, " puts=3 ");
}

TEST(batches_of_small_objects_that_are_put_leave_together_over_one_connection) {
  TestSegment segment(1 << 20);
  segment.FillPattern(3);
  Withheld withheld;
  std::mutex mutex;
  std::map<std::string, std::string> values;
  int sets = 0;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "SET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    values[words[1]] = words[2];
    const std::string reply = words[1] == "3-1"
                                  ? "-OOM command not allowed when used memory > 'maxmemory'.\r\n"
                                  : "+OK\r\n";
    // The replies of all but the last batch come when its first object has.
    return ++sets <= 9 ? withheld.Keep(reply) : withheld.LetGo(reply);
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  std::string lines;
  for (int id = 2; id < 6; id++) {
    lines += std::to_string(id) + " PUT";
    for (int i = 0; i < 3; i++) {
      const std::string offset = std::to_string(id * 100000 + i * 10000);
      lines += (i > 0 ? " ; " : " ") + std::to_string(id) + "-" + std::to_string(i) + " " + offset +
               " 10000 crc=0";
    }
    lines += "\n";
  }
  REQUIRE(client.Send(lines));
  std::map<int, std::string> answers = Answers(client, 4);
  for (const int id : {2, 4, 5}) CHECK_EQ(answers[id], "OK 10000 ; 10000 ; 10000");
  CHECK_STARTS(answers[3], "OK 10000 ; -ENOSPC put%203-1");
  CHECK_CONTAINS(answers[3], " ; 10000");
  {
    const std::lock_guard<std::mutex> lock(mutex);
    CHECK_EQ(values.size(), 12u);
    for (const auto& [key, value] : values) {
      const size_t at = std::stoul(key) * 100000 + std::stoul(key.substr(2)) * 10000;
      CHECK(segment.Bytes(at, 10000) == value);
    }
  }
  CHECK_EQ(server.connections(), 1);
  CHECK_CONTAINS(client.Call("6 INFO"), " errors=1 ");
}

TEST(what_a_broken_connection_leaves_of_a_batch_is_done_again_without_asking) {
  TestSegment segment(1 << 16);
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> last;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "SET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<std::string>& mine = last[words[1]];
    mine.push_back(words.size() > 3 ? words.back() : "");
    const bool there = mine.size() > 1 && mine.back() == "NX";
    if (words[1] == "b" && mine.size() == 1) return std::string(RedisLiar::kClose);
    return there ? "$-1\r\n" : "+OK\r\n";
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_EQ(client.Call("2 PUT a 0 10 if=absent crc=0 ; b 0 10 if=absent crc=0 ; c 0 10 crc=0"),
           "2 OK 10 ; 10 ; 10");
  const std::lock_guard<std::mutex> lock(mutex);
  CHECK(last["a"] == std::vector<std::string>({"NX"}));
  CHECK(last["b"] == std::vector<std::string>({"NX", ""}));
}

TEST(a_batch_of_several_nodes_leaves_at_once_and_is_answered_when_all_have_replied) {
  TestSegment segment(1 << 16);
  segment.FillPattern(5);
  std::atomic<int> ports[2] = {{0}, {0}};
  std::atomic<int> sets{0};
  std::atomic<bool> breaks{false};
  std::mutex mutex;
  std::map<std::string, Words> last;  // of each key, the last word of its SETs
  const auto serve = [&](int node, const Words& words) -> std::string {
    if (words[0] == "CLUSTER") return SlotsOf({{0, 8191, ports[0]}, {8192, 16383, ports[1]}});
    if (words[0] != "SET" || words[1].substr(0, 4) == "warm") return Honest(words);
    {
      const std::lock_guard<std::mutex> lock(mutex);
      CHECK_EQ(lmshm::SlotOf(words[1]) / 8192, node);
      last[words[1]].push_back(words.size() > 3 ? words.back() : "");
    }
    sets++;
    if (node == 1 && breaks.exchange(false)) return std::string(RedisLiar::kClose);
    // Nobody answers before the first of both nodes have come.
    for (int i = 0; i < kPatienceMs && sets < 2; i++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return "+OK\r\n";
  };
  RedisLiar first([&](const Words& words, int) { return serve(0, words); });
  RedisLiar second([&](const Words& words, int) { return serve(1, words); });
  ports[0] = first.port();
  ports[1] = second.port();
  WorkerSetup setup;
  setup.arguments = {"--store", "redis+cluster://127.0.0.1:" + std::to_string(first.port()) +
                                    "?layout=payload&timeout=60"};
  WorkerProcess worker(setup);
  LineClient& client = worker.client();
  Begin(client, segment);
  // So that there is a connection to each.
  CHECK_EQ(client.Call("2 PUT " + NameIn("warm", 0, 8191) + " 0 10 crc=0"), "2 OK 10");
  CHECK_EQ(client.Call("3 PUT " + NameIn("warm", 8192, 16383) + " 0 10 crc=0"), "3 OK 10");
  std::string batch;
  for (const std::string stem : {"a", "b", "c"}) {
    for (const int from : {0, 8192}) {
      batch += (batch.empty() ? " PUT " : " ; ") + NameIn(stem, from, from + 8191) +
               " 0 10 crc=0 if=absent";
    }
  }
  const std::string good = " OK 10 ; 10 ; 10 ; 10 ; 10 ; 10";
  CHECK_EQ(client.Call("4" + batch), "4" + good);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const auto& [key, words] : last) CHECK(words == Words({"NX"}));
    CHECK_EQ(last.size(), 6u);
    last.clear();
  }
  CHECK_EQ(first.connections() + second.connections(), 2);
  // One node breaks off: what it had is done again, and finds nothing of its own.
  breaks = true;
  CHECK_EQ(client.Call("5" + batch), "5" + good);
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [key, words] : last) {
    CHECK(words == (lmshm::SlotOf(key) < 8192 ? Words({"NX"}) : Words({"NX", ""})) ||
          words == Words({""}));
  }
  CHECK_EQ(last.size(), 6u);
}

TEST(what_a_batch_has_been_told_of_its_objects_holds_when_its_connection_breaks_then) {
  TestSegment segment(1 << 16);
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> last;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "SET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<std::string>& mine = last[words[1]];
    mine.push_back(words.size() > 3 ? words.back() : "");
    if (words[1] == "lost" && mine.size() == 1) return std::string(RedisLiar::kClose);
    return words[1] == "there" && mine.back() == "NX" ? "$-1\r\n" : "+OK\r\n";
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_EQ(client.Call("2 PUT there 0 10 if=absent ; stored 0 11 if=absent crc=0 ; "
                       "lost 0 12 if=absent crc=0"),
           "2 OK -EEXIST ; 11 ; 12");
  {
    const std::lock_guard<std::mutex> lock(mutex);
    CHECK(last["there"] == std::vector<std::string>({"NX"}));
    CHECK(last["stored"] == std::vector<std::string>({"NX"}));
    CHECK(last["lost"] == std::vector<std::string>({"NX", ""}));
  }
  const std::string info = client.Call("3 INFO");
  CHECK_CONTAINS(info, " errors=0 ");
  CHECK_CONTAINS(info, " puts=2 ");
}

TEST(what_a_batch_has_been_told_of_its_objects_holds_when_the_rest_is_cancelled) {
  TestSegment segment(4 << 20);
  Flag held;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "GET" && words[1] == "held") {
      held.Set();
      return "";
    }
    if (words[0] == "SET" && words[1] == "lost") {
      held.Wait();
      return std::string(RedisLiar::kClose);
    }
    return Honest(words);
  });
  WorkerSetup setup = On(server);
  setup.arguments.insert(setup.arguments.end(), {"--io-threads", "1"});
  WorkerProcess worker(setup);
  LineClient& client = worker.client();
  Begin(client, segment);
  // Its connection breaks when the only thread waits for another: what is given back waits for it.
  REQUIRE(client.Send("2 PUT stored 0 10 crc=0 ; lost 0 10 crc=0\n3 GET held 0 4000000\n"));
  std::string info;
  for (int i = 0; i < kPatienceMs && info.find(" queued=1 ") == std::string::npos; i++) {
    info = client.Call("4 INFO");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  REQUIRE(client.Send("5 CANCEL 2\n"));
  std::map<int, std::string> answers = Answers(client, 2);
  CHECK_EQ(answers[5], "OK 1");
  CHECK_STARTS(answers[2], "OK 10 ; -ECANCELED");
  CHECK_CONTAINS(client.Call("6 INFO"), " puts=1 ");
}

TEST(what_a_batch_has_been_told_of_its_objects_holds_when_another_has_moved) {
  TestSegment segment(1 << 16);
  std::mutex mutex;
  std::atomic<int> port{0};
  std::map<std::string, std::vector<std::string>> last;
  RedisLiar server([&](const Words& words, int) -> std::string {
    const std::string here = std::to_string(port);
    if (words[0] == "INFO") return Bulk("redis_version:0.0.0\r\ncluster_enabled:1\r\n");
    if (words[0] == "CLUSTER") {
      return "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + Bulk("127.0.0.1") + ":" + here + "\r\n";
    }
    if (words[0] != "SET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<std::string>& mine = last[words[1]];
    mine.push_back(words.size() > 3 ? words.back() : "");
    if (words[1] == "moved" && mine.size() == 1) return "-MOVED 1 127.0.0.1:" + here + "\r\n";
    return words[1] == "there" && mine.back() == "NX" ? "$-1\r\n" : "+OK\r\n";
  });
  port = server.port();
  WorkerSetup setup;
  setup.arguments = {"--store",
                     "redis+cluster://127.0.0.1:" + std::to_string(port) + "?layout=payload"};
  WorkerProcess worker(setup);
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_EQ(client.Call("2 PUT there 0 10 if=absent ; stored 0 11 if=absent crc=0 ; "
                       "moved 0 12 if=absent crc=0"),
           "2 OK -EEXIST ; 11 ; 12");
  const std::lock_guard<std::mutex> lock(mutex);
  CHECK(last["there"] == std::vector<std::string>({"NX"}));
  CHECK(last["stored"] == std::vector<std::string>({"NX"}));
  CHECK(last["moved"] == std::vector<std::string>({"NX", "NX"}));
}

TEST(a_cancelled_request_ends_and_those_that_share_its_connection_are_answered) {
  TestSegment segment(1 << 16);
  std::atomic<int> slow{0};
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words.size() > 1 && words[1] == "slow") slow++;
    // Whoever stands behind it on the first connection gets nothing.
    return words.size() > 1 && words[1] == "slow" ? RedisLiar::kHang : Honest(words);
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  REQUIRE(client.Send(Get(2, "slow") + Get(3, "a") + Get(4, "b")));
  for (int i = 0; i < kPatienceMs && slow == 0; i++) usleep(1000);
  REQUIRE(client.Send("5 CANCEL 2\n"));
  std::map<int, std::string> answers = Answers(client, 4);
  CHECK_STARTS(answers[2], "ERROR ECANCELED");
  CHECK_STARTS(answers[3], "OK 1");
  CHECK_STARTS(answers[4], "OK 1");
  CHECK_EQ(answers[5], "OK 1");
  CHECK_EQ(slow, 1);
}

// Who shares the connection would have to begin anew, and puts with if=absent without asking.
TEST(a_cancelled_request_waits_with_the_others_while_the_server_answers_however_slowly) {
  TestSegment segment(1 << 16);
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "GET") std::this_thread::sleep_for(std::chrono::milliseconds(40));
    return Honest(words);
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_STARTS(client.Call("2 GET a 200 100"), "2 OK 1");
  const int connections = server.connections();
  std::string lines;
  for (int id = 3; id < 15; id++) lines += Get(id, "a");
  REQUIRE(client.Send(lines));
  for (int i = 0; i < kPatienceMs && server.commands() < 4; i++) usleep(1000);
  REQUIRE(client.Send("15 CANCEL 14\n"));
  std::map<int, std::string> answers = Answers(client, 13);
  for (int id = 3; id < 14; id++) CHECK_STARTS(answers[id], "OK 1");
  CHECK_EQ(server.connections(), connections);
}

// 64 are under way, and what comes behind them waits here.
TEST(among_those_that_wait_the_highest_priority_is_first_and_a_cancelled_one_is_never_sent) {
  TestSegment segment(1 << 20);
  Withheld withheld;
  Flag go;
  std::mutex mutex;
  Words seen;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] != "GET") return Honest(words);
    const std::lock_guard<std::mutex> lock(mutex);
    seen.push_back(words[1]);
    if (seen.size() < 64) return withheld.Keep(Honest(words));
    if (seen.size() == 64) go.Wait();
    return withheld.LetGo(Honest(words));
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  std::string lines;
  for (int id = 2; id < 76; id++) lines += Get(id, "n" + std::to_string(id));
  lines += Get(76, "low", " prio=low") + Get(77, "high", " prio=high") + Get(78, "given-up");
  REQUIRE(client.Send(lines + "79 CANCEL 78\n"));
  std::map<int, std::string> answers = Answers(client, 2);
  CHECK_STARTS(answers[78], "ERROR ECANCELED");
  CHECK_EQ(answers[79], "OK 1");
  go.Set();
  answers = Answers(client, 76);
  CHECK_EQ(std::count_if(answers.begin(), answers.end(),
                         [](const auto& one) { return check::StartsWith(one.second, "OK "); }),
           76);
  const std::lock_guard<std::mutex> lock(mutex);
  REQUIRE_EQ(seen.size(), 76u);
  CHECK_EQ(seen[64], "high");
  // Passed over eight times at most.
  CHECK_EQ(seen[72], "low");
}

TEST(a_client_with_many_requests_does_not_hold_up_another) {
  TestSegment segment(1 << 20);
  const TempDir dir;
  Flag go;
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words.size() > 1 && words[1] == "slow") go.Wait();
    return Honest(words);
  });
  WorkerSetup setup = On(server);
  setup.arguments.insert(setup.arguments.end(),
                         {"--listen", "unix:" + (dir / "s"), "--io-threads=2"});
  WorkerProcess worker(setup);
  worker.Listening();
  LineClient many = ConnectUnix(dir / "s");
  LineClient one = ConnectUnix(dir / "s");
  Begin(many, segment);
  Begin(one, segment);
  std::string lines;
  for (int id = 2; id < 902; id++) lines += Get(id, "slow");
  REQUIRE(many.Send(lines));
  CHECK_STARTS(many.Call("902 PING"), "902 OK");  // by now all of them are under way or wait
  CHECK_STARTS(one.Call("2 GET a 0 100"), "2 OK 1");
  CHECK_STARTS(one.Call("3 GET b 0 100"), "3 OK 1");
  // Nor does one that goes away in the middle.
  many.Close();
  CHECK_STARTS(one.Call("4 GET c 0 100"), "4 OK 1");
  go.Set();
  CHECK_STARTS(one.Call("5 PUT d 0 100"), "5 OK 100");
  worker.Kill(SIGTERM);
  CHECK_EQ(worker.Wait(), 0);
}

TEST(a_server_that_answers_nothing_more_is_waited_for_as_long_as_said) {
  TestSegment segment(1 << 16);
  RedisLiar server([&](const Words& words, int) -> std::string {
    return words[0] == "GET" ? std::string(RedisLiar::kHang) : Honest(words);
  });
  WorkerProcess worker(On(server, "1"));
  LineClient& client = worker.client();
  Begin(client, segment);
  REQUIRE(client.Send(Get(2, "a") + Get(3, "b") + Get(4, "c")));
  for (const auto& [id, answer] : Answers(client, 3)) CHECK_STARTS(answer, "ERROR ETIMEDOUT");
  CHECK_STARTS(client.Call("5 PUT d 0 10"), "5 OK 10");
}

TEST(a_server_is_not_blamed_for_the_time_in_which_the_client_takes_no_answers) {
  constexpr int kGets = 16;  // with more in all than is read in one go
  constexpr int kPings = 20000;
  constexpr size_t kBytes = 200 * 1000;
  TestSegment segment(kGets * kBytes);
  RedisLiar server([&](const Words& words, int) -> std::string {
    return words[0] == "GET" ? Bulk(std::string(kBytes, 'x')) : Honest(words);
  });
  WorkerProcess worker(On(server, "1"));
  LineClient& client = worker.client();
  Begin(client, segment);
  std::string lines;
  for (int i = 0; i < kGets; i++) {
    lines += std::to_string(i + 2) + " GET key " + std::to_string(i * kBytes) + " 200000\n";
  }
  for (int i = 0; i < kPings; i++) lines += "100 PING\n";
  std::thread sends([&] { CHECK(client.Send(lines)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  int gets = 0;
  for (int i = 0; i < kGets + kPings; i++) {
    const std::string line = client.Line();
    if (line.empty()) break;
    if (line.substr(0, 4) == "100 ") continue;
    gets++;
    CHECK(line.find(" OK 200000") != std::string::npos);
  }
  CHECK_EQ(gets, kGets);
  sends.join();
}

TEST(a_connection_to_a_server_that_has_become_a_replica_is_not_used_again) {
  TestSegment segment(1 << 16);
  std::atomic<bool> moved{false};
  RedisLiar server([&](const Words& words, int) -> std::string {
    thread_local const bool old = !moved;  // this connection is
    if (words[0] != "SET" || !moved || !old) return Honest(words);
    return words[1] == "withheld" ? ""
                                  : "-READONLY You can't write against a read only replica.\r\n";
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_STARTS(client.Call("2 PUT a 0 100"), "2 OK 100");
  moved = true;
  CHECK_STARTS(client.Call("3 PUT a 0 100"), "3 ERROR EAGAIN");
  CHECK_STARTS(client.Call("4 PUT a 0 100"), "4 OK 100");
}

TEST(what_comes_behind_a_reply_of_a_replica_goes_elsewhere_even_while_others_wait_there) {
  TestSegment segment(1 << 16);
  std::atomic<bool> moved{false};
  RedisLiar server([&](const Words& words, int) -> std::string {
    thread_local const bool old = !moved;
    if (words[0] != "SET" || !moved || !old) return Honest(words);
    return words[1] == "withheld" ? ""
                                  : "-READONLY You can't write against a read only replica.\r\n";
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  CHECK_STARTS(client.Call("2 PUT a 0 100"), "2 OK 100");
  moved = true;
  REQUIRE(client.Send("3 PUT a 0 100\n4 PUT withheld 0 100\n"));
  CHECK_STARTS(client.Line(), "3 ERROR EAGAIN");
  CHECK_STARTS(client.Call("5 PUT a 0 100"), "5 OK 100");
}

TEST(an_object_whose_memory_is_gone_takes_no_other_with_it) {
  TestSegment segment(1 << 20);
  segment.FillPattern(4);
  RedisLiar server([&](const Words& words, int) -> std::string {
    return words[0] == "SET" ? (words.at(2).size() == 1000 ? "+OK\r\n" : "-ERR cut\r\n")
                             : Honest(words);
  });
  WorkerProcess worker(On(server));
  LineClient& client = worker.client();
  Begin(client, segment);
  REQUIRE_EQ(ftruncate(segment.fd(), 4096), 0);
  REQUIRE(client.Send("2 PUT a 0 1000\n3 PUT b 500000 1000\n4 PUT c 1000 1000\n"));
  std::map<int, std::string> answers = Answers(client, 3);
  CHECK_STARTS(answers[2], "OK 1000");
  CHECK_STARTS(answers[3], "ERROR EFAULT");
  CHECK_STARTS(answers[4], "OK 1000");
}

CHECK_MAIN
