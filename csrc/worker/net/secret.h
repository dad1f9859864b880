// SPDX-License-Identifier: Apache-2.0
//
// Secret: what a TCP client and the worker must both know, from a file or the environment, and how
// one proves to the other that it does without saying it: docs/protocol.md, "Who is at the other
// end".
#ifndef LMSHM_WORKER_NET_SECRET_H_
#define LMSHM_WORKER_NET_SECRET_H_

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

// Immutable, so thread safe. Wiped when destroyed.
class Secret {
 public:
  static constexpr size_t kMinBytes = 16;
  static constexpr size_t kMaxBytes = 1024;

  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret();

  // Takes the content of the file `path`, less one line ending at its end. The file must be
  // regular, belong to this user or root, and be accessible to its owner alone.
  static Status FromFile(const std::string& path, std::unique_ptr<Secret>* result);

  // Takes `text`: 16 to 1,024 printable ASCII characters without spaces. `source` is where it came
  // from, for messages, which never contain the text.
  static Status FromText(std::string_view text, const std::string& source,
                         std::unique_ptr<Secret>* result);

  // What the end `of` a connection answers to the other's challenge: 64 lower-case hexadecimal
  // digits. The nonces as they were said.
  enum class Proof { kOfClient, kOfWorker };
  std::string Prove(Proof of, std::string_view client_nonce, std::string_view worker_nonce) const;

  // Compares in a time that does not depend on where, or whether, the two differ.
  bool Matches(std::string_view offered) const;

 private:
  Secret() = default;

  std::array<char, kMaxBytes> bytes_ = {};  // zeros behind size_
  size_t size_ = 0;
};

// Whether two texts are the same, in a time that depends on their lengths alone.
bool SameInConstantTime(std::string_view a, std::string_view b);

}  // namespace lmshm

#endif  // LMSHM_WORKER_NET_SECRET_H_
