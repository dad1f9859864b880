// SPDX-License-Identifier: Apache-2.0
//
// Metrics: all that a worker counts over its life. INFO shows it (server/info.h).
//
// What is counted for every request is kept in several copies, one for each of a few threads, so
// that threads do not wait for each other's cache lines; reading adds them up.
#ifndef LMSHM_WORKER_BASE_METRICS_H_
#define LMSHM_WORKER_BASE_METRICS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "worker/base/mutex.h"

namespace lmshm {

// How long requests took, in microseconds: how many took at most so long, not cumulative. The last
// bucket has all that took longer.
inline constexpr std::array<uint64_t, 19> kLatencyBoundsUs = {
    10,     20,     50,      100,     200,     500,       1'000,     2'000,     5'000,     10'000,
    20'000, 50'000, 100'000, 200'000, 500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000};
inline constexpr size_t kLatencyBuckets = kLatencyBoundsUs.size() + 1;

// What is counted of one verb of the protocol.
struct VerbMetrics {
  std::array<uint64_t, kLatencyBuckets> latency = {};  // answered requests
  uint64_t latency_us = 0;                             // of these, together
  uint64_t errors = 0;  // objects, or requests without any, that failed; a miss is no failure
};

// Thread safe. Each counter is right; several that are read one after the other need not fit
// together.
class Metrics {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kVerbs = 16;

  // Objects that were stored or loaded in version 2, and of those of directories, by the way that
  // their greater part went.
  std::atomic<uint64_t> puts{0};
  std::atomic<uint64_t> gets{0};
  std::atomic<uint64_t> puts_direct{0};
  std::atomic<uint64_t> puts_cached{0};
  std::atomic<uint64_t> gets_direct{0};
  std::atomic<uint64_t> gets_cached{0};
  // Their bytes, and those of version 1.
  std::atomic<uint64_t> put_bytes{0};
  std::atomic<uint64_t> get_bytes{0};
  std::atomic<uint64_t> write_bytes{0};
  std::atomic<uint64_t> read_bytes{0};
  // Objects that were to be loaded, in either version, and were or were not there.
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> misses{0};

  std::atomic<uint64_t> clients{0};    // connected now, in any version of the protocol
  std::atomic<uint64_t> errors{0};     // in version 2, see VerbMetrics
  std::atomic<uint64_t> cancelled{0};  // of these, because a client or the worker's end said so
  const Clock::time_point started = Clock::now();

  void CountPut(uint64_t bytes) {
    Add(&puts, 1);
    Add(&put_bytes, bytes);
  }
  void CountGet(uint64_t bytes) {
    Add(&gets, 1);
    Add(&get_bytes, bytes);
  }
  void CountPutWay(bool direct) { Add(direct ? &puts_direct : &puts_cached, 1); }
  void CountGetWay(bool direct) { Add(direct ? &gets_direct : &gets_cached, 1); }
  static void Add(std::atomic<uint64_t>* counter, uint64_t number) {
    counter->fetch_add(number, std::memory_order_relaxed);
  }

  // A request was answered, so long after its line was read. `verb` is below kVerbs.
  void CountRequest(size_t verb, Clock::duration took) {
    const auto us =
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
    size_t bucket = 0;
    while (bucket < kLatencyBoundsUs.size() && us > kLatencyBoundsUs[bucket]) bucket++;
    Verb& counted = copies_[OwnCopy()].verbs[verb];
    Add(&counted.latency[bucket], 1);
    Add(&counted.latency_us, us);
  }
  void CountError(size_t verb) { Add(&copies_[OwnCopy()].verbs[verb].errors, 1); }

  VerbMetrics Of(size_t verb) const {
    VerbMetrics sum;
    for (const Copy& copy : copies_) {
      const Verb& counted = copy.verbs[verb];
      for (size_t i = 0; i < kLatencyBuckets; i++) {
        sum.latency[i] += counted.latency[i].load(std::memory_order_relaxed);
      }
      sum.latency_us += counted.latency_us.load(std::memory_order_relaxed);
      sum.errors += counted.errors.load(std::memory_order_relaxed);
    }
    return sum;
  }

  // Transfers that should have gone past the page cache and could not.
  uint64_t fallbacks() const { return fallbacks_.load(std::memory_order_relaxed); }
  // Why the last of them could not; "" while there was none.
  std::string fallback_reason() const {
    const MutexLock lock(&mutex_);
    return reason_;
  }
  // Counts one. True for the first.
  bool CountFallback(const std::string& reason) {
    const MutexLock lock(&mutex_);
    reason_ = reason;
    return fallbacks_.fetch_add(1, std::memory_order_relaxed) == 0;
  }

 private:
  static constexpr size_t kCopies = 8;
  struct Verb {
    std::array<std::atomic<uint64_t>, kLatencyBuckets> latency = {};
    std::atomic<uint64_t> latency_us{0};
    std::atomic<uint64_t> errors{0};
  };
  struct alignas(64) Copy {
    std::array<Verb, kVerbs> verbs;
  };

  static size_t OwnCopy() {
    static std::atomic<size_t> threads{0};
    thread_local const size_t own = threads.fetch_add(1, std::memory_order_relaxed) % kCopies;
    return own;
  }

  std::array<Copy, kCopies> copies_;
  std::atomic<uint64_t> fallbacks_{0};
  mutable Mutex mutex_;
  std::string reason_ GUARDED_BY(mutex_);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_METRICS_H_
