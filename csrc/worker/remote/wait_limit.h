// SPDX-License-Identifier: Apache-2.0
//
// WaitLimit: how long one exchange with a server may take, and whether it is still wanted.
//
// Two limits hold together: nothing moved for `stall`, and `total` for all of it. The second is
// what a server meets that sends a byte now and then. Cancelling is looked at every 100 ms.
#ifndef LMSHM_WORKER_REMOTE_WAIT_LIMIT_H_
#define LMSHM_WORKER_REMOTE_WAIT_LIMIT_H_

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "worker/base/work.h"

namespace lmshm {

// How fast the slowest connection is that is waited for: an exchange of so many bytes may take a
// second longer.
inline constexpr uint64_t kSlowestBytesPerSecond = 1 << 20;

// Not thread safe.
class WaitLimit {
 public:
  using Clock = std::chrono::steady_clock;

  // `cancel` may be null. `bytes`: how many will be moved.
  WaitLimit(std::chrono::milliseconds stall, const CancelCheck* cancel, uint64_t bytes = 0);

  // Something moved.
  void Progress() { moved_ = Clock::now(); }

  // Waits until one of `fds` is ready: 0, ETIMEDOUT, ECANCELED or what poll() said.
  [[nodiscard]] int Wait(pollfd* fds, size_t count);
  // Of one descriptor; `events` as of poll().
  [[nodiscard]] int Wait(int fd, short events);
  // Lets time pass: 0 when it has, ETIMEDOUT when there is not so much left, ECANCELED.
  [[nodiscard]] int Sleep(std::chrono::milliseconds time);

  bool Cancelled() const { return cancel_ != nullptr && cancel_->Cancelled(); }
  // What is left until the first of the limits; not negative.
  std::chrono::milliseconds Left() const;
  const CancelCheck* cancel() const { return cancel_; }
  std::chrono::milliseconds stall() const { return stall_; }

 private:
  const std::chrono::milliseconds stall_;
  const CancelCheck* const cancel_;
  const Clock::time_point end_;
  Clock::time_point moved_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REMOTE_WAIT_LIMIT_H_
