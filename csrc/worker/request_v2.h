// SPDX-License-Identifier: Apache-2.0
//
// Requests of protocol version 2 as text, and nothing of what they mean. docs/protocol_v2.md is the
// description; this is its twin in code. Pure functions.
//
//     <id> ATTACH <shm_name> <size> <identity|->
//     <id> PUT <object> [; <object>]...       <key> <offset> <length> [<option>|<name>=<value>]...
//     <id> GET <object> [; <object>]...       <key> <offset> <capacity> [<option>]...
//     <id> STAT <key> [prio=<p>]
//     <id> EXISTS <key>...
//     <id> CONTAINS <key>...
//     <id> REMOVE <key>...
//     <id> LIST <limit> <cursor|-> [<prefix>] [prio=<p>]
//     <id> CANCEL <id>
//     <id> INFO
//     <id> PING
//     <id> QUIT
//
// Options: crc=0|1 (PUT), verify=0|1 (GET), io=auto|direct|cached, sync=none|data|full (PUT),
// prio=high|normal|low (of a line: with its first object only).
//
// Words are separated by exactly one space. Names, keys, values, cursors and prefixes are
// percent-encoded (percent.h); numbers are decimal, below 2^64.
#ifndef LMSHM_WORKER_REQUEST_V2_H_
#define LMSHM_WORKER_REQUEST_V2_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/attributes.h"
#include "worker/io_mode.h"
#include "worker/priority.h"
#include "worker/segment_identity.h"
#include "worker/status.h"

namespace lmshm {

enum class Verb {
  kAttach,
  kPut,
  kGet,
  kStat,
  kExists,
  kContains,
  kRemove,
  kList,
  kCancel,
  kInfo,
  kPing,
  kQuit
};

inline constexpr uint64_t kMaxListKeys = 1000;
inline constexpr size_t kMaxBatchObjects = 1024;

// One object of a PUT or a GET.
struct TransferItem {
  std::string key;  // decoded, checked
  uint64_t offset = 0;
  uint64_t size = 0;                  // length (PUT), capacity (GET)
  bool checksum = true;               // PUT: crc=0 was not given; GET: verify=0 was not given
  std::optional<IoMode> io;           // absent: the worker's default
  std::optional<Durability> sync;     // PUT; absent: the worker's default
  std::vector<Attribute> attributes;  // PUT
};

// Refers to nothing: it may outlive its line.
struct RequestV2 {
  uint64_t id = 0;  // 0: the line had none
  Verb verb = Verb::kPing;
  Priority priority = Priority::kNormal;
  std::vector<TransferItem> items;  // PUT, GET: one, or more (a batch)
  std::vector<std::string> keys;    // STAT: one; EXISTS, CONTAINS, REMOVE: one or more; as above
  std::string text;                 // shm_name (ATTACH), cursor (LIST; "": none)
  std::string prefix;               // LIST
  uint64_t number = 0;              // size (ATTACH), limit (LIST), id (CANCEL)
  std::optional<SegmentIdentity> identity;  // ATTACH; absent: whatever has the name
};

// Parses `line`, which has no line ending. On failure only `request->id` is set: to 0 when the line
// does not begin with an id.
//   EINVAL        no id, unknown verb, missing or surplus words, no number, bad coding, bad key
//   ERANGE        a number above 2^64-1, or LIST's limit
//   E2BIG         too many attributes, or too much of them; more than kMaxBatchObjects objects
//   ENAMETOOLONG  a key
Status ParseRequestV2(std::string_view line, RequestV2* request);

// "PUT" and so on, for logs.
std::string_view VerbName(Verb verb);

// "high", "normal" or "low".
std::string_view PriorityName(Priority priority);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REQUEST_V2_H_
