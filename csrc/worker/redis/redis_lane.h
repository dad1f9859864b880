// SPDX-License-Identifier: Apache-2.0
//
// RedisLane: small requests of one client, pipelined through one connection to each node, without a
// thread that waits for any of them: see Lane (storage/object_store.h).
//
// It takes a node's connection when that has one to spare, and gives it back when nothing is under
// way. Replies come in the order of the commands, so what is looked at for limits and cancelling is
// the first of them. When a connection breaks, the requests whose fate is clear are over, and the
// others are given back. Of what an attempt came to, RedisClient is the judge.
#ifndef LMSHM_WORKER_REDIS_REDIS_LANE_H_
#define LMSHM_WORKER_REDIS_REDIS_LANE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "worker/redis/client.h"
#include "worker/redis/redis_store.h"
#include "worker/storage/object_store.h"

namespace lmshm {

// Not thread safe.
class RedisLane : public Lane {
 public:
  explicit RedisLane(RedisStore* store) : store_(store) {}
  ~RedisLane() override;

  bool Put(PutItem* items, size_t count, const void* who) override;
  bool Get(GetItem* item, const void* who) override;
  bool Exists(ExistsItem* item, const void* who) override;
  bool Go(std::vector<Completion>* completions) override;
  bool Withdraw(const void* who) override;
  void AddPolls(std::vector<pollfd>* polls) const override;

 private:
  using Clock = std::chrono::steady_clock;

  // One request that is under way, in one part for each node that has something of it.
  struct Request {
    const void* who = nullptr;
    size_t parts = 0;
    size_t ended = 0;  // of these
    bool again = false;
  };
  struct Part {
    std::shared_ptr<Request> request;
    const CancelCheck* cancel = nullptr;
    // One of the three.
    std::vector<PutItem*> puts;  // one for each command
    GetItem* get = nullptr;
    ExistsItem* exists = nullptr;
    std::deque<Command> commands;
    uint64_t bytes = 0;  // that these move
    size_t replied = 0;  // of these
    Clock::time_point begun;
    Clock::time_point end;              // of its time, whatever moves until then
    Clock::time_point cancelled_since;  // when that was seen; the earliest time: it is not
  };
  // A node's connection, and what goes over it, in order.
  struct Channel {
    std::deque<std::unique_ptr<Part>> parts;
    RedisClient::Attempt attempt;  // goes before the commands that it refers to
    Clock::time_point moved;
  };

  // Gives the connection back, if it is in step.
  void Release(size_t at);
  Channel* ChannelOf(const std::string& key);
  static std::unique_ptr<Part> PartOf(std::shared_ptr<Request> request, const CancelCheck* cancel);
  // False: it belongs to several nodes, or there is no connection at hand.
  bool Begin(std::unique_ptr<Part> part);
  void BeginOn(Channel* channel, std::unique_ptr<Part> part);
  void TakeReplied(Channel* channel, std::vector<Completion>* completions);
  // Gives back the time in which nobody called Go().
  void Excuse(Clock::time_point now);
  // Why the connection has to be given up now; 0: it need not.
  int LookAtLimits(Channel* channel) const;
  void GiveUp(Channel* channel, std::vector<Completion>* completions);
  // Ends what has come to an end of it. `excused`: what has no reply is done again in any case.
  void Finish(const Channel& channel, Part* part, bool excused,
              std::vector<Completion>* completions);

  RedisStore* const store_;
  std::vector<std::unique_ptr<Channel>> channels_;
  Clock::time_point called_;  // Go(), for the last time
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_REDIS_LANE_H_
