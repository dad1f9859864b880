// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/line_reader.h"

#include <cstring>

namespace lmshm {

char* LineReader::Space(size_t* size) {
  // Keep room for a read of half the buffer; an incomplete line is at most the other half.
  if (begin_ == end_) {
    begin_ = scanned_ = end_ = 0;
  } else if (buffer_.size() - end_ < max_line_) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    scanned_ -= begin_;
    begin_ = 0;
  }
  *size = buffer_.size() - end_;
  return buffer_.data() + end_;
}

LineReader::Event LineReader::Next(std::string_view* line) {
  for (;;) {
    const char* data = buffer_.data();
    const auto* newline =
        static_cast<const char*>(std::memchr(data + scanned_, '\n', end_ - scanned_));
    if (newline == nullptr) {
      scanned_ = end_;
      if (discarding_) {
        begin_ = end_;
        return Event::kNone;
      }
      if (end_ - begin_ <= max_line_) return Event::kNone;
      discarding_ = true;
      begin_ = end_;
      return Event::kTooLong;
    }

    const size_t at = static_cast<size_t>(newline - data);
    const size_t start = begin_;
    begin_ = scanned_ = at + 1;
    if (discarding_) {
      discarding_ = false;
      continue;
    }
    if (at - start > max_line_) return Event::kTooLong;
    size_t length = at - start;
    if (length > 0 && data[start + length - 1] == '\r') length--;
    *line = std::string_view(data + start, length);
    return Event::kLine;
  }
}

}  // namespace lmshm
