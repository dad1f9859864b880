// SPDX-License-Identifier: Apache-2.0
//
// Requests of protocol version 1 as text, and nothing of what they mean. docs/protocol.md is the
// description; this is its twin in code. Pure functions.
//
//     ATTACH <shm_name> <size> <base_addr>
//     WRITE <path> <data_ptr> <length>
//     READ <path> <data_ptr> <length>
//     PING
//     QUIT
//
// Words are separated by exactly one space. The last two words of the first three are the numbers
// and all between the command and them is the name, which therefore may contain spaces.
#ifndef LMSHM_WORKER_PROTOCOL_REQUEST_H_
#define LMSHM_WORKER_PROTOCOL_REQUEST_H_

#include <cstdint>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

enum class Command { kAttach, kWrite, kRead, kPing, kQuit };

struct Request {
  Command command = Command::kPing;
  std::string_view name;  // shm_name or path; a part of the parsed line
  uint64_t first = 0;     // size (ATTACH), data_ptr (WRITE, READ)
  uint64_t second = 0;    // base_addr (ATTACH), length (WRITE, READ)
};

// Parses `line`, which has no line ending. EINVAL: unknown command, missing or surplus words, no
// number; ERANGE: a number above 2^64-1. `*request` is set on success only and refers to `line`.
Status ParseRequest(std::string_view line, Request* request);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_REQUEST_H_
