// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/http_response.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxChunkLineBytes = 4096;

Status Malformed(std::string_view what, std::string_view text) {
  std::string message = "the server's answer is no HTTP/1.1: ";
  message.append(what);
  if (!text.empty()) {
    message.append(": \"");
    AppendPrintable(text, 120, &message);
    message.append("\"");
  }
  return Status::Error(EPROTO, std::move(message));
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// RFC 9110, 5.6.2.
bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

// Whether a comma-separated list has `word`, in any case.
bool ListHas(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (Lower(Trimmed(list.substr(0, comma))) == word) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

// "HTTP/1.1 200 OK"; the reason may be missing.
bool ParseStatusLine(std::string_view line, int* status, bool* version_1_1) {
  if (line.size() < 12 || line.substr(0, 7) != "HTTP/1." || line[8] != ' ') return false;
  if (line[7] != '0' && line[7] != '1') return false;
  if (!IsDigit(line[9]) || !IsDigit(line[10]) || !IsDigit(line[11])) return false;
  if (line.size() > 12 && line[12] != ' ') return false;
  *status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  *version_1_1 = line[7] == '1';
  return *status >= 100 && *status <= 599;
}

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool ParseHex(std::string_view text, uint64_t* value) {
  if (text.empty() || text.size() > 15) return false;
  *value = 0;
  for (const char c : text) {
    const int digit = HexDigit(c);
    if (digit < 0) return false;
    *value = *value * 16 + static_cast<uint64_t>(digit);
  }
  return true;
}

}  // namespace

const std::string* HttpResponseHead::Find(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return &value;
  }
  return nullptr;
}

size_t HttpHeadSize(std::string_view bytes) {
  const size_t end = bytes.find("\r\n\r\n");
  return end == std::string_view::npos ? 0 : end + 4;
}

Status ParseHttpHead(std::string_view bytes, HttpResponseHead* head) {
  *head = HttpResponseHead();
  bool version_1_1 = false;
  size_t at = bytes.find("\r\n");
  if (at == std::string_view::npos) return Malformed("a head without lines", bytes);
  if (!ParseStatusLine(bytes.substr(0, at), &head->status, &version_1_1)) {
    return Malformed("the first line", bytes.substr(0, at));
  }
  head->keep_alive = version_1_1;
  for (at += 2;;) {
    const size_t end = bytes.find("\r\n", at);
    if (end == std::string_view::npos) return Malformed("a head without an end", {});
    const std::string_view line = bytes.substr(at, end - at);
    if (line.empty()) break;
    at = end + 2;
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !IsToken(line.substr(0, colon))) {
      return Malformed("a header", line);
    }
    const std::string_view value = Trimmed(line.substr(colon + 1));
    if (value.find_first_of(std::string_view("\r\n\0", 3)) != std::string_view::npos) {
      return Malformed("a header", line);
    }
    std::string name = Lower(line.substr(0, colon));
    if (name == "content-length") {
      uint64_t length = 0;
      if (ParseU64(value, &length) != NumberError::kNone) return Malformed("a header", line);
      if (head->content_length.value_or(length) != length) {
        return Malformed("two lengths", line);
      }
      head->content_length = length;
    } else if (name == "transfer-encoding") {
      if (head->chunked || Lower(value) != "chunked") {
        return Malformed("a transfer encoding that was not asked for", line);
      }
      head->chunked = true;
    } else if (name == "connection") {
      if (ListHas(value, "close")) head->keep_alive = false;
      if (!version_1_1 && ListHas(value, "keep-alive")) head->keep_alive = true;
    }
    head->headers.emplace_back(std::move(name), value);
  }
  if (head->chunked && head->content_length.has_value()) {
    return Malformed("a length and a transfer encoding in one answer", {});
  }
  return Status::OK();
}

Status ChunkedBody::TakeLine(std::string_view line) {
  switch (state_) {
    case State::kSize: {
      // What follows a semicolon are extensions, which nobody uses.
      if (!ParseHex(Trimmed(line.substr(0, line.find(';'))), &left_)) {
        return Malformed("the size of a chunk", line);
      }
      state_ = left_ == 0 ? State::kTrailer : State::kData;
      break;
    }
    case State::kAfterData:
      if (!line.empty()) return Malformed("a chunk that is longer than it says", line);
      state_ = State::kSize;
      break;
    case State::kTrailer:
      if (line.empty()) state_ = State::kDone;
      break;
    case State::kData:
    case State::kDone:
      break;
  }
  return Status::OK();
}

Status ChunkedBody::Feed(std::string_view bytes, std::string* content, size_t* used) {
  size_t at = 0;
  while (at < bytes.size() && state_ != State::kDone) {
    if (state_ == State::kData) {
      const size_t now = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size() - at));
      content->append(bytes.substr(at, now));
      at += now;
      left_ -= now;
      if (left_ == 0) state_ = State::kAfterData;
      continue;
    }
    const size_t newline = bytes.find('\n', at);
    const bool complete = newline != std::string_view::npos;
    line_.append(bytes.substr(at, complete ? newline - at : std::string_view::npos));
    at = complete ? newline + 1 : bytes.size();
    if (line_.size() > kMaxChunkLineBytes) return Malformed("the size of a chunk", line_);
    if (!complete) break;
    if (line_.empty() || line_.back() != '\r') return Malformed("the end of a line", line_);
    line_.pop_back();
    const Status status = TakeLine(line_);
    line_.clear();
    if (!status.ok()) return status;
  }
  *used = at;
  return Status::OK();
}

bool ParseHttpDate(std::string_view text, int64_t* seconds) {
  // "Sun, 06 Nov 1994 08:49:37 GMT": strptime() would take the names of months from the locale.
  constexpr std::string_view kMonths = "JanFebMarAprMayJunJulAugSepOctNovDec";
  if (text.size() != 29 || text.substr(25) != " GMT" || text.substr(3, 2) != ", ") return false;
  const auto number = [&](size_t at, size_t digits, int* value) {
    uint64_t parsed = 0;
    if (ParseU64(text.substr(at, digits), &parsed) != NumberError::kNone) return false;
    *value = static_cast<int>(parsed);
    return true;
  };
  struct tm fields = {};
  const size_t month = kMonths.find(text.substr(8, 3));
  if (month == std::string_view::npos || month % 3 != 0) return false;
  fields.tm_mon = static_cast<int>(month / 3);
  if (!number(5, 2, &fields.tm_mday) || !number(12, 4, &fields.tm_year) ||
      !number(17, 2, &fields.tm_hour) || !number(20, 2, &fields.tm_min) ||
      !number(23, 2, &fields.tm_sec)) {
    return false;
  }
  fields.tm_year -= 1900;
  *seconds = timegm(&fields);
  return true;
}

}  // namespace lmshm
