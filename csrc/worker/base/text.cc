// SPDX-License-Identifier: Apache-2.0
#include "worker/base/text.h"

#include <limits>

namespace lmshm {

namespace {

// Length in bytes of the printable UTF-8 character that starts at text[at], or 0 when there is
// none: a control character (C0, DEL, C1), a stray or overlong sequence, a surrogate.
size_t PrintableLength(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;

  size_t length;
  uint32_t point;
  uint32_t smallest;
  if ((lead & 0xe0) == 0xc0) {
    length = 2, point = lead & 0x1f, smallest = 0xa0;  // below: C1 controls
  } else if ((lead & 0xf0) == 0xe0) {
    length = 3, point = lead & 0x0f, smallest = 0x800;
  } else if ((lead & 0xf8) == 0xf0) {
    length = 4, point = lead & 0x07, smallest = 0x10000;
  } else {
    return 0;
  }
  if (length > text.size() - at) return 0;
  for (size_t i = 1; i < length; i++) {
    const unsigned char next = byte(at + i);
    if ((next & 0xc0) != 0x80) return 0;
    point = (point << 6) | (next & 0x3fu);
  }
  const bool surrogate = point >= 0xd800 && point <= 0xdfff;
  return point >= smallest && point <= 0x10ffff && !surrogate ? length : 0;
}

}  // namespace

NumberError ParseU64(std::string_view text, uint64_t* value) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  if (text.empty()) return NumberError::kMalformed;
  uint64_t sum = 0;
  bool overflow = false;
  for (const char c : text) {
    if (c < '0' || c > '9') return NumberError::kMalformed;
    const auto digit = static_cast<uint64_t>(c - '0');
    if (sum > (kMax - digit) / 10) overflow = true;
    sum = sum * 10 + digit;
  }
  if (overflow) return NumberError::kOverflow;
  *value = sum;
  return NumberError::kNone;
}

bool IsPrintable(std::string_view text) {
  // ASCII first, which most of it is.
  size_t at = 0;
  while (at < text.size() && text[at] >= ' ' && text[at] <= '~') at++;
  while (at < text.size()) {
    const size_t size = PrintableLength(text, at);
    if (size == 0) return false;
    at += size;
  }
  return true;
}

void AppendPrintable(std::string_view text, size_t max_bytes, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  const size_t start = out->size();
  size_t cut = start;  // where "..." may be put: a whole character ends here
  for (size_t at = 0; at < text.size();) {
    char piece[4];
    size_t size = PrintableLength(text, at);
    size_t used = size;
    if (size == 0) {
      const auto byte = static_cast<unsigned char>(text[at]);
      piece[0] = '\\', piece[1] = 'x', piece[2] = kHex[byte >> 4], piece[3] = kHex[byte & 15];
      size = 4, used = 1;
    } else {
      for (size_t i = 0; i < size; i++) piece[i] = text[at + i];
    }
    if (out->size() - start + size > max_bytes) {
      out->resize(cut);
      out->append("...");
      return;
    }
    out->append(piece, size);
    at += used;
    if (out->size() - start + 3 <= max_bytes) cut = out->size();
  }
}

std::string Printable(std::string_view text) {
  std::string result;
  AppendPrintable(text, 1024, &result);
  return result;
}

std::string ActionOn(std::string_view verb, std::string_view what) {
  constexpr size_t kShownBytes = 200;
  std::string action(verb);
  action.push_back(' ');
  AppendPrintable(what, kShownBytes, &action);
  return action;
}

}  // namespace lmshm
