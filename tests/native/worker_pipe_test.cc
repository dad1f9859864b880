// SPDX-License-Identifier: Apache-2.0
//
// The real worker on stdin and stdout.
#include <sys/resource.h>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

// Runs a worker until it ends; its stdin is `input`, then closed.
std::string Answers(const std::string& input, int* status) {
  WorkerProcess worker({});
  REQUIRE(worker.client().Send(input));
  worker.client().CloseOut();
  std::string all;
  for (;;) {
    const std::string line = worker.client().Line();
    if (line == "<end>") break;
    REQUIRE(line != "<timeout>");
    all += line + "\n";
  }
  *status = worker.Wait();
  return all;
}

}  // namespace

TEST(a_chunk_goes_out_and_comes_back) {
  for (const bool socket_stdio : {false, true}) {
    const TempDir dir;
    TestSegment segment(40 << 20);
    segment.FillPattern(3);
    const size_t length = 33554432 + 17;
    const std::string before = segment.Bytes(1000, length);
    WorkerSetup setup;
    setup.socket_stdio = socket_stdio;
    WorkerProcess worker(setup);
    LineClient& c = worker.client();
    CHECK_EQ(c.Call(segment.AttachLine()), "OK");
    CHECK_EQ(c.Call(segment.Line("WRITE", dir / "a chunk", 1000, length)), "OK 33554449");
    CHECK(ReadFile(dir / "a chunk") == before);
    segment.FillPattern(4);
    CHECK_EQ(c.Call(segment.Line("READ", dir / "a chunk", 1000, length + 5)), "OK 33554449");
    CHECK(segment.Bytes(1000, length) == before);
    CHECK_EQ(c.Call("QUIT"), "OK");
    CHECK_EQ(c.Line(), "<end>");
    CHECK_EQ(worker.Wait(), 0);
    CHECK_EQ(worker.Errors(), "");
  }
}

TEST(answers_come_in_the_order_of_requests) {
  std::string input, expected;
  for (int i = 0; i < 5000; i++) {
    const std::string name = "no-command-" + std::to_string(i);
    input += name + (i % 3 == 0 ? "\r\n" : "\n") + "PING\n";
    expected += "ERROR EINVAL unknown command \"" + name +
                "\"; this worker knows ATTACH, WRITE, READ, PING, QUIT\nOK\n";
  }
  int status;
  CHECK(Answers(input, &status) == expected);
  CHECK_EQ(status, 0);
}

TEST(end_of_input_after_complete_lines) {
  int status;
  CHECK_EQ(Answers("PING\nPING\n", &status), "OK\nOK\n");
  CHECK_EQ(status, 0);
  CHECK_EQ(Answers("", &status), "");
  CHECK_EQ(status, 0);
}

TEST(a_last_line_without_its_end_is_not_carried_out) {
  const TempDir dir;
  int status;
  CHECK_EQ(Answers("PING\nQUIT", &status), "OK\n");
  CHECK_EQ(status, 0);
}

TEST(what_comes_behind_quit_is_not_carried_out) {
  int status;
  CHECK_EQ(Answers("PING\nQUIT\nPING\nPING\n", &status), "OK\nOK\n");
  CHECK_EQ(status, 0);
}

TEST(a_line_that_is_too_long_is_answered_once) {
  int status;
  const std::string endless(300000, 'x');
  CHECK_EQ(Answers(endless + "\nPING\n" + endless + "\n\nPING\n", &status),
           "ERROR E2BIG the line is longer than 65536 bytes; all of it was ignored\nOK\n"
           "ERROR E2BIG the line is longer than 65536 bytes; all of it was ignored\n"
           "ERROR EINVAL empty line; expected a command\nOK\n");
  CHECK_EQ(status, 0);
}

TEST(an_answer_does_not_wait_for_the_rest_of_the_next_request) {
  WorkerProcess worker({});
  REQUIRE(worker.client().Send("PING\nPI"));
  CHECK_EQ(worker.client().Line(), "OK");
  REQUIRE(worker.client().Send("NG\n"));
  CHECK_EQ(worker.client().Line(), "OK");
}

