// SPDX-License-Identifier: Apache-2.0
//
// Numbers, printable text, errno names, statuses.
#include <cerrno>
#include <cstdint>

#include "worker/base/status.h"
#include "worker/base/text.h"
#include "worker_check.hh"

using lmshm::AppendPrintable;
using lmshm::NumberError;
using lmshm::ParseU64;
using lmshm::Printable;
using lmshm::Status;

TEST(numbers_that_are_numbers) {
  const struct {
    const char* text;
    uint64_t value;
  } cases[] = {{"0", 0}, {"7", 7}, {"007", 7}, {"18446744073709551615", UINT64_MAX}};
  for (const auto& c : cases) {
    uint64_t value = 99;
    CHECK(ParseU64(c.text, &value) == NumberError::kNone);
    CHECK_EQ(value, c.value);
  }
}

TEST(numbers_that_are_not) {
  for (const char* text :
       {"", "-1", "+1", " 1", "1 ", "0x10", "1e3", "1.0", "12a", "-", "\xd9\xa1"}) {
    uint64_t value = 99;
    CHECK(ParseU64(text, &value) == NumberError::kMalformed);
    CHECK_EQ(value, 99u);
  }
}

TEST(numbers_above_64_bits_are_not_wrapped) {
  for (const char* text : {"18446744073709551616", "18446744073709551620", "99999999999999999999",
                           "184467440737095516150", "340282366920938463463374607431768211456"}) {
    uint64_t value = 99;
    CHECK(ParseU64(text, &value) == NumberError::kOverflow);
    CHECK_EQ(value, 99u);
  }
}

TEST(printable_text_stays) {
  CHECK_EQ(Printable("plain text, 100%"), "plain text, 100%");
  CHECK_EQ(Printable("Grüße \xe6\x97\xa5 \xf0\x9f\x98\x80"), "Grüße \xe6\x97\xa5 \xf0\x9f\x98\x80");
}

TEST(control_characters_are_escaped) {
  CHECK_EQ(Printable("a\nb\r\tc\x7f"), "a\\x0ab\\x0d\\x09c\\x7f");
  CHECK_EQ(Printable(std::string("\0", 1)), "\\x00");
  CHECK_EQ(Printable(Printable("a\nb\\")), "a\\x0ab\\");  // twice is once
  CHECK_EQ(Printable("\xc2\x85"),
           "\\xc2\\x85");  // a C1 control that some readers take as a line end
}

TEST(what_is_not_utf8_is_escaped) {
  CHECK_EQ(Printable("\xff"), "\\xff");
  CHECK_EQ(Printable("\xc0\xaf"), "\\xc0\\xaf");           // overlong
  CHECK_EQ(Printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");  // overlong
  CHECK_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  CHECK_EQ(Printable("\xf5\x80\x80\x80"), "\\xf5\\x80\\x80\\x80");
  CHECK_EQ(Printable("\xe6\x97"), "\\xe6\\x97");  // cut short
}

TEST(long_text_is_cut_between_characters) {
  for (size_t limit = 3; limit < 40; limit++) {
    std::string out = "x";
    AppendPrintable("\xe6\x97\xa5\xe6\x97\xa5\n\n\\\\abcdefghijklmn", limit, &out);
    CHECK(out.size() <= limit + 1);
    std::string again;
    AppendPrintable(out, 1000, &again);
    CHECK(again.find("\\xe6") == std::string::npos);  // no half character
  }
  std::string out;
  AppendPrintable("abcdef", 6, &out);
  CHECK_EQ(out, "abcdef");
  out.clear();
  AppendPrintable("abcdefg", 6, &out);
  CHECK_EQ(out, "abc...");
}

TEST(status_begins_with_the_errno_name) {
  CHECK_EQ(Status::OK().ToString(), "OK");
  CHECK_EQ(Status::System(ENOENT, "open /a/b").ToString(),
           "ENOENT open /a/b: No such file or directory");
  CHECK_EQ(Status::System(EACCES, "open x", "try harder").ToString(),
           "EACCES open x: Permission denied (try harder)");
  CHECK_EQ(Status::Error(ERANGE, "too far").ToString(), "ERANGE too far");
  CHECK_EQ(Status::Error(ERANGE, "too far").number(), ERANGE);
  CHECK(!Status::Error(ERANGE, "too far").ok());
}

TEST(errno_names) {
  CHECK_EQ(lmshm::ErrnoName(EFAULT), "EFAULT");
  CHECK_EQ(lmshm::ErrnoName(ENOTCONN), "ENOTCONN");
  CHECK_EQ(lmshm::ErrnoName(EWOULDBLOCK), "EAGAIN");
  CHECK_EQ(lmshm::ErrnoName(4242), "E4242");
}

CHECK_MAIN
