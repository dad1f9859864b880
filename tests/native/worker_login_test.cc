// SPDX-License-Identifier: Apache-2.0
//
// How both ends prove that they know the secret, without a socket: hashes, proofs, and what is
// answered before.
#include <memory>

#include "golden.hh"
#include "worker/base/sha256.h"
#include "worker/server/login.h"
#include "worker_fixture.hh"

using lmshm::Login;
using lmshm::LoginRules;
using lmshm::Secret;

namespace {

constexpr char kSecret[] = "correct-horse-battery";

std::unique_ptr<Secret> MakeSecret(const std::string& text = kSecret) {
  std::unique_ptr<Secret> secret;
  CHECK_OK(Secret::FromText(text, "test", &secret));
  REQUIRE(secret != nullptr);
  return secret;
}

// One client that has not logged in yet.
class Talk {
 public:
  explicit Talk(const Secret* secret, bool plain = false) : login_(Rules(secret, plain)) {}

  std::string Say(const std::string& line) {
    std::string answer;
    next = login_.Handle(line, &answer);
    REQUIRE(!answer.empty());
    CHECK_EQ(answer.find('\n'), answer.size() - 1);
    answer.pop_back();
    return answer;
  }
  // The worker's nonce.
  std::string Challenge(const std::string& nonce) {
    const std::string answer = Say("CHALLENGE " + nonce);
    CHECK_STARTS(answer, "OK ");
    REQUIRE_EQ(answer.size(), 3 + lmshm::kNonceDigits);
    return answer.substr(3);
  }

  Login::Next next = Login::Next::kContinue;

 private:
  static LoginRules Rules(const Secret* secret, bool plain) {
    LoginRules rules;
    rules.secret = secret;
    rules.plain = plain;
    return rules;
  }
  Login login_;
};

const std::string kNonce(lmshm::kNonceDigits, 'a');

}  // namespace

TEST(hmac_as_in_rfc_4231) {
  const auto bytes = [](char c, size_t n) { return std::string(n, c); };
  std::string counting;
  for (char c = 1; c <= 25; c++) counting.push_back(c);
  const struct {
    std::string key, data, mac;
  } cases[] = {
      {bytes('\x0b', 20), "Hi There",
       "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
      {"Jefe", "what do ya want for nothing?",
       "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
      {bytes('\xaa', 20), bytes('\xdd', 50),
       "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
      {counting, bytes('\xcd', 50),
       "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
      {bytes('\xaa', 131), "Test Using Larger Than Block-Size Key - Hash Key First",
       "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
      {bytes('\xaa', 131),
       "This is a test using a larger than block-size key and a larger than block-size data. The "
       "key "
       "needs to be hashed before being used by the HMAC algorithm.",
       "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
  };
  for (const auto& one : cases)
    CHECK_EQ(lmshm::HexOf(lmshm::HmacSha256(one.key, one.data)), one.mac);
  // Truncated there to 128 bits.
  const std::string mac =
      lmshm::HexOf(lmshm::HmacSha256(bytes('\x0c', 20), "Test With Truncation"));
  CHECK_EQ(mac.substr(0, 32), "a3b6167473100ee06e0c796c2955552b");
}

TEST(proofs_are_those_of_the_golden_file) {
  for (const auto& row : ReadGolden("login_proofs.tsv")) {
    REQUIRE_EQ(row.size(), 5u);
    const std::unique_ptr<Secret> secret = MakeSecret(row[0]);
    CHECK_EQ(secret->Prove(Secret::Proof::kOfClient, row[1], row[2]), row[3]);
    CHECK_EQ(secret->Prove(Secret::Proof::kOfWorker, row[1], row[2]), row[4]);
  }
}

TEST(both_ends_prove_themselves) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Talk talk(secret.get());
  const std::string nonce = talk.Challenge(kNonce);
  CHECK_EQ(talk.Say("PROVE " + secret->Prove(Secret::Proof::kOfClient, kNonce, nonce)),
           "OK " + secret->Prove(Secret::Proof::kOfWorker, kNonce, nonce));
  CHECK(talk.next == Login::Next::kProven);
}

TEST(before_that_only_ping_and_quit_are_answered) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Talk talk(secret.get());
  CHECK_EQ(talk.Say("PING"), "OK");
  for (const std::string line :
       {"ATTACH /x 1 1", "WRITE x 1 1", "READ x 1 1", "HELLO 2", "1 PING", "1 PUT x 0 1", "", " ",
        "challenge x", "PING x", "QUIT x", kSecret, "\x01\xff"}) {
    const std::string answer = talk.Say(line);
    CHECK_STARTS(answer, "ERROR EACCES not authenticated");
    CHECK(answer.find("horse") == std::string::npos);
    CHECK(talk.next == Login::Next::kContinue);
  }
  CHECK_EQ(talk.Say("QUIT"), "OK");
  CHECK(talk.next == Login::Next::kEnd);
}

TEST(a_nonce_is_64_digits_and_never_the_same_twice) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Talk talk(secret.get());
  for (const std::string& bad :
       {std::string(), std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'A'),
        std::string(64, 'g'), std::string(63, 'a') + " ", std::string(64, '\0')}) {
    CHECK_STARTS(talk.Say("CHALLENGE " + bad), "ERROR EINVAL expected: CHALLENGE");
    CHECK_STARTS(talk.Say("PROVE " + bad), "ERROR EINVAL expected: PROVE");
  }
  CHECK_STARTS(talk.Say("CHALLENGE"), "ERROR EINVAL ");
  CHECK(talk.Challenge(kNonce) != talk.Challenge(kNonce));
  Talk other(secret.get());
  CHECK(talk.Challenge(kNonce) != other.Challenge(kNonce));
}

TEST(a_wrong_proof_ends_the_connection) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  const std::unique_ptr<Secret> wrong = MakeSecret("wrong-horse-battery");
  {
    Talk talk(secret.get());
    const std::string nonce = talk.Challenge(kNonce);
    CHECK_STARTS(talk.Say("PROVE " + wrong->Prove(Secret::Proof::kOfClient, kNonce, nonce)),
                 "ERROR EACCES wrong proof");
    CHECK(talk.next == Login::Next::kEnd);
  }
  // One wrong digit, at either end.
  for (const size_t at : {size_t{0}, size_t{63}}) {
    Talk talk(secret.get());
    std::string proof = secret->Prove(Secret::Proof::kOfClient, kNonce, talk.Challenge(kNonce));
    proof[at] = proof[at] == '0' ? '1' : '0';
    CHECK_STARTS(talk.Say("PROVE " + proof), "ERROR EACCES wrong proof");
    CHECK(talk.next == Login::Next::kEnd);
  }
}

TEST(a_proof_that_was_overheard_is_of_no_use) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  std::string proof;
  {
    Talk talk(secret.get());
    proof = secret->Prove(Secret::Proof::kOfClient, kNonce, talk.Challenge(kNonce));
    CHECK_STARTS(talk.Say("PROVE " + proof), "OK ");
  }
  {  // Replayed, with the same nonce of the client.
    Talk talk(secret.get());
    talk.Challenge(kNonce);
    CHECK_STARTS(talk.Say("PROVE " + proof), "ERROR EACCES wrong proof");
  }
  {  // Reflected: what a worker would prove is not what a client proves.
    Talk talk(secret.get());
    const std::string nonce = talk.Challenge(kNonce);
    CHECK_STARTS(talk.Say("PROVE " + secret->Prove(Secret::Proof::kOfWorker, kNonce, nonce)),
                 "ERROR EACCES wrong proof");
  }
  {  // The worker's own nonce sent back as the client's, the order turned round.
    Talk talk(secret.get());
    const std::string first = talk.Challenge(kNonce);
    const std::string second = talk.Challenge(first);
    CHECK_STARTS(talk.Say("PROVE " + secret->Prove(Secret::Proof::kOfClient, second, first)),
                 "ERROR EACCES wrong proof");
  }
}

