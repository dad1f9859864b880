// SPDX-License-Identifier: Apache-2.0
//
// Answers of protocol version 2 as text. Pure functions.
#ifndef LMSHM_WORKER_PROTOCOL_ANSWER_V2_H_
#define LMSHM_WORKER_PROTOCOL_ANSWER_V2_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

// An answer has at most this many bytes, its '\n' included.
inline constexpr size_t kMaxAnswerV2Bytes = 64 * 1024;
// What may follow "<id> OK" in it.
inline constexpr size_t kMaxResultBytes = kMaxAnswerV2Bytes - 32;

// Append one line: "<id> OK<result>", where `result` is empty or begins with a space; or
// "<id> ERROR <status>".
void AppendOk(uint64_t id, std::string_view result, std::string* answers);
void AppendError(uint64_t id, const Status& status, std::string* answers);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_ANSWER_V2_H_
