// SPDX-License-Identifier: Apache-2.0
//
// IoCounters: how many objects went which way, since the worker started. INFO shows them.
#ifndef LMSHM_WORKER_STORAGE_IO_COUNTERS_H_
#define LMSHM_WORKER_STORAGE_IO_COUNTERS_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "worker/base/mutex.h"

namespace lmshm {

// Thread safe. Each counter is right; several that are read one after the other need not fit
// together.
class IoCounters {
 public:
  // Objects that were stored or loaded, by the way their greater part went, and their bytes.
  std::atomic<uint64_t> puts_direct{0};
  std::atomic<uint64_t> puts_cached{0};
  std::atomic<uint64_t> gets_direct{0};
  std::atomic<uint64_t> gets_cached{0};
  std::atomic<uint64_t> put_bytes{0};
  std::atomic<uint64_t> got_bytes{0};

  void CountPut(uint64_t bytes, bool direct) {
    (direct ? puts_direct : puts_cached).fetch_add(1, std::memory_order_relaxed);
    put_bytes.fetch_add(bytes, std::memory_order_relaxed);
  }
  void CountGet(uint64_t bytes, bool direct) {
    (direct ? gets_direct : gets_cached).fetch_add(1, std::memory_order_relaxed);
    got_bytes.fetch_add(bytes, std::memory_order_relaxed);
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
  std::atomic<uint64_t> fallbacks_{0};
  mutable Mutex mutex_;
  std::string reason_ GUARDED_BY(mutex_);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_IO_COUNTERS_H_
