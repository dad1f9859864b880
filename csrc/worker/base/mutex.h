// SPDX-License-Identifier: Apache-2.0
//
// Mutex, MutexLock and CondVar: those of the standard library, with the annotations by which clang
// checks (-Wthread-safety) that what a mutex guards is touched only with it held. Other compilers
// see nothing of them.
#ifndef LMSHM_WORKER_BASE_MUTEX_H_
#define LMSHM_WORKER_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define LMSHM_ANNOTATION(x) __attribute__((x))
#else
#define LMSHM_ANNOTATION(x)
#endif

// Of a member: which mutex guards it.
#define GUARDED_BY(x) LMSHM_ANNOTATION(guarded_by(x))
// Of a function: which mutex its caller holds, or must not hold.
#define REQUIRES(...) LMSHM_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) LMSHM_ANNOTATION(locks_excluded(__VA_ARGS__))

namespace lmshm {

class LMSHM_ANNOTATION(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() LMSHM_ANNOTATION(acquire_capability()) { mutex_.lock(); }
  void Unlock() LMSHM_ANNOTATION(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a mutex for as long as it lives.
class LMSHM_ANNOTATION(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) LMSHM_ANNOTATION(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_->Lock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() LMSHM_ANNOTATION(release_capability()) { mutex_->Unlock(); }

 private:
  Mutex* const mutex_;
};

// Waits may end without a reason: wait in a loop.
class CondVar {
 public:
  void Wait(Mutex* mutex) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False once `limit` is over.
  bool WaitFor(Mutex* mutex, std::chrono::milliseconds limit) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    const bool woken = condition_.wait_for(lock, limit) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_MUTEX_H_
