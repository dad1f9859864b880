// SPDX-License-Identifier: Apache-2.0
#include "worker/process/make_store.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include "worker/base/log.h"
#include "worker/redis/redis_store.h"
#include "worker/s3/s3_store.h"

namespace lmshm {

namespace {

// How long a store may take to tell whether all is well before there is anybody to serve.
constexpr std::chrono::seconds kFirstLook(3);

class UntilThen : public CancelCheck {
 public:
  explicit UntilThen(const CancelCheck* other) : other_(other) {}
  bool Cancelled() const override {
    return Clock::now() > end_ || (other_ != nullptr && other_->Cancelled());
  }
  const char* Reason() const override { return "it takes too long at the start"; }

 private:
  using Clock = std::chrono::steady_clock;
  const CancelCheck* const other_;
  const Clock::time_point end_ = Clock::now() + kFirstLook;
};

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
  const std::vector<uint16_t>& members = store->member_ports();
  made->ports.insert(made->ports.end(), members.begin(), members.end());
  made->store = std::move(store);
  return Status::OK();
}

Status MakeS3Store(const StoreUrl& url, const StoreSecrets& secrets, const CancelCheck* cancel,
                   MadeStore* made) {
  std::unique_ptr<S3Store> store;
  Status status = S3Store::Open(url, secrets, &store);
  if (!status.ok()) return status;
  const UntilThen limit(cancel);
  status = store->CheckBucket(&limit);
  if (!status.ok()) Log(LogLevel::kWarn, "the store cannot be used now: " + status.ToString());
  made->ports = {store->endpoint().port};
  made->looks_up_names = !store->endpoint().IsAddress();
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
  if (url.scheme == "s3") return MakeS3Store(url, secrets, cancel, made);
  return Status::Error(ENOTSUP, "this worker has no engine for " + url.scheme + "://");
}

}  // namespace lmshm
