// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/bounce_buffer.h"

#include <cstdlib>

#include "worker/base/mutex.h"

namespace lmshm {

namespace {

constexpr size_t kPageBytes = 4096;

// The one that was used last is used next: it is in a cache still.
struct Pool {
  Mutex mutex;
  void* free[BounceBuffer::kMost] GUARDED_BY(mutex);
  size_t free_count GUARDED_BY(mutex) = 0;
  size_t made GUARDED_BY(mutex) = 0;
};

Pool& ThePool() {
  static Pool* const pool = new Pool();  // threads may use it until the process ends
  return *pool;
}

}  // namespace

BounceBuffer::BounceBuffer(bool wanted) {
  if (!wanted) return;
  Pool& pool = ThePool();
  const MutexLock lock(&pool.mutex);
  if (pool.free_count > 0) {
    memory_ = pool.free[--pool.free_count];
  } else if (pool.made < kMost) {
    memory_ = std::aligned_alloc(kPageBytes, kBytes);
    if (memory_ != nullptr) pool.made++;
  }
}

BounceBuffer::~BounceBuffer() {
  if (memory_ == nullptr) return;
  Pool& pool = ThePool();
  const MutexLock lock(&pool.mutex);
  pool.free[pool.free_count++] = memory_;
}

}  // namespace lmshm
