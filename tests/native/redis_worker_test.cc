// SPDX-License-Identifier: Apache-2.0
//
// The real worker on a real server: --store URL, behind its fence.
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "redis_server.hh"
#include "worker_process.hh"

namespace {

WorkerSetup On(const std::string& url, std::vector<std::string> environment = {}) {
  WorkerSetup setup;
  setup.arguments = {"--store", url};
  setup.environment = std::move(environment);
  setup.keep_fence = !kAddressSanitizer;
  return setup;
}

// Says HELLO and attaches the segment.
void Begin(WorkerProcess& worker, const TestSegment& segment) {
  CHECK_STARTS(worker.client().Call("HELLO 2"), "OK 2 ");
  const std::string size = std::to_string(segment.size());
  CHECK_EQ(worker.client().Call("1 ATTACH " + segment.name() + " " + size + " -"), "1 OK");
}

// Runs a program until it is destroyed, or until Wait().
class Program {
 public:
  explicit Program(std::vector<std::string> words) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; fd++) dup2(null, fd);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  int Wait() {
    int status = -1;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

 private:
  pid_t pid_ = -1;
};

}  // namespace

TEST(a_worker_puts_gets_and_lists_on_a_server) {
  TestSegment segment(1 << 20);
  segment.FillPattern(1);
  for (const RedisKind kind : RedisKinds()) {
    const RedisServer server(kind);
    for (const std::string& url :
         {"redis://" + server.address(), "valkey+unix://" + server.socket_path() + "?db=1"}) {
      WorkerProcess worker(On(url));
      LineClient& client = worker.client();
      Begin(worker, segment);
      CHECK_STARTS(client.Call("2 PUT a/b 0 100000 dtype=half"), "2 OK 100000 crc32c=");
      CHECK_STARTS(client.Call("3 GET a/b 500000 200000"), "3 OK 100000 crc32c=");
      CHECK(segment.Bytes(0, 100000) == segment.Bytes(500000, 100000));
      CHECK_CONTAINS(client.Call("4 STAT a/b"), " dtype=half");
      CHECK_EQ(client.Call("5 EXISTS a/b none"), "5 OK 10");
      CHECK_EQ(client.Call("6 CONTAINS a/b none a/b"), "6 OK 1");
      CHECK_EQ(client.Call("7 LIST 10 - a/"), "7 OK - a/b");
      std::string line = "8 PUT k0 0 1000";
      for (int i = 1; i < 300; i++) line += " ; k" + std::to_string(i) + " 0 1000";
      CHECK_STARTS(client.Call(line), "8 OK 1000 ");
      line = "9 GET none 0 1000";
      for (int i = 0; i < 300; i++) {
        line += " ; k" + std::to_string(i) + " " + std::to_string(500000 + 1000 * i) + " 1000";
      }
      const std::string answer = client.Call(line);
      CHECK_STARTS(answer, "9 OK -ENOENT ; 1000 ");
      CHECK_EQ(answer.find("-E", 10), std::string::npos);
      CHECK_CONTAINS(client.Call("10 INFO"), " engine=redis ");
      CHECK_EQ(client.Call("11 REMOVE a/b none"), "11 OK 10");
      CHECK_CONTAINS(client.Call("12 STAT a/b"), "12 ERROR ENOENT");
      CHECK_EQ(client.Call("13 QUIT"), "13 OK");
      CHECK_EQ(worker.Wait(), 0);
    }
  }
}

TEST(a_worker_writes_lmcaches_metadata_from_the_attributes_that_a_client_gives) {
  TestSegment segment(1 << 16);
  segment.FillPattern(3);
  const RedisServer server(RedisKinds().back());
  WorkerProcess worker(On("redis://" + server.address() + "?layout=lmcache-redis"));
  Begin(worker, segment);
  CHECK_STARTS(
      worker.client().Call("2 PUT m@1@0@a@half 0 1024 dtype=half format=KV_2LTD shape=2,1,8,32"),
      "2 OK 1024");
  CHECK(server.Ask({"GET", "m@1@0@a@halfkv_bytes"}).text == segment.Bytes(0, 1024));
  std::string wanted;
  for (const unsigned number : {1024u, 1u, 2u, 2u, 1u, 8u, 32u}) {
    for (int i = 0; i < 4; i++) wanted.push_back(static_cast<char>(number >> (8 * i)));
  }
  CHECK(server.Ask({"GET", "m@1@0@a@halfmetadata"}).text == wanted);
  CHECK_EQ(worker.client().Call("3 GET m@1@0@a@half 4096 2000"),
           "3 OK 1024 dtype=half format=KV_2LTD shape=2,1,8,32");
}

