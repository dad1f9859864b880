// SPDX-License-Identifier: Apache-2.0
//
// Reply: what a server answers in RESP, version 2, and commands as they are sent. Large strings do
// not become one: pipe.h receives those where they belong. Pure functions.
#ifndef LMSHM_WORKER_REDIS_REPLY_H_
#define LMSHM_WORKER_REDIS_REPLY_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace lmshm {

struct Reply {
  // '+' a word, '-' an error, ':' a number, '$' a string, '*' a list, '_' nothing (a null string
  // or list), 0: none yet.
  char type = 0;
  std::string text;
  int64_t number = 0;
  std::vector<Reply> items;

  bool IsError() const { return type == '-'; }
  // The first word of an error: "MOVED".
  std::string_view ErrorWord() const;
};

// More than that is no reply that anybody asked for.
inline constexpr size_t kMaxReplyBytes = 64 << 20;
// A line without a string: the longest error that is read.
inline constexpr size_t kMaxLineBytes = 16 * 1024;

enum class Parsed { kWhole, kMore, kBad };

// Reads the reply at the beginning of `text`: `*used` is its size when it is whole.
Parsed ParseReply(std::string_view text, size_t* used, Reply* reply);

// The first line alone, without its end; `*used` includes it. kBad: too long.
Parsed ParseLine(std::string_view text, size_t* used, std::string_view* line);

// The number of a line "$5", ":-1", "*2". False for anything else.
[[nodiscard]] bool ParseNumber(std::string_view line, int64_t* number);

// A command of these words.
void AppendCommand(std::initializer_list<std::string_view> words, std::string* out);
// Its parts, for one whose last words are not all at hand: "*3\r\n", and "$3\r\nSET\r\n".
void AppendCount(size_t words, std::string* out);
void AppendWord(std::string_view word, std::string* out);
// "$5\r\n": what announces a word of so many bytes; "\r\n" must follow it.
void AppendSize(uint64_t bytes, std::string* out);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_REPLY_H_
