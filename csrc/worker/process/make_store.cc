// SPDX-License-Identifier: Apache-2.0
#include "worker/process/make_store.h"

#include <cerrno>

namespace lmshm {

Status MakeStore(const StoreUrl& url, const StoreSecrets&, const StoreLimits&, const CancelCheck*,
                 MadeStore*) {
  if (url.scheme == "rediss") {
    return Status::Error(ENOTSUP,
                         "this worker speaks no TLS: let a tunnel do it, see \"TLS\" in "
                         "docs/engines.md, and give the address at which that listens, "
                         "redis://127.0.0.1:PORT");
  }
  return Status::Error(ENOTSUP, "this worker has no engine for " + url.scheme + "://");
}

}  // namespace lmshm
