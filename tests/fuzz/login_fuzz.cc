// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes what a client says before it has logged in: LineReader and Login. The first byte of the
// input says how the rest is cut into pieces, and whether AUTH is taken. A line "PROVE !" is
// replaced by the right proof of the last challenge.
//
// Whatever comes: one well-formed answer a line; nobody gets in but by a right proof, or by AUTH
// with the secret where that is taken; and no answer contains the secret.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "worker/protocol/answer.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/login.h"

namespace {

constexpr size_t kMaxLine = 2048;
constexpr std::string_view kSecret = "0123456789abcdef";

#define HOLDS(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

void CheckAnswer(std::string_view answer) {
  HOLDS(answer.size() <= lmshm::kMaxAnswerBytes);
  HOLDS(!answer.empty() && answer.back() == '\n');
  answer.remove_suffix(1);
  HOLDS(answer == "OK" || answer.substr(0, 3) == "OK " || answer.substr(0, 7) == "ERROR E");
  for (const char c : answer) HOLDS(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  if (answer.substr(0, 5) == "ERROR") HOLDS(answer.find(kSecret) == std::string_view::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = data[0] == 0 ? size : data[0];
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  std::unique_ptr<lmshm::Secret> secret;
  HOLDS(lmshm::Secret::FromText(kSecret, "fuzz", &secret).ok());
  lmshm::LoginRules rules;
  rules.secret = secret.get();
  rules.plain = data[0] % 2 == 1;
  lmshm::Login login(rules);

  lmshm::LineReader reader(kMaxLine);
  std::string client_nonce, worker_nonce;
  bool ended = false;
  for (size_t at = 0; at < input.size() && !ended;) {
    size_t space;
    char* const to = reader.Space(&space);
    const size_t n = std::min({space, piece, input.size() - at});
    HOLDS(n > 0);
    std::memcpy(to, input.data() + at, n);
    reader.Commit(n);
    at += n;
    while (!ended) {
      std::string_view line;
      const lmshm::LineReader::Event event = reader.Next(&line);
      if (event == lmshm::LineReader::Event::kNone) break;
      if (event == lmshm::LineReader::Event::kTooLong) return 0;  // the connection ends there
      HOLDS(line.size() <= kMaxLine);
      std::string right;
      if (!worker_nonce.empty()) {
        right =
            "PROVE " + secret->Prove(lmshm::Secret::Proof::kOfClient, client_nonce, worker_nonce);
      }
      if (line == "PROVE !" && !right.empty()) line = right;
      std::string answer;
      const lmshm::Login::Next next = login.Handle(line, &answer);
      CheckAnswer(answer);
      ended = next != lmshm::Login::Next::kContinue;
      if (next == lmshm::Login::Next::kProven) {
        const bool by_secret = rules.plain && line == "AUTH " + std::string(kSecret);
        HOLDS(by_secret || (!right.empty() && line == right));
      }
      if (answer.substr(0, 5) != "ERROR" && line.substr(0, 10) == "CHALLENGE ") {
        client_nonce = line.substr(10);
        worker_nonce = answer.substr(3, lmshm::kNonceDigits);
      }
    }
  }
  HOLDS(reader.Rest().size() == reader.pending());
  return 0;
}

#ifdef LMSHM_FUZZ_STANDALONE
#include "standalone_main.hh"
#endif
