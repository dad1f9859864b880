// SPDX-License-Identifier: Apache-2.0
//
// Redis and Valkey servers for tests, on loopback, each ended with its fixture; and a cluster of
// three masters with a replica each.
//
// They are found by LMSHM_TEST_REDIS_SERVER and LMSHM_TEST_VALKEY_SERVER (paths of programs), or as
// redis-server and valkey-server in PATH. A test that finds none is skipped.
#ifndef LMSHM_TESTS_NATIVE_REDIS_SERVER_H_
#define LMSHM_TESTS_NATIVE_REDIS_SERVER_H_

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "worker/redis/pipe.h"
#include "worker/redis/redis_store.h"
#include "worker/remote/endpoint.h"
#include "worker/remote/stream.h"
#include "worker/remote/wait_limit.h"
#include "worker/storage/store_url.h"
#include "worker_check.hh"
#include "worker_fixture.hh"

enum class RedisKind { kRedis, kValkey };

inline std::string FindInPath(const std::string& name) {
  const char* const path = getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string program = folder + "/" + name;
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return "";
}

// Empty: there is none here.
inline std::string RedisProgram(RedisKind kind) {
  const bool valkey = kind == RedisKind::kValkey;
  const char* const given = getenv(valkey ? "LMSHM_TEST_VALKEY_SERVER" : "LMSHM_TEST_REDIS_SERVER");
  if (given != nullptr && *given != '\0') return given;
  return FindInPath(valkey ? "valkey-server" : "redis-server");
}

// Those that are here; none: the test is skipped.
inline std::vector<RedisKind> RedisKinds() {
  std::vector<RedisKind> kinds;
  for (const RedisKind kind : {RedisKind::kRedis, RedisKind::kValkey}) {
    if (!RedisProgram(kind).empty()) kinds.push_back(kind);
  }
  if (kinds.empty()) SKIP("neither redis-server nor valkey-server is installed");
  return kinds;
}

