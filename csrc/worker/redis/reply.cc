// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/reply.h"

#include <algorithm>
#include <charconv>

namespace lmshm {

namespace {

constexpr int kMostDepth = 8;

Parsed ParseAt(std::string_view text, int depth, size_t* used, Reply* reply) {
  size_t at = 0;
  std::string_view line;
  const Parsed whole = ParseLine(text, &at, &line);
  if (whole != Parsed::kWhole) return whole;
  if (line.empty()) return Parsed::kBad;
  *reply = Reply();
  reply->type = line[0];
  *used = at;
  switch (line[0]) {
    case '+':
    case '-':
      reply->text = std::string(line.substr(1));
      return Parsed::kWhole;
    case ':':
      return ParseNumber(line, &reply->number) ? Parsed::kWhole : Parsed::kBad;
    case '$': {
      if (!ParseNumber(line, &reply->number) || reply->number < -1) return Parsed::kBad;
      if (reply->number == -1) {
        reply->type = '_';
        return Parsed::kWhole;
      }
      const auto size = static_cast<size_t>(reply->number);
      if (size > kMaxReplyBytes) return Parsed::kBad;
      if (text.size() - at < size + 2) return Parsed::kMore;
      if (text.substr(at + size, 2) != "\r\n") return Parsed::kBad;
      reply->text = std::string(text.substr(at, size));
      *used = at + size + 2;
      return Parsed::kWhole;
    }
    case '*': {
      if (!ParseNumber(line, &reply->number) || reply->number < -1 || depth == kMostDepth) {
        return Parsed::kBad;
      }
      if (reply->number == -1) {
        reply->type = '_';
        return Parsed::kWhole;
      }
      if (static_cast<size_t>(reply->number) > kMaxReplyBytes / 4) return Parsed::kBad;
      for (int64_t i = 0; i < reply->number; i++) {
        size_t more = 0;
        Reply item;
        const Parsed one = ParseAt(text.substr(at), depth + 1, &more, &item);
        if (one != Parsed::kWhole) return one;
        reply->items.push_back(std::move(item));
        at += more;
      }
      *used = at;
      return Parsed::kWhole;
    }
    default:
      return Parsed::kBad;
  }
}

}  // namespace

std::string_view Reply::ErrorWord() const {
  return IsError() ? std::string_view(text).substr(0, text.find(' ')) : std::string_view();
}

Parsed ParseReply(std::string_view text, size_t* used, Reply* reply) {
  const Parsed parsed = ParseAt(text, 0, used, reply);
  if (parsed == Parsed::kMore && text.size() > kMaxReplyBytes) return Parsed::kBad;
  return parsed;
}

Parsed ParseLine(std::string_view text, size_t* used, std::string_view* line) {
  const size_t end = text.substr(0, kMaxLineBytes).find("\r\n");
  if (end == std::string_view::npos) {
    return text.size() >= kMaxLineBytes ? Parsed::kBad : Parsed::kMore;
  }
  *line = text.substr(0, end);
  *used = end + 2;
  return Parsed::kWhole;
}

bool ParseNumber(std::string_view line, int64_t* number) {
  if (line.size() < 2) return false;
  const char* const end = line.data() + line.size();
  const auto [at, error] = std::from_chars(line.data() + 1, end, *number);
  return error == std::errc() && at == end;
}

void AppendCount(size_t words, std::string* out) {
  out->append("*").append(std::to_string(words)).append("\r\n");
}

void AppendSize(uint64_t bytes, std::string* out) {
  out->append("$").append(std::to_string(bytes)).append("\r\n");
}

void AppendWord(std::string_view word, std::string* out) {
  AppendSize(word.size(), out);
  out->append(word).append("\r\n");
}

void AppendCommand(std::initializer_list<std::string_view> words, std::string* out) {
  AppendCount(words.size(), out);
  for (const std::string_view word : words) AppendWord(word, out);
}

}  // namespace lmshm
