// SPDX-License-Identifier: Apache-2.0
//
// The real worker as a child process, and clients that talk to it. Every wait has a limit; what
// was started is killed, by its process id, when the object goes.
#ifndef LMSHM_TESTS_NATIVE_WORKER_PROCESS_H_
#define LMSHM_TESTS_NATIVE_WORKER_PROCESS_H_

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker_check.hh"

inline constexpr int kPatienceMs = 20000;

// LMSHM_WORKER, or the lmshm-worker beside this program.
inline std::string WorkerPath() {
  const char* given = getenv("LMSHM_WORKER");
  if (given != nullptr && *given != '\0') return given;
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  REQUIRE(n > 0);
  self[n] = '\0';
  *strrchr(self, '/') = '\0';
  return std::string(self) + "/lmshm-worker";
}

// Lines over a pair of descriptors.
class LineClient {
 public:
  LineClient() = default;
  LineClient(lmshm::UniqueFd in, lmshm::UniqueFd out) : in_(std::move(in)), out_(std::move(out)) {}

  // False if the other side is gone, or takes nothing for a long time.
  bool Send(std::string_view text) { return TrySend(text, kPatienceMs); }

  // False if the other side is gone, or takes nothing for `patience_ms`.
  bool TrySend(std::string_view text, int patience_ms) {
    const int fd = out_.valid() ? out_.get() : in_.get();
    while (!text.empty()) {
      struct pollfd p = {fd, POLLOUT, 0};
      if (poll(&p, 1, patience_ms) != 1) return false;
      ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) continue;
      // What a pipe takes at once when poll() says that it takes something.
      if (n < 0 && errno == ENOTSOCK)
        n = write(fd, text.data(), std::min<size_t>(text.size(), 4096));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return false;
      text.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  // The next line without its '\n'; "<end>" when there will be none, "<timeout>" after a while.
  std::string Line(int patience_ms = kPatienceMs) {
    for (;;) {
      const size_t newline = buffer_.find('\n');
      if (newline != std::string::npos) {
        const std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return line;
      }
      struct pollfd p = {in_.get(), POLLIN, 0};
      const int ready = poll(&p, 1, patience_ms);
      if (ready < 0 && errno == EINTR) continue;
      if (ready != 1) return "<timeout>";
      char piece[65536];
      const ssize_t n = read(in_.get(), piece, sizeof piece);
      if (n <= 0) return "<end>";
      buffer_.append(piece, static_cast<size_t>(n));
    }
  }

  std::string Call(const std::string& line) {
    if (!Send(line + "\n")) return "<gone>";
    return Line();
  }

  bool valid() const { return in_.valid(); }
  int in() const { return in_.get(); }
  void CloseOut() {
    if (out_.valid()) {
      out_.Reset();
    } else {
      shutdown(in_.get(), SHUT_WR);
    }
  }
  void CloseIn() { in_.Reset(); }
  void Close() {
    in_.Reset();
    out_.Reset();
  }

 private:
  lmshm::UniqueFd in_;   // also out, for a socket
  lmshm::UniqueFd out_;  // not valid for a socket
  std::string buffer_;
};

inline LineClient ConnectUnix(const std::string& path) {
  lmshm::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fd.Reset();
  return LineClient(std::move(fd), lmshm::UniqueFd());
}

// To 127.0.0.1, or to ::1 when `v6`.
inline LineClient ConnectTcp(int port, bool v6 = false) {
  lmshm::UniqueFd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in in4 = {};
  in4.sin_family = AF_INET;
  in4.sin_port = htons(static_cast<uint16_t>(port));
  in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = in4.sin_port;
  in6.sin6_addr = in6addr_loopback;
  const int failed = v6 ? connect(fd.get(), reinterpret_cast<sockaddr*>(&in6), sizeof in6)
                        : connect(fd.get(), reinterpret_cast<sockaddr*>(&in4), sizeof in4);
  if (failed != 0) fd.Reset();
  return LineClient(std::move(fd), lmshm::UniqueFd());
}

// A worker built with a sanitizer is run without the fence, unless that is what is tested: the leak
// checker looks at the process from outside, and reports name lines of sources only where the
// program's own file may be read.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif
#else
inline constexpr bool kAddressSanitizer = false;
#endif

struct WorkerSetup {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;       // "NAME=value", added
  bool keep_fence = false;                    // with a sanitizer, too
  bool socket_stdio = false;                  // stdin and stdout are sockets, as under Bun
  std::function<void()> before_exec = [] {};  // in the child; nothing that allocates or locks
};

class WorkerProcess {
 public:
  explicit WorkerProcess(const WorkerSetup& setup) {
    int in[2], out[2], err[2];
    if (setup.socket_stdio) {
      REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
      REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
    } else {
      REQUIRE_EQ(pipe2(in, O_CLOEXEC), 0);
      REQUIRE_EQ(pipe2(out, O_CLOEXEC), 0);
    }
    REQUIRE_EQ(pipe2(err, O_CLOEXEC), 0);
    const std::string path = WorkerPath();
    std::vector<char*> argv = {const_cast<char*>(path.c_str())};
    const bool unfenced = (kAddressSanitizer || kThreadSanitizer) && !setup.keep_fence;
    if (unfenced) argv.push_back(const_cast<char*>("--no-sandbox"));
    for (const std::string& a : setup.arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    std::vector<char*> envp;
    for (char** e = environ; *e != nullptr; e++) {
      if (strncmp(*e, "LMSHM_", 6) != 0) envp.push_back(*e);
    }
    for (const std::string& e : setup.environment) envp.push_back(const_cast<char*>(e.c_str()));
    envp.push_back(nullptr);

    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      for (const int signal_number : {SIGINT, SIGHUP, SIGPIPE}) signal(signal_number, SIG_DFL);
      dup2(in[0], 0);
      dup2(out[1], 1);
      dup2(err[1], 2);
      setup.before_exec();
      execve(path.c_str(), argv.data(), envp.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    client_ = LineClient(lmshm::UniqueFd(out[0]), lmshm::UniqueFd(in[1]));
    stderr_.Reset(err[0]);
  }
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;
  ~WorkerProcess() {
    if (pid_ <= 0) return;
    int status;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      LookAtEnd(status);
      return;
    }
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

  // Somebody else has waited for it.
  void Reaped() { pid_ = -1; }

  // Its stdin and stdout.
  LineClient& client() { return client_; }

  // The address of the next "LISTENING" line, "" if there is none.
  std::string Listening() {
    const std::string line = client_.Line();
    CHECK_STARTS(line, "LISTENING ");
    return line.size() > 10 ? line.substr(10) : "";
  }

  // The port of the next "LISTENING" line.
  int ListeningPort() {
    const std::string address = Listening();
    const size_t colon = address.rfind(':');
    REQUIRE(colon != std::string::npos);
    return atoi(address.c_str() + colon + 1);
  }

  void Kill(int signal) { REQUIRE_EQ(kill(pid_, signal), 0); }

  // The exit status, 1000 + signal if one killed it, or -1 if it does not end.
  int Wait(int patience_ms = kPatienceMs) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    for (;;) {
      int status;
      const pid_t got = waitpid(pid_, &status, WNOHANG);
      if (got == pid_) {
        pid_ = -1;
        LookAtEnd(status);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
      }
      if (std::chrono::steady_clock::now() >= end) return -1;
      usleep(2000);
    }
  }

  // All that it wrote to stderr so far, or until its end if it has ended.
  std::string Errors() {
    std::string text;
    char piece[65536];
    for (;;) {
      struct pollfd p = {stderr_.get(), POLLIN, 0};
      if (poll(&p, 1, 0) != 1) break;
      const ssize_t n = read(stderr_.get(), piece, sizeof piece);
      if (n <= 0) break;
      text.append(piece, static_cast<size_t>(n));
    }
    return text;
  }

 private:
  // Of its own accord it ends with a status that it has documented. Any other is a crash or what a
  // sanitizer found, of which only its stderr tells.
  void LookAtEnd(int status) {
    constexpr int kLastExitCode = 3;
    const bool crashed = WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL &&
                         WTERMSIG(status) != SIGTERM && WTERMSIG(status) != SIGINT;
    if (!crashed && (WIFSIGNALED(status) || WEXITSTATUS(status) <= kLastExitCode)) return;
    check::Fail(__FILE__, __LINE__,
                "the worker ended with wait status " + std::to_string(status) + " and said:");
    std::cout << Errors() << std::endl;
  }

  pid_t pid_ = -1;
  LineClient client_;
  lmshm::UniqueFd stderr_;
};

#endif  // LMSHM_TESTS_NATIVE_WORKER_PROCESS_H_
