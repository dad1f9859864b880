// SPDX-License-Identifier: Apache-2.0
//
// MakeStore: from a URL to the engine that it names.
#ifndef LMSHM_WORKER_PROCESS_MAKE_STORE_H_
#define LMSHM_WORKER_PROCESS_MAKE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/storage/object_store.h"
#include "worker/storage/store_url.h"

namespace lmshm {

struct MadeStore {
  std::unique_ptr<ObjectStore> store;
  // What the fence has to leave open (sandbox.h): the ports of TCP that it may connect to from now
  // on, and whether it looks up names.
  std::vector<uint16_t> ports;
  bool looks_up_names = false;
};

struct StoreLimits {
  size_t threads = 16;  // that use it at one time
};

// Of any URL but a directory's. May ask the engine something, for some seconds at most, but an
// engine that does not answer yet is none of its failures: it may be there later. Must start no
// thread that stays: the fence, which comes later, would not hold for it.
//   EINVAL   a parameter that there is not, or a value that is none
//   ENOTSUP  TLS, or an engine that must be named otherwise
//   EACCES   the engine does not let us in
Status MakeStore(const StoreUrl& url, const StoreSecrets& secrets, const StoreLimits& limits,
                 const CancelCheck* cancel, MadeStore* made);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_MAKE_STORE_H_
