// SPDX-License-Identifier: Apache-2.0
//
// Batches, CONTAINS and the words of INFO, without a process or a thread around them.
#include <map>

#include "worker/base/percent.h"
#include "worker_v2_fixture.hh"

namespace {

// The objects of a batch's answer, each without the space before it.
std::vector<std::string> Items(const std::string& answer, const std::string& start) {
  CHECK_STARTS(answer, start);
  std::vector<std::string> items(1);
  for (const std::string& word : SplitWords(answer.substr(start.size()))) {
    if (word == ";") {
      items.emplace_back();
    } else {
      if (!items.back().empty()) items.back() += " ";
      items.back() += word;
    }
  }
  return items;
}

std::map<std::string, std::string> Info(TalkV2* talk) {
  std::map<std::string, std::string> info;
  for (const std::string& word : SplitWords(talk->Say("99 INFO"))) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) continue;
    CHECK(info.emplace(word.substr(0, equals), word.substr(equals + 1)).second);
  }
  return info;
}

}  // namespace

TEST(a_batch_is_stored_and_loaded) {
  TalkV2 talk;
  TestSegment segment(65536);
  segment.FillPattern(1);
  talk.Begin(segment);
  const std::string bytes = segment.Bytes(0, 12298);
  const std::vector<std::string> stored = Items(
      talk.Say("2 PUT a/1 0 4096 shape=1 ; a/2 4096 4096 crc=0 io=cached ; a/3 8192 10 sync=data"),
      "2 OK ");
  REQUIRE_EQ(stored.size(), 3u);
  CHECK_STARTS(stored[0], "4096 crc32c=");
  CHECK_EQ(stored[1], "4096");
  CHECK_STARTS(stored[2], "10 crc32c=");
  CHECK(ReadFile(talk.root / "a-SEP-2.data") == bytes.substr(4096, 4096));

  const std::vector<std::string> loaded =
      Items(talk.Say("3 GET a/3 20000 10 ; a/1 32768 4096 ; a/2 49152 4096 verify=0"), "3 OK ");
  REQUIRE_EQ(loaded.size(), 3u);
  CHECK_STARTS(loaded[0], "10");
  CHECK_STARTS(loaded[1], "4096");
  if (talk.has_attributes) CHECK_CONTAINS(loaded[1], " shape=1");
  CHECK(segment.Bytes(20000, 10) == bytes.substr(8192, 10));
  CHECK(segment.Bytes(32768, 4096) == bytes.substr(0, 4096));
  CHECK(segment.Bytes(49152, 4096) == bytes.substr(4096, 4096));
}

TEST(each_object_of_a_batch_fails_by_itself) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  REQUIRE_EQ(mkdir((talk.root / "dir.data").c_str(), 0700), 0);
  std::vector<std::string> items =
      Items(talk.Say("2 PUT a 0 10 ; dir 0 10 ; b 8192 1 ; c 0 20 crc=0"), "2 OK ");
  REQUIRE_EQ(items.size(), 4u);
  CHECK_STARTS(items[0], "10 crc32c=");
  CHECK_STARTS(items[1], "-EISDIR ");
  CHECK_STARTS(items[2], "-ERANGE ");
  CHECK_EQ(items[3], "20");
  for (const std::string& item : items) CHECK(SplitWords(item).size() <= 2);

  items = Items(talk.Say("3 GET nothing 0 10 ; a 0 5 ; c 0 20 ; nothing 0 1 ; dir 0 9"), "3 OK ");
  REQUIRE_EQ(items.size(), 5u);
  CHECK_EQ(items[0], "-ENOENT");
  CHECK_STARTS(items[1], "-EMSGSIZE 10%20bytes%20");
  CHECK_STARTS(items[2], "20");
  CHECK_EQ(items[3], "-ENOENT");
  std::string text;
  REQUIRE(lmshm::PercentDecode(items[4].substr(items[4].find(' ') + 1), &text));
  CHECK_CONTAINS(text, "get dir");
}

TEST(a_malformed_batch_does_nothing) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT a 0 10 ; b 0"), "2 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("2 PUT a 0 10 ; b 0 10 prio=low"), "2 ERROR EINVAL prio=");
  CHECK_EQ(talk.Say("3 EXISTS a b"), "3 OK 00");
}

