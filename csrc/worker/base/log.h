// SPDX-License-Identifier: Apache-2.0
//
// The log: lines on stderr.
//
// A parent may never read this process's stderr, so a log line must not block: what the pipe does
// not take at once is dropped, and how many were is said when it takes lines again. Secrets and
// data are never logged.
#ifndef LMSHM_WORKER_BASE_LOG_H_
#define LMSHM_WORKER_BASE_LOG_H_

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace lmshm {

enum class LogLevel { kError = 0, kWarn = 1, kInfo = 2, kDebug = 3 };

// "error", "warn", "info" or "debug"; false for anything else.
bool ParseLogLevel(std::string_view text, LogLevel* level);

// What is less urgent than `level` is not written. Default kWarn. Call before threads exist.
void SetLogLevel(LogLevel level);

bool LogEnabled(LogLevel level);

// Writes one line: time (UTC), level, process id, text. Control characters are escaped and the
// line is cut at about 1,000 bytes. Never blocks, never fails. Thread safe.
void Log(LogLevel level, std::string_view text);

// Warnings of one kind that strangers can cause, and must not fill the log with: at most one in
// `every` is written, and says how many were not since the last. Not thread safe.
class RareWarning {
 public:
  explicit RareWarning(std::chrono::seconds every) : every_(every) {}
  void Say(const std::string& text);

 private:
  const std::chrono::seconds every_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::time_point::min();
  size_t unsaid_ = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_LOG_H_
