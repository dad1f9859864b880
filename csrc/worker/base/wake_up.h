// SPDX-License-Identifier: Apache-2.0
//
// WakeUp: has a thread that waits in poll() return from it.
#ifndef LMSHM_WORKER_BASE_WAKE_UP_H_
#define LMSHM_WORKER_BASE_WAKE_UP_H_

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "worker/base/unique_fd.h"

namespace lmshm {

// Thread safe once it is open.
class WakeUp {
 public:
  WakeUp() = default;
  WakeUp(const WakeUp&) = delete;
  WakeUp& operator=(const WakeUp&) = delete;
  ~WakeUp() {
    if (event_.valid()) open_.fetch_sub(1);
  }

  // At most so many are open at one time, of the whole process.
  static void SetLimit(size_t limit) { limit_.store(limit); }

  // Where there are no descriptors for it, it stays as before: nobody can be woken, and who waits
  // has to look from time to time.
  void Open() {
    if (event_.valid()) return;
    if (open_.fetch_add(1) < limit_.load()) event_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) open_.fetch_sub(1);
  }

  // To poll for POLLIN; -1 before Open().
  int fd() const { return event_.get(); }

  // Makes fd() readable. Nothing before Open().
  void Signal() const {
    const uint64_t one = 1;
    const ssize_t ignored = write(event_.get(), &one, sizeof one);
    (void)ignored;  // it fails only when the counter is full, and then it is readable anyway
  }

  // Makes fd() unreadable until the next Signal().
  void Clear() const {
    uint64_t count;
    const ssize_t ignored = read(event_.get(), &count, sizeof count);
    (void)ignored;
  }

 private:
  static inline std::atomic<size_t> open_{0};
  static inline std::atomic<size_t> limit_{SIZE_MAX};
  UniqueFd event_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_WAKE_UP_H_
