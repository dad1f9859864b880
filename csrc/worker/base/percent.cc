// SPDX-License-Identifier: Apache-2.0
#include "worker/base/percent.h"

namespace lmshm {

namespace {

bool StandsForItself(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
  return std::string_view("-._~@/:+=,").find(c) != std::string_view::npos;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void AppendPercent(std::string_view bytes, std::string* out) {
  constexpr char kHex[] = "0123456789ABCDEF";
  for (const char c : bytes) {
    if (StandsForItself(c)) {
      out->push_back(c);
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out->push_back('%');
    out->push_back(kHex[byte >> 4]);
    out->push_back(kHex[byte & 15]);
  }
}

std::string PercentEncode(std::string_view bytes) {
  std::string result;
  result.reserve(bytes.size());
  AppendPercent(bytes, &result);
  return result;
}

size_t PercentSize(std::string_view bytes) {
  size_t size = 0;
  for (const char c : bytes) size += StandsForItself(c) ? 1 : 3;
  return size;
}

bool PercentDecode(std::string_view word, std::string* bytes) {
  size_t plain = 0;
  while (plain < word.size() && word[plain] > ' ' && word[plain] <= '~' && word[plain] != '%') {
    plain++;
  }
  if (plain == word.size()) {
    bytes->assign(word);
    return true;
  }
  std::string result;
  result.reserve(word.size());
  for (size_t i = 0; i < word.size(); i++) {
    if (word[i] != '%') {
      if (word[i] <= ' ' || word[i] > '~') return false;  // above: negative where char is signed
      result.push_back(word[i]);
      continue;
    }
    if (word.size() - i < 3) return false;
    const int high = HexDigit(word[i + 1]);
    const int low = HexDigit(word[i + 2]);
    if (high < 0 || low < 0) return false;
    result.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  *bytes = std::move(result);
  return true;
}

}  // namespace lmshm
