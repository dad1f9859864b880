// SPDX-License-Identifier: Apache-2.0
//
// Backoff: pauses between attempts that grow from a first to a longest one, each shortened by
// chance by up to a half, so that those who failed together do not come back together. Not thread
// safe.
#ifndef LMSHM_WORKER_REMOTE_BACKOFF_H_
#define LMSHM_WORKER_REMOTE_BACKOFF_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "worker/base/random.h"

namespace lmshm {

class Backoff {
 public:
  explicit Backoff(std::chrono::milliseconds first = std::chrono::milliseconds(50),
                   std::chrono::milliseconds longest = std::chrono::milliseconds(2000))
      : first_(first), longest_(longest), next_(first) {}

  // How long to wait now.
  std::chrono::milliseconds Next() {
    const std::chrono::milliseconds whole = next_;
    next_ = std::min(next_ * 2, longest_);
    uint32_t chance = 0;
    if (FillRandom(&chance, sizeof chance) != 0) return whole;
    return whole - whole * (chance % 512) / 1024;
  }

  // It worked.
  void Reset() { next_ = first_; }

 private:
  const std::chrono::milliseconds first_;
  const std::chrono::milliseconds longest_;
  std::chrono::milliseconds next_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REMOTE_BACKOFF_H_
