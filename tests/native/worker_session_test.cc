// SPDX-License-Identifier: Apache-2.0
//
// Conversations, without a process or a socket around them.
#include <memory>

#include "worker/protocol/answer.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/session.h"
#include "worker_fixture.hh"

using lmshm::Service;
using lmshm::Session;

namespace {

class Conversation {
 public:
  Conversation() {
    const lmshm::Status status =
        lmshm::ObjectDir::OpenConfined(root.path(), lmshm::DetectBeneathMethod(), &objects_);
    REQUIRE(status.ok());
    service_.objects = objects_.get();
    session_ = std::make_unique<Session>(service_, "test");
  }

  // One line, without its '\n'; it is checked to be one.
  std::string Say(const std::string& line) {
    std::string answer = "before\n";
    next = session_->Handle(line, &answer);
    CHECK_STARTS(answer, "before\n");
    answer.erase(0, 7);
    REQUIRE(!answer.empty());
    CHECK_EQ(answer.find('\n'), answer.size() - 1);
    answer.pop_back();
    CHECK(answer.size() < lmshm::kMaxAnswerBytes);
    for (const char c : answer) CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    return answer;
  }

  TempDir root;
  lmshm::AfterAnswer next = lmshm::AfterAnswer::kContinue;

 private:
  std::unique_ptr<lmshm::ObjectDir> objects_;
  Service service_;
  std::unique_ptr<Session> session_;
};

}  // namespace

TEST(a_chunk_goes_out_and_comes_back) {
  Conversation c;
  TestSegment segment(1 << 20);
  segment.FillPattern(1);
  const std::string before = segment.Bytes(4096, 100000);
  CHECK_EQ(c.Say(segment.AttachLine()), "OK");
  CHECK_EQ(c.Say(segment.Line("WRITE", "chunk.data", 4096, 100000)), "OK 100000");
  CHECK(ReadFile(c.root / "chunk.data") == before);
  segment.FillPattern(2);
  const std::string untouched = segment.Bytes(100000 + 4096, 50000);
  CHECK_EQ(c.Say(segment.Line("READ", c.root / "chunk.data", 4096, 150000)), "OK 100000");
  CHECK(segment.Bytes(4096, 100000) == before);
  CHECK(segment.Bytes(100000 + 4096, 50000) == untouched);
  CHECK_EQ(c.Say(segment.Line("READ", "chunk.data", 0, 7)), "OK 7");
  CHECK_EQ(c.Say(segment.Line("WRITE", "empty", segment.size(), 0)), "OK 0");
  CHECK_EQ(c.Say(segment.Line("READ", "empty", 0, 100)), "OK 0");
  CHECK_EQ(c.Say("QUIT"), "OK");
  CHECK(c.next == lmshm::AfterAnswer::kQuit);
}

TEST(every_bad_line_is_answered_and_survived) {
  Conversation c;
  TestSegment segment(8192);
  const std::string base = std::to_string(segment.base());
  CHECK_STARTS(c.Say(segment.Line("WRITE", "f", 0, 1)), "ERROR ENOTCONN ");
  CHECK_STARTS(c.Say(segment.Line("READ", "f", 0, 1)), "ERROR ENOTCONN ");
  CHECK_EQ(c.Say(segment.AttachLine()), "OK");
  CHECK_STARTS(c.Say(""), "ERROR EINVAL ");
  CHECK_STARTS(c.Say("NONSENSE"), "ERROR EINVAL unknown command");
  CHECK_STARTS(c.Say(std::string("\0\x01\xff", 3)), "ERROR EINVAL ");
  CHECK_STARTS(c.Say("WRITE f " + base + " 8193"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("WRITE f 0 1"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("WRITE f " + base + " 18446744073709551615"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("WRITE f " + base + " 18446744073709551616"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("WRITE f 18446744073709551615 18446744073709551615"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("READ missing " + base + " 1"), "ERROR ENOENT open missing: ");
  CHECK_STARTS(c.Say("READ /etc/passwd " + base + " 1"), "ERROR EACCES ");
  CHECK_STARTS(c.Say("READ ../x " + base + " 1"), "ERROR EINVAL ");
  CHECK_STARTS(c.Say("READ a\x1b[31mb\r " + base + " 1"), "ERROR ENOENT open a\\x1b[31mb\\x0d:");
  CHECK_STARTS(c.Say("READ " + std::string(60000, '\x01') + " 1 1"), "ERROR ERANGE ");
  CHECK_STARTS(c.Say("READ " + std::string(60000, '\x01') + " " + base + " 1"),
               "ERROR ENAMETOOLONG ");
  CHECK_STARTS(c.Say("ATTACH " + std::string(60000, '\\') + " 1 1"), "ERROR ENAMETOOLONG ");
  CHECK_STARTS(c.Say(std::string(65536, '\\')), "ERROR EINVAL ");
  CHECK_EQ(c.Say("PING"), "OK");
  CHECK(c.root.Names().empty());
}

TEST(a_failed_attach_keeps_the_segment_and_a_good_one_replaces_it) {
  Conversation c;
  TestSegment one(4096), two(8192);
  std::memset(one.data(), '1', one.size());
  std::memset(two.data(), '2', two.size());
  CHECK_EQ(c.Say(one.AttachLine()), "OK");
  CHECK_STARTS(c.Say("ATTACH /no_such_segment_here 1 1"), "ERROR ENOENT ");
  CHECK_STARTS(c.Say("ATTACH " + one.name() + " 4097 1"), "ERROR ERANGE ");
  CHECK_EQ(c.Say(one.Line("WRITE", "f", 0, 3)), "OK 3");
  CHECK_EQ(ReadFile(c.root / "f"), "111");
  CHECK_EQ(c.Say(two.AttachLine()), "OK");
  CHECK_EQ(c.Say(two.Line("WRITE", "f", 8189, 3)), "OK 3");
  CHECK_EQ(ReadFile(c.root / "f"), "222");
  CHECK_STARTS(c.Say(one.Line("WRITE", "f", 0, 3)), "ERROR ERANGE ");
}

TEST(a_segment_that_shrinks_is_survived) {
  Conversation c;
  TestSegment segment(1 << 20);
  WriteFile(c.root / "f", std::string(1 << 20, 'f'));
  CHECK_EQ(c.Say(segment.AttachLine()), "OK");
  REQUIRE_EQ(ftruncate(segment.fd(), 0), 0);
  CHECK_STARTS(c.Say(segment.Line("WRITE", "g", 0, 1 << 20)), "ERROR EFAULT ");
  CHECK_STARTS(c.Say(segment.Line("READ", "f", 0, 1 << 20)), "ERROR EFAULT ");
  REQUIRE_EQ(ftruncate(segment.fd(), 1 << 20), 0);
  CHECK_EQ(c.Say(segment.Line("READ", "f", 0, 1 << 20)), "OK 1048576");
  CHECK_EQ(c.root.Names().size(), 1u);
}

TEST(of_secrets_nothing_is_known_here) {
  Conversation c;
  for (const char* line : {"AUTH correct-horse-battery", "CHALLENGE x", "PROVE x"}) {
    CHECK_STARTS(c.Say(line), "ERROR EINVAL unknown command");
    CHECK(c.next == lmshm::AfterAnswer::kContinue);
  }
}

CHECK_MAIN
