// SPDX-License-Identifier: Apache-2.0
//
// Who may use a TCP port, and what those who may not can do to the others.
#include <sys/resource.h>

#include <memory>

#include "worker/net/secret.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

using lmshm::Secret;

namespace {

constexpr char kSecret[] = "correct-horse-battery";
const std::string kNonce = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

WorkerSetup WithSecretFile(const TempDir& dir, std::vector<std::string> more = {}) {
  std::filesystem::create_directories(dir / "root");
  WriteFile(dir / "secret", std::string(kSecret) + "\n");
  WorkerSetup setup;
  setup.arguments = {"--listen=127.0.0.1:0", "--root", dir / "root", "--secret-file",
                     dir / "secret"};
  for (std::string& argument : more) setup.arguments.push_back(std::move(argument));
  return setup;
}

std::string Proof(Secret::Proof of, const std::string& worker_nonce,
                  const std::string& text = kSecret) {
  std::unique_ptr<Secret> secret;
  CHECK_OK(Secret::FromText(text, "test", &secret));
  REQUIRE(secret != nullptr);
  return secret->Prove(of, kNonce, worker_nonce);
}

// The worker's nonce; or what it answered instead.
std::string Challenge(LineClient* c) {
  const std::string answer = c->Call("CHALLENGE " + kNonce);
  return answer.compare(0, 3, "OK ") == 0 ? answer.substr(3) : answer;
}

// "in", or what was answered instead.
std::string LogIn(LineClient* c, const std::string& secret = kSecret) {
  const std::string nonce = Challenge(c);
  if (nonce.size() != 64) return nonce;
  const std::string answer = c->Call("PROVE " + Proof(Secret::Proof::kOfClient, nonce, secret));
  return answer == "OK " + Proof(Secret::Proof::kOfWorker, nonce, secret) ? "in" : answer;
}

// Until the worker knows that clients have left.
std::string LogInSoon(int port) {
  std::string result;
  for (int i = 0; i < 2000 && result != "in"; i++) {
    LineClient c = ConnectTcp(port);
    result = LogIn(&c);
    if (result != "in") usleep(10 * 1000);
  }
  return result;
}

double Seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// Whether the other side has closed; throws away what it sent.
bool HasEnded(LineClient* c) {
  char rest[4096];
  const ssize_t n = recv(c->in(), rest, sizeof rest, MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN);
}

}  // namespace

TEST(both_know_the_secret) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  TestSegment segment(4096);
  LineClient c = ConnectTcp(port);
  CHECK_EQ(LogIn(&c), "in");
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", "f", 0, 10)), "OK 10");
  CHECK_STARTS(c.Call("CHALLENGE " + kNonce), "ERROR EINVAL unknown command");
  CHECK_STARTS(c.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(c.Call("1 EXISTS f"), "1 OK 0");
}

TEST(what_is_sent_behind_the_proof_is_carried_out_in_its_order) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  TestSegment segment(4096);
  LineClient c = ConnectTcp(port);
  const std::string nonce = Challenge(&c);
  // More than is kept of a line before the login, and the last one in two pieces.
  std::string lines =
      "PROVE " + Proof(Secret::Proof::kOfClient, nonce) + "\r\n" + segment.AttachLine() + "\n";
  for (int i = 0; i < 300; i++) lines += segment.Line("WRITE", "f", 0, 10) + "\n";
  lines += "HELLO 2\n1 PI";
  REQUIRE(c.Send(lines));
  CHECK_EQ(c.Line(), "OK " + Proof(Secret::Proof::kOfWorker, nonce));
  CHECK_EQ(c.Line(), "OK");
  for (int i = 0; i < 300; i++) CHECK_EQ(c.Line(), "OK 10");
  CHECK_STARTS(c.Line(), "OK 2 ");
  REQUIRE(c.Send("NG\n"));
  CHECK_STARTS(c.Line(), "1 OK boot=");
}

TEST(without_it_nothing_is_done) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  TestSegment segment(4096);
  LineClient c = ConnectTcp(port);
  CHECK_STARTS(c.Call(segment.AttachLine()), "ERROR EACCES not authenticated");
  CHECK_STARTS(c.Call(segment.Line("WRITE", "f", 0, 10)), "ERROR EACCES not authenticated");
  CHECK_STARTS(c.Call("HELLO 2"), "ERROR EACCES not authenticated");
  CHECK_EQ(c.Call("PING"), "OK");
  CHECK_EQ(c.Call("QUIT"), "OK");
  CHECK_EQ(c.Line(), "<end>");
  CHECK(std::filesystem::is_empty(dir / "root"));
}

