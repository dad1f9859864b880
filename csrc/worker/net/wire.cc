// SPDX-License-Identifier: Apache-2.0
#include "worker/net/wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// A pipe for which poll() says POLLOUT takes this much without blocking (one page).
constexpr size_t kPipePieceBytes = 4096;
constexpr int kNoWait = 8;  // RWF_NOWAIT; glibc has it only since 2.27

// For poll(): rounded up, at least 0, -1 for never.
int PollMs(Clock::time_point deadline) {
  if (deadline == Clock::time_point::max()) return -1;
  const Clock::time_point now = Clock::now();
  if (deadline <= now) return 0;  // the difference to the earliest time would overflow
  const auto left = std::chrono::ceil<milliseconds>(deadline - now).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60 * 60 * 1000));
}

}  // namespace

Wire::Result Wire::Broken(int error) {
  error_.store(error);
  return Result::kBroken;
}

Wire::Result Wire::Wait(const Wanted& wanted, Clock::time_point deadline, Event* event) {
  constexpr size_t kOwn = 4;
  constexpr size_t kFew = 4;
  const bool out = wanted.writable || wanted.watch_gone;
  struct pollfd few[kOwn + kFew] = {{wanted.readable ? in_ : -1, POLLIN, 0},
                                    {wanted.heed_shutdown ? shutdown_.fd() : -1, POLLIN, 0},
                                    {wanted.wake_fd, POLLIN, 0},
                                    {out ? out_ : -1, 0, 0}};
  if (wanted.writable) few[3].events = POLLOUT;
  struct pollfd* p = few;
  const size_t others = wanted.others == nullptr ? 0 : wanted.others->size();
  std::vector<pollfd> many;
  if (others > kFew) {
    many.assign(few, few + kOwn);
    many.resize(kOwn + others);
    p = many.data();
  }
  if (others > 0) std::copy(wanted.others->begin(), wanted.others->end(), p + kOwn);
  for (;;) {
    const int ready = poll(p, kOwn + others, PollMs(deadline));
    if (ready < 0 && errno != EINTR) return Broken(errno);
    if (wanted.heed_shutdown && shutdown_.requested()) return Result::kShutdown;
    if (ready < 0) continue;
    if (ready == 0) {
      if (Clock::now() >= deadline) return Result::kTimeout;
      continue;
    }
    event->other = false;
    for (size_t i = 0; i < kOwn + others; i++) {
      if ((p[i].revents & POLLNVAL) != 0) return Broken(EBADF);
      event->other |= i >= kOwn && p[i].revents != 0;
    }
    event->readable = p[0].revents != 0;
    event->woken = p[2].revents != 0;
    event->writable = p[3].revents != 0;
    event->gone = wanted.watch_gone && (p[3].revents & (POLLERR | POLLHUP)) != 0;
    return Result::kOk;
  }
}

bool Wire::PeerGone() const {
  struct pollfd p = {out_, 0, 0};
  return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP)) != 0;
}

Wire::Result Wire::ReadNow(char* to, size_t size, size_t* got) {
  *got = 0;
  const ssize_t n = read(in_, to, size);
  if (n > 0) *got = static_cast<size_t>(n);
  if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return Result::kOk;
  return n == 0 || errno == ECONNRESET ? Result::kEnd : Broken(errno);
}

// A stream within the machine copies a short piece into one buffer, or has no room for it; and that
// pipes do not divide it is promised, pipe(7). TCP takes what fits.
void Wire::Learn(Way way) {
  if (learnt_.exchange(true, std::memory_order_relaxed)) return;
  bool whole = way == Way::kPipe;
  if (way == Way::kSend) {
    int domain = 0;
    int buffer = 0;
    socklen_t size = sizeof domain;
    whole = getsockopt(out_, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
            getsockopt(out_, SOL_SOCKET, SO_SNDBUF, &buffer, &size) == 0 &&
            static_cast<size_t>(buffer) >= 4 * kWholeBytes;
  }
  writes_whole_.store(whole, std::memory_order_relaxed);
}

// As write(2) does, but EAGAIN instead of waiting.
ssize_t Wire::TryWrite(std::string_view text) {
  if (way_ == Way::kSend) {
    const ssize_t n = send(out_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) Learn(Way::kSend);
    if (n >= 0 || errno != ENOTSOCK) return n;
    // What else it is must be known: with a file, EAGAIN could last for ever.
    struct stat st;
    way_ = fstat(out_, &st) == 0 && S_ISFIFO(st.st_mode) ? Way::kPipe : Way::kPollBefore;
  }
#ifdef SYS_pwritev2
  if (way_ == Way::kPipe) {
    const struct iovec piece = {const_cast<char*>(text.data()), text.size()};
    // By number, for older C libraries. The position, -1 in two halves: a pipe has none.
    const long n = syscall(SYS_pwritev2, out_, &piece, 1, -1L, -1L, kNoWait);
    if (n > 0) Learn(Way::kPipe);
    if (n >= 0 || errno == EAGAIN || errno == EINTR || errno == EPIPE) return n;
    // The kernel does not know it, or a filter of system calls has something against it (EPERM, as
    // a rule). If it was anything else, the next write says so.
    way_ = Way::kPollBefore;
    writes_whole_.store(false, std::memory_order_relaxed);
  }
#endif
  struct pollfd p = {out_, POLLOUT, 0};
  if (poll(&p, 1, 0) != 1 || p.revents == 0) {
    errno = EAGAIN;
    return -1;
  }
  if ((p.revents & POLLNVAL) != 0) {
    errno = EBADF;
    return -1;
  }
  const ssize_t n = write(out_, text.data(), std::min(text.size(), kPipePieceBytes));
  if (n > 0) Learn(Way::kPollBefore);
  return n;
}

Wire::Result Wire::WriteNow(std::string_view* text) {
  const bool is_short = text->size() <= kWholeBytes;
  while (!text->empty()) {
    const ssize_t n = TryWrite(*text);
    if (n > 0) {
      text->remove_prefix(static_cast<size_t>(n));
      if (is_short && !text->empty()) {
        divided_.store(true, std::memory_order_relaxed);
        writes_whole_.store(false, std::memory_order_relaxed);
      }
    } else if (n < 0 && errno == EAGAIN) {
      break;
    } else if (n < 0 && errno != EINTR) {
      return Broken(errno);
    }
  }
  return Result::kOk;
}

Wire::Result Wire::Write(std::string_view text, milliseconds patience) {
  const auto limit = [&] {
    return patience.count() == 0 ? Clock::time_point::max() : Clock::now() + patience;
  };
  Clock::time_point deadline = limit();
  for (;;) {
    // Try first, wait only if need be: the usual answer fits.
    const size_t before = text.size();
    if (WriteNow(&text) != Result::kOk) return Result::kBroken;
    if (text.empty()) return Result::kOk;
    if (text.size() < before) deadline = limit();
    const Result result = WaitForPeer(deadline);
    if (result != Result::kOk) return result;
  }
}

Wire::Result Wire::WaitForPeer(Clock::time_point deadline) {
  // In slices, because a shutdown puts an end to patience.
  if (shutdown_.Cancelled()) return Result::kShutdown;
  const Clock::time_point now = Clock::now();
  if (now >= deadline) return Result::kTimeout;
  Wanted wanted;
  wanted.writable = true;
  wanted.heed_shutdown = false;
  Event event;
  const milliseconds slice(shutdown_.requested() ? 50 : 500);
  const Result result = Wait(wanted, std::min(deadline, now + slice), &event);
  return result == Result::kTimeout ? Result::kOk : result;
}

}  // namespace lmshm
