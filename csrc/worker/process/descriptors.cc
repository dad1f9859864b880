// SPDX-License-Identifier: Apache-2.0
#include "worker/process/descriptors.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "worker/server/lingering_closes.h"
#include "worker/server/pending_logins.h"
#include "worker/storage/directories.h"
#include "worker/storage/quota.h"

namespace lmshm {

namespace {

// A put: the temporary, its copy that holds the lock, and the sidecar or the directory.
constexpr uint64_t kEach = 3;
// So many requests can always be carried out at one time, unless there are fewer threads.
constexpr uint64_t kLeastRequests = 4;
// With a quota: its events, its waking, the root, and a directory that each of its threads reads.
constexpr uint64_t kQuota = 6;
// The server's eventfd, and a few for the libraries.
constexpr uint64_t kSpare = 4;
constexpr uint64_t kLeastLingering = 2;
// A login takes two round trips, during which so many others may come.
constexpr uint64_t kLeastLogins = 16;
// More than that only if they are not more than this part of all.
constexpr uint64_t kLoginsPart = 8;
constexpr uint64_t kLeastListings = 2;

}  // namespace

Status ShareDescriptors(const DescriptorNeeds& needs, DescriptorShares* shares) {
  const uint64_t requests = std::min(needs.threads, kLeastRequests);
  shares->lingering = needs.sockets ? kLeastLingering : 0;
  shares->logins = needs.logins ? kLeastLogins : 0;
  const uint64_t roots = needs.directories ? 1 : 0;
  shares->listings = needs.directories ? kLeastListings : 0;
  const uint64_t least = needs.own + (needs.quota ? kQuota : 0) + kSpare + roots +
                         shares->listings + shares->lingering + shares->logins + requests * kEach;
  const uint64_t wanted = needs.clients.value_or(needs.usual_clients);
  const uint64_t most = needs.limit <= least ? 0 : needs.limit - least;
  const uint64_t sockets = needs.sockets ? wanted : 0;
  if (most < needs.listeners || (needs.clients.has_value() && sockets > most)) {
    const std::string limit = "this process may have " + std::to_string(needs.limit) +
                              " descriptors (RLIMIT_NOFILE, \"ulimit -n\")";
    return Status::Error(
        EMFILE, needs.clients.has_value() && most >= needs.listeners
                    ? "--max-clients " + std::to_string(wanted) + " needs " +
                          std::to_string(least + wanted) + " descriptors, and " + limit +
                          "; raise that, or give at most --max-clients " + std::to_string(most)
                    : limit + ", and needs at least " + std::to_string(least + needs.listeners) +
                          "; raise that");
  }
  shares->clients = needs.sockets ? std::min(wanted, most) : wanted;
  uint64_t left = most - (needs.sockets ? shares->clients : 0);

  // Few are left: half of them for either.
  shares->wakes = std::min(shares->clients, left / 2);
  left -= shares->wakes;

  if (needs.logins) {
    const uint64_t most_logins =
        std::clamp<uint64_t>(needs.limit / kLoginsPart, kLeastLogins, kMaxPendingLogins);
    const uint64_t more_logins = std::min(most_logins - kLeastLogins, left / 4);
    shares->logins += more_logins;
    left -= more_logins;
  }
  if (needs.sockets) {
    const uint64_t more_lingering = std::min(kMaxLingering - kLeastLingering, left / 4);
    shares->lingering += more_lingering;
    left -= more_lingering;
  }

  if (needs.directories) {
    const uint64_t more_directories = std::min(kMaxDirectories - 1, left / 4);
    shares->directories += more_directories;
    left -= more_directories;
    const uint64_t more_listings =
        std::min({kMaxListings - kLeastListings,
                  shares->clients * KeyListings::kMost - kLeastListings, left / 4});
    shares->listings += more_listings;
    left -= more_listings;
  }
  if (needs.listings) {
    shares->listings = std::min<uint64_t>(kMaxListings, shares->clients * KeyListings::kMost);
  }
  if (needs.quota) {
    // All that clients may have open, and others that only have something in them.
    shares->counted = std::min<uint64_t>(kMaxQuotaDirectories, 1 + left / 4);
    shares->directories = std::min(shares->directories, shares->counted);
    left -= shares->counted - 1;
  }

  const uint64_t more_requests = std::min(needs.threads - requests, left / kEach);
  left -= more_requests * kEach;
  // The engine itself begins no more than this.
  const uint64_t begun = shares->clients + needs.threads;
  shares->open_objects = std::clamp<uint64_t>(left / begun, 1, needs.threads);
  shares->begun = std::min(begun, requests + left / shares->open_objects);
  left -= std::min(left, (shares->begun - requests) * shares->open_objects);
  shares->kept = left / 2;
  return Status::OK();
}

uint64_t RaiseDescriptorLimit() {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : before;
}

uint64_t CountDescriptors(uint64_t limit) {
  // Nobody passes on more than a few.
  constexpr uint64_t kLooked = 4096;
  uint64_t open = 0;
  for (uint64_t fd = 0; fd < std::min(limit, kLooked); fd++) {
    if (fcntl(static_cast<int>(fd), F_GETFD) >= 0) open++;
  }
  return open;
}

}  // namespace lmshm