TEST(a_wrong_proof_is_answered_and_the_connection_closed) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient c = ConnectTcp(port);
  const std::string nonce = Challenge(&c);
  // What is sent behind it is not carried out, and does not keep the answer from being read.
  const std::string proof = Proof(Secret::Proof::kOfClient, nonce, "wrong-horse-battery");
  REQUIRE(c.Send("PROVE " + proof + "\nPING\n"));
  usleep(100 * 1000);
  CHECK(c.Send("PING\n"));
  CHECK_STARTS(c.Line(), "ERROR EACCES wrong proof");
  CHECK_EQ(c.Line(), "<end>");
  const std::string errors = worker.Errors();
  CHECK_CONTAINS(errors, "wrong secret");
  CHECK(errors.find("horse") == std::string::npos);
  LineClient again = ConnectTcp(port);
  CHECK_EQ(LogIn(&again), "in");
}

TEST(a_replayed_proof_is_a_wrong_one) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient honest = ConnectTcp(port);
  const std::string proof = Proof(Secret::Proof::kOfClient, Challenge(&honest));
  CHECK_STARTS(honest.Call("PROVE " + proof), "OK ");
  LineClient thief = ConnectTcp(port);
  Challenge(&thief);
  CHECK_STARTS(thief.Call("PROVE " + proof), "ERROR EACCES wrong proof");
}

TEST(the_secret_itself_is_not_taken_unless_asked_for) {
  const TempDir dir;
  const std::string line = std::string("AUTH ") + kSecret;
  {
    WorkerProcess worker(WithSecretFile(dir));
    const int port = worker.ListeningPort();
    LineClient c = ConnectTcp(port);
    CHECK_STARTS(c.Call(line), "ERROR EACCES AUTH sends the secret in the clear");
    CHECK_STARTS(c.Call("HELLO 2"), "ERROR EACCES not authenticated");
  }
  WorkerProcess worker(WithSecretFile(dir, {"--plain-auth"}));
  const int port = worker.ListeningPort();
  LineClient c = ConnectTcp(port);
  CHECK_EQ(c.Call(line), "OK");
  CHECK_STARTS(c.Call("HELLO 2"), "OK 2 ");
  LineClient wrong = ConnectTcp(port);
  CHECK_STARTS(wrong.Call("AUTH wrong-horse-battery"), "ERROR EACCES wrong secret");
  CHECK_EQ(wrong.Line(), "<end>");
  LineClient proving = ConnectTcp(port);
  CHECK_EQ(LogIn(&proving), "in");
}

TEST(ten_seconds_to_log_in_whatever_else_goes_on) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient good = ConnectTcp(port);
  CHECK_EQ(LogIn(&good), "in");
  // What each sends again and again, and how often it reads, in rounds of 50 ms; 0: never.
  struct Stranger {
    std::string text;
    size_t sends, reads;
    LineClient c;
    double ended = 0;
  };
  std::string pings, challenges;
  for (int i = 0; i < 20000; i++) pings += "PING\n";
  for (int i = 0; i < 2000; i++) challenges += "CHALLENGE " + kNonce + "\n";
  std::vector<Stranger> strangers;
  const auto add = [&](std::string text, size_t sends, size_t reads) {
    strangers.push_back({std::move(text), sends, reads, ConnectTcp(port)});
    const int small = 4096;
    setsockopt(strangers.back().c.in(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  };
  add("", 1, 1);                            // says nothing
  add("PING\n", 4, 1);                      // keeps talking
  add("CHALLENGE " + kNonce + "\n", 4, 1);  // begins and does not go on
  add("x", 1, 1);                           // a line that never ends
  add(pings, 1, 1);                         // does not stop asking,
  add(pings, 1, 20);                        // takes an answer now and then,
  add(pings, 1, 0);                         // or none
  add(challenges, 1, 0);
  const double start = Seconds();
  for (size_t round = 0; Seconds() - start < 20; round++) {
    bool all = true;
    for (Stranger& s : strangers) {
      if (s.ended > 0) continue;
      all = false;
      bool gone = s.reads > 0 && round % s.reads == 0 && HasEnded(&s.c);
      if (!s.text.empty() && round % s.sends == 0) {
        ssize_t sent = 0;
        // As much as goes, and of long texts all that goes.
        do {
          sent = send(s.c.in(), s.text.data(), s.text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (sent > 0 && s.text.size() > 100);
        gone = gone || (sent < 0 && errno != EAGAIN);
      }
      if (gone) s.ended = Seconds() - start;
    }
    if (all) break;
    usleep(50 * 1000);
  }
  for (const Stranger& s : strangers) {
    if (s.ended == 0) check::Fail(__FILE__, __LINE__, "still there: " + s.text.substr(0, 20));
  }
  CHECK(strangers[0].ended > 9);  // and not less than it says
  CHECK(strangers[1].ended > 9);
  CHECK_EQ(good.Call("PING"), "OK");
}

TEST(strangers_by_the_hundred_keep_nobody_out) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir, {"--listen=" + (dir / "s")}));
  const int port = worker.ListeningPort();
  worker.Listening();
  std::vector<LineClient> strangers;
  int logged_in = 0, pinged = 0;
  for (int i = 0; i < 310; i++) {
    strangers.push_back(ConnectTcp(port));
    if (i % 3 == 1) strangers.back().Send("CHALLENGE " + kNonce + "\n");
    if (i % 3 == 2) strangers.back().Send("PI");
    LineClient by_tcp = ConnectTcp(port);
    if (LogIn(&by_tcp) == "in" && by_tcp.Call("QUIT") == "OK" && by_tcp.Line() == "<end>") {
      logged_in++;
    }
    LineClient by_socket = ConnectUnix(dir / "s");
    if (by_socket.Call("PING") == "OK" && by_socket.Call("QUIT") == "OK" &&
        by_socket.Line() == "<end>") {
      pinged++;
    }
  }
  CHECK_EQ(logged_in, 310);
  CHECK_EQ(pinged, 310);
}

