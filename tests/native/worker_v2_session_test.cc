// SPDX-License-Identifier: Apache-2.0
//
// Version 2 of the protocol from HELLO on: how it begins, who may do what, and that no line is left
// without an answer.
#include <fstream>
#include <string>

#include "worker/base/random.h"
#include "worker_v2_fixture.hh"

using lmshm::AfterAnswer;

namespace {

class Stop : public lmshm::CancelCheck {
 public:
  bool Cancelled() const override { return true; }
};

}  // namespace

TEST(hello_changes_the_version_and_nothing_before_it_does) {
  TalkV2 talk;
  CHECK_STARTS(talk.Say("1 PING"), "ERROR EINVAL unknown command");
  CHECK_EQ(talk.Say("PING"), "OK");
  const std::string attributes = talk.has_attributes ? " xattr=1" : " xattr=0";
  CHECK_EQ(talk.Say("HELLO 2"), "OK 2 boot=0123456789abcdef worker=lmshm-worker/0.1.0" +
                                    attributes + " window=1024 engine=directory");
  CHECK_EQ(talk.Say("1 PING"), "1 OK boot=0123456789abcdef");
  CHECK_STARTS(talk.Say("PING"), "0 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("HELLO 2"), "0 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("2 HELLO 2"), "2 ERROR EINVAL unknown verb");
  CHECK_EQ(talk.Say("3 QUIT"), "3 OK");
  CHECK(talk.next == AfterAnswer::kQuit);
}

TEST(other_hellos_are_refused_and_leave_version_1) {
  TalkV2 talk;
  for (const char* line : {"HELLO 3", "HELLO 1", "HELLO 0", "HELLO 18446744073709551616"}) {
    CHECK_STARTS(talk.Say(line), "ERROR EPROTONOSUPPORT HELLO ");
  }
  for (const char* line : {"HELLO", "HELLO ", "HELLO x", "HELLO  2"}) {
    CHECK_STARTS(talk.Say(line), "ERROR EINVAL expected: HELLO 2 [dir=");
  }
  for (const char* line : {"HELLO 2 ", "HELLO 2 3", "HELLO 2 dir", "HELLO 2 dir=a dir=b",
                           "HELLO 2 dir=a ", "HELLO 2  dir=a", "HELLO 2 root=a"}) {
    CHECK_STARTS(talk.Say(line), "ERROR EINVAL HELLO 2: expected: HELLO 2 [dir=");
  }
  CHECK_STARTS(talk.Say("HELLO 2 dir=%zz"), "ERROR EINVAL HELLO 2: dir=%zz is not percent-encoded");
  for (const char* line : {"HELLO2", "hello 2", "HELLO\t2", " HELLO 2"}) {
    CHECK_STARTS(talk.Say(line), "ERROR EINVAL unknown command");
  }
  CHECK_EQ(talk.Say("PING"), "OK");
}

TEST(without_a_root_there_are_no_keys) {
  TalkV2 talk(Attributes::kDetect, false);
  CHECK_STARTS(talk.Say("HELLO 2"), "ERROR EINVAL HELLO 2: ");
  CHECK_CONTAINS(talk.Say("HELLO 2"), "--root");
  CHECK_EQ(talk.Say("PING"), "OK");
}

TEST(hello_lets_go_of_the_segment_of_version_1) {
  TalkV2 talk;
  TestSegment segment(4096);
  const auto mappings = [&] {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);)
      count += line.find(segment.path()) != std::string::npos;
    return count;
  };
  CHECK_EQ(mappings(), 1);  // the test's own
  CHECK_EQ(talk.Say(segment.AttachLine()), "OK");
  CHECK_EQ(mappings(), 2);
  CHECK_STARTS(talk.Say("HELLO 3"), "ERROR ");
  CHECK_EQ(mappings(), 2);
  CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
  CHECK_EQ(mappings(), 1);
}

TEST(version_1_still_works_before_hello_and_its_attachment_ends_there) {
  TalkV2 talk;
  TestSegment segment(4096);
  std::memset(segment.data(), 'v', segment.size());
  CHECK_EQ(talk.Say(segment.AttachLine()), "OK");
  CHECK_EQ(talk.Say(segment.Line("WRITE", "old.data", 0, 5)), "OK 5");
  CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
  CHECK_STARTS(talk.Say("1 GET old 0 10"), "1 ERROR ENOTCONN ");
  CHECK_EQ(talk.Say("2 EXISTS old"), "2 OK 1");
}

