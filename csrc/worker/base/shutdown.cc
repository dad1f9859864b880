// SPDX-License-Identifier: Apache-2.0
#include "worker/base/shutdown.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>

namespace lmshm {

namespace {

// A signal handler can reach nothing but globals.
std::atomic<int> g_event_fd{-1};
std::atomic<int64_t> g_requested_at_ms{0};  // 0: not requested
static_assert(std::atomic<int64_t>::is_always_lock_free, "used in a signal handler");

int64_t NowMs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000 + 1;
}

// Async-signal-safe.
void RequestEnd() {
  int64_t expected = 0;
  g_requested_at_ms.compare_exchange_strong(expected, NowMs());
  const uint64_t one = 1;
  const ssize_t ignored = write(g_event_fd.load(), &one, sizeof one);
  (void)ignored;  // it fails only when the counter is full, and then it is readable anyway
}

void OnSignal(int) {
  const int saved_errno = errno;
  RequestEnd();
  errno = saved_errno;
}

}  // namespace

Shutdown& Shutdown::Get() {
  static Shutdown shutdown;
  return shutdown;
}

Status Shutdown::Install() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Status::System(errno, "create an eventfd");
  g_event_fd.store(fd);

  struct sigaction action = {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  sigaction(SIGXFSZ, &action, nullptr);
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  sigset_t unblock;
  sigemptyset(&unblock);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    // A shell that starts a process in the background has it ignore SIGINT; nohup, SIGHUP.
    struct sigaction old;
    sigaction(signal, nullptr, &old);
    if (signal != SIGTERM && old.sa_handler == SIG_IGN) continue;
    sigaction(signal, &action, nullptr);
    sigaddset(&unblock, signal);
  }
  sigprocmask(SIG_UNBLOCK, &unblock, nullptr);
  return Status::OK();
}

void Shutdown::Request() { RequestEnd(); }

bool Shutdown::requested() const { return g_requested_at_ms.load() != 0; }

int Shutdown::fd() const { return g_event_fd.load(); }

bool Shutdown::Cancelled() const {
  const int64_t at = g_requested_at_ms.load();
  return at != 0 && NowMs() - at >= kGraceSeconds * 1000;
}

}  // namespace lmshm
