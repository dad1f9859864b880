// SPDX-License-Identifier: Apache-2.0
#include "worker/base/log.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>
#include <utility>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kNames[] = {"error", "warn", "info", "debug"};

// Far below PIPE_BUF, so that a pipe takes a line whole or not at all.
constexpr size_t kMaxTextBytes = 1000;

LogLevel g_level = LogLevel::kWarn;
std::mutex g_mutex;
unsigned long g_dropped = 0;  // lines; guarded by g_mutex

// True if `line` was taken. A socket (Bun's children have one) can be asked not to block; a pipe
// with room for one more page, which is what POLLOUT means, takes less than a page at once.
bool TryWrite(std::string_view line) {
  ssize_t n = send(STDERR_FILENO, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0 && errno == ENOTSOCK) {
    struct pollfd p = {STDERR_FILENO, POLLOUT, 0};
    if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return false;
    n = write(STDERR_FILENO, line.data(), line.size());
  }
  return n >= 0;
}

std::string Prefix(LogLevel level) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  struct tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char date[32];
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
  char text[96];
  snprintf(text, sizeof text, "%s.%03ldZ %s lmshm-worker[%ld]: ", date, now.tv_nsec / 1000000,
           kNames[static_cast<int>(level)].data(), static_cast<long>(getpid()));
  return text;
}

}  // namespace

bool ParseLogLevel(std::string_view text, LogLevel* level) {
  for (int i = 0; i < 4; i++) {
    if (text != kNames[i]) continue;
    *level = static_cast<LogLevel>(i);
    return true;
  }
  return false;
}

void SetLogLevel(LogLevel level) { g_level = level; }

bool LogEnabled(LogLevel level) { return level <= g_level; }

void Log(LogLevel level, std::string_view text) {
  if (!LogEnabled(level)) return;
  const int saved_errno = errno;
  std::string line = Prefix(level);
  AppendPrintable(text, kMaxTextBytes, &line);
  {
    const std::lock_guard<std::mutex> lock(g_mutex);
    if (g_dropped > 0) line += " (" + std::to_string(g_dropped) + " earlier lines dropped)";
    line += '\n';
    if (TryWrite(line)) {
      g_dropped = 0;
    } else {
      g_dropped++;
    }
  }
  errno = saved_errno;
}

void RareWarning::Say(const std::string& text) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) {
    unsaid_++;
    return;
  }
  next_ = now + every_;
  const size_t unsaid = std::exchange(unsaid_, 0);
  Log(LogLevel::kWarn, unsaid == 0 ? text : text + " (and " + std::to_string(unsaid) + " like it)");
}

}  // namespace lmshm
