// SPDX-License-Identifier: Apache-2.0
//
// Secret: what a TCP client must know, from a file or the environment.
#ifndef LMSHM_WORKER_SECRET_H_
#define LMSHM_WORKER_SECRET_H_

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "worker/status.h"

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

  // Compares in a time that does not depend on where, or whether, the two differ.
  bool Matches(std::string_view offered) const;

 private:
  Secret() = default;

  std::array<char, kMaxBytes> bytes_ = {};  // zeros behind size_
  size_t size_ = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SECRET_H_
