// SPDX-License-Identifier: Apache-2.0
//
// Requests of protocol version 2 as text, and nothing of what they mean. docs/protocol.md is the
// description; this is its twin in code. Pure functions.
//
//     <id> ATTACH <shm_name> <size>
//     <id> PUT <key> <offset> <length> [crc=0] [<name>=<value>]...
//     <id> GET <key> <offset> <capacity> [verify=0]
//     <id> STAT <key>
//     <id> EXISTS <key>...
//     <id> REMOVE <key>...
//     <id> LIST <limit> <cursor|-> [<prefix>]
//     <id> AUTH <secret>
//     <id> PING
//     <id> QUIT
//
// Words are separated by exactly one space. Names, keys, values, cursors and prefixes are
// percent-encoded (percent.h); numbers are decimal, below 2^64.
#ifndef LMSHM_WORKER_REQUEST_V2_H_
#define LMSHM_WORKER_REQUEST_V2_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/attributes.h"
#include "worker/status.h"

namespace lmshm {

enum class Verb { kAttach, kPut, kGet, kStat, kExists, kRemove, kList, kAuth, kPing, kQuit };

inline constexpr uint64_t kMaxListKeys = 1000;

// Refers to nothing: it may outlive its line.
struct RequestV2 {
  uint64_t id = 0;  // 0: the line had none
  Verb verb = Verb::kPing;
  std::vector<std::string> keys;      // one, or any number (EXISTS, REMOVE); decoded, checked
  std::string text;                   // shm_name (ATTACH), secret (AUTH), cursor (LIST; "": none)
  std::string prefix;                 // LIST
  uint64_t first = 0;                 // size (ATTACH), offset (PUT, GET), limit (LIST)
  uint64_t second = 0;                // length (PUT), capacity (GET)
  bool checksum = true;               // PUT: crc=0 was not given; GET: verify=0 was not given
  std::vector<Attribute> attributes;  // PUT
};

// Parses `line`, which has no line ending. On failure only `request->id` is set: to 0 when the line
// does not begin with an id.
//   EINVAL        no id, unknown verb, missing or surplus words, no number, bad coding, bad key
//   ERANGE        a number above 2^64-1, or LIST's limit
//   E2BIG         too many attributes, or too much of them
//   ENAMETOOLONG  a key
Status ParseRequestV2(std::string_view line, RequestV2* request);

// "PUT" and so on, for logs.
std::string_view VerbName(Verb verb);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REQUEST_V2_H_
