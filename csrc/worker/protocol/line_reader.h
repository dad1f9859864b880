// SPDX-License-Identifier: Apache-2.0
//
// LineReader: cuts a stream of bytes into lines. It does no input itself: the caller reads into
// Space(), says how much came with Commit(), and takes lines with Next() until there is none.
//
// Memory is fixed. A line over the limit is reported once, as soon as it is over, and the rest of
// it is thrown away as it comes; the line after it is read normally.
#ifndef LMSHM_WORKER_PROTOCOL_LINE_READER_H_
#define LMSHM_WORKER_PROTOCOL_LINE_READER_H_

#include <cstddef>
#include <string_view>
#include <vector>

namespace lmshm {

// Bytes of a line before its '\n' (a '\r' before that counts).
inline constexpr size_t kMaxLineBytes = 64 * 1024;

// Not thread safe.
class LineReader {
 public:
  enum class Event { kNone, kLine, kTooLong };

  // `max_line` is for places where only short lines are said.
  explicit LineReader(size_t max_line = kMaxLineBytes)
      : max_line_(max_line), buffer_(2 * max_line) {}

  // Where to put the next bytes: at least one byte of space, provided that Next() was called until
  // it returned kNone. Views from Next() end here.
  char* Space(size_t* size);

  // `size` bytes, at most Space()'s, were put there.
  void Commit(size_t size) { end_ += size; }

  // kLine sets `*line`, without '\n' and without one '\r' before it, valid until Space().
  Event Next(std::string_view* line);

  // Bytes of an incomplete line.
  size_t pending() const { return end_ - begin_; }

  // What was read and not taken as a line, for another reader.
  std::string_view Rest() const { return std::string_view(buffer_.data() + begin_, end_ - begin_); }

 private:
  const size_t max_line_;
  std::vector<char> buffer_;
  size_t begin_ = 0;    // the current line starts here
  size_t scanned_ = 0;  // no '\n' in [begin_, scanned_)
  size_t end_ = 0;
  bool discarding_ = false;  // inside a line that was reported as too long
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROTOCOL_LINE_READER_H_
