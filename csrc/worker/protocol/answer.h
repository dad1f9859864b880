// SPDX-License-Identifier: Apache-2.0
//
// How version 1 of the protocol, and all that is said before HELLO, answers an error.
#ifndef LMSHM_WORKER_PROTOCOL_ANSWER_H_
#define LMSHM_WORKER_PROTOCOL_ANSWER_H_

#include <cstddef>
#include <string>

#include "worker/base/status.h"

namespace lmshm {

// An answer has at most this many bytes, its '\n' included.
inline constexpr size_t kMaxAnswerBytes = 8 * 1024;

// Appends "ERROR <errno name> <text>\n".
void AppendError(const Status& status, std::string* answer);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_ANSWER_H_
