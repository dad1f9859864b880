// SPDX-License-Identifier: Apache-2.0
//
// Login: what a client over TCP says before anything else, where the worker has a secret. Each end
// proves to the other that it knows the secret, and neither says it:
//
//     CHALLENGE <client nonce>   ->  OK <worker nonce>
//     PROVE <client's proof>     ->  OK <worker's proof>
//
// It is over before the version of the protocol matters, so nothing behind it knows of secrets.
// Pure: it is handed lines and hands back answers. docs/protocol.md specifies the proofs.
#ifndef LMSHM_WORKER_SERVER_LOGIN_H_
#define LMSHM_WORKER_SERVER_LOGIN_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/net/secret.h"

namespace lmshm {

// A nonce and a proof have this many hexadecimal digits.
inline constexpr size_t kNonceDigits = 64;

struct LoginRules {
  const Secret* secret = nullptr;
  // Accept AUTH <secret>, which says the secret to everybody who listens.
  bool plain = false;
};

// Not thread safe.
class Login {
 public:
  enum class Next {
    kContinue,
    kProven,  // the client knows the secret; the answer proves that the worker does
    kEnd,     // close after the answer: QUIT, a wrong proof, or too much talk
  };

  // `rules.secret` must outlive this.
  explicit Login(const LoginRules& rules) : rules_(rules) {}

  // Takes a line (without its ending) and appends one line of answer. Not to be called after
  // kProven and kEnd.
  Next Handle(std::string_view line, std::string* answer);

  // The client said something that is wrong, and not by mistake in form: its last answer says what.
  bool wrong() const { return wrong_; }

 private:
  Status Say(std::string_view line, std::string* result, Next* next);
  Status Challenge(std::string_view client_nonce, std::string* result);
  Status Prove(std::string_view proof, std::string* result, Next* next);
  Status Plain(std::string_view offered, Next* next);

  const LoginRules rules_;
  std::string client_nonce_;
  std::string worker_nonce_;  // empty: no challenge is open
  size_t lines_ = 0;
  bool wrong_ = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_LOGIN_H_
