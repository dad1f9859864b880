// SPDX-License-Identifier: Apache-2.0
//
// Answers as text, one line each: those of version 1, and of all that is said before HELLO, and
// those of version 2, which have an id. Pure functions.
#ifndef LMSHM_WORKER_PROTOCOL_ANSWER_H_
#define LMSHM_WORKER_PROTOCOL_ANSWER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

// An answer has at most this many bytes, its '\n' included: in version 1, and in version 2.
inline constexpr size_t kMaxAnswerBytes = 8 * 1024;
inline constexpr size_t kMaxAnswerV2Bytes = 64 * 1024;
// What may follow "<id> OK" in it.
inline constexpr size_t kMaxResultBytes = kMaxAnswerV2Bytes - 32;

// Append "OK<result>", where `result` is empty or begins with a space, or "ERROR <status>".
void AppendAnswer(const Status& status, std::string_view result, std::string* answers);
// The same behind "<id> ".
void AppendAnswer(uint64_t id, const Status& status, std::string_view result, std::string* answers);

// Append an error.
void AppendError(const Status& status, std::string* answers);
void AppendError(uint64_t id, const Status& status, std::string* answers);

// The answer to a line that was longer than may be.
Status LineTooLong();

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_ANSWER_H_
