// SPDX-License-Identifier: Apache-2.0
//
// What a URL of a Redis or Valkey store says, checked. Pure function.
#ifndef LMSHM_WORKER_REDIS_OPTIONS_H_
#define LMSHM_WORKER_REDIS_OPTIONS_H_

#include <cstdint>
#include <string>

#include "worker/base/status.h"
#include "worker/redis/client.h"
#include "worker/storage/store_url.h"

namespace lmshm {

// How objects lie in the server.
enum class RedisLayout {
  kLmshm,        // one string: record and payload (value_record.h)
  kPayload,      // one string: the payload alone, as LMCache's resp and valkey have it
  kLmcacheRedis  // two: <key>kv_bytes and <key>metadata, as LMCache's redis has it
};

struct RedisOptions {
  RedisClientOptions client;
  RedisLayout layout = RedisLayout::kLmshm;
  std::string prefix;            // before every key
  uint64_t ttl_seconds = 0;      // 0: objects do not expire
  uint64_t chunk_bytes = 0;      // of layout payload: an object has as many; 0: any
  uint64_t max_value_bytes = 0;  // 0: what the server says
};

// EINVAL with a text for the user. The parameters:
//   layout=lmshm|payload|lmcache-redis  prefix=TEXT  ttl=SECONDS  timeout=SECONDS
//   chunk_bytes=N  max_value_bytes=N  db=N (of a Unix socket)
Status ParseRedisOptions(const StoreUrl& url, const StoreSecrets& secrets, RedisOptions* options);

const char* RedisLayoutName(RedisLayout layout);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_OPTIONS_H_
