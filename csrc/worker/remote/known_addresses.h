// SPDX-License-Identifier: Apache-2.0
//
// KnownAddresses: where a server is, also while nobody can say so.
//
// A name is looked up for each new connection, because that is how people move a server. Where that
// fails (the name server is away, or behind the fence there is no resolver), what was found last
// must do: a cache should not be gone because a name server is. A look-up that is not answered may
// take only a part of the time then, so that some is left to connect.
#ifndef LMSHM_WORKER_REMOTE_KNOWN_ADDRESSES_H_
#define LMSHM_WORKER_REMOTE_KNOWN_ADDRESSES_H_

#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/remote/endpoint.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

// Thread safe.
class KnownAddresses {
 public:
  // Tests give it another one than the system's.
  using Resolver = Status (*)(const Endpoint&, WaitLimit*, std::vector<SocketAddress>*);

  explicit KnownAddresses(Resolver resolve = Resolve) : resolve_(resolve) {}

  // As Resolve(); `endpoint` is the same each time.
  Status Find(const Endpoint& endpoint, WaitLimit* limit, std::vector<SocketAddress>* addresses)
      EXCLUDES(mutex_);

 private:
  const Resolver resolve_;
  Mutex mutex_;
  std::vector<SocketAddress> last_ GUARDED_BY(mutex_);  // what was found; empty: nothing yet
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REMOTE_KNOWN_ADDRESSES_H_
