// SPDX-License-Identifier: Apache-2.0
//
// The real worker on Unix sockets and TCP: many clients, bad clients, sockets left and right.
#include <sys/resource.h>
#include <sys/time.h>

#include <atomic>
#include <thread>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

WorkerSetup Listen(const TempDir& dir, std::vector<std::string> more = {}) {
  std::filesystem::create_directories(dir / "root");
  WorkerSetup setup;
  setup.arguments = {"--listen", "unix:" + (dir / "s"), "--root", dir / "root"};
  for (std::string& argument : more) setup.arguments.push_back(std::move(argument));
  return setup;
}

WorkerSetup ListenTcp(const TempDir& dir, const std::string& address = "127.0.0.1:0") {
  std::filesystem::create_directories(dir / "root");
  WorkerSetup setup;
  setup.arguments = {"--listen", address, "--root", dir / "root", "--no-auth"};
  return setup;
}

// CPU time that a process has used, in clock ticks.
long CpuTicks(pid_t pid) {
  std::istringstream stat(ReadFile("/proc/" + std::to_string(pid) + "/stat"));
  std::string word;
  long user = 0, system = 0;
  for (int i = 1; i <= 15 && stat >> word; i++) {
    if (i == 14) user = atol(word.c_str());
    if (i == 15) system = atol(word.c_str());
  }
  return user + system;
}

// A whole conversation with data of its own; returns what went wrong.
std::string Converse(LineClient* c, int id, int rounds) {
  TestSegment segment(300000);
  segment.FillPattern(static_cast<unsigned>(id));
  const std::string before = segment.Bytes(0, 200000);
  std::string answer = c->Call(segment.AttachLine());
  if (answer != "OK") return answer;
  for (int i = 0; i < rounds; i++) {
    const std::string name = "client-" + std::to_string(id) + "-" + std::to_string(i);
    answer = c->Call(segment.Line("WRITE", name, 0, 200000));
    if (answer != "OK 200000") return answer;
    std::memset(segment.data(), 0, segment.size());
    answer = c->Call(segment.Line("READ", name, 0, 300000));
    if (answer != "OK 200000") return answer;
    if (segment.Bytes(0, 200000) != before) return "wrong bytes";
  }
  answer = c->Call("QUIT");
  if (answer != "OK") return answer;
  return c->Line();
}

}  // namespace

TEST(a_unix_socket_is_private_and_removed_at_the_end) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  CHECK_EQ(worker.Listening(), "unix:" + (dir / "s"));
  struct stat st;
  REQUIRE_EQ(lstat((dir / "s").c_str(), &st), 0);
  CHECK(S_ISSOCK(st.st_mode));
  CHECK_EQ(st.st_mode & 0777, 0600u);
  LineClient c = ConnectUnix(dir / "s");
  REQUIRE(c.valid());
  CHECK_EQ(Converse(&c, 1, 2), "<end>");
  worker.Kill(SIGTERM);
  CHECK_EQ(worker.Wait(), 0);
  CHECK(lstat((dir / "s").c_str(), &st) != 0);
  CHECK_EQ(worker.Errors(), "");
}

TEST(tcp_on_ipv4_and_ipv6) {
  for (const bool v6 : {false, true}) {
    const TempDir dir;
    WorkerProcess worker(ListenTcp(dir, v6 ? "[::1]:0" : ":0"));
    const std::string line = worker.client().Line();
    if (v6 && line == "<end>" && worker.Wait() == 3) continue;  // no IPv6 on this machine
    CHECK_STARTS(line, v6 ? "LISTENING [::1]:" : "LISTENING 127.0.0.1:");
    const int port = atoi(line.substr(line.rfind(':') + 1).c_str());
    CHECK(port > 0);
    LineClient c = ConnectTcp(port, v6);
    REQUIRE(c.valid());
    CHECK_EQ(Converse(&c, 2, 2), "<end>");
    worker.Kill(SIGINT);
    CHECK_EQ(worker.Wait(), 0);
  }
}

TEST(several_addresses_at_once) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--listen=127.0.0.1:0", "--no-auth"}));
  CHECK_EQ(worker.Listening(), "unix:" + (dir / "s"));
  const int port = worker.ListeningPort();
  LineClient a = ConnectUnix(dir / "s");
  LineClient b = ConnectTcp(port);
  CHECK_EQ(a.Call("PING"), "OK");
  CHECK_EQ(b.Call("PING"), "OK");
}

