// SPDX-License-Identifier: Apache-2.0
#include "worker/remote/wait_limit.h"

#include <algorithm>
#include <cerrno>
#include <thread>

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSlice(100);

}  // namespace

WaitLimit::WaitLimit(milliseconds stall, const CancelCheck* cancel, uint64_t bytes)
    : stall_(stall),
      cancel_(cancel),
      end_(Clock::now() + stall + std::chrono::seconds(bytes / kSlowestBytesPerSecond)),
      moved_(Clock::now()) {}

milliseconds WaitLimit::Left() const {
  const auto left = std::min(end_, moved_ + stall_) - Clock::now();
  return std::max(std::chrono::ceil<milliseconds>(left), milliseconds(0));
}

int WaitLimit::Wait(pollfd* fds, size_t count) {
  for (;;) {
    if (Cancelled()) return ECANCELED;
    const milliseconds left = Left();
    if (left.count() == 0) return ETIMEDOUT;
    const int ready = poll(fds, count, static_cast<int>(std::min(left, kSlice).count()));
    if (ready > 0) return 0;
    if (ready < 0 && errno != EINTR) return errno;
  }
}

int WaitLimit::Wait(int fd, short events) {
  pollfd one = {fd, events, 0};
  return Wait(&one, 1);
}

int WaitLimit::Sleep(milliseconds time) {
  while (time.count() > 0) {
    if (Cancelled()) return ECANCELED;
    const milliseconds left = Left();
    if (left.count() == 0) return ETIMEDOUT;
    const milliseconds slice = std::min({time, left, kSlice});
    std::this_thread::sleep_for(slice);
    time -= slice;
  }
  return Cancelled() ? ECANCELED : 0;
}

}  // namespace lmshm
