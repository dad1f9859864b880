// SPDX-License-Identifier: Apache-2.0
#include "worker/server/lingering_closes.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace lmshm {

namespace {

constexpr std::chrono::seconds kTime(2);

// True once the other side has closed, or is gone.
bool DrainNow(int socket) {
  char rest[16 * 1024];
  const ssize_t n = recv(socket, rest, sizeof rest, MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

}  // namespace

void LingeringCloses::Add(UniqueFd socket, std::string_view last_words) {
  // It may not be there any more; that is its affair.
  const ssize_t ignored =
      send(socket.get(), last_words.data(), last_words.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)ignored;
  shutdown(socket.get(), SHUT_WR);
  if (closing_.size() >= most_) closing_.pop_front();
  closing_.push_back({std::move(socket), Clock::now() + kTime});
}

void LingeringCloses::AppendTo(std::vector<struct pollfd>* polled) const {
  for (const Closing& one : closing_) polled->push_back({one.socket.get(), POLLIN, 0});
}

Clock::time_point LingeringCloses::deadline() const {
  return closing_.empty() ? Clock::time_point::max() : closing_.front().deadline;
}

void LingeringCloses::Serve(const struct pollfd* polled) {
  const Clock::time_point now = Clock::now();
  for (auto one = closing_.begin(); one != closing_.end(); polled++) {
    const bool ended = polled->revents != 0 && DrainNow(one->socket.get());
    one = ended || now >= one->deadline ? closing_.erase(one) : std::next(one);
  }
}

}  // namespace lmshm
