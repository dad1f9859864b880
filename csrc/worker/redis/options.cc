// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/options.h"

#include <cerrno>
#include <limits>
#include <string_view>
#include <utility>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr uint16_t kPort = 6379;
constexpr uint64_t kMostSeconds = 3600;
constexpr uint64_t kMostTtl = 10ULL * 365 * 24 * 3600;
constexpr uint64_t kMostDb = 1 << 20;

Status Bad(std::string_view name, std::string_view value, std::string_view wanted) {
  return Status::Error(EINVAL, "the store's parameter " + std::string(name) + "=" +
                                   Printable(value) + ": " + std::string(wanted));
}

Status Number(std::string_view name, std::string_view value, uint64_t least, uint64_t most,
              uint64_t* number) {
  uint64_t parsed = 0;
  if (ParseU64(value, &parsed) != NumberError::kNone || parsed < least || parsed > most) {
    return Bad(name, value,
               "a number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  *number = parsed;
  return Status::OK();
}

Status SetLayout(std::string_view value, RedisLayout* layout) {
  for (const RedisLayout one :
       {RedisLayout::kLmshm, RedisLayout::kPayload, RedisLayout::kLmcacheRedis}) {
    if (value != RedisLayoutName(one)) continue;
    *layout = one;
    return Status::OK();
  }
  return Bad("layout", value, "lmshm, payload or lmcache-redis");
}

Status SetParameter(const StoreUrl& url, const std::string& name, const std::string& value,
                    RedisOptions* options, uint64_t* db) {
  constexpr uint64_t kAny = std::numeric_limits<int64_t>::max();
  if (name == "layout") return SetLayout(value, &options->layout);
  if (name == "prefix") {
    options->prefix = value;
    return Status::OK();
  }
  if (name == "ttl") return Number(name, value, 1, kMostTtl, &options->ttl_seconds);
  if (name == "chunk_bytes") return Number(name, value, 1, kAny, &options->chunk_bytes);
  if (name == "max_value_bytes") return Number(name, value, 1024, kAny, &options->max_value_bytes);
  if (name == "timeout") {
    uint64_t seconds = 0;
    Status status = Number(name, value, 1, kMostSeconds, &seconds);
    if (status.ok()) options->client.timeout = std::chrono::seconds(seconds);
    return status;
  }
  if (name == "db" && url.scheme == "redis+unix") return Number(name, value, 0, kMostDb, db);
  return Status::Error(EINVAL, "the store's URL has a parameter \"" + Printable(name) +
                                   "\"; known are layout, prefix, ttl, timeout, chunk_bytes, "
                                   "max_value_bytes, and db for a Unix socket");
}

Status SetHosts(const StoreUrl& url, RedisOptions* options) {
  if (url.scheme == "redis+unix") {
    Endpoint endpoint;
    endpoint.unix_path = url.path;
    options->client.seeds.push_back(std::move(endpoint));
    return Status::OK();
  }
  for (const StoreHost& host : url.hosts) {
    Endpoint endpoint;
    endpoint.host = host.name;
    endpoint.port = host.port != 0 ? host.port : kPort;
    options->client.seeds.push_back(std::move(endpoint));
  }
  if (options->client.seeds.empty()) {
    return Status::Error(EINVAL, "the store's URL names no server");
  }
  return Status::OK();
}

}  // namespace

const char* RedisLayoutName(RedisLayout layout) {
  switch (layout) {
    case RedisLayout::kPayload:
      return "payload";
    case RedisLayout::kLmcacheRedis:
      return "lmcache-redis";
    default:
      return "lmshm";
  }
}

Status ParseRedisOptions(const StoreUrl& url, const StoreSecrets& secrets, RedisOptions* options) {
  RedisOptions parsed;
  parsed.client.cluster = url.scheme == "redis+cluster";
  Status status = SetHosts(url, &parsed);
  uint64_t db = 0;
  if (status.ok() && url.scheme == "redis" && !url.path.empty()) {
    status = Number("the path", url.path, 0, kMostDb, &db);
  }
  for (const auto& [name, value] : url.parameters) {
    if (status.ok()) status = SetParameter(url, name, value, &parsed, &db);
  }
  if (!status.ok()) return status;
  if (parsed.client.cluster && !url.path.empty()) {
    return Status::Error(EINVAL, "the store's URL: a cluster has database 0 alone");
  }
  if (parsed.chunk_bytes != 0 && parsed.layout != RedisLayout::kPayload) {
    return Status::Error(EINVAL, "the store's parameter chunk_bytes is for layout=payload");
  }
  parsed.client.login.db = static_cast<int>(db);
  parsed.client.login.user = !url.user.empty() ? url.user : secrets.user;
  parsed.client.login.password = secrets.password;
  if (!parsed.client.login.user.empty() && secrets.password.empty()) {
    return Status::Error(EINVAL,
                         "the store's URL names a user, and there is no password: give "
                         "--store-secret-file or LMSHM_STORE_SECRET");
  }
  *options = std::move(parsed);
  return Status::OK();
}

}  // namespace lmshm
