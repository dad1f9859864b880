// SPDX-License-Identifier: Apache-2.0
//
// Listing page by page, while the directory changes.
#include <dirent.h>
#include <dlfcn.h>

#include <atomic>
#include <set>

#include "worker/storage/directory_listing.h"
#include "worker/storage/key_listing.h"
#include "worker_v2_fixture.hh"

namespace {

std::atomic<size_t> names_read{0};

}  // namespace

// Takes the C library's place, to count.
extern "C" struct dirent* readdir(DIR* dir) {
  using Readdir = struct dirent* (*)(DIR*);
  static const auto real = reinterpret_cast<Readdir>(dlsym(RTLD_NEXT, "readdir"));
  names_read++;
  return real(dir);
}

namespace {

// Where many files cost little.
TalkV2 InMemory() {
  return TalkV2(Attributes::kDetect, true, lmshm::Directories::Limits(), "/dev/shm");
}

void Fill(const TempDir& dir, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const int fd = open((dir / (std::to_string(i * 48271 % 2147483647) + ".data")).c_str(),
                        O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    close(fd);
  }
}

std::string CursorOf(const std::string& answer) {
  const std::vector<std::string> words = SplitWords(answer);
  return words.size() >= 3 && words[1] == "OK" ? words[2] : "(" + answer + ")";
}

class Stop : public lmshm::CancelCheck {
 public:
  bool Cancelled() const override { return stopped; }
  bool stopped = false;
};

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
  CHECK_EQ(ListAll(&talk, "10", "mod").size(), 1000u);
  CHECK_EQ(ListAll(&talk, "10", "model-SEP-").size(), 0u);
  CHECK_EQ(ListAll(&talk, "10", "model/999x").size(), 0u);
  CHECK_EQ(ListAll(&talk, "10", "nodel").size(), 0u);
}

TEST(an_empty_directory) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  CHECK_EQ(talk.Say("1 LIST 10 -"), "1 OK -");
  WriteFile(talk.root / "m.data", "x");
  CHECK_EQ(talk.Say("1 LIST 1 -"), "1 OK - m");
}

TEST(a_cursor_is_good_once_and_for_its_connection_alone) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  Fill(talk.root, 10);
  for (const char* cursor : {"zzz", "0", "1.1", "%00", "m.data", "1."}) {
    CHECK_STARTS(talk.Say(std::string("1 LIST 2 ") + cursor), "1 ERROR ESTALE list: the cursor ");
  }
  const std::string first = CursorOf(talk.Say("1 LIST 2 -"));
  TalkV2 other(&talk);
  other.Say("HELLO 2");
  CHECK_STARTS(other.Say("1 LIST 2 " + first), "1 ERROR ESTALE ");
  const std::string second = CursorOf(talk.Say("2 LIST 2 " + first));
  CHECK(second != first);
  CHECK_STARTS(talk.Say("3 LIST 2 " + first), "3 ERROR ESTALE ");
  CHECK_EQ(CursorOf(talk.Say("4 LIST 6 " + second)), "-");
  CHECK_STARTS(talk.Say("5 LIST 2 " + second), "5 ERROR ESTALE ");
}

TEST(of_more_than_four_listings_the_one_used_longest_ago_ends) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  Fill(talk.root, 100);
  std::vector<std::string> cursors;
  for (int i = 0; i < 4; i++) cursors.push_back(CursorOf(talk.Say("1 LIST 1 -")));
  cursors[0] = CursorOf(talk.Say("1 LIST 1 " + cursors[0]));
  const std::string fifth = CursorOf(talk.Say("1 LIST 1 -"));
  CHECK_EQ(talk.service().stores->listings().size(), 4u);
  CHECK_STARTS(talk.Say("1 LIST 1 " + cursors[1]), "1 ERROR ESTALE ");
  for (const std::string& cursor : {cursors[0], cursors[2], cursors[3], fifth}) {
    CHECK_EQ(SplitWords(talk.Say("1 LIST 1 " + cursor)).size(), 4u);
  }
  TalkV2 other(&talk);  // has its own four
  other.Say("HELLO 2");
  other.Say("1 LIST 1 -");
  CHECK_EQ(talk.service().stores->listings().size(), 5u);
}

TEST(a_listing_that_is_ended_gives_up_its_place) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  Fill(talk.root, 100);
  const lmshm::OpenListings& open = talk.service().stores->listings();
  const std::string kept = CursorOf(talk.Say("1 LIST 1 -"));
  for (int i = 0; i < 20; i++) {
    const std::string left = CursorOf(talk.Say("1 LIST 1 -"));
    CHECK_EQ(open.size(), 2u);
    CHECK_EQ(talk.Say("2 LIST 0 " + left), "2 OK -");
    CHECK_EQ(open.size(), 1u);
    CHECK_STARTS(talk.Say("3 LIST 1 " + left), "3 ERROR ESTALE ");
    CHECK_EQ(talk.Say("4 LIST 0 " + left), "4 OK -");  // it has ended already
  }
  for (const char* unknown : {"zzz", "0", "1.", "%00", "9.9"}) {
    CHECK_EQ(talk.Say(std::string("5 LIST 0 ") + unknown), "5 OK -");
  }
  CHECK_STARTS(talk.Say("6 LIST 0 -"), "6 ERROR ERANGE ");
  TalkV2 other(&talk);
  other.Say("HELLO 2");
  CHECK_EQ(other.Say("7 LIST 0 " + kept), "7 OK -");  // is none of its own
  CHECK_EQ(SplitWords(talk.Say("8 LIST 5 " + kept)).size(), 8u);
}

