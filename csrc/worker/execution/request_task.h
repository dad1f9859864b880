// SPDX-License-Identifier: Apache-2.0
//
// RequestTask: one request of version 2 on objects, on its way through the engine, or through the
// lane of a store that is a server: what it does, in turns (work.h), how it is cancelled, and how
// it is answered.
//
// It has all it needs with it and shares ownership of the memory it works on: it may run on any
// thread, beside others, and outlive the client's attachment.
#ifndef LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_
#define LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/metrics.h"
#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/execution/task.h"
#include "worker/memory/attachment.h"
#include "worker/protocol/request_v2.h"
#include "worker/storage/key_listing.h"
#include "worker/storage/object_store.h"

namespace lmshm {

struct RequestContext {
  ObjectStore* store = nullptr;              // must outlive the request, and so must the others
  KeyListings* listings = nullptr;           //
  Metrics* metrics = nullptr;                //
  std::shared_ptr<const Attachment> memory;  // null: nothing is attached
  const CancelCheck* cancel = nullptr;       // may be null
  Parallel* parallel = nullptr;              // may be null: nobody helps
  IoMode io = IoMode::kAuto;                 // for objects that say nothing of it
  Durability sync = Durability::kNone;       // likewise
  size_t open_objects = 1;                   // of a batch that are under way at one time
};

// PUT, GET, STAT, EXISTS, CONTAINS, REMOVE or LIST. Not thread safe but for Cancel(): one thread at
// a time, which has others help it.
class RequestTask : public Task, private CancelCheck {
 public:
  // `context.cancel` (may be null) says that the worker ends. `peer` names the client in the log
  // and must outlive this.
  // `read`: when its line was.
  RequestTask(RequestV2 request, RequestContext context, const std::string& peer,
              Metrics::Clock::time_point read = Metrics::Clock::now());
  ~RequestTask() override;

  uint64_t id() const { return request_.id; }

  // Memory that it takes while it waits.
  size_t held_bytes() const { return held_bytes_; }

  // How much work it is, as bytes that could be moved in the same time.
  uint64_t cost() const { return cost_; }

  // Carries it out, or goes on with it. True once it is over: then its answer, one line, has been
  // appended; of a batch every object has its own success or failure in there. False: its turn is.
  // Blocks.
  bool Go(std::string* answers);

  // Whether it is one that a store's lane is for, if it has one: small objects, or keys to look
  // for.
  bool fits_lane() const { return fits_lane_; }
  // Begins with it there. False: it goes to the engine, and nothing has happened.
  bool EnterLane(Lane* lane);
  // Its item is over: appends the answer, as Go() does.
  void FinishInLane(std::string* answers);
  // The lane has given it back, or it was withdrawn. Go() does what is left of it.
  void LeaveLane();

  // Its answer is on its way: counts how long that took. Nothing if it was dropped without one.
  void CountAnswered(Metrics::Clock::time_point now) const;

  // Tells it to stop as soon as it can. Any thread, at any time.
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  struct Outcome;
  struct Part;
  struct Batch;

  bool Cancelled() const override;
  const char* Reason() const override;

  void Answer(const Status& status, const std::string& result, std::string* answers);
  // These return true once that part of the request is over.
  bool Carry(Status* status, std::string* result);
  bool BeginPuts(Lane* lane);
  bool BeginGet(Lane* lane);
  void TellPuts(Outcome* outcome);
  template <typename Item>
  bool GoLone(std::unique_ptr<Item>* kept, Turn* turn, Status* status, std::string* result);
  template <typename Item>
  void GoItems(Part* part, std::vector<Item>* items, Turn* turn);
  bool GoBatch(Turn* turn, std::string* result);
  void TellNext(size_t count);
  bool GoKeys(Turn* turn, Status* status, std::string* result);
  Status Stat(std::string* result);
  Status List(std::string* result);

  void Prepare(const TransferItem& object, PutItem* item);
  void Prepare(const TransferItem& object, GetItem* item);
  void Go(PutItem* items, size_t count, Turn* turn) { context_.store->Put(items, count, turn); }
  void Go(GetItem* items, size_t count, Turn* turn) { context_.store->Get(items, count, turn); }
  void Tell(const TransferItem& object, PutItem* item, Outcome* outcome) const;
  void Tell(const TransferItem& object, GetItem* item, Outcome* outcome) const;

  Status Resolve(const TransferItem& object, SharedBytes* bytes) const;
  TransferOptions Options(const TransferItem& object);
  Status CancelledAt(std::string_view verb, std::string_view key) const;
  // A failure, counted and, if it was cancelled, in the request's own words.
  Status Failed(Status status, std::string_view verb, std::string_view key) const;

  const RequestV2 request_;
  const RequestContext context_;
  const size_t held_bytes_;
  const uint64_t cost_;
  const bool fits_lane_;
  const std::string& peer_;
  const Metrics::Clock::time_point read_;
  Metrics& metrics_;
  bool answered_ = false;
  std::atomic<bool> cancelled_{false};
  std::unique_ptr<PutItem> put_;        // a lone object that is under way
  std::unique_ptr<GetItem> get_;        // likewise
  std::vector<PutItem> puts_;           // in a lane
  std::vector<PutItem> from_lane_;      // what became of each there, if something did
  std::unique_ptr<ExistsItem> exists_;  // likewise
  std::unique_ptr<Batch> batch_;        // once it is begun
  std::string_view keys_left_;          // that are not looked at yet
  std::string digits_;                  // of the others
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_
