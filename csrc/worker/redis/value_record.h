// SPDX-License-Identifier: Apache-2.0
//
// How an object lies in one string value, so that what is remembered with it travels with it:
//
//     head      0  8  "LMSHM1\r\n"
//               8  4  size of the head, at least 44
//              12  4  tag: of this put alone; the tail repeats it
//              16  8  bytes of payload
//              24  8  when it was stored, milliseconds since 1970
//              32  4  CRC-32C of the head with zeros in this place
//              36  -  record, as a directory has it: object_record.h; its checksum is "-"
//     payload
//     tail      0  4  tag
//               4  4  1 if there is a checksum, otherwise 0
//               8  4  CRC-32C of the payload
//              12  4  "LMSE"
//
// Numbers are little-endian. The checksum is behind the payload because it is computed while the
// payload is sent, piece by piece while that is in the processor's cache. The tag shows that two
// replies, one with the head and one with the tail, are of the same value. Pure functions.
#ifndef LMSHM_WORKER_REDIS_VALUE_RECORD_H_
#define LMSHM_WORKER_REDIS_VALUE_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "worker/storage/object_record.h"

namespace lmshm {

inline constexpr size_t kHeadFixedBytes = 36;
// FormatRecord() writes at least this: "0 - 12345678".
inline constexpr size_t kLeastHeadBytes = kHeadFixedBytes + 12;
// Room for attributes of 4,096 bytes, each coded as three.
inline constexpr size_t kMaxHeadBytes = 16 * 1024;
inline constexpr size_t kTailBytes = 16;

struct ValueHead {
  uint32_t head_bytes = 0;
  uint32_t tag = 0;
  uint64_t payload_bytes = 0;
  uint64_t mtime_ms = 0;
  ObjectRecord record;
};

// Sets head_bytes. `head.record` must have the length of the payload and no checksum.
std::string FormatHead(ValueHead* head);

// Of the first kHeadFixedBytes: sizes and tag alone. False: no such value.
[[nodiscard]] bool ParseHeadFixed(std::string_view text, ValueHead* head);
// Of all of it, head->head_bytes.
[[nodiscard]] bool ParseHead(std::string_view text, ValueHead* head);

std::string FormatTail(uint32_t tag, const uint32_t* crc32c);
// False: not the tail of the value whose head has this tag.
[[nodiscard]] bool ParseTail(std::string_view text, uint32_t tag, std::optional<uint32_t>* crc32c);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_VALUE_RECORD_H_
