// SPDX-License-Identifier: Apache-2.0
#include "worker/server/login.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "worker/base/random.h"
#include "worker/protocol/answer.h"

namespace lmshm {

namespace {

// A client needs two. One that looks whether somebody is there may say PING now and then.
constexpr size_t kMaxLines = 100;

bool IsHex(std::string_view text) {
  return text.size() == kNonceDigits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace

Login::Next Login::Handle(std::string_view line, std::string* answer) {
  Next next = Next::kContinue;
  std::string result;
  Status status;
  if (++lines_ > kMaxLines) {
    status = Status::Error(EACCES, "not authenticated after " + std::to_string(kMaxLines) +
                                       " lines; the connection is closed");
    next = Next::kEnd;
  } else {
    status = Say(line, &result, &next);
  }
  AppendAnswer(status, result, answer);
  return next;
}

Status Login::Say(std::string_view line, std::string* result, Next* next) {
  const size_t space = line.find(' ');
  const std::string_view command = line.substr(0, space);
  const std::string_view rest =
      space == std::string_view::npos ? std::string_view() : line.substr(space + 1);
  if (line == "PING") return Status::OK();
  if (line == "QUIT") {
    *next = Next::kEnd;
    return Status::OK();
  }
  if (command == "CHALLENGE") return Challenge(rest, result);
  if (command == "PROVE") return Prove(rest, result, next);
  if (command == "AUTH") return Plain(rest, next);
  // What it was is not repeated: it may be the secret, wrongly typed.
  return Status::Error(EACCES,
                       "not authenticated: prove first that you know the worker's secret, by "
                       "CHALLENGE and PROVE");
}

Status Login::Challenge(std::string_view client_nonce, std::string* result) {
  if (!IsHex(client_nonce)) {
    return Status::Error(EINVAL, "expected: CHALLENGE <32 random bytes as 64 digits, 0-9 and a-f>");
  }
  Status status = RandomDigits(kNonceDigits, "choose a nonce", &worker_nonce_);
  if (!status.ok()) return status;
  client_nonce_ = client_nonce;
  *result = " " + worker_nonce_;
  return status;
}

Status Login::Prove(std::string_view proof, std::string* result, Next* next) {
  if (!IsHex(proof)) {
    return Status::Error(EINVAL, "expected: PROVE <HMAC-SHA256 as 64 digits, 0-9 and a-f>");
  }
  // A challenge is good for one proof.
  const std::string worker_nonce = std::exchange(worker_nonce_, {});
  if (worker_nonce.empty())
    return Status::Error(EINVAL, "PROVE answers a CHALLENGE: say that first");
  const Secret& secret = *rules_.secret;
  const std::string right = secret.Prove(Secret::Proof::kOfClient, client_nonce_, worker_nonce);
  if (!SameInConstantTime(proof, right)) {
    *next = Next::kEnd;
    wrong_ = true;
    return Status::Error(EACCES,
                         "wrong proof: the client does not know this worker's secret; the "
                         "connection is closed");
  }
  *next = Next::kProven;
  *result = " " + secret.Prove(Secret::Proof::kOfWorker, client_nonce_, worker_nonce);
  return Status::OK();
}

Status Login::Plain(std::string_view offered, Next* next) {
  if (!rules_.plain) {
    return Status::Error(EACCES,
                         "AUTH sends the secret in the clear, and this worker does not take it: "
                         "prove that you know it, by CHALLENGE and PROVE, or start the worker with "
                         "--plain-auth");
  }
  if (rules_.secret->Matches(offered)) {
    *next = Next::kProven;
    return Status::OK();
  }
  *next = Next::kEnd;
  wrong_ = true;
  return Status::Error(EACCES, "wrong secret; the connection is closed");
}

}  // namespace lmshm