TEST(requests_byte_by_byte) {
  WorkerProcess worker({});
  for (const char c : std::string("PING\r\nQUIT\n")) {
    REQUIRE(worker.client().Send(std::string_view(&c, 1)));
    usleep(500);
  }
  CHECK_EQ(worker.client().Line(), "OK");
  CHECK_EQ(worker.client().Line(), "OK");
  CHECK_EQ(worker.Wait(), 0);
}

TEST(a_parent_that_never_reads_stderr_is_served) {
  WorkerSetup setup;
  setup.arguments = {"--log-level", "debug"};
  WorkerProcess worker(setup);
  const std::string name(200, 'x');
  for (int i = 0; i < 5000; i++) {
    CHECK_STARTS(worker.client().Call("READ " + name + " 1 1"), "ERROR ENOTCONN ");
  }
  CHECK_EQ(worker.client().Call("QUIT"), "OK");
  CHECK_EQ(worker.Wait(), 0);
  const std::string errors = worker.Errors();
  CHECK(errors.size() > 10000 && errors.size() < 200000);  // what a pipe holds, the rest dropped
}

TEST(log_lines_that_were_dropped_are_counted) {
  WorkerSetup setup;
  setup.arguments = {"--log-level=debug"};
  WorkerProcess worker(setup);
  for (int i = 0; i < 3000; i++) CHECK_EQ(worker.client().Call("PING"), "OK");
  const std::string first = worker.Errors();
  CHECK_EQ(worker.client().Call("PING"), "OK");
  CHECK_CONTAINS(worker.Errors(), "earlier lines dropped)");
}

TEST(a_parent_that_does_not_read_answers_does_not_make_the_worker_grow) {
  WorkerProcess worker({});
  LineClient& c = worker.client();
  // Send until neither pipe takes any more, for half a second.
  size_t sent = 0;
  std::string pings;
  for (int i = 0; i < 1000; i++) pings += "PING\n";
  while (sent < (8u << 20) && c.TrySend(pings, 500)) sent += pings.size();
  CHECK(sent < (8u << 20));  // it stopped taking them
  CHECK_EQ(c.Line(), "OK");
}

TEST(signals_end_it_cleanly) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    WorkerProcess worker({});
    CHECK_EQ(worker.client().Call("PING"), "OK");
    worker.Kill(signal);
    CHECK_EQ(worker.Wait(), 0);
  }
}

TEST(a_signal_ends_it_though_its_answers_are_not_read) {
  WorkerProcess worker({});
  std::string pings;
  for (int i = 0; i < 200000; i++) pings += "PING\n";
  while (worker.client().TrySend(pings, 300)) {
  }
  worker.Kill(SIGTERM);
  CHECK_EQ(worker.Wait(), 0);  // after the grace period of 5 s
}

TEST(a_second_signal_ends_it_at_once) {
  WorkerProcess worker({});
  std::string pings;
  for (int i = 0; i < 200000; i++) pings += "PING\n";
  while (worker.client().TrySend(pings, 300)) {
  }
  worker.Kill(SIGTERM);
  usleep(300 * 1000);  // for the first one to be handled: two pending ones are one
  worker.Kill(SIGTERM);
  CHECK_EQ(worker.Wait(), 1000 + SIGTERM);
}

TEST(a_parent_that_is_gone_is_a_failure) {
  WorkerProcess worker({});
  CHECK_EQ(worker.client().Call("PING"), "OK");
  // stdout first, so that the answer has nowhere to go.
  worker.client().CloseIn();
  worker.client().Send("PING\n");
  CHECK_EQ(worker.Wait(), 1);
  CHECK_CONTAINS(worker.Errors(), "EPIPE");
}

TEST(closed_standard_descriptors_are_survived) {
  WorkerSetup setup;
  setup.before_exec = [] { close(0), close(1), close(2); };
  WorkerProcess worker(setup);
  CHECK_EQ(worker.Wait(), 0);
}

