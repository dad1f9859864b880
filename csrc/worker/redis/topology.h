// SPDX-License-Identifier: Apache-2.0
//
// Topology: which nodes there are, and which of them has which slot. A server that is alone has all
// of them.
//
// What is known of a cluster is corrected by each MOVED, and asked for again (CLUSTER SLOTS, of any
// node that answers) when a node does not answer or says that it is not the master.
#ifndef LMSHM_WORKER_REDIS_TOPOLOGY_H_
#define LMSHM_WORKER_REDIS_TOPOLOGY_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/redis/node.h"
#include "worker/redis/reply.h"
#include "worker/redis/slots.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

// Thread safe.
class Topology {
 public:
  using Node = std::shared_ptr<RedisNode>;

  // `seeds`: of a cluster any of its nodes, otherwise the one server. References must outlive it.
  Topology(const std::vector<Endpoint>& seeds, bool cluster, const RedisLogin& login,
           RedisCounts* counts);

  bool cluster() const { return cluster_; }

  // Whose the slot is; null: nobody's, as far as is known.
  Node OfSlot(uint16_t slot) const;
  Node OfKey(std::string_view key) const { return OfSlot(cluster_ ? SlotOf(key) : 0); }
  // Any of the masters, for what concerns no key; null: none is known.
  Node Any() const;
  // Of each slot; null: nobody's. A server that is alone has one slot.
  std::vector<Node> Owners() const;
  // All masters, each with the first of its slots.
  std::vector<std::pair<uint16_t, Node>> Masters() const;
  // Masters, replicas and seeds.
  size_t size() const;
  // Where the nodes listen that are known now.
  std::vector<Endpoint> endpoints() const;

  // A node of this address.
  Node At(const Endpoint& endpoint);
  // `from` says who has the slot.
  Node Moved(uint16_t slot, Endpoint endpoint, const RedisNode& from);

  // Asks the cluster, unless another thread does or just did, for `most` at most: whoever is silent
  // takes a part of that from the others, who are asked first the next time. Of a server that is
  // alone: nothing. Fails if nobody answers; what was known is kept then.
  Status Refresh(std::chrono::milliseconds most, const CancelCheck* cancel);

 private:
  Status Ask(RedisNode* node, WaitLimit* limit, Reply* reply) const;
  Status Adopt(const Reply& reply, const RedisNode& from);
  Node Keep(const std::map<std::string, Node>& old, const Endpoint& endpoint) REQUIRES(mutex_);
  Node AtLocked(const Endpoint& endpoint) REQUIRES(mutex_);

  const bool cluster_;
  const RedisLogin& login_;
  RedisCounts* const counts_;
  mutable Mutex mutex_;
  std::vector<Node> seeds_ GUARDED_BY(mutex_);
  std::map<std::string, Node> nodes_ GUARDED_BY(mutex_);  // by name
  std::vector<Node> slots_ GUARDED_BY(mutex_);
  bool asking_ GUARDED_BY(mutex_) = false;
  size_t turn_ GUARDED_BY(mutex_) = 0;  // whom to ask next
  std::chrono::steady_clock::time_point asked_ GUARDED_BY(mutex_);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_TOPOLOGY_H_
