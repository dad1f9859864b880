// SPDX-License-Identifier: Apache-2.0
//
// RedisClient: commands to whichever nodes their keys belong to, all nodes at the same time, and
// what is done again when that did not work.
//
// A lane (redis_lane.h) makes its first attempt by itself, and asks here how that ended.
//
// Again at once: what was sent on a connection that turned out to be dead, and what another node
// has (MOVED, ASK). Again after a pause, until the limit is over: in a cluster whatever a failover
// can cause; with one server a connection that broke. A removal is not sent twice: the second time
// would say that there was nothing.
#ifndef LMSHM_WORKER_REDIS_CLIENT_H_
#define LMSHM_WORKER_REDIS_CLIENT_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/redis/node.h"
#include "worker/redis/pipe.h"
#include "worker/redis/topology.h"

namespace lmshm {

struct RedisClientOptions {
  std::vector<Endpoint> seeds;
  bool cluster = false;
  RedisLogin login;
  // Nothing moves for so long: ETIMEDOUT.
  std::chrono::milliseconds timeout{10'000};
};

// Thread safe.
class RedisClient {
 public:
  explicit RedisClient(RedisClientOptions options);
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;

  // Whether anybody answers: connects, logs in, and asks a cluster who has which slots.
  Status Start(const CancelCheck* cancel);

  // Carries out all of `commands`. Each has then a status: success (its reply is no error), or why
  // not, with the name of the server. `cancel` may be null.
  void Run(const std::vector<Command*>& commands, const CancelCheck* cancel);

  // One command for one node, whatever its key.
  void RunAt(const Topology::Node& node, Command* command, const CancelCheck* cancel);

  // How one attempt to carry out commands on one connection went: the connection, and the pipe that
  // it went through; null: there was no connection, and `status` says why.
  struct Attempt {
    Topology::Node node;  // null: nobody has the slot
    RedisConnection connection;
    std::unique_ptr<Pipe> pipe;
    Status status;
  };
  // What is to be done with a command now: nothing, its status and reply say how it went, or the
  // same again. `cancelled`: whether it is still wanted.
  enum class Next { kEnd, kAtOnce, kLater };
  Next Judge(const Attempt& attempt, Command* command, bool cancelled);
  // After an attempt: its connection is given back if it can be used again. Its pipe is gone then.
  void Conclude(Attempt* attempt);

  // How long one node may be silent.
  std::chrono::milliseconds Stall() const;

  Topology& topology() { return topology_; }
  const Topology& topology() const { return topology_; }
  const RedisCounts& counts() const { return counts_; }
  std::chrono::milliseconds timeout() const { return options_.timeout; }

 private:
  struct Group;

  void Try(std::vector<Group>* groups, const CancelCheck* cancel);
  Next JudgeReply(const Attempt& attempt, Command* command);
  Next JudgeBroken(const Attempt& attempt, Command* command, bool cancelled);

  const RedisClientOptions options_;
  RedisCounts counts_;
  Topology topology_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_CLIENT_H_