TEST(an_anonymous_segment_is_attached_by_its_granted_descriptor) {
  const TempDir dir;
  const lmshm::UniqueFd memory(memfd_create("lmshm_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(memory.valid());
  REQUIRE_EQ(ftruncate(memory.get(), 8192), 0);
  REQUIRE_EQ(fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  REQUIRE_EQ(pwrite(memory.get(), "hello", 5, 100), 5);
  WorkerSetup setup;
  setup.arguments = {"--segment-fd", "3"};
  const int source = memory.get();
  setup.before_exec = [source] {
    if (source == 3) {
      fcntl(3, F_SETFD, 0);
    } else {
      dup2(source, 3);
    }
  };
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_STARTS(c.Call("ATTACH fd:4 8192 0"), "ERROR EACCES ");
  CHECK_STARTS(c.Call("ATTACH fd:3 8193 0"), "ERROR ERANGE ");
  CHECK_EQ(c.Call("ATTACH fd:3 8192 0"), "OK");
  CHECK_EQ(c.Call("WRITE " + (dir / "f") + " 100 5"), "OK 5");
  CHECK_EQ(ReadFile(dir / "f"), "hello");
  CHECK_EQ(c.Call("READ " + (dir / "f") + " 200 5"), "OK 5");
  char text[6] = "";
  REQUIRE_EQ(pread(memory.get(), text, 5, 200), 5);
  CHECK_EQ(std::string(text), "hello");
}

TEST(relative_paths_and_dot_dot_in_pipe_mode) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "cwd");
  TestSegment segment(4096);
  std::memset(segment.data(), 'r', 4096);
  const std::string cwd = dir / "cwd";
  WorkerSetup setup;
  setup.before_exec = [&cwd] {
    if (chdir(cwd.c_str()) != 0) _exit(99);
  };
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", "here", 0, 1)), "OK 1");
  CHECK_EQ(c.Call(segment.Line("WRITE", "../there", 0, 2)), "OK 2");
  CHECK_EQ(ReadFile(dir / "cwd/here") + ReadFile(dir / "there"), "rrr");
}

TEST(pipe_mode_with_a_root_is_confined) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "root");
  WriteFile(dir / "secret", "s");
  TestSegment segment(4096);
  WorkerSetup setup;
  setup.arguments = {"--root", dir / "root"};
  WorkerProcess worker(setup);
  LineClient& c = worker.client();
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", dir / "root/f", 0, 1)), "OK 1");
  CHECK_EQ(c.Call(segment.Line("READ", "f", 0, 1)), "OK 1");
  CHECK_STARTS(c.Call(segment.Line("READ", dir / "secret", 0, 1)), "ERROR EACCES ");
  CHECK_STARTS(c.Call(segment.Line("READ", "../secret", 0, 1)), "ERROR EINVAL ");
}

TEST(a_signal_lets_the_request_at_work_finish) {
  const TempDir dir;
  TestSegment segment(64 << 20);
  segment.FillPattern(5);
  WorkerProcess worker({});
  CHECK_EQ(worker.client().Call(segment.AttachLine()), "OK");
  REQUIRE(worker.client().Send(segment.Line("WRITE", dir / "f", 0, 64 << 20) + "\n"));
  // Once the temporary is there, the request is at work.
  for (int i = 0; i < 5000 && dir.Names().empty(); i++) usleep(1000);
  worker.Kill(SIGTERM);
  CHECK_EQ(worker.client().Line(), "OK 67108864");
  CHECK_EQ(worker.Wait(), 0);
  CHECK_EQ(dir.Names().size(), 1u);
  CHECK_EQ(std::filesystem::file_size(dir / "f"), 64u << 20);
}

TEST(a_worker_that_is_killed_leaves_an_old_object_or_a_new_one) {
  const TempDir dir;
  TestSegment segment(8 << 20);
  WriteFile(dir / "f", "old");
  for (unsigned round = 1; round <= 15; round++) {
    WorkerProcess worker({});
    CHECK_EQ(worker.client().Call(segment.AttachLine()), "OK");
    // Each round a content and a length of its own.
    const size_t length = (8u << 20) - round;
    std::memset(segment.data(), static_cast<int>('A' + round), segment.size());
    REQUIRE(worker.client().Send(segment.Line("WRITE", dir / "f", 0, length) + "\n"));
    usleep(round * 400);
    worker.Kill(SIGKILL);
    CHECK_EQ(worker.Wait(), 1000 + SIGKILL);
    const std::string text = ReadFile(dir / "f");
    if (text == "old") continue;
    REQUIRE(!text.empty());
    CHECK(text == std::string(text.size(), text[0]));
    CHECK_EQ(text.size(), (8u << 20) - static_cast<unsigned>(text[0] - 'A'));
  }
}

CHECK_MAIN
