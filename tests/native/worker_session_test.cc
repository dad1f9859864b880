// SPDX-License-Identifier: Apache-2.0
//
// Conversations, without a process or a socket around them.
#include <memory>

#include "worker/session.h"
#include "worker_fixture.hh"

using lmshm::Secret;
using lmshm::Service;
using lmshm::Session;

namespace {

class Conversation {
 public:
  explicit Conversation(const Secret* secret = nullptr) {
    const lmshm::Status status =
        lmshm::ObjectDir::OpenConfined(root.path(), lmshm::DetectBeneathMethod(), &objects_);
    REQUIRE(status.ok());
    service_.objects = objects_.get();
    session_ = std::make_unique<Session>(service_, secret, "test");
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
  Session::Next next = Session::Next::kContinue;

 private:
  std::unique_ptr<lmshm::ObjectDir> objects_;
  Service service_;
  std::unique_ptr<Session> session_;
};

std::unique_ptr<Secret> MakeSecret() {
  std::unique_ptr<Secret> secret;
  CHECK_OK(Secret::FromText("correct-horse-battery", "test", &secret));
  REQUIRE(secret != nullptr);
  return secret;
}

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
  CHECK(c.next == Session::Next::kQuit);
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
  CHECK_STARTS(c.Say("HELLO 2"), "ERROR EINVAL unknown command");
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

TEST(without_the_secret_nothing_but_ping_and_quit) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Conversation c(secret.get());
  TestSegment segment(4096);
  CHECK_EQ(c.Say("PING"), "OK");
  CHECK_STARTS(c.Say(segment.AttachLine()), "ERROR EACCES not authenticated");
  CHECK_STARTS(c.Say(segment.Line("READ", "f", 0, 1)), "ERROR EACCES not authenticated");
  CHECK(c.next == Session::Next::kContinue);
  CHECK_EQ(c.Say("AUTH correct-horse-battery"), "OK");
  CHECK_EQ(c.Say(segment.AttachLine()), "OK");
  CHECK_EQ(c.Say("QUIT"), "OK");
}

TEST(a_wrong_secret_ends_the_connection) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  for (const char* wrong :
       {"correct-horse-batterx", "correct-horse-batter", "correct-horse-battery1", "x",
        "correct-horse-battery correct-horse-battery", "correct-horse-battery "}) {
    Conversation c(secret.get());
    CHECK_STARTS(c.Say(std::string("AUTH ") + wrong), "ERROR EACCES wrong secret");
    CHECK(c.next == Session::Next::kReject);
    CHECK_STARTS(c.Say("ATTACH x 1 1"), "ERROR EACCES not authenticated");
  }
  Conversation c(secret.get());
  CHECK_STARTS(c.Say("AUTH " + std::string(60000, 'x')), "ERROR EACCES wrong secret");
}

TEST(a_later_wrong_secret_takes_the_rights_away) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Conversation c(secret.get());
  CHECK_EQ(c.Say("AUTH correct-horse-battery"), "OK");
  CHECK_STARTS(c.Say("AUTH nonsense"), "ERROR EACCES ");
  CHECK_STARTS(c.Say("ATTACH x 1 1"), "ERROR EACCES not authenticated");
}

TEST(where_no_secret_is_needed_any_is_welcome) {
  Conversation c;
  CHECK_EQ(c.Say("AUTH whatever"), "OK");
  CHECK(c.next == Session::Next::kContinue);
}

TEST(secrets_that_are_accepted_and_refused) {
  std::unique_ptr<Secret> secret;
  CHECK_OK(Secret::FromText(std::string(16, 'x'), "test", &secret));
  CHECK_OK(Secret::FromText(std::string(1024, 'x'), "test", &secret));
  CHECK(secret->Matches(std::string(1024, 'x')));
  CHECK(!secret->Matches(std::string(1023, 'x')));
  CHECK(!secret->Matches(std::string(1025, 'x')));
  CHECK(!secret->Matches(""));
  const std::vector<std::string> refused = {std::string(15, 'x'), std::string(1025, 'x'),
                                            std::string(),        "0123456789 abcdef",
                                            "0123456789\tabcdef", "0123456789abcdef\xc3\xa9"};
  for (const std::string& bad : refused) {
    const lmshm::Status status = Secret::FromText(bad, "test", &secret);
    CHECK_EQ(status.number(), EINVAL);
    CHECK(bad.empty() || status.text().find(bad) == std::string::npos);
  }
}

TEST(secret_files) {
  const TempDir dir;
  std::unique_ptr<Secret> secret;
  for (const char* ending : {"", "\n", "\r\n"}) {
    WriteFile(dir / "secret", std::string("correct-horse-battery") + ending);
    CHECK_OK(Secret::FromFile(dir / "secret", &secret));
    CHECK(secret->Matches("correct-horse-battery"));
  }
  WriteFile(dir / "two", "correct-horse-battery\n\n");
  CHECK_EQ(Secret::FromFile(dir / "two", &secret).number(), EINVAL);
  WriteFile(dir / "open", "correct-horse-battery", 0640);
  CHECK_EQ(Secret::FromFile(dir / "open", &secret).number(), EACCES);
  WriteFile(dir / "open2", "correct-horse-battery", 0602);
  CHECK_EQ(Secret::FromFile(dir / "open2", &secret).number(), EACCES);
  CHECK_EQ(Secret::FromFile(dir / "none", &secret).number(), ENOENT);
  CHECK_EQ(Secret::FromFile(dir.path(), &secret).number(), EINVAL);
  REQUIRE_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  CHECK_EQ(Secret::FromFile(dir / "fifo", &secret).number(), EINVAL);
  WriteFile(dir / "long", std::string(2000, 'x'));
  CHECK_EQ(Secret::FromFile(dir / "long", &secret).number(), EINVAL);
}

CHECK_MAIN
