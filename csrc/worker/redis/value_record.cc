// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/value_record.h"

#include "worker/base/crc32c.h"

namespace lmshm {

namespace {

constexpr std::string_view kMagic = "LMSHM1\r\n";
constexpr std::string_view kEnd = "LMSE";
constexpr size_t kCrcAt = 32;

void AppendNumber(uint64_t number, size_t bytes, std::string* out) {
  for (size_t i = 0; i < bytes; i++) out->push_back(static_cast<char>(number >> (8 * i)));
}

uint64_t NumberAt(std::string_view text, size_t at, size_t bytes) {
  uint64_t number = 0;
  for (size_t i = bytes; i-- > 0;) {
    number = number << 8 | static_cast<unsigned char>(text[at + i]);
  }
  return number;
}

uint32_t U32(std::string_view text, size_t at) {
  return static_cast<uint32_t>(NumberAt(text, at, 4));
}

}  // namespace

std::string FormatHead(ValueHead* head) {
  const std::string record = FormatRecord(head->record);
  head->head_bytes = static_cast<uint32_t>(kHeadFixedBytes + record.size());
  std::string text(kMagic);
  AppendNumber(head->head_bytes, 4, &text);
  AppendNumber(head->tag, 4, &text);
  AppendNumber(head->payload_bytes, 8, &text);
  AppendNumber(head->mtime_ms, 8, &text);
  AppendNumber(0, 4, &text);
  text.append(record);
  std::string crc;
  AppendNumber(Crc32c(0, text.data(), text.size()), 4, &crc);
  return text.replace(kCrcAt, 4, crc);
}

bool ParseHeadFixed(std::string_view text, ValueHead* head) {
  if (text.size() < kHeadFixedBytes || text.substr(0, kMagic.size()) != kMagic) return false;
  head->head_bytes = U32(text, 8);
  head->tag = U32(text, 12);
  head->payload_bytes = NumberAt(text, 16, 8);
  head->mtime_ms = NumberAt(text, 24, 8);
  return head->head_bytes >= kLeastHeadBytes && head->head_bytes <= kMaxHeadBytes;
}

bool ParseHead(std::string_view text, ValueHead* head) {
  if (!ParseHeadFixed(text, head) || text.size() < head->head_bytes) return false;
  text = text.substr(0, head->head_bytes);
  const char zeros[4] = {};
  uint32_t crc = Crc32c(0, text.data(), kCrcAt);
  crc = Crc32c(crc, zeros, sizeof zeros);
  crc = Crc32c(crc, text.data() + kHeadFixedBytes, text.size() - kHeadFixedBytes);
  return crc == U32(text, kCrcAt) && ParseRecord(text.substr(kHeadFixedBytes), &head->record) &&
         head->record.length == head->payload_bytes;
}

std::string FormatTail(uint32_t tag, const uint32_t* crc32c) {
  std::string text;
  AppendNumber(tag, 4, &text);
  AppendNumber(crc32c != nullptr ? 1 : 0, 4, &text);
  AppendNumber(crc32c != nullptr ? *crc32c : 0, 4, &text);
  return text.append(kEnd);
}

bool ParseTail(std::string_view text, uint32_t tag, std::optional<uint32_t>* crc32c) {
  if (text.size() != kTailBytes || text.substr(12) != kEnd || U32(text, 0) != tag) return false;
  crc32c->reset();
  if (U32(text, 4) == 1) *crc32c = U32(text, 8);
  return U32(text, 4) <= 1;
}

}  // namespace lmshm