TEST(as_many_objects_as_a_line_may_have) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  std::string line = "2 GET a 0 1";
  for (size_t i = 1; i < lmshm::kMaxBatchObjects; i++) line += " ; " + std::to_string(i) + " 0 1";
  CHECK_EQ(Items(talk.Say(line), "2 OK ").size(), lmshm::kMaxBatchObjects);
  CHECK_STARTS(talk.Say(line + " ; b 0 1"), "2 ERROR E2BIG ");
}

TEST(what_does_not_fit_into_the_answer_says_so) {
  TalkV2 talk;
  if (!talk.has_attributes) SKIP("this file system has no attributes");
  TestSegment segment(65536);
  segment.FillPattern(3);
  talk.Begin(segment);
  // Coded, the value has three times as many bytes: 30 such objects do not fit.
  std::string value;
  for (int i = 0; i < 1000; i++) value += "%01";
  CHECK_STARTS(talk.Say("2 PUT big 0 100 a=" + value), "2 OK ");
  std::string line = "3 GET big 1000 100";
  for (size_t i = 1; i < 40; i++) line += " ; big " + std::to_string(1000 + i * 1000) + " 100";
  const std::vector<std::string> items = Items(talk.Say(line), "3 OK ");
  REQUIRE_EQ(items.size(), 40u);
  size_t complete = 0;
  for (size_t i = 0; i < items.size(); i++) {
    CHECK(segment.Bytes(1000 + i * 1000, 100) == segment.Bytes(0, 100));
    if (items[i] == "-EOVERFLOW") continue;
    complete++;
    CHECK_CONTAINS(items[i], " a=" + value);
  }
  CHECK(complete >= 15 && complete < 25);
}

TEST(contains_counts_up_to_the_first_miss) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  for (const char* name : {"a.data", "b.data", "d.data"}) WriteFile(talk.root / name, "x");
  CHECK_EQ(talk.Say("1 CONTAINS a b c d"), "1 OK 2");
  CHECK_EQ(talk.Say("2 CONTAINS a b d a"), "2 OK 4");
  CHECK_EQ(talk.Say("3 CONTAINS c a"), "3 OK 0");
}

TEST(where_to_go_and_when_are_options_of_stat_and_list_too) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  WriteFile(talk.root / "prio=high.data", "x");
  CHECK_STARTS(talk.Say("1 STAT prio=high prio=low"), "1 OK 1 ");
  CHECK_STARTS(talk.Say("2 STAT prio=high"), "2 OK 1 ");
  CHECK_EQ(talk.Say("3 LIST 5 - prio=high"), "3 OK - prio=high");
  CHECK_EQ(talk.Say("4 LIST 5 - prio%3D prio=low"), "4 OK - prio=high");
  CHECK_EQ(talk.Say("5 LIST 5 - prio%3Dx"), "5 OK -");
}

TEST(info_says_what_the_worker_is_and_did) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  std::map<std::string, std::string> info = Info(&talk);
  for (const char* name : {"io", "sync", "direct", "fs", "puts_direct", "puts_cached",
                           "gets_direct", "gets_cached", "put_bytes", "get_bytes"}) {
    CHECK(info.count(name) == 1);
  }
  CHECK_EQ(info["io"], "auto");
  CHECK_EQ(info["sync"], "none");
  CHECK_EQ(info["put_bytes"], "0");
  talk.Say("2 PUT a 0 100 ; b 0 50");
  talk.Say("3 GET a 0 100 ; nothing 0 50");
  info = Info(&talk);
  CHECK_EQ(info["puts_cached"], "2");
  CHECK_EQ(info["put_bytes"], "150");
  CHECK_EQ(info["gets_cached"], "1");
  CHECK_EQ(info["get_bytes"], "100");
}

TEST(cancelling_what_is_not_in_flight) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  CHECK_EQ(talk.Say("1 CANCEL 1"), "1 OK 0");
  CHECK_EQ(talk.Say("2 CANCEL 77"), "2 OK 0");
}

CHECK_MAIN