TEST(strangers_take_no_places_of_clients) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir, {"--max-clients=2"}));
  const int port = worker.ListeningPort();
  std::vector<LineClient> strangers;
  for (int i = 0; i < 20; i++) strangers.push_back(ConnectTcp(port));
  for (LineClient& stranger : strangers) CHECK_EQ(stranger.Call("PING"), "OK");
  {
    LineClient a = ConnectTcp(port), b = ConnectTcp(port), c = ConnectTcp(port);
    CHECK_EQ(LogIn(&a), "in");
    CHECK_EQ(LogIn(&b), "in");
    CHECK_STARTS(LogIn(&c), "ERROR EAGAIN 2 clients are connected already");
    CHECK_EQ(c.Line(), "<end>");
    CHECK_EQ(a.Call("PING"), "OK");
  }
  CHECK_EQ(LogInSoon(port), "in");
}

TEST(the_oldest_stranger_gives_way_and_is_told_so) {
  const TempDir dir;
  WorkerSetup setup = WithSecretFile(dir);
  // There are at least four places for those who have not logged in, and few more here.
  setup.before_exec = [] {
    const struct rlimit limit = {128, 128};
    setrlimit(RLIMIT_NOFILE, &limit);
  };
  WorkerProcess worker(setup);
  const int port = worker.ListeningPort();
  LineClient oldest = ConnectTcp(port);
  CHECK_EQ(oldest.Call("PING"), "OK");
  std::vector<LineClient> others;
  for (int i = 0; i < 3; i++) {
    others.push_back(ConnectTcp(port));
    CHECK_EQ(others.back().Call("PING"), "OK");
  }
  CHECK_EQ(oldest.Call("PING"), "OK");
  for (int i = 0; i < 40; i++) {
    others.push_back(ConnectTcp(port));
    CHECK_EQ(others.back().Call("PING"), "OK");
  }
  CHECK_STARTS(oldest.Line(), "ERROR ECONNRESET others came");
  CHECK_EQ(oldest.Line(), "<end>");
  for (size_t i = others.size() - 4; i < others.size(); i++) {
    CHECK_EQ(others[i].Call("PING"), "OK");
  }
  LineClient one_more = ConnectTcp(port);
  CHECK_EQ(LogIn(&one_more), "in");
}

TEST(strangers_hold_no_descriptor_that_somebody_needs) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir, {"--listen=" + (dir / "s")}));
  const int port = worker.ListeningPort();
  worker.Listening();
  std::vector<LineClient> strangers;
  for (int i = 0; i < 8; i++) {
    strangers.push_back(ConnectTcp(port));
    CHECK_EQ(strangers.back().Call("PING"), "OK");
  }
  const auto used = std::distance(
      std::filesystem::directory_iterator("/proc/" + std::to_string(worker.pid()) + "/fd"), {});
  const struct rlimit limit = {static_cast<rlim_t>(used), static_cast<rlim_t>(used)};
  REQUIRE_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call("PING"), "OK");
  LineClient d = ConnectTcp(port);
  CHECK_EQ(LogIn(&d), "in");
}