TEST(a_challenge_is_good_for_one_proof_and_replaced_by_the_next) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  {
    Talk talk(secret.get());
    CHECK_STARTS(talk.Say("PROVE " + kNonce), "ERROR EINVAL PROVE answers a CHALLENGE");
    CHECK(talk.next == Login::Next::kContinue);
  }
  Talk talk(secret.get());
  const std::string old = talk.Challenge(kNonce);
  talk.Challenge(kNonce);
  CHECK_STARTS(talk.Say("PROVE " + secret->Prove(Secret::Proof::kOfClient, kNonce, old)),
               "ERROR EACCES wrong proof");
}

TEST(auth_is_taken_only_where_it_is_asked_for) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  {
    Talk talk(secret.get());
    const std::string answer = talk.Say(std::string("AUTH ") + kSecret);
    CHECK_STARTS(answer, "ERROR EACCES AUTH sends the secret in the clear");
    CHECK_CONTAINS(answer, "--plain-auth");
    CHECK(answer.find("horse") == std::string::npos);
    CHECK(talk.next == Login::Next::kContinue);
  }
  {
    Talk talk(secret.get(), true);
    CHECK_EQ(talk.Say(std::string("AUTH ") + kSecret), "OK");
    CHECK(talk.next == Login::Next::kProven);
  }
  for (const std::string wrong : {"", "correct-horse-batter", "correct-horse-batteryy",
                                  "correct-horse-battery ", "Correct-horse-battery"}) {
    Talk talk(secret.get(), true);
    CHECK_STARTS(talk.Say("AUTH " + wrong), "ERROR EACCES wrong secret");
    CHECK(talk.next == Login::Next::kEnd);
  }
  // The other way is open as well.
  Talk talk(secret.get(), true);
  const std::string nonce = talk.Challenge(kNonce);
  CHECK_STARTS(talk.Say("PROVE " + secret->Prove(Secret::Proof::kOfClient, kNonce, nonce)), "OK ");
}

TEST(who_talks_and_talks_is_sent_away) {
  const std::unique_ptr<Secret> secret = MakeSecret();
  Talk talk(secret.get());
  for (int i = 0; i < 100; i++) {
    CHECK_EQ(talk.Say("PING"), "OK");
    CHECK(talk.next == Login::Next::kContinue);
  }
  CHECK_STARTS(talk.Say("PING"), "ERROR EACCES not authenticated after 100 lines");
  CHECK(talk.next == Login::Next::kEnd);
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