TEST(listings_take_the_descriptors_of_idle_ones_and_of_no_others) {
  lmshm::UniqueFd fd;
  TempDir dir;
  Fill(dir, 10);
  fd.Reset(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  lmshm::KeyStore store(fd.get(), lmshm::StorageFacts());
  for (const bool idle : {false, true}) {
    lmshm::OpenListings open(2, idle ? std::chrono::milliseconds(0) : std::chrono::hours(1));
    lmshm::KeyListings one(&store, &open);
    lmshm::ListRequest request;
    request.limit = 3;
    request.max_bytes = 60000;
    lmshm::ListPage first, second, page;
    {
      lmshm::KeyListings gone(&store, &open);
      CHECK_OK(gone.List(request, nullptr, &page));
      CHECK_EQ(open.size(), 1u);
    }
    CHECK_EQ(open.size(), 0u);
    CHECK_OK(one.List(request, nullptr, &first));
    CHECK_OK(one.List(request, nullptr, &second));
    lmshm::KeyListings two(&store, &open);
    CHECK_EQ(two.List(request, nullptr, &page).number(), idle ? 0 : EMFILE);
    CHECK_EQ(open.size(), 2u);
    request.limit = 10;  // one page needs none
    CHECK_OK(two.List(request, nullptr, &page));
    CHECK_EQ(page.keys.size(), 10u);
    request.cursor = first.next;
    CHECK_EQ(one.List(request, nullptr, &page).number(), idle ? ESTALE : 0);
    request.cursor = second.next;
    CHECK_OK(one.List(request, nullptr, &page));
    CHECK_EQ(page.keys.size(), 7u);
  }
}

TEST(a_page_that_was_cancelled_can_be_asked_for_again) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  Fill(talk.root, 3000);
  Stop stop;
  TalkV2 other(&talk);
  other.service().cancel = &stop;
  other.Say("HELLO 2");
  std::set<std::string> keys;
  std::string cursor = "-";
  do {
    if (cursor != "-") {
      stop.stopped = true;
      CHECK_STARTS(other.Say("1 LIST 700 " + cursor), "1 ERROR ECANCELED ");
      stop.stopped = false;
    }
    const std::vector<std::string> words = SplitWords(other.Say("2 LIST 700 " + cursor));
    REQUIRE(words.size() >= 3 && words[1] == "OK");
    keys.insert(words.begin() + 3, words.end());
    cursor = words[2];
  } while (cursor != "-");
  CHECK_EQ(keys.size(), 3000u);
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
    // Other listings begin, and end.
    if (page % 3 == 0) talk.Say("3 LIST 1 -");
  });
  for (const std::string& key : staying) CHECK_EQ(found.count(key), 1u);
  for (const std::string& key : found) CHECK_EQ(found.count(key), 1u);
}

TEST(all_pages_together_read_the_directory_once) {
  TalkV2 talk = InMemory();
  talk.Say("HELLO 2");
  const size_t count = 20000;
  Fill(talk.root, count);
  for (const std::string limit : {"100", "1000"}) {
    names_read = 0;
    const std::multiset<std::string> found = ListAll(&talk, limit);
    CHECK_EQ(found.size(), count);
    CHECK_EQ(std::set<std::string>(found.begin(), found.end()).size(), count);
    CHECK(names_read <= count + 3);  // and "." and "..", and the end
  }
  // A page costs what it returns.
  names_read = 0;
  const std::string cursor = CursorOf(talk.Say("1 LIST 100 -"));
  CHECK(names_read <= 103);
  names_read = 0;
  talk.Say("1 LIST 100 " + cursor);
  CHECK(names_read <= 103);
}

TEST(a_prefix_that_few_keys_have_costs_pages_of_bounded_work) {
  TalkV2 talk = InMemory();
  talk.Say("HELLO 2");
  const size_t count = 2 * lmshm::DirectoryListing::kPageNames + 1000;
  Fill(talk.root, count);
  WriteFile(talk.root / "needle.data", "x");
  std::string cursor = "-";
  size_t pages = 0;
  std::vector<std::string> keys;
  do {
    names_read = 0;
    const std::vector<std::string> words = SplitWords(talk.Say("1 LIST 1000 " + cursor + " need"));
    REQUIRE(words.size() >= 3 && words[1] == "OK");
    CHECK(names_read <= lmshm::DirectoryListing::kPageNames);
    keys.insert(keys.end(), words.begin() + 3, words.end());
    cursor = words[2];
    pages++;
  } while (cursor != "-" && pages < 100);
  CHECK_EQ(pages, 3u);
  CHECK_EQ(keys.size(), 1u);
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