inline bool PortIsFree(uint16_t port) {
  const lmshm::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

// Below the range from which the kernel takes ports for connections, and free with the one that is
// `beside` above it. Others may take it before we do: then the server ends, and is started again.
inline uint16_t FreePort(int beside = 0) {
  static unsigned next = static_cast<unsigned>(getpid()) * 7;
  for (int i = 0; i < 5000; i++) {
    const auto port = static_cast<uint16_t>(10500 + next++ % 10000);
    if (PortIsFree(port) && (beside == 0 || PortIsFree(static_cast<uint16_t>(port + beside)))) {
      return port;
    }
  }
  REQUIRE(!"no port is free");
  return 0;
}

// Waits for what another process does.
template <typename Condition>
bool Eventually(const Condition& condition, int seconds = 60) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

class RedisServer {
 public:
  struct Setup {
    std::vector<std::string> arguments;
    bool cluster = false;
    std::string password;  // what Ask() logs in with
    uint16_t port = 0;     // 0: any that is free
  };

  explicit RedisServer(RedisKind kind) : RedisServer(kind, Setup()) {}
  RedisServer(RedisKind kind, Setup setup) : kind_(kind), setup_(std::move(setup)) {
    for (int i = 0; i < 5; i++) {
      port_ = setup_.port != 0 ? setup_.port : FreePort(setup_.cluster ? 10000 : 0);
      Start();
      if (Answers()) return;
      Kill();
    }
    REQUIRE(!"the server does not start");
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;
  ~RedisServer() { Kill(); }

  uint16_t port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::string socket_path() const { return dir_ / "socket"; }
  const TempDir& dir() const { return dir_; }
  pid_t pid() const { return pid_; }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  // SIGSTOP: returns once all of its threads have stopped.
  void Signal(int number) const {
    kill(pid_, number);
    if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
  }
  // After Kill(): at the same port, empty.
  void Restart() {
    REQUIRE(Eventually([this] {
      Start();
      if (Answers()) return true;
      Kill();
      return false;
    }));
  }

  // One command on a connection of its own.
  lmshm::Reply Ask(std::initializer_list<std::string_view> words, std::string body = "") const {
    lmshm::Endpoint endpoint;
    endpoint.host = "127.0.0.1";
    endpoint.port = port_;
    std::vector<lmshm::SocketAddress> addresses;
    lmshm::Stream stream;
    lmshm::WaitLimit limit(std::chrono::seconds(20), nullptr);
    lmshm::Command command, auth;
    if (!lmshm::Resolve(endpoint, &limit, &addresses).ok() ||
        !lmshm::Stream::Connect(endpoint, addresses, &limit, &stream).ok()) {
      return command.reply;
    }
    std::vector<lmshm::Command*> commands;
    if (!setup_.password.empty()) {
      lmshm::AppendCommand({"AUTH", setup_.password}, &auth.head);
      commands.push_back(&auth);
    }
    lmshm::AppendCount(words.size() + (body.empty() ? 0 : 1), &command.head);
    for (const std::string_view word : words) lmshm::AppendWord(word, &command.head);
    if (!body.empty()) lmshm::AppendWord(body, &command.head);
    commands.push_back(&command);
    lmshm::Pipe pipe(&stream, commands);
    lmshm::RunPipes({&pipe}, &limit);
    return command.reply;
  }

 private:
  void Start() {
    std::vector<std::string> words = {RedisProgram(kind_),
                                      "--port",
                                      std::to_string(port_),
                                      "--bind",
                                      "127.0.0.1",
                                      "-::1",
                                      "--save",
                                      "",
                                      "--dir",
                                      dir_.path(),
                                      "--unixsocket",
                                      socket_path(),
                                      "--daemonize",
                                      "no",
                                      "--loglevel",
                                      "warning",
                                      "--logfile",
                                      dir_ / "log",
                                      "--appendonly",
                                      "no"};
    if (setup_.cluster) {
      for (const char* const word : {"--cluster-enabled", "yes", "--cluster-config-file",
                                     "nodes.conf", "--cluster-node-timeout", "1500"}) {
        words.emplace_back(word);
      }
    }
    words.insert(words.end(), setup_.arguments.begin(), setup_.arguments.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; fd++) dup2(null, fd);
    execv(arguments[0], arguments.data());
    _exit(127);
  }

  bool Answers() const {
    bool ended = false;
    return Eventually([&] {
             ended = waitpid(pid_, nullptr, WNOHANG) == pid_;
             return ended || Ask({"PING"}).text == "PONG";
           }) &&
           !ended;
  }

  const RedisKind kind_;
  const Setup setup_;
  const TempDir dir_;
  uint16_t port_ = 0;
  pid_t pid_ = -1;
};

// Three masters, 0 to 2, and the replica of each, 3 to 5.
class RedisCluster {
 public:
  explicit RedisCluster(RedisKind kind) {
    RedisServer::Setup setup;
    setup.cluster = true;
    for (int i = 0; i < 6; i++) nodes_.push_back(std::make_unique<RedisServer>(kind, setup));
    constexpr int kThird = 5461;
    for (int i = 0; i < 3; i++) {
      const std::string first = std::to_string(i * kThird + (i > 0 ? 1 : 0));
      const std::string last = std::to_string(i < 2 ? (i + 1) * kThird : 16383);
      REQUIRE_EQ(node(i).Ask({"CLUSTER", "ADDSLOTSRANGE", first, last}).text, "OK");
      ids_.push_back(node(i).Ask({"CLUSTER", "MYID"}).text);
    }
    for (size_t i = 0; i < nodes_.size(); i++) {
      node(i).Ask({"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)});
      if (i == 0) continue;
      node(i).Ask({"CLUSTER", "MEET", "127.0.0.1", std::to_string(node(0).port())});
    }
    for (size_t i = 3; i < 6; i++) {
      REQUIRE(Eventually([&] {
        return node(i).Ask({"CLUSTER", "REPLICATE", ids_[i - 3]}).text == "OK";
      }));
    }
    for (size_t i = 0; i < 6; i++) REQUIRE(Eventually([&] { return Settled(node(i)); }));
  }

  RedisServer& node(size_t index) { return *nodes_[index]; }
  const std::string& id(size_t index) const { return ids_[index]; }

  // A store's URL that names the first and the last node.
  std::string Url(const std::string& parameters = "") {
    return "redis+cluster://" + node(0).address() + "," + node(5).address() + parameters;
  }
  // Which of the first three had the slot at the beginning.
  static size_t FirstOwner(uint16_t slot) { return slot <= 5461 ? 0 : slot <= 10922 ? 1 : 2; }

 private:
  static bool Settled(const RedisServer& server) {
    if (server.Ask({"CLUSTER", "INFO"}).text.find("cluster_state:ok") == std::string::npos) {
      return false;
    }
    const lmshm::Reply slots = server.Ask({"CLUSTER", "SLOTS"});
    if (slots.items.size() != 3) return false;
    for (const lmshm::Reply& range : slots.items) {
      if (range.items.size() != 4) return false;  // first, last, master, replica
    }
    // Else a replica may have nothing of what its master has when that dies.
    const std::string role = server.Ask({"INFO", "replication"}).text;
    return role.find("role:master") != std::string::npos ||
           role.find("master_link_status:up") != std::string::npos;
  }

  std::vector<std::unique_ptr<RedisServer>> nodes_;
  std::vector<std::string> ids_;
};

#endif  // LMSHM_TESTS_NATIVE_REDIS_SERVER_H_
