// SPDX-License-Identifier: Apache-2.0
//
// What is remembered with an object, as the one extended attribute "user.lmshm" of its file:
//
//     <length> <crc32c or -> <check of the key>[ <name>=<value>]...
//     33554432 5cbb4fe7 1a2b3c4d shape=2,32,256,1024 dtype=bfloat16
//
// One attribute and not one for each name, because each costs a system call; and short, because
// ext4 keeps what fits beside the inode (about 64 bytes of this) and spends a block on more. So
// of the key there is only a checksum, unless the file's name does not say it: then the key itself
// is an attribute "key". Space, "%" and control characters of a value are coded as % and two
// hexadecimal digits. Of a file that has more than the object's bytes, head=<bytes before them> and
// pad=<what its length is a multiple of> say so. Pure functions.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_RECORD_H_
#define LMSHM_WORKER_STORAGE_OBJECT_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/storage/attributes.h"

namespace lmshm {

// The next multiple of `unit` (0, 1: every number is one).
constexpr uint64_t RoundedUp(uint64_t bytes, uint64_t unit) {
  return unit <= 1 || bytes % unit == 0 ? bytes : bytes + (unit - bytes % unit);
}

struct ObjectRecord {
  uint64_t length = 0;                // bytes
  std::optional<uint32_t> crc32c;     // of the content, where it was computed
  uint32_t key_check = 0;             // KeyCheck() of the key
  std::string key;                    // empty: the file's name says it
  uint64_t head = 0;                  // bytes of the file before the object's: a header
  uint64_t pad = 0;                   // the file's length was made a multiple of it
  std::vector<Attribute> attributes;  // the client's
};

// What the file has, header and padding included.
inline uint64_t FileBytesOf(const ObjectRecord& record) {
  return RoundedUp(record.head + record.length, record.pad);
}

uint32_t KeyCheck(std::string_view key);

std::string FormatRecord(const ObjectRecord& record);

// False for what FormatRecord() could not have written; `*record` is then unspecified. Attributes
// come by name in byte order.
[[nodiscard]] bool ParseRecord(std::string_view text, ObjectRecord* record);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_RECORD_H_
