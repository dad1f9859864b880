// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_record.h"

#include <algorithm>
#include <utility>

#include "worker/base/crc32c.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kKey = "key";
constexpr std::string_view kHead = "head";
constexpr std::string_view kPad = "pad";
constexpr std::string_view kNone = "-";

bool MustBeCoded(unsigned char byte) { return byte <= ' ' || byte == '%' || byte == 0x7f; }

void AppendCoded(std::string_view bytes, std::string* out) {
  constexpr char kHex[] = "0123456789ABCDEF";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!MustBeCoded(byte)) {
      out->push_back(c);
      continue;
    }
    out->push_back('%');
    out->push_back(kHex[byte >> 4]);
    out->push_back(kHex[byte & 15]);
  }
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool Decode(std::string_view text, std::string* bytes) {
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != '%') {
      if (MustBeCoded(static_cast<unsigned char>(text[i]))) return false;
      bytes->push_back(text[i]);
      continue;
    }
    if (text.size() - i < 3) return false;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return false;
    bytes->push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return true;
}

// The part of `*text` before the next space, which is taken off with it.
std::string_view NextWord(std::string_view* text) {
  const size_t space = text->find(' ');
  const std::string_view word = text->substr(0, space);
  *text = space == std::string_view::npos ? std::string_view() : text->substr(space + 1);
  return word;
}

void AppendNamed(std::string_view name, std::string_view value, std::string* text) {
  text->push_back(' ');
  text->append(name).push_back('=');
  AppendCoded(value, text);
}

}  // namespace

uint32_t KeyCheck(std::string_view key) { return Crc32c(0, key.data(), key.size()); }

std::string FormatRecord(const ObjectRecord& record) {
  std::string text = std::to_string(record.length);
  text.push_back(' ');
  text.append(record.crc32c.has_value() ? Crc32cHex(*record.crc32c) : std::string(kNone));
  text.push_back(' ');
  text.append(Crc32cHex(record.key_check));
  if (!record.key.empty()) AppendNamed(kKey, record.key, &text);
  if (record.head > 0) AppendNamed(kHead, std::to_string(record.head), &text);
  if (record.pad > 1) AppendNamed(kPad, std::to_string(record.pad), &text);
  for (const Attribute& attribute : record.attributes) {
    AppendNamed(attribute.name, attribute.value, &text);
  }
  return text;
}

bool ParseRecord(std::string_view text, ObjectRecord* record) {
  *record = ObjectRecord();
  if (ParseU64(NextWord(&text), &record->length) != NumberError::kNone) return false;
  const std::string_view crc = NextWord(&text);
  if (crc != kNone) {
    uint32_t value;
    if (!ParseCrc32cHex(crc, &value)) return false;
    record->crc32c = value;
  }
  if (!ParseCrc32cHex(NextWord(&text), &record->key_check)) return false;
  while (!text.empty()) {
    const std::string_view word = NextWord(&text);
    const size_t equals = word.find('=');
    if (equals == std::string_view::npos) return false;
    Attribute attribute;
    attribute.name = std::string(word.substr(0, equals));
    if (!IsAttributeName(attribute.name) || !Decode(word.substr(equals + 1), &attribute.value)) {
      return false;
    }
    if (attribute.name == kKey) {
      record->key = std::move(attribute.value);
    } else if (attribute.name == kHead || attribute.name == kPad) {
      uint64_t* const number = attribute.name == kHead ? &record->head : &record->pad;
      if (ParseU64(attribute.value, number) != NumberError::kNone) return false;
    } else {
      record->attributes.push_back(std::move(attribute));
    }
  }
  std::sort(record->attributes.begin(), record->attributes.end(),
            [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
  return true;
}

}  // namespace lmshm
