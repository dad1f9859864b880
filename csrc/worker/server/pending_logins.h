// SPDX-License-Identifier: Apache-2.0
//
// PendingLogins: connections whose clients have not proven yet that they know the secret.
//
// They are kept apart from the clients, so that strangers cannot take the places of those, and cost
// a descriptor and a few KiB each, no thread: whoever accepts connections polls them all and waits
// for none. A connection has kLoginTime from its beginning, whatever it does meanwhile. When there
// are too many the oldest gives way, so that somebody who only holds connections keeps nobody out:
// to log in takes two round trips.
#ifndef LMSHM_WORKER_SERVER_PENDING_LOGINS_H_
#define LMSHM_WORKER_SERVER_PENDING_LOGINS_H_

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/log.h"
#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/net/wire.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/connection.h"
#include "worker/server/lingering_closes.h"
#include "worker/server/login.h"

namespace lmshm {

inline constexpr std::chrono::seconds kLoginTime(10);
// At one time; fewer where a process may have few descriptors (descriptors.h).
inline constexpr size_t kMaxPendingLogins = 256;

// Not thread safe.
class PendingLogins {
 public:
  // Takes a client that has proven itself, and moves `*socket` away; or leaves it, and says why it
  // cannot be served.
  using Admit = std::function<Status(size_t listener, const std::string& peer, UniqueFd* socket,
                                     Opening opening)>;

  // What `rules` refers to and `lingering` must outlive this.
  PendingLogins(const LoginRules& rules, size_t most, LingeringCloses* lingering)
      : rules_(rules), most_(most), lingering_(lingering) {}

  // A new connection. `peer` names it in the log.
  void Add(UniqueFd socket, std::string peer, size_t listener);

  // Somebody needs a descriptor. False: there is none to be had here.
  bool DropOldest();

  // Closes all, because the process ends.
  void Clear() { pending_.clear(); }

  // As LingeringCloses'.
  void AppendTo(std::vector<struct pollfd>* polled) const;
  Clock::time_point deadline() const;
  void Serve(const struct pollfd* polled, const Admit& admit);

  size_t size() const { return pending_.size(); }

 private:
  struct Pending {
    Pending(UniqueFd fd, std::string name, size_t from, const LoginRules& rules)
        : socket(std::move(fd)), peer(std::move(name)), listener(from), login(rules) {}

    UniqueFd socket;
    const std::string peer;
    const size_t listener;
    const Clock::time_point deadline = Clock::now() + kLoginTime;
    LineReader reader{kMaxLoginLineBytes};
    Login login;
  };
  using Place = std::list<Pending>::iterator;

  // A secret has at most 1,024 bytes, and nothing longer is said here.
  static constexpr size_t kMaxLoginLineBytes = 2048;

  // These may end the connection here; Hear() returns whether it has.
  void ServeOne(Place place, const Admit& admit);
  bool Hear(Place place, std::string_view line, const Admit& admit);
  void End(Place place, std::string_view last_words, const std::string& why);

  const LoginRules rules_;
  const size_t most_;
  LingeringCloses* const lingering_;
  std::list<Pending> pending_;  // oldest first
  RareWarning warnings_{std::chrono::seconds(1)};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_PENDING_LOGINS_H_