TEST(each_address_keeps_a_share_of_the_places) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir, {"--listen=" + (dir / "s"), "--max-clients=4"}));
  const int port = worker.ListeningPort();
  worker.Listening();
  const std::string kept = "ERROR EAGAIN 3 clients are connected already, and the rest of ";
  {
    std::vector<LineClient> clients;
    for (int i = 0; i < 3; i++) {
      clients.push_back(ConnectTcp(port));
      CHECK_EQ(LogIn(&clients.back()), "in");
    }
    LineClient fourth = ConnectTcp(port);
    CHECK_STARTS(LogIn(&fourth), kept);
    LineClient by_socket = ConnectUnix(dir / "s");
    CHECK_EQ(by_socket.Call("PING"), "OK");
    LineClient fifth = ConnectUnix(dir / "s");
    CHECK_STARTS(fifth.Line(), "ERROR EAGAIN 4 clients are connected already, which is ");
    for (LineClient& c : clients) {
      CHECK_EQ(c.Call("QUIT"), "OK");
      CHECK_EQ(c.Line(), "<end>");
    }
    CHECK_EQ(by_socket.Call("QUIT"), "OK");
    CHECK_EQ(by_socket.Line(), "<end>");
  }
  // The other way round. A place is free as soon as its thread has ended.
  std::vector<LineClient> clients;
  for (int i = 0; i < 2000 && clients.size() < 3; i++) {
    LineClient c = ConnectUnix(dir / "s");
    if (c.Call("PING") == "OK")
      clients.push_back(std::move(c));
    else
      usleep(10 * 1000);
  }
  CHECK_EQ(clients.size(), 3u);
  LineClient fourth = ConnectUnix(dir / "s");
  CHECK_STARTS(fourth.Line(), kept);
  CHECK_EQ(LogInSoon(port), "in");
}

TEST(strangers_do_not_delay_the_end) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient stranger = ConnectTcp(port);
  CHECK_EQ(stranger.Call("PING"), "OK");
  worker.Kill(SIGTERM);
  CHECK_EQ(stranger.Line(), "<end>");
  CHECK_EQ(worker.Wait(), 0);
}

TEST(a_secret_from_the_environment_does_not_stay_there) {
  const TempDir dir;
  WorkerSetup setup;
  setup.arguments = {"--listen=127.0.0.1:0", "--root", dir.path(), "--log-level=debug"};
  setup.environment = {std::string("LMSHM_SECRET=") + kSecret};
  WorkerProcess worker(setup);
  const int port = worker.ListeningPort();
  LineClient c = ConnectTcp(port);
  CHECK_EQ(LogIn(&c), "in");
  const std::string environment = ReadFile("/proc/" + std::to_string(worker.pid()) + "/environ");
  CHECK(environment.find(kSecret) == std::string::npos);
  // Nor does one get into the log that is sent by mistake, before the login and after it.
  for (const char* word : {"AUTH ", "auth ", "PROVE ", "CHALLENGE "}) {
    CHECK_STARTS(c.Call(std::string(word) + kSecret), "ERROR EINVAL ");
    LineClient bad = ConnectTcp(port);
    CHECK_STARTS(bad.Call(std::string(word) + kSecret), "ERROR E");
  }
  CHECK(worker.Errors().find(kSecret) == std::string::npos);
}

TEST(a_unix_socket_needs_no_secret) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir, {"--listen=" + (dir / "s")}));
  worker.ListeningPort();
  worker.Listening();
  TestSegment segment(4096);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
}

TEST(one_address_can_do_without_while_the_other_asks) {
  const TempDir dir;
  WorkerSetup setup = WithSecretFile(dir, {"--no-auth-on=127.0.0.1:0"});
  WorkerProcess worker(setup);
  const int asks = worker.ListeningPort();
  const int open = worker.ListeningPort();
  REQUIRE(asks > 0 && open > 0);
  LineClient stranger = ConnectTcp(asks);
  CHECK_STARTS(stranger.Call("HELLO 2"), "ERROR EACCES not authenticated");
  LineClient welcome = ConnectTcp(open);
  CHECK_STARTS(welcome.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(LogInSoon(asks), "in");
  CHECK_CONTAINS(worker.Errors(), "asks nobody for a secret (--no-auth-on)");
}

CHECK_MAIN
