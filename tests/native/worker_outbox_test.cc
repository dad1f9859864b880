// SPDX-License-Identifier: Apache-2.0
//
// Answers on their way out: whole, each once, whoever sends them and whatever the client takes; and
// the ways in which a stream is written to.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "sandbox.h"
#include "worker/base/shutdown.h"
#include "worker/base/unique_fd.h"
#include "worker/base/wake_up.h"
#include "worker/net/outbox.h"
#include "worker/net/wire.h"
#include "worker_check.hh"

using lmshm::Outbox;
using lmshm::UniqueFd;
using lmshm::WakeUp;
using lmshm::Wire;

namespace {

struct Ends {
  UniqueFd reads;
  UniqueFd writes;
};

Ends Pipe() {
  int fds[2];
  REQUIRE_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Ends UnixSocket() {
  int fds[2];
  REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Ends Tcp() {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<struct sockaddr*>(&address);
  REQUIRE_EQ(bind(listener.get(), generic, size), 0);
  REQUIRE_EQ(listen(listener.get(), 1), 0);
  REQUIRE_EQ(getsockname(listener.get(), generic, &size), 0);
  Ends ends;
  ends.writes.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE_EQ(connect(ends.writes.get(), generic, size), 0);
  ends.reads.Reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  REQUIRE(ends.reads.valid());
  return ends;
}

// Reads until the end. `pause`: sleeps for a moment now and then, so that the stream is full.
std::string ReadAll(int fd, bool pause) {
  std::string all;
  std::vector<char> piece(7000);
  for (int i = 0;; i++) {
    if (pause && i % 8 == 0) usleep(200);
    const ssize_t n = read(fd, piece.data(), piece.size());
    if (n <= 0) return all;
    all.append(piece.data(), static_cast<size_t>(n));
  }
}

// "12:xxxxx\n", of this many bytes.
std::string Line(size_t number, size_t bytes) {
  std::string line = std::to_string(number) + ":";
  line.resize(bytes - 1, static_cast<char>('a' + number % 26));
  return line + "\n";
}

struct Arrived {
  int error = 0;        // of the wire
  size_t mixed_up = 0;  // lines
  size_t missing = 0;
};

// Sends lines of many threads through one outbox.
Arrived SendLines(Ends* ends, bool slow_reader) {
  Wire wire(-1, ends->writes.get(), lmshm::Shutdown::Get());
  WakeUp wake;
  wake.Open();
  Outbox outbox(&wire, &wake);
  std::string text;
  std::thread reader([&] { text = ReadAll(ends->reads.get(), slow_reader); });
  constexpr size_t kThreads = 4;
  constexpr size_t kLines = 3000;
  std::atomic<size_t> bytes{0};
  std::atomic<size_t> ended{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < kLines; i++) {
        const size_t number = t * kLines + i;
        // Most are short; some are as long as passes at most, or do not pass at all.
        const size_t size = i % 50 == 7    ? Wire::kWholeBytes
                            : i % 50 == 29 ? Wire::kWholeBytes + 1
                            : i % 97 == 0  ? 30000
                                           : 10 + number % 60;
        bytes += size;
        outbox.Add(Line(number, size));
      }
      ended++;
    });
  }
  // What the connection's own thread does.
  while (!wire.broken() && (ended < kThreads || outbox.pending() > 0)) {
    if (outbox.stalled()) outbox.Pump();
    usleep(50);
  }
  for (std::thread& thread : threads) thread.join();
  ends->writes.Reset();
  reader.join();

  Arrived arrived;
  arrived.error = wire.error();
  if (wire.broken()) return arrived;
  CHECK_EQ(outbox.sent(), bytes.load());
  CHECK_EQ(text.size(), bytes.load());
  std::map<size_t, int> seen;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    REQUIRE(end != std::string::npos);
    const std::string line = text.substr(at, end + 1 - at);
    const size_t number = std::strtoull(line.c_str(), nullptr, 10);
    if (line.size() < 3 || line != Line(number, line.size())) arrived.mixed_up++;
    seen[number]++;
    at = end + 1;
  }
  arrived.missing = kThreads * kLines - seen.size();
  return arrived;
}

using Sender = std::function<ssize_t(int, const void*, size_t)>;
std::atomic<const Sender*> sender{nullptr};

// One thread has a short line on its way, and has not come back from the system call that sends it;
// another adds one.
struct Overtaking {
  Overtaking() : wire(-1, ends.writes.get(), lmshm::Shutdown::Get()), outbox(&wire, &wake) {
    outbox.Add("0\n");  // now it knows what it writes to
    CHECK(wire.writes_whole());
  }

  // `first` and `second`: how much of their lines is taken at once.
  void Run(size_t first, size_t second) {
    std::promise<void> begun, go_on;
    std::future<void> may_go_on = go_on.get_future();
    std::atomic<int> calls{0};
    const Sender scripted = [&](int fd, const void* data, size_t size) -> ssize_t {
      const int call = calls++;
      const size_t part = call == 0 ? first : call == 1 ? second : size;
      const ssize_t n = sendto(fd, data, std::min(part, size), 0, nullptr, 0);
      if (call == 0) {
        begun.set_value();
        may_go_on.wait();
      }
      return n;
    };
    sender = &scripted;
    std::thread other([&] { outbox.Add("first\n"); });
    begun.get_future().wait();
    outbox.Add("second\n");
    char bytes[64];
    const ssize_t n = recv(ends.reads.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    meanwhile.assign(bytes, n > 0 ? static_cast<size_t>(n) : 0);
    go_on.set_value();
    other.join();
    sender = nullptr;
  }

  Ends ends = UnixSocket();
  Wire wire;
  WakeUp wake;
  Outbox outbox;
  std::string meanwhile;  // what had arrived before the first thread came back
};

}  // namespace

