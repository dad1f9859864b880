// SPDX-License-Identifier: Apache-2.0
//
// Cutting a byte stream into lines, whatever the pieces it comes in.
#include <algorithm>
#include <cstring>

#include "worker/protocol/line_reader.h"
#include "worker_check.hh"

using lmshm::kMaxLineBytes;
using lmshm::LineReader;

namespace {

// Feeds `input` in pieces of `sizes` (the last one repeated) and returns the lines; "<too long>"
// stands for a line that was.
std::vector<std::string> Lines(const std::string& input, const std::vector<size_t>& sizes) {
  std::vector<std::string> lines;
  LineReader reader;
  size_t at = 0;
  for (size_t i = 0; at < input.size(); i++) {
    size_t space;
    char* to = reader.Space(&space);
    REQUIRE(space > 0);
    const size_t want = sizes[std::min(i, sizes.size() - 1)];
    const size_t n = std::min({space, want, input.size() - at});
    std::memcpy(to, input.data() + at, n);
    reader.Commit(n);
    at += n;
    for (;;) {
      std::string_view line;
      const LineReader::Event event = reader.Next(&line);
      if (event == LineReader::Event::kNone) break;
      lines.push_back(event == LineReader::Event::kLine ? std::string(line) : "<too long>");
    }
  }
  return lines;
}

std::string Join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += "[" + (line.size() > 100 ? std::to_string(line.size()) + " bytes" : line) + "]";
  }
  return text;
}

}  // namespace

TEST(lines_are_the_same_split_at_every_byte) {
  const std::string input = "one\ntwo\r\n\n\r\nth\rree\r\r\nfour \nunfinished";
  const std::string expected = Join({"one", "two", "", "", "th\rree\r", "four "});
  for (size_t first = 1; first < input.size(); first++) {
    for (const size_t rest : {size_t{1}, size_t{3}, input.size()}) {
      CHECK_EQ(Join(Lines(input, {first, rest})), expected);
    }
  }
}

TEST(a_line_of_64_KiB_is_accepted_and_one_byte_more_is_not) {
  for (const size_t piece : {size_t{1} << 20, size_t{4096}, size_t{997}}) {
    const std::string longest(kMaxLineBytes, 'x');
    CHECK_EQ(Join(Lines("a\n" + longest + "\nb\n", {piece})), "[a][65536 bytes][b]");
    CHECK_EQ(Join(Lines("a\n" + longest + "y\nb\n", {piece})), "[a][<too long>][b]");
    CHECK_EQ(Join(Lines(longest.substr(1) + "\r\nb\n", {piece})), "[65535 bytes][b]");
  }
}

TEST(a_line_that_is_too_long_is_reported_once_and_before_it_ends) {
  const std::string endless(kMaxLineBytes * 5 + 17, 'x');
  for (const size_t piece : {size_t{1} << 20, size_t{4096}, size_t{65536}, size_t{65537}}) {
    CHECK_EQ(Join(Lines(endless, {piece})), "[<too long>]");
    CHECK_EQ(Join(Lines(endless + "\nPING\n" + endless + "\nQUIT\n", {piece})),
             "[<too long>][PING][<too long>][QUIT]");
  }
}

TEST(many_lines_in_one_piece_and_buffers_that_wrap) {
  std::string input;
  std::vector<std::string> expected;
  for (int i = 0; i < 20000; i++) {
    expected.push_back("line " + std::to_string(i) + std::string(static_cast<size_t>(i % 50), '.'));
    input += expected.back() + "\n";
  }
  for (const size_t piece : {input.size(), size_t{65536}, size_t{100}, size_t{7}}) {
    CHECK(Lines(input, {piece}) == expected);
  }
}

CHECK_MAIN
