// SPDX-License-Identifier: Apache-2.0
//
// Pipeline: the requests of one connection that are not answered yet.
//
// The connection's own thread accepts requests, hands them to the engine, and helps with small
// ones. Whoever has carried one out gives its answer to the outbox. A request is in flight from
// Accept() until its answer is in there; only then is its id free again.
//
// A lone small request is carried out on the connection's thread at once: waking another would
// take longer than the work. So is a larger one of a client that always waits for the answer.
//
// Small requests to a store that is a server go through the store's lane (object_store.h), where it
// has one: this thread sends them, and takes their replies as they come. There the highest priority
// is first; lower ones are passed over eight times at most. What the lane does not take goes to the
// engine like all others.
#ifndef LMSHM_WORKER_EXECUTION_PIPELINE_H_
#define LMSHM_WORKER_EXECUTION_PIPELINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/base/wake_up.h"
#include "worker/execution/engine.h"
#include "worker/execution/request_task.h"
#include "worker/net/outbox.h"
#include "worker/storage/object_store.h"

namespace lmshm {

// A connection may have this many requests in flight.
inline constexpr size_t kWindow = 1024;
// And these may hold so much memory, until they are answered.
inline constexpr size_t kWindowBytes = 4 << 20;

// For the connection's own thread, but for what the engine calls.
class Pipeline : private Engine::Client {
 public:
  // `engine` may be null: then it cannot be opened. All must outlive it.
  Pipeline(Engine* engine, Outbox* outbox, WakeUp* wake)
      : engine_(engine), outbox_(outbox), wake_(wake) {}
  ~Pipeline() override { Close(); }

  bool open() const { return open_; }
  // Before the first request. ENOTSUP without an engine.
  Status Open();
  // Of the store that all requests are for; null: it has none. Is gone after Close().
  void UseLane(std::unique_ptr<Lane> lane) { lane_ = std::move(lane); }
  // When nothing is in flight any more: returns once no thread uses this.
  void Close();

  // Whether a request with this id is in flight.
  bool Has(uint64_t id) const;
  size_t unfinished() const { return unfinished_.load(); }
  // For one request there is always room; for more while this client, and all together, hold
  // little enough memory.
  bool HasRoom() const {
    const size_t now = unfinished();
    if (now == 0) return true;
    return now < kWindow && held_bytes_.load() < kWindowBytes && engine_->HasMemory();
  }

  // Takes a request whose id is not in flight; there is room. It may not be begun before Go().
  void Accept(std::unique_ptr<RequestTask> task);
  void Go();

  // Goes on with what is in the lane.
  void GoLane();
  // There is more to do in it, and nothing to wait for.
  bool lane_more() const { return lane_more_; }
  // Whether GoLane() must be called: when something of these comes, and now and then.
  bool AddLanePolls(std::vector<pollfd>* polls) const;

  // Carries out some small requests that wait; false if there are none.
  bool Help();

  // Whether nobody can wake the connection, so that it has to look while requests are in flight.
  bool MustLook() const { return open_ && wake_->fd() < 0 && unfinished() > 0; }

  // Has the connection woken once at most `unfinished` requests are in flight; or a good deal fewer
  // than there are, so that there is room. False if that is so already.
  bool AskWake(size_t unfinished);
  bool AskWakeForRoom();

  // Stops the request. If it is still waiting it is answered here. False if it is not in flight.
  bool Cancel(uint64_t id);

  // Throws away what is not begun, without an answer.
  void Drop();
  // And cancels what is being carried out. Nobody takes answers any more, so nothing is held: what
  // a thread has in hand it carries out, cancelled, even if it gives it back first.
  void Abandon();

  // The client takes answers again.
  void Resume();

 private:
  void RunLot(TaskLot* lot) override;
  bool Held() const override;
  void Finish(const TaskLot& done, const std::string& answers);
  bool LaneWaits() const;
  bool HasLaneRoom(const Task& task) const;
  TaskLot* NextForLane();
  void FillLane();
  void TakeCompletions(const std::vector<Lane::Completion>& completions);
  std::unique_ptr<RequestTask> TakeFromLane(const void* who);

  Engine* const engine_;
  Outbox* const outbox_;
  WakeUp* const wake_;
  bool open_ = false;
  TaskLot accepted_;
  uint64_t accepted_cost_ = 0;
  bool accepted_small_ = true;
  size_t until_patient_ = 0;  // see kUntilPatient; 0: the client waits for each answer
  std::unique_ptr<Lane> lane_;
  TaskLot for_lane_[kPriorities];
  size_t passed_over_[kPriorities] = {};
  std::unordered_map<const void*, std::unique_ptr<RequestTask>> in_lane_;
  uint64_t in_lane_bytes_ = 0;
  bool lane_more_ = false;
  std::atomic<bool> abandoned_{false};
  std::atomic<size_t> unfinished_{0};
  std::atomic<size_t> unanswered_{0};  // of these, whose answer is not on its way
  std::atomic<size_t> held_bytes_{0};  // of memory, by these
  // Wake when `unfinished_` is at most this much less 1; 0: do not.
  std::atomic<size_t> wake_at_{0};
  mutable Mutex mutex_;  // taken before the engine's
  std::unordered_map<uint64_t, RequestTask*> in_flight_ GUARDED_BY(mutex_);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_PIPELINE_H_