TEST(many_clients_each_with_its_own_segment) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--listen=127.0.0.1:0", "--no-auth"}));
  worker.Listening();
  const int port = worker.ListeningPort();
  constexpr int kClients = 24;
  std::vector<std::string> results(kClients);
  std::vector<std::unique_ptr<LineClient>> clients;
  for (int i = 0; i < kClients; i++) {
    clients.push_back(
        std::make_unique<LineClient>(i % 2 == 0 ? ConnectUnix(dir / "s") : ConnectTcp(port)));
    CHECK_EQ(clients.back()->Call("PING"), "OK");  // all are there at once
  }
  // One after the other: TestSegment counts its names, and is not made for threads.
  for (int i = 0; i < kClients; i++) {
    const size_t at = static_cast<size_t>(i);
    results[at] = Converse(clients[at].get(), i, 1);
  }
  for (const std::string& result : results) CHECK_EQ(result, "<end>");
}

TEST(clients_work_at_the_same_time) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  constexpr size_t kClients = 8;
  std::vector<std::unique_ptr<TestSegment>> segments;
  for (size_t i = 0; i < kClients; i++) {
    segments.push_back(std::make_unique<TestSegment>(1 << 20));
    segments.back()->FillPattern(static_cast<unsigned>(i * 7));
  }
  std::atomic<int> bad{0};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kClients; i++) {
    threads.emplace_back([&, i] {
      TestSegment& segment = *segments[i];
      const std::string before = segment.Bytes(0, 1 << 19);
      LineClient c = ConnectUnix(dir / "s");
      if (c.Call(segment.AttachLine()) != "OK") bad++;
      for (int round = 0; round < 20; round++) {
        // Every other object is everybody's.
        const std::string name = round % 2 == 0 ? "shared" : "own-" + std::to_string(i);
        if (c.Call(segment.Line("WRITE", name, 0, 1 << 19)) != "OK 524288") bad++;
        if (c.Call(segment.Line("READ", name, 1 << 19, 1 << 19)) != "OK 524288") bad++;
        const std::string after = segment.Bytes(1 << 19, 1 << 19);
        if (round % 2 == 1 && after != before) bad++;
        if (round % 2 == 0) {
          bool whole = false;
          for (const auto& other : segments) {
            if (std::memcmp(other->data(), after.data(), 1 << 19) == 0) whole = true;
          }
          if (!whole) bad++;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(bad.load(), 0);
}

TEST(one_client_too_many_is_told_so) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--max-clients", "2"}));
  worker.Listening();
  LineClient a = ConnectUnix(dir / "s"), b = ConnectUnix(dir / "s");
  CHECK_EQ(a.Call("PING"), "OK");
  CHECK_EQ(b.Call("PING"), "OK");
  {
    LineClient c = ConnectUnix(dir / "s");
    CHECK_STARTS(c.Line(), "ERROR EAGAIN 2 clients are connected already");
    CHECK_EQ(c.Line(), "<end>");
  }
  CHECK_EQ(a.Call("QUIT"), "OK");
  CHECK_EQ(a.Line(), "<end>");
  std::string answer;
  for (int i = 0; i < 2000; i++) {  // the place is free as soon as the thread has ended
    LineClient c = ConnectUnix(dir / "s");
    answer = c.Call("PING");
    if (answer == "OK") break;
    usleep(10 * 1000);
  }
  CHECK_EQ(answer, "OK");
}

TEST(those_who_are_refused_do_not_fill_the_log) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--max-clients=1", "--log-level=warn"}));
  worker.Listening();
  LineClient only = ConnectUnix(dir / "s");
  CHECK_EQ(only.Call("PING"), "OK");
  const auto refuse = [&] {
    CHECK_STARTS(ConnectUnix(dir / "s").Line(), "ERROR EAGAIN 1 clients ");
  };
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; i++) refuse();
  const auto passed = std::chrono::steady_clock::now() - begin;
  usleep(1100 * 1000);
  refuse();
  const std::string log = worker.Errors();
  CHECK(log.find(" like it)") != std::string::npos);
  int lines = 0;
  for (size_t at = 0; (at = log.find(" refused ", at)) != std::string::npos; at++) lines++;
  CHECK(lines >= 2 &&
        lines <= 3 + std::chrono::duration_cast<std::chrono::seconds>(passed).count());
  CHECK_EQ(only.Call("PING"), "OK");
}

TEST(who_is_refused_can_read_why_although_he_has_sent_something) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--listen=127.0.0.1:0", "--no-auth", "--max-clients=2"}));
  worker.Listening();
  const int port = worker.ListeningPort();
  LineClient a = ConnectUnix(dir / "s"), b = ConnectTcp(port);
  CHECK_EQ(a.Call("PING"), "OK");
  CHECK_EQ(b.Call("PING"), "OK");
  for (const bool tcp : {false, true}) {
    LineClient c = tcp ? ConnectTcp(port) : ConnectUnix(dir / "s");
    CHECK(c.Send("PING\nPING\n"));
    usleep(200 * 1000);
    CHECK(c.Send("PING\n"));
    usleep(50 * 1000);
    CHECK_STARTS(c.Line(), "ERROR EAGAIN 2 clients are connected already");
    CHECK_EQ(c.Line(), "<end>");
  }
}

