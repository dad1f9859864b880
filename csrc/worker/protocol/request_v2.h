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
// head=none|lmcache (PUT), pad=<power of two, 1 to 1048576>, prio=high|normal|low (of a line: with
// its first object only).
//
// Words are separated by exactly one space. Names, keys, values, cursors and prefixes are
// percent-encoded (percent.h); numbers are decimal, below 2^64.
#ifndef LMSHM_WORKER_PROTOCOL_REQUEST_V2_H_
#define LMSHM_WORKER_PROTOCOL_REQUEST_V2_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/memory/segment_identity.h"
#include "worker/storage/attributes.h"
#include "worker/storage/io_mode.h"

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

// One object of a PUT or a GET. Refers to its request's text.
struct TransferItem {
  std::string_view key;  // decoded, checked
  uint64_t offset = 0;
  uint64_t size = 0;               // length (PUT), capacity (GET)
  std::string_view options;        // PUT: the words behind these, checked; see Attributes()
  bool checksum = true;            // PUT: crc=0 was not given; GET: verify=0 was not given
  bool lmcache_header = false;     // PUT: head=lmcache was given
  bool if_absent = false;          // PUT: if=absent was given
  uint8_t pad_log2 = 0;            // of pad=, a power of two
  std::optional<IoMode> io;        // absent: the worker's default
  std::optional<Durability> sync;  // PUT; absent: the worker's default
};

// Owns the text of its line, and refers to nothing else: what is parsed of it takes little more
// than the line. May be moved.
struct RequestV2 {
  uint64_t id = 0;  // 0: the line had none
  Verb verb = Verb::kPing;
  Priority priority = Priority::kNormal;
  std::vector<TransferItem> items;  // PUT, GET: one, or more (a batch)
  std::string_view keys;  // STAT: one; EXISTS, CONTAINS, REMOVE: one or more; see TakeKey()
  size_t key_count = 0;   // of these
  std::string text;       // shm_name (ATTACH), cursor (LIST; "": none)
  std::string prefix;     // LIST
  uint64_t number = 0;    // size (ATTACH), limit (LIST), id (CANCEL)
  std::optional<SegmentIdentity> identity;  // ATTACH; absent: whatever has the name

  std::unique_ptr<char[]> line;  // what the views refer to
  size_t line_bytes = 0;

  // All that it holds beside itself, in bytes.
  size_t held_bytes() const {
    return line_bytes + items.capacity() * sizeof(TransferItem) + text.capacity() +
           prefix.capacity();
  }
};

// The attributes of an object that is PUT.
std::vector<Attribute> Attributes(const TransferItem& item);

// Takes the first key off `keys`, which is not empty, and decodes it.
std::string TakeKey(std::string_view* keys);

// Parses `line`, which has no line ending. On failure only `request->id` is set: to 0 when the line
// does not begin with an id.
//   EINVAL        no id, unknown verb, missing or surplus words, no number, bad coding, bad key
//   ERANGE        a number above 2^64-1, or LIST's limit
//   E2BIG         too many attributes, or too much of them; more than kMaxBatchObjects objects
//   ENAMETOOLONG  a key
Status ParseRequestV2(std::string_view line, RequestV2* request);

// "PUT" and so on, for logs.
std::string_view VerbName(Verb verb);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_REQUEST_V2_H_
