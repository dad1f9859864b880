// SPDX-License-Identifier: Apache-2.0
//
// RedisNode: one server, and the connections to it that nobody uses at the moment.
//
// There are as many connections as threads want at a time; those that were idle for a minute are
// closed when another is given back. After a failure to connect everybody who asks within a pause
// that grows to a second gets the same failure at once: a server that is gone does not cost each
// request its limit.
#ifndef LMSHM_WORKER_REDIS_NODE_H_
#define LMSHM_WORKER_REDIS_NODE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <string>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/remote/backoff.h"
#include "worker/remote/endpoint.h"
#include "worker/remote/known_addresses.h"
#include "worker/remote/stream.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

// How every connection begins.
struct RedisLogin {
  std::string user;      // empty: the default user
  std::string password;  // empty: no AUTH
  int db = 0;            // SELECT, unless 0
};

// What all nodes of a store count. For INFO.
struct RedisCounts {
  std::atomic<uint64_t> connections{0};  // that are open
  std::atomic<uint64_t> connects{0};     // that succeeded
  std::atomic<uint64_t> failures{0};     // connections that could not be made, or broke
  std::atomic<uint64_t> redirections{0};
  std::atomic<uint64_t> refreshes{0};
};

// One connection, logged in. Move-only.
class RedisConnection {
 public:
  RedisConnection() = default;
  RedisConnection(RedisConnection&& other) noexcept;
  RedisConnection& operator=(RedisConnection&& other) noexcept;
  ~RedisConnection() { Close(); }

  bool open() const { return stream.open(); }
  void Close();

  Stream stream;
  bool reused = false;  // it has served others before
  uint64_t era = 0;     // of its node
  RedisCounts* counts = nullptr;
  std::chrono::steady_clock::time_point idle_since;
};

// Thread safe.
class RedisNode {
 public:
  // Both references must outlive it.
  RedisNode(Endpoint endpoint, const RedisLogin& login, RedisCounts* counts);
  RedisNode(const RedisNode&) = delete;
  RedisNode& operator=(const RedisNode&) = delete;

  const Endpoint& endpoint() const { return endpoint_; }
  const std::string& name() const { return name_; }

  // A connection that is idle, or a new one. `*connection` is set on success only.
  Status Take(WaitLimit* limit, RedisConnection* connection);
  // One that is idle; false: there is none. Does not wait.
  bool TakeIdle(RedisConnection* connection);
  // Only one that is in step. One that is outdated is closed.
  void GiveBack(RedisConnection connection);
  // The server at the other end is not the one that is wanted: this connection and those that were
  // made before serve nobody any more once they are given back, so that the name is looked up anew.
  void SetOutdated(const RedisConnection& connection);
  bool IsOutdated(const RedisConnection& connection) const {
    return connection.era != era_.load(std::memory_order_relaxed);
  }

 private:
  Status Connect(WaitLimit* limit, RedisConnection* connection);
  Status LogIn(WaitLimit* limit, Stream* stream) const;

  const Endpoint endpoint_;
  const std::string name_;
  const RedisLogin& login_;
  RedisCounts* const counts_;
  KnownAddresses addresses_;
  std::atomic<uint64_t> era_{0};  // changed with the lock held
  Mutex mutex_;
  std::deque<RedisConnection> idle_ GUARDED_BY(mutex_);  // used last: at the end
  Backoff pause_ GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point next_try_ GUARDED_BY(mutex_);
  Status down_ GUARDED_BY(mutex_);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_NODE_H_