TEST(of_secrets_nothing_is_known_here) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  for (const char* line : {"1 AUTH whatever", "1 CHALLENGE x", "1 PROVE x"}) {
    CHECK_STARTS(talk.Say(line), "1 ERROR EINVAL unknown verb");
  }
}

TEST(every_bad_line_is_answered_and_survived) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say(""), "0 ERROR EINVAL ");
  CHECK_STARTS(talk.Say(std::string("\0\x01\xff", 3)), "0 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("7 " + std::string(65534, '\x01')), "7 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("7 STAT " + std::string(65529, '%')), "7 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("7 PUT x 0 8193"), "7 ERROR ERANGE ");
  CHECK_STARTS(talk.Say("7 PUT x 8193 0"), "7 ERROR ERANGE ");
  CHECK_STARTS(talk.Say("7 PUT x 18446744073709551615 18446744073709551615"), "7 ERROR ERANGE ");
  CHECK_STARTS(talk.Say("7 GET x 1 8192"), "7 ERROR ERANGE ");
  CHECK_STARTS(talk.Say("7 ATTACH /no_such_segment_here 1 -"), "7 ERROR ENOENT ");
  CHECK_STARTS(talk.Say("7 ATTACH /" + segment.name() + " 8193 -"), "7 ERROR ERANGE ");
  CHECK_STARTS(talk.Say("7 ATTACH fd:3 1 -"), "7 ERROR EACCES ");
  CHECK_EQ(talk.Say("8 PUT x 8192 0 crc=0"), "8 OK 0");  // the segment is still there
  std::string answer;
  talk.session().HandleTooLong(&answer);
  CHECK_STARTS(answer, "0 ERROR E2BIG ");
}

TEST(another_attach_replaces_the_segment) {
  TalkV2 talk;
  TestSegment one(4096), two(8192);
  std::memset(one.data(), '1', one.size());
  std::memset(two.data(), '2', two.size());
  talk.Begin(one);
  CHECK_EQ(talk.Say("2 PUT k 0 3 crc=0"), "2 OK 3");
  CHECK_EQ(ReadFile(talk.root / "k.data"), "111");
  CHECK_EQ(talk.Say("3 ATTACH " + two.name() + " 8192 -"), "3 OK");
  CHECK_EQ(talk.Say("4 PUT k 8189 3 crc=0"), "4 OK 3");
  CHECK_EQ(ReadFile(talk.root / "k.data"), "222");
}

TEST(the_longest_lines_of_keys_are_answered_within_a_line) {
  TalkV2 talk;
  talk.Say("HELLO 2");
  std::string line = "18446744073709551615 EXISTS";
  while (line.size() + 2 <= 65536) line += " k";
  const std::string answer = talk.Say(line);
  CHECK_STARTS(answer, "18446744073709551615 OK 000000");
  CHECK(answer.find('1', 24) == std::string::npos);
}

TEST(an_ending_worker_breaks_off) {
  TempDir root;
  std::unique_ptr<lmshm::ObjectDir> objects;
  CHECK_OK(lmshm::ObjectDir::OpenConfined(root.path(), lmshm::DetectBeneathMethod(), &objects));
  const std::unique_ptr<lmshm::Directories> directories =
      OpenDirectories(*objects, Attributes::kNone);
  const Stop stop;
  TestSegment segment(8192);
  WriteFile(root / "there.data", "x");
  lmshm::Service service;
  service.objects = objects.get();
  service.stores = directories.get();
  service.cancel = &stop;
  lmshm::Session session(service, "test");
  std::string answer;
  for (const std::string& line : {std::string("HELLO 2"), "1 ATTACH " + segment.name() + " 8192 -",
                                  std::string("2 PUT k 0 1"), std::string("3 GET there 0 1"),
                                  std::string("4 LIST 1 -"), std::string("5 EXISTS k")}) {
    answer.clear();
    CHECK(session.Handle(line, &answer) == AfterAnswer::kContinue);
    if (line[0] > '1' && line[0] <= '9') CHECK_CONTAINS(answer, " ERROR ECANCELED ");
  }
  CHECK_EQ(root.Names().size(), 1u);
}

TEST(boot_ids_are_16_hex_digits_and_differ) {
  std::string one, two;
  CHECK_OK(lmshm::RandomDigits(16, "test", &one));
  CHECK_OK(lmshm::RandomDigits(16, "test", &two));
  CHECK_EQ(one.size(), 16u);
  CHECK(one.find_first_not_of("0123456789abcdef") == std::string::npos);
  CHECK(one != two);
}

CHECK_MAIN
