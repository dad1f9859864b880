// SPDX-License-Identifier: Apache-2.0
//
// Who may use a TCP port.
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr char kSecret[] = "correct-horse-battery";

WorkerSetup WithSecretFile(const TempDir& dir) {
  std::filesystem::create_directories(dir / "root");
  WriteFile(dir / "secret", std::string(kSecret) + "\n");
  WorkerSetup setup;
  setup.arguments = {"--listen=127.0.0.1:0", "--root", dir / "root", "--secret-file",
                     dir / "secret"};
  return setup;
}

}  // namespace

TEST(the_right_secret_opens) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  TestSegment segment(4096);
  LineClient c = ConnectTcp(port);
  CHECK_EQ(c.Call(std::string("AUTH ") + kSecret), "OK");
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", "f", 0, 10)), "OK 10");
}

TEST(without_it_nothing_is_done) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  TestSegment segment(4096);
  LineClient c = ConnectTcp(port);
  CHECK_STARTS(c.Call(segment.AttachLine()), "ERROR EACCES not authenticated");
  CHECK_STARTS(c.Call(segment.Line("WRITE", "f", 0, 10)), "ERROR EACCES not authenticated");
  CHECK_EQ(c.Call("PING"), "OK");
  CHECK_EQ(c.Call("QUIT"), "OK");
  CHECK(std::filesystem::is_empty(dir / "root"));
}

TEST(a_wrong_one_is_answered_and_the_connection_closed) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient c = ConnectTcp(port);
  // What is sent behind it is not carried out.
  REQUIRE(c.Send("AUTH wrong-horse-battery\nPING\nPING\n"));
  CHECK_STARTS(c.Line(), "ERROR EACCES wrong secret");
  CHECK_EQ(c.Line(), "<end>");
  const std::string errors = worker.Errors();
  CHECK_CONTAINS(errors, "wrong secret");
  CHECK(errors.find("horse") == std::string::npos);
  LineClient again = ConnectTcp(port);
  CHECK_EQ(again.Call(std::string("AUTH ") + kSecret), "OK");
}

TEST(who_does_not_authenticate_is_dropped_even_if_he_keeps_talking) {
  const TempDir dir;
  WorkerProcess worker(WithSecretFile(dir));
  const int port = worker.ListeningPort();
  LineClient silent = ConnectTcp(port), talking = ConnectTcp(port), good = ConnectTcp(port);
  CHECK_EQ(good.Call(std::string("AUTH ") + kSecret), "OK");
  const auto start = std::chrono::steady_clock::now();
  std::string answer = "OK";
  while (answer == "OK" && std::chrono::steady_clock::now() - start < std::chrono::seconds(60)) {
    answer = talking.Call("PING");
    usleep(200 * 1000);
  }
  CHECK(answer == "<end>" || answer == "<gone>");
  CHECK_EQ(silent.Line(), "<end>");
  CHECK_EQ(good.Call("PING"), "OK");
}

TEST(a_secret_from_the_environment_does_not_stay_there) {
  const TempDir dir;
  WorkerSetup setup;
  setup.arguments = {"--listen=127.0.0.1:0", "--root", dir.path(), "--log-level=debug"};
  setup.environment = {std::string("LMSHM_SECRET=") + kSecret};
  WorkerProcess worker(setup);
  const int port = worker.ListeningPort();
  LineClient c = ConnectTcp(port);
  CHECK_EQ(c.Call(std::string("AUTH ") + kSecret), "OK");
  const std::string environment = ReadFile("/proc/" + std::to_string(worker.pid()) + "/environ");
  CHECK(environment.find(kSecret) == std::string::npos);
  LineClient bad = ConnectTcp(port);
  CHECK_STARTS(bad.Call(std::string("auth ") + kSecret), "ERROR EINVAL ");
  CHECK(worker.Errors().find(kSecret) == std::string::npos);
}

TEST(a_unix_socket_needs_no_secret) {
  const TempDir dir;
  WorkerSetup setup = WithSecretFile(dir);
  setup.arguments.push_back("--listen=" + (dir / "s"));
  WorkerProcess worker(setup);
  worker.ListeningPort();
  worker.Listening();
  TestSegment segment(4096);
  LineClient c = ConnectUnix(dir / "s");
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
}

CHECK_MAIN
