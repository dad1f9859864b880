// SPDX-License-Identifier: Apache-2.0
//
// How a piece of work is told what to heed, without knowing who does it or for whom: what comes
// first (Priority), that it must stop (CancelCheck), who helps (Parallel), and how long it may keep
// a thread that others wait for (Turn).
#ifndef LMSHM_WORKER_BASE_WORK_H_
#define LMSHM_WORKER_BASE_WORK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace lmshm {

// What is done first when not all can be done at once.
enum class Priority { kHigh, kNormal, kLow };

inline constexpr size_t kPriorities = 3;

// How long work learns that it must stop. Asked between pieces of a transfer, from any thread.
class CancelCheck {
 public:
  virtual ~CancelCheck() = default;

  // True once the work must end as soon as it can; stays true.
  virtual bool Cancelled() const = 0;

  // Why, for the answer to the client, once Cancelled().
  virtual const char* Reason() const { return "the worker is ending"; }
};

// Other threads' help with one piece of work. Whoever asks does not know who they are.
class Parallel {
 public:
  virtual ~Parallel() = default;

  // How long a part takes. Calling others costs them and the caller some ten microseconds each.
  enum class Pace {
    kSlow,     // much longer than that
    kUnknown,  // perhaps not: others are called when it turns out so, or have a CPU for themselves
  };

  // Calls part(0) to part(parts - 1), each once, in any order: on this thread, and on those that
  // have nothing else to do, at most `at_once` in all at a time. Returns when all have returned.
  // `part` must not throw. Never waits for a thread that is not at work on a part of it, so it
  // cannot deadlock when no thread is idle.
  virtual void Run(size_t parts, size_t at_once, Pace pace,
                   const std::function<void(size_t)>& part) = 0;

  // Whether other work waits for a thread. Cheap; any thread.
  virtual bool Wanted() const = 0;
};

// Half a millisecond to two, in the page cache. Changing turns takes some microseconds.
inline constexpr uint64_t kTurnBytes = 4 << 20;

// How long a piece of work may keep a thread that others wait for. Work that can be left in the
// middle asks, between its steps, whether its turn is over: it is once it has done as much as
// moving kTurnBytes takes, and somebody waits for a thread. While nobody waits a turn does not end,
// so work that is alone never stops.
//
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

#endif  // LMSHM_WORKER_BASE_WORK_H_