TEST(those_who_are_refused_and_stay_delay_nobody) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--max-clients=1"}));
  worker.Listening();
  LineClient a = ConnectUnix(dir / "s");
  CHECK_EQ(a.Call("PING"), "OK");
  const std::string fds = "/proc/" + std::to_string(worker.pid()) + "/fd";
  const auto count = [&fds] { return std::distance(std::filesystem::directory_iterator(fds), {}); };
  const auto before = count();
  std::vector<LineClient> refused;
  for (int i = 0; i < 100; i++) {
    refused.push_back(ConnectUnix(dir / "s"));
    CHECK_STARTS(refused.back().Line(), "ERROR EAGAIN ");
    CHECK(count() <= before + 20);
  }
  CHECK_EQ(a.Call("PING"), "OK");
  // Those that never close are closed.
  for (int i = 0; i < 1000 && count() > before; i++) usleep(10 * 1000);
  CHECK_EQ(count(), before);
}

TEST(a_client_that_does_not_read_delays_nobody) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  LineClient stuck = ConnectUnix(dir / "s");
  std::string pings;
  for (int i = 0; i < 10000; i++) pings += "PING\n";
  size_t sent = 0;
  while (sent < (64u << 20) && stuck.TrySend(pings, 300)) sent += pings.size();
  CHECK(sent < (64u << 20));
  LineClient other = ConnectUnix(dir / "s");
  CHECK_EQ(Converse(&other, 3, 3), "<end>");
  worker.Kill(SIGTERM);  // and the end is not delayed beyond the grace period
  CHECK_EQ(worker.Wait(), 0);
}

TEST(clients_that_vanish_are_cleaned_up) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--max-clients=4"}));
  worker.Listening();
  TestSegment segment(1 << 20);
  const std::string fds = "/proc/" + std::to_string(worker.pid()) + "/fd";
  const auto count = [&fds] { return std::distance(std::filesystem::directory_iterator(fds), {}); };
  LineClient steady = ConnectUnix(dir / "s");
  CHECK_EQ(steady.Call("PING"), "OK");
  const auto before = count();
  for (int i = 0; i < 50; i++) {
    std::string answer;
    for (int attempt = 0; attempt < 2000; attempt++) {
      LineClient c = ConnectUnix(dir / "s");
      answer = c.Call(segment.AttachLine());
      if (answer == "OK") {
        // Gone in the middle of a line, or with an answer on its way.
        c.Send(i % 2 == 0 ? "WRITE x 1" : segment.Line("WRITE", "x", 0, 1 << 20) + "\n");
        break;
      }
      usleep(10 * 1000);
    }
    CHECK_EQ(answer, "OK");
  }
  auto after = count();
  for (int i = 0; i < 2000 && after != before; i++) {
    usleep(10 * 1000);
    after = count();
  }
  CHECK_EQ(after, before);
  const std::string maps = ReadFile("/proc/" + std::to_string(worker.pid()) + "/maps");
  CHECK(maps.find(segment.name()) == std::string::npos);
}

