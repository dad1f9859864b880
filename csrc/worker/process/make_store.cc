// SPDX-License-Identifier: Apache-2.0
#include "worker/process/make_store.h"

#include <cerrno>
#include <utility>

#include "worker/redis/redis_store.h"

namespace lmshm {

namespace {

Status MakeRedisStore(const StoreUrl& url, const StoreSecrets& secrets, const CancelCheck* cancel,
                      MadeStore* made) {
  std::unique_ptr<RedisStore> store;
  Status status = RedisStore::Open(url, secrets, cancel, &store);
  if (!status.ok()) return status;
  for (const Endpoint& endpoint : store->endpoints()) {
    if (!endpoint.unix_path.empty()) continue;
    made->ports.push_back(endpoint.port);
    made->looks_up_names |= !endpoint.IsAddress();
  }
  made->store = std::move(store);
  return Status::OK();
}

}  // namespace

Status MakeStore(const StoreUrl& url, const StoreSecrets& secrets, const StoreLimits&,
                 const CancelCheck* cancel, MadeStore* made) {
  if (url.scheme == "rediss") {
    return Status::Error(ENOTSUP,
                         "this worker speaks no TLS: let a tunnel do it, see \"TLS\" in "
                         "docs/engines.md, and give the address at which that listens, "
                         "redis://127.0.0.1:PORT");
  }
  if (url.scheme == "redis" || url.scheme == "redis+unix" || url.scheme == "redis+cluster") {
    return MakeRedisStore(url, secrets, cancel, made);
  }
  return Status::Error(ENOTSUP, "this worker has no engine for " + url.scheme + "://");
}

}  // namespace lmshm