TEST(a_worker_takes_the_password_from_its_environment_and_tells_it_nobody) {
  TestSegment segment(1 << 16);
  RedisServer::Setup setup;
  setup.arguments = {"--requirepass", "my-own-secret"};
  setup.password = "my-own-secret";
  const RedisServer server(RedisKinds().back(), setup);
  const std::string url = "redis://" + server.address();
  WorkerProcess worker(On(url, {"LMSHM_STORE_SECRET=my-own-secret"}));
  Begin(worker, segment);
  CHECK_STARTS(worker.client().Call("2 PUT k 0 1000"), "2 OK ");
  const std::string environment = ReadFile("/proc/" + std::to_string(worker.pid()) + "/environ");
  CHECK_EQ(environment.find("my-own-secret"), std::string::npos);
  for (const char* const secret : {"LMSHM_STORE_SECRET=wrong-one", "LMSHM_OTHER=1"}) {
    WorkerProcess refused(On(url, {secret}));
    CHECK_EQ(refused.Wait(), 3);
    const std::string errors = refused.Errors();
    CHECK_CONTAINS(errors, "EACCES");
    CHECK_EQ(errors.find("wrong-one"), std::string::npos);
  }
}

TEST(a_worker_lives_on_while_its_server_is_away) {
  TestSegment segment(1 << 16);
  RedisServer server(RedisKinds().back());
  WorkerProcess worker(On("redis://" + server.address() + "?timeout=1"));
  Begin(worker, segment);
  CHECK_STARTS(worker.client().Call("2 PUT k 0 1000"), "2 OK ");
  server.Signal(SIGSTOP);
  CHECK_STARTS(worker.client().Call("3 GET k 0 1000"), "3 ERROR ETIMEDOUT");
  server.Signal(SIGCONT);
  server.Kill();
  CHECK_STARTS(worker.client().Call("4 GET k 0 1000"), "4 ERROR ECONN");
  server.Restart();
  CHECK(Eventually(
      [&] { return check::StartsWith(worker.client().Call("5 PUT k 0 1000"), "5 OK "); }));
}

// The fence leaves the ports of all nodes open that are known at the start.
TEST(a_worker_reaches_every_node_of_a_cluster_behind_its_fence) {
  TestSegment segment(1 << 16);
  RedisCluster cluster(RedisKinds().back());
  WorkerProcess worker(On(cluster.Url()));
  Begin(worker, segment);
  std::string line = "2 PUT k0 0 1000";
  for (int i = 1; i < 60; i++) line += " ; k" + std::to_string(i) + " 0 1000";
  const std::string answer = worker.client().Call(line);
  CHECK_STARTS(answer, "2 OK 1000 ");
  CHECK_EQ(answer.find("-E"), std::string::npos);
  for (size_t i = 0; i < 3; i++) CHECK(cluster.node(i).Ask({"DBSIZE"}).number > 0);
  // One by one, all under way at a time.
  std::string lines;
  for (int id = 3; id < 63; id++) {
    const std::string place = std::to_string(1000 * id);
    lines += std::to_string(id) + " GET k" + std::to_string(id - 3) + " " + place + " 1000\n";
  }
  REQUIRE(worker.client().Send(lines));
  for (int i = 0; i < 60; i++) CHECK_CONTAINS(worker.client().Line(), " OK 1000 crc32c=");
}

// The recipe of docs/engines.md: a tunnel on either side.
TEST(a_tunnel_speaks_tls_for_the_worker) {
  const std::string stunnel = FindInPath("stunnel4");
  if (stunnel.empty() || FindInPath("openssl").empty()) SKIP("stunnel4 or openssl is missing");
  TestSegment segment(1 << 20);
  segment.FillPattern(2);
  const RedisServer server(RedisKinds().back());
  const TempDir dir;
  const std::string key = dir / "key.pem";
  const std::string certificate = dir / "certificate.pem";
  REQUIRE_EQ(Program({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                      "-out", certificate, "-subj", "/CN=redis.example.org", "-days", "2",
                      "-addext", "subjectAltName=DNS:redis.example.org"})
                 .Wait(),
             0);
  const auto tunnel = [&](const char* name, uint16_t from, const std::string& to,
                          const std::string& more) {
    const std::string file = dir / name;
    WriteFile(file, "foreground = yes\npid =\n[redis]\naccept = 127.0.0.1:" + std::to_string(from) +
                        "\nconnect = " + to + "\n" + more);
    return std::make_unique<Program>(std::vector<std::string>{stunnel, file});
  };
  const uint16_t tls = FreePort();
  const uint16_t plain = FreePort();
  const auto far =
      tunnel("far.conf", tls, server.address(), "cert = " + certificate + "\nkey = " + key + "\n");
  const auto near = tunnel("near.conf", plain, "127.0.0.1:" + std::to_string(tls),
                           "client = yes\nCAfile = " + certificate +
                               "\nverifyChain = yes\ncheckHost = redis.example.org\n");
  const std::string url = "redis://127.0.0.1:" + std::to_string(plain);
  WorkerProcess worker(On(url));
  Begin(worker, segment);
  LineClient& client = worker.client();
  REQUIRE(Eventually([&] { return check::StartsWith(client.Call("2 PUT k 0 400000"), "2 OK "); }));
  CHECK_STARTS(client.Call("3 GET k 500000 400000"), "3 OK 400000 ");
  CHECK(segment.Bytes(0, 400000) == segment.Bytes(500000, 400000));
  WorkerProcess refused(On("rediss://127.0.0.1"));
  CHECK(refused.Wait() > 0);
  CHECK_CONTAINS(refused.Errors(), "docs/engines.md");
}

CHECK_MAIN