TEST(an_idle_client_is_dropped_if_so_wished) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir, {"--idle-timeout", "1"}));
  worker.Listening();
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
  CHECK_EQ(c.Line(), "<end>");
  LineClient again = ConnectUnix(dir / "s");
  CHECK_EQ(again.Call("PING"), "OK");
}

TEST(a_stale_socket_is_replaced) {
  const TempDir dir;
  {
    WorkerProcess worker(Listen(dir));
    worker.Listening();
    worker.Kill(SIGKILL);
    CHECK_EQ(worker.Wait(), 1000 + SIGKILL);
  }
  CHECK(std::filesystem::exists(dir / "s"));
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(a_socket_in_use_and_other_files_are_left_alone) {
  const TempDir dir;
  WorkerProcess first(Listen(dir));
  first.Listening();
  {
    WorkerProcess second(Listen(dir));
    CHECK_EQ(second.Wait(), 3);
    CHECK_CONTAINS(second.Errors(), "EADDRINUSE");
  }
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");

  const TempDir other;
  WriteFile(other / "s", "precious");
  WorkerProcess third(Listen(other));
  CHECK_EQ(third.Wait(), 3);
  CHECK_CONTAINS(third.Errors(), "EEXIST");
  CHECK_EQ(ReadFile(other / "s"), "precious");
}

TEST(of_many_started_together_one_listens) {
  const TempDir dir;
  {
    WorkerProcess stale(Listen(dir));
    stale.Listening();
    stale.Kill(SIGKILL);
    stale.Wait();
  }
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  for (int i = 0; i < 6; i++) workers.push_back(std::make_unique<WorkerProcess>(Listen(dir)));
  int listening = 0;
  for (auto& worker : workers) {
    const std::string line = worker->client().Line();
    if (line == "LISTENING unix:" + (dir / "s")) {
      listening++;
    } else {
      CHECK_EQ(worker->Wait(), 3);
    }
  }
  CHECK_EQ(listening, 1);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(a_socket_that_was_replaced_is_not_removed) {
  const TempDir dir;
  WorkerProcess first(Listen(dir));
  first.Listening();
  std::filesystem::remove(dir / "s");
  WorkerProcess second(Listen(dir));
  second.Listening();
  first.Kill(SIGTERM);
  CHECK_EQ(first.Wait(), 0);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(a_port_in_use) {
  const TempDir dir;
  WorkerProcess first(ListenTcp(dir));
  const int port = first.ListeningPort();
  WorkerProcess second(ListenTcp(dir, "127.0.0.1:" + std::to_string(port)));
  CHECK_EQ(second.Wait(), 3);
  CHECK_CONTAINS(second.Errors(), "EADDRINUSE");
}

TEST(another_user_is_refused_on_a_unix_socket) {
  if (geteuid() != 0) SKIP("only root can become another user");
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  // Let the file's mode not be what refuses.
  REQUIRE_EQ(chmod((dir / "s").c_str(), 0666), 0);
  REQUIRE_EQ(chmod(dir.path().c_str(), 0755), 0);
  int result[2];
  REQUIRE_EQ(pipe2(result, O_CLOEXEC), 0);
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(1);
    // A client sends its first lines without waiting for anything, and may be late with the next.
    LineClient c = ConnectUnix(dir / "s");
    bool sent = c.Send("HELLO 2\n1 ATTACH /x 1\n");
    usleep(200 * 1000);
    sent = c.Send("2 PING\n") && sent;
    std::string answer = (sent ? "sent: " : "not sent: ") + c.Line() + "\n";
    answer += c.Line() + "\n";
    _exit(write(result[1], answer.data(), answer.size()) < 0);
  }
  close(result[1]);
  LineClient from_child((lmshm::UniqueFd(result[0])), lmshm::UniqueFd());
  CHECK_STARTS(from_child.Line(), "sent: ERROR EACCES this worker serves user 0 only");
  CHECK_EQ(from_child.Line(), "<end>");
  int status;
  waitpid(pid, &status, 0);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(running_out_of_descriptors_neither_spins_nor_kills) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  const auto used = std::distance(
      std::filesystem::directory_iterator("/proc/" + std::to_string(worker.pid()) + "/fd"), {});
  const struct rlimit limit = {static_cast<rlim_t>(used) + 3, static_cast<rlim_t>(used) + 3};
  REQUIRE_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  std::vector<LineClient> clients;
  for (int i = 0; i < 10; i++) clients.push_back(ConnectUnix(dir / "s"));
  CHECK_EQ(clients[0].Call("PING"), "OK");
  const long before = CpuTicks(worker.pid());
  usleep(1000 * 1000);
  const long used_ticks = CpuTicks(worker.pid()) - before;
  CHECK(used_ticks < sysconf(_SC_CLK_TCK) / 2);  // spinning would take all of that second
  const std::string errors = worker.Errors();
  CHECK_CONTAINS(errors, "EMFILE");
  CHECK_EQ(errors.find("EMFILE"), errors.rfind("EMFILE"));  // said once, not ten times a second
  for (size_t i = 0; i < 9; i++) clients[i].Close();
  CHECK_EQ(clients[9].Call("PING"), "OK");
}

TEST(files_that_stay_open_leave_descriptors_to_everybody) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir dir;
  TestSegment segment(1 << 16);
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  LineClient busy = ConnectUnix(dir / "s");
  CHECK_STARTS(busy.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(busy.Call("1 ATTACH " + segment.name() + " 65536 -"), "1 OK");
  for (int i = 0; i < 8; i++) {
    CHECK_STARTS(busy.Call("1 PUT " + std::to_string(i) + " 0 100"), "1 OK 100");
  }
  usleep(2200 * 1000);  // what was stored just now is not kept
  // As many as there are, and not one more.
  const auto take_all = [&] {
    struct rlimit limit;
    REQUIRE_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    REQUIRE_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
    for (int i = 0; i < 24; i++) {
      CHECK_STARTS(busy.Call("1 GET " + std::to_string(i % 8) + " 0 100"), "1 OK 100");
    }
    if (busy.Call("1 INFO").find(" kept_open=8 ") == std::string::npos) SKIP("nothing is kept");
    limit.rlim_cur = static_cast<rlim_t>(std::distance(
        std::filesystem::directory_iterator("/proc/" + std::to_string(worker.pid()) + "/fd"), {}));
    REQUIRE_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  };
  take_all();
  LineClient client = ConnectUnix(dir / "s");
  CHECK_EQ(client.Call("PING"), "OK");
  take_all();
  CHECK_EQ(client.Call(segment.AttachLine()), "OK");
  take_all();
  CHECK_STARTS(client.Call("HELLO 2"), "OK 2 ");
  take_all();
  CHECK_EQ(client.Call("1 ATTACH " + segment.name() + " 65536 -"), "1 OK");
  take_all();
  CHECK_STARTS(client.Call("2 LIST 100 -"), "2 OK ");
  take_all();
  CHECK_STARTS(client.Call("3 PUT new 0 100"), "3 OK 100");
}

TEST(a_spawner_that_does_not_read_the_announcement_is_served) {
  const TempDir dir;
  WorkerSetup setup = Listen(dir);
  setup.before_exec = [] { close(1); };
  WorkerProcess worker(setup);
  LineClient c;
  for (int i = 0; i < 1000 && !c.valid(); i++) {
    c = ConnectUnix(dir / "s");
    usleep(5000);
  }
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(the_end_of_stdin_does_not_end_a_listening_worker) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  worker.client().CloseOut();
  usleep(50 * 1000);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
}

TEST(a_signal_lets_a_request_at_work_finish) {
  const TempDir dir;
  WorkerProcess worker(Listen(dir));
  worker.Listening();
  TestSegment segment(64 << 20);
  segment.FillPattern(5);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  REQUIRE(c.Send(segment.Line("WRITE", "f", 0, 64 << 20) + "\n"));
  for (int i = 0; i < 5000 && std::filesystem::is_empty(dir / "root"); i++) usleep(1000);
  worker.Kill(SIGTERM);
  CHECK_EQ(c.Line(), "OK 67108864");
  CHECK_EQ(c.Line(), "<end>");
  CHECK_EQ(worker.Wait(), 0);
  CHECK_EQ(std::filesystem::file_size(dir / "root/f"), 64u << 20);
}

CHECK_MAIN
