// SPDX-License-Identifier: Apache-2.0
//
// Turn: how long a piece of work may keep a thread that others wait for.
//
// Work that can be left in the middle asks, between its steps, whether its turn is over: it is once
// it has done as much as moving kTurnBytes takes, and somebody waits for a thread. While nobody
// waits a turn does not end, so work that is alone never stops.
#ifndef LMSHM_WORKER_BASE_TURN_H_
#define LMSHM_WORKER_BASE_TURN_H_

#include <atomic>
#include <cstdint>

#include "worker/base/parallel.h"

namespace lmshm {

// Half a millisecond to two, in the page cache. Changing turns takes some microseconds.
inline constexpr uint64_t kTurnBytes = 4 << 20;

// Thread safe: several threads may work in one turn.
class Turn {
 public:
  // `threads` may be null: then nobody waits.
  explicit Turn(const Parallel* threads) : threads_(threads) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // Something was done that takes as long as moving so many bytes.
  void Spend(uint64_t bytes) { spent_.fetch_add(bytes, std::memory_order_relaxed); }

  // Once true it stays true, also when those who waited do not any more.
  bool Over() {
    if (over_.load(std::memory_order_relaxed)) return true;
    if (threads_ == nullptr || spent_.load(std::memory_order_relaxed) < kTurnBytes) return false;
    if (!threads_->Wanted()) return false;
    over_.store(true, std::memory_order_relaxed);
    return true;
  }

 private:
  const Parallel* const threads_;
  std::atomic<uint64_t> spent_{0};
  std::atomic<bool> over_{false};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_TURN_H_
