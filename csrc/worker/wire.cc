// SPDX-License-Identifier: Apache-2.0
#include "worker/wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// A pipe for which poll() says POLLOUT takes this much without blocking (one page).
constexpr size_t kPipePieceBytes = 4096;

// For poll(): rounded up, at least 0, -1 for never.
int PollMs(Clock::time_point deadline) {
  if (deadline == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60 * 60 * 1000));
}

}  // namespace

Wire::Result Wire::Broken(int error) {
  error_ = error;
  return Result::kBroken;
}

Wire::Result Wire::Read(char* to, size_t size, Clock::time_point deadline, size_t* got) {
  for (;;) {
    struct pollfd p[2] = {{in_, POLLIN, 0}, {shutdown_.fd(), POLLIN, 0}};
    const int ready = poll(p, 2, PollMs(deadline));
    if (ready < 0 && errno != EINTR) return Broken(errno);
    if (shutdown_.requested()) return Result::kShutdown;
    if (ready < 0) continue;
    if (ready == 0) {
      if (Clock::now() >= deadline) return Result::kTimeout;
      continue;
    }
    if ((p[0].revents & POLLNVAL) != 0) return Broken(EBADF);
    if (p[0].revents == 0) continue;
    const ssize_t n = read(in_, to, size);
    if (n > 0) {
      *got = static_cast<size_t>(n);
      return Result::kOk;
    }
    if (n == 0 || errno == ECONNRESET) return Result::kEnd;
    if (errno != EAGAIN && errno != EINTR) return Broken(errno);
  }
}

Wire::Result Wire::Write(std::string_view text, milliseconds patience) {
  const auto limit = [&] {
    return patience.count() == 0 ? Clock::time_point::max() : Clock::now() + patience;
  };
  Clock::time_point deadline = limit();
  while (!text.empty()) {
    // Try first, wait only if need be: the usual answer fits.
    ssize_t n = -1;
    errno = ENOTSOCK;
    if (out_is_socket_) n = send(out_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK) {
      out_is_socket_ = false;
      struct pollfd p = {out_, POLLOUT, 0};
      if (poll(&p, 1, 0) == 1 && p.revents != 0) {
        if ((p.revents & POLLNVAL) != 0) return Broken(EBADF);
        n = write(out_, text.data(), std::min(text.size(), kPipePieceBytes));
      } else {
        errno = EAGAIN;
      }
    }
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
      deadline = limit();
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return Broken(errno);

    // In slices, because a shutdown puts an end to patience.
    if (shutdown_.Cancelled()) return Result::kShutdown;
    if (Clock::now() >= deadline) return Result::kTimeout;
    struct pollfd p = {out_, POLLOUT, 0};
    const int slice = shutdown_.requested() ? 50 : 500;
    const int left = PollMs(deadline);
    if (poll(&p, 1, left < 0 ? slice : std::min(left, slice)) < 0 && errno != EINTR) {
      return Broken(errno);
    }
  }
  return Result::kOk;
}

Wire::Result Wire::Sleep(milliseconds time) const {
  const Clock::time_point end = Clock::now() + time;
  while (!shutdown_.requested()) {
    if (Clock::now() >= end) return Result::kOk;
    struct pollfd p = {shutdown_.fd(), POLLIN, 0};
    poll(&p, 1, PollMs(end));
  }
  return Result::kShutdown;
}

}  // namespace lmshm
