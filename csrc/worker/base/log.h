// SPDX-License-Identifier: Apache-2.0
//
// The log: lines on stderr.
//
// A parent may never read this process's stderr, so a log line must not block: what the pipe does
// not take at once is dropped, and how many were is said when it takes lines again. Secrets and
// data are never logged.
#ifndef LMSHM_WORKER_BASE_LOG_H_
#define LMSHM_WORKER_BASE_LOG_H_

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

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_LOG_H_
