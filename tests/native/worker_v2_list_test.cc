// SPDX-License-Identifier: Apache-2.0
//
// Listing page by page, while the directory changes.
#include <set>

#include "worker/storage/key_listing.h"
#include "worker_v2_fixture.hh"

namespace {

// All pages, with `between` after each.
template <typename Between>
std::multiset<std::string> ListAll(TalkV2* talk, const std::string& limit,
                                   const std::string& prefix, Between between) {
  std::multiset<std::string> keys;
  std::string cursor = "-";
  for (int page = 0; page < 100000; page++) {
    std::string line = "7 LIST " + limit + " " + cursor;
    if (!prefix.empty()) line += " " + prefix;
    const std::vector<std::string> words = SplitWords(talk->Say(line));
    REQUIRE(words.size() >= 3 && words[0] == "7" && words[1] == "OK");
    CHECK(words.size() - 3 <= std::stoul(limit));
    keys.insert(words.begin() + 3, words.end());
    cursor = words[2];
    if (cursor == "-") return keys;
    between(page);
  }
  check::Fail(__FILE__, __LINE__, "the listing does not end");
  return keys;
}

std::multiset<std::string> ListAll(TalkV2* talk, const std::string& limit,
                                   const std::string& prefix = "") {
  return ListAll(talk, limit, prefix, [](int) {});
}

}  // namespace

TEST(a_thousand_objects_are_each_listed_once) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  std::multiset<std::string> expected;
  for (int i = 0; i < 1000; i++) {
    const std::string number = std::to_string(i * 7919 % 1000);
    WriteFile(talk.root / ("model-SEP-" + number + ".data"), "x");
    expected.insert("model/" + number);
  }
  for (const char* limit : {"1", "7", "333", "999", "1000"}) {
    CHECK(ListAll(&talk, limit) == expected);
  }
  CHECK_EQ(ListAll(&talk, "10", "model/99").size(), 11u);
  CHECK_EQ(ListAll(&talk, "10", "model/").size(), 1000u);
  CHECK_EQ(ListAll(&talk, "10", "model/999x").size(), 0u);
  CHECK_EQ(ListAll(&talk, "10", "nodel").size(), 0u);
}

TEST(an_empty_directory_and_odd_cursors) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  CHECK_EQ(talk.Say("1 LIST 10 -"), "1 OK -");
  CHECK_EQ(talk.Say("1 LIST 10 zzz"), "1 OK -");
  WriteFile(talk.root / "m.data", "x");
  CHECK_EQ(talk.Say("1 LIST 10 a"), "1 OK - m");
  CHECK_EQ(talk.Say("1 LIST 10 m.data"), "1 OK -");
  CHECK_EQ(talk.Say("1 LIST 10 z"), "1 OK -");
  CHECK_EQ(talk.Say("1 LIST 10 %00"), "1 OK - m");
  CHECK_EQ(talk.Say("1 LIST 1 -"), "1 OK - m");
}

TEST(only_objects_are_listed) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  WriteFile(talk.root / ".x.data.123.0123456789abcdef.tmp", "x");
  WriteFile(talk.root / "x.txt", "x");
  WriteFile(talk.root / ("sha256-" + std::string(64, '0') + ".key"), "x");
  WriteFile(talk.root / ("sha256-" + std::string(64, '1') + ".data"), "x");  // nobody knows its key
  WriteFile(talk.root / "bad\xff.data", "x");
  WriteFile(talk.root / "new\nline.data", "x");
  WriteFile(talk.root / ".data", "x");
  REQUIRE_EQ(mkdir((talk.root / "dir.data").c_str(), 0700), 0);
  WriteFile(talk.root / "sp ace%.data", "x");
  CHECK_EQ(talk.Say("1 LIST 10 -"), "1 OK - sp%20ace%25");
}

TEST(what_stays_is_listed_once_whatever_else_comes_and_goes) {
  TalkV2 talk;
  TestSegment segment(4096);
  talk.Begin(segment);
  std::set<std::string> staying;
  for (int i = 0; i < 300; i++) {
    const std::string name = "s" + std::to_string(i);
    WriteFile(talk.root / (name + ".data"), "x");
    WriteFile(talk.root / ("gone" + std::to_string(i) + ".data"), "x");
    staying.insert(name);
  }
  const std::multiset<std::string> found = ListAll(&talk, "10", "", [&](int page) {
    const std::string n = std::to_string(page);
    talk.Say("2 REMOVE gone" + n + " gone" + std::to_string(299 - page));
    WriteFile(talk.root / ("new" + n + ".data"), "x");
    WriteFile(talk.root / ("a_new" + n + ".data"), "x");
    // Names that were read ahead are used for some pages and forgotten for others.
    if (page % 3 == 0) talk.Say("3 LIST 1 -");
  });
  for (const std::string& key : staying) CHECK_EQ(found.count(key), 1u);
  for (const std::string& key : found) CHECK_EQ(found.count(key), 1u);
}

TEST(more_names_than_are_read_ahead) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  const size_t count = lmshm::KeyListing::kBatchNames + 700;
  for (size_t i = 0; i < count; i++) {
    const int fd = open((talk.root / (std::to_string(i * 48271 % 2147483647) + ".data")).c_str(),
                        O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    close(fd);
  }
  const std::multiset<std::string> found = ListAll(&talk, "1000");
  CHECK_EQ(found.size(), count);
  CHECK_EQ(std::set<std::string>(found.begin(), found.end()).size(), count);
}

TEST(a_page_ends_before_the_line_is_too_long) {
  TalkV2 talk;
  TestSegment segment(4096);
  talk.Begin(segment);
  std::set<std::string> keys;
  for (int i = 0; i < 6; i++) {
    std::string key = std::to_string(i);  // as long as keys may be, every byte coded
    std::string coded = key;
    for (size_t j = 1; j < lmshm::kMaxKeyBytes; j++) coded += "%20";
    CHECK_STARTS(talk.Say("2 PUT " + coded + " 0 1"), "2 OK 1 ");
    keys.insert(coded);
  }
  for (int i = 0; i < 900; i++)
    WriteFile(talk.root / (std::string(200, 'p') + std::to_string(i) + ".data"), "");
  const std::multiset<std::string> found = ListAll(&talk, "1000");
  CHECK_EQ(found.size(), 906u);
  for (const std::string& key : keys) CHECK_EQ(found.count(key), 1u);
}

CHECK_MAIN
