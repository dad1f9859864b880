// SPDX-License-Identifier: Apache-2.0
#include "worker/remote/known_addresses.h"

#include <cerrno>
#include <chrono>
#include <utility>

namespace lmshm {

namespace {

// Of the time that is left, what a look-up may take that could be done without.
constexpr int kShare = 3;

}  // namespace

Status KnownAddresses::Find(const Endpoint& endpoint, WaitLimit* limit,
                            std::vector<SocketAddress>* addresses) {
  std::vector<SocketAddress> last;
  {
    const MutexLock lock(&mutex_);
    last = last_;
  }
  Status status;
  if (last.empty()) {
    status = resolve_(endpoint, limit, addresses);
  } else {
    WaitLimit share(limit->Left() / kShare, limit->cancel());
    status = resolve_(endpoint, &share, addresses);
  }
  if (status.ok()) {
    const MutexLock lock(&mutex_);
    last_ = *addresses;
    return status;
  }
  if (status.number() == ECANCELED || last.empty()) return status;
  *addresses = std::move(last);
  return Status::OK();
}

}  // namespace lmshm
