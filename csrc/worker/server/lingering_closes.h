// SPDX-License-Identifier: Apache-2.0
//
// LingeringCloses: connections that were told why they end, and wait for the other side to end
// them.
//
// Closing a socket with unread data resets the connection, and a client that has already sent its
// first lines would see that instead of the reason. So what it still sends is read and thrown away,
// for a while, by a thread that polls all such connections and waits for none.
#ifndef LMSHM_WORKER_SERVER_LINGERING_CLOSES_H_
#define LMSHM_WORKER_SERVER_LINGERING_CLOSES_H_

#include <poll.h>

#include <cstddef>
#include <list>
#include <string_view>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker/net/wire.h"

namespace lmshm {

// At one time; fewer where a process may have few descriptors (descriptors.h).
inline constexpr size_t kMaxLingering = 16;

// Not thread safe.
class LingeringCloses {
 public:
  // `most` at one time, at least 1: the oldest is closed for one more.
  explicit LingeringCloses(size_t most) : most_(most) {}

  // Sends `last_words` as far as the socket takes them, and no more after that.
  void Add(UniqueFd socket, std::string_view last_words);

  // To poll, and until when at most: one after the other, Serve() gets the results in that order.
  void AppendTo(std::vector<struct pollfd>* polled) const;
  Clock::time_point deadline() const;
  void Serve(const struct pollfd* polled);

  size_t size() const { return closing_.size(); }

 private:
  struct Closing {
    UniqueFd socket;
    Clock::time_point deadline;
  };

  const size_t most_;
  std::list<Closing> closing_;  // oldest first
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_LINGERING_CLOSES_H_