// Instead of the C library's, for all of this program.
extern "C" ssize_t send(int fd, const void* data, size_t size, int flags) {
  const Sender* const scripted = sender;
  if (scripted != nullptr) return (*scripted)(fd, data, size);
  return sendto(fd, data, size, flags, nullptr, 0);
}

TEST(lines_of_many_threads_arrive_whole_and_once) {
  for (Ends (*const make)() : {Pipe, UnixSocket, Tcp}) {
    for (const bool slow_reader : {false, true}) {
      Ends ends = make();
      const Arrived arrived = SendLines(&ends, slow_reader);
      CHECK_EQ(arrived.error, 0);
      CHECK_EQ(arrived.mixed_up, 0u);
      CHECK_EQ(arrived.missing, 0u);
    }
  }
}

TEST(a_short_answer_does_not_wait_for_a_thread_that_is_held_up) {
  Overtaking both;
  both.Run(6, 7);
  CHECK_EQ(both.meanwhile, "0\nfirst\nsecond\n");
  CHECK(!both.wire.broken());
  CHECK_EQ(both.outbox.pending(), 0u);
}

TEST(a_stream_that_divides_short_pieces_after_all_breaks_and_mixes_nothing) {
  const std::vector<std::pair<size_t, size_t>> parts = {{3, 7}, {6, 3}, {3, 3}};
  for (const auto& [first, second] : parts) {
    Overtaking both;
    both.Run(first, second);
    CHECK_EQ(both.wire.error(), EPROTO);
    CHECK(!both.wire.writes_whole());
  }
  // Nobody was at it at the same time: nothing is lost, and nobody passes any more.
  Overtaking alone;
  const Sender halves = [&](int fd, const void* data, size_t size) {
    return sendto(fd, data, (size + 1) / 2, 0, nullptr, 0);
  };
  sender = &halves;
  alone.outbox.Add("first\n");
  alone.outbox.Add("second\n");
  sender = nullptr;
  char bytes[64];
  CHECK_EQ(recv(alone.ends.reads.get(), bytes, sizeof bytes, MSG_DONTWAIT), 15);
  CHECK_EQ(std::string(bytes, 15), "0\nfirst\nsecond\n");
  CHECK(!alone.wire.writes_whole());
}

TEST(short_pieces_are_whole_where_the_stream_promises_it) {
  const std::vector<std::pair<Ends (*)(), bool>> streams = {{UnixSocket, true}, {Tcp, false}};
  for (const auto& [make, whole] : streams) {
    const Ends ends = make();
    Wire wire(-1, ends.writes.get(), lmshm::Shutdown::Get());
    CHECK(!wire.writes_whole());  // not known yet
    std::string_view text = "x";
    CHECK(wire.WriteNow(&text) == Wire::Result::kOk);
    CHECK_EQ(wire.writes_whole(), whole);
    if (!whole) continue;
    // And so it is: into a stream that is nearly full goes all of a piece, or nothing.
    const std::string piece(Wire::kWholeBytes, 'x');
    size_t left = 0;
    for (size_t i = 0; i < 1000 && left == 0; i++) {
      std::string_view rest = std::string_view(piece).substr(0, 1 + (i * 997) % piece.size());
      const size_t before = rest.size();
      CHECK(wire.WriteNow(&rest) == Wire::Result::kOk);
      if (!rest.empty()) CHECK_EQ(rest.size(), before);
      left = rest.size();
    }
    CHECK(left > 0);
  }
}

TEST(an_outbox_that_was_full_says_when_it_is_not_any_more) {
  const Ends ends = Pipe();
  if (fcntl(ends.writes.get(), F_SETPIPE_SZ, 1 << 20) < (1 << 20)) SKIP("no large pipe here");
  Wire wire(-1, ends.writes.get(), lmshm::Shutdown::Get());
  WakeUp wake;
  Outbox outbox(&wire, &wake);
  CHECK(!outbox.Add(Line(1, 1000)));
  CHECK(outbox.Add(Line(2, 300'000)));  // more than fills it, and all of it went
  CHECK_EQ(outbox.pending(), 0u);
  CHECK(!outbox.full());
  CHECK(!outbox.Add(Line(3, 1'200'000)));
  CHECK(outbox.stalled());
  CHECK(outbox.full());
}

TEST(a_filter_of_system_calls_does_not_stop_a_pipe) {
  // As container runtimes answer to what they do not know. On a thread of its own: it stays.
  bool possible = true;
  std::thread([&] {
    possible = sandbox_fail(SYS_pwritev2, EPERM, SANDBOX_ANY) == 0;
    if (!possible) return;
    const Ends ends = Pipe();
    Wire wire(-1, ends.writes.get(), lmshm::Shutdown::Get());
    std::string_view text = "a line\n";
    CHECK(wire.WriteNow(&text) == Wire::Result::kOk);
    CHECK(text.empty());
    CHECK(!wire.writes_whole());
    char got[16];
    CHECK_EQ(read(ends.reads.get(), got, sizeof got), 7);
  }).join();
  if (!possible) SKIP("no filter can be set here");
}

CHECK_MAIN
