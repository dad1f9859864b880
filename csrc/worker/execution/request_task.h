// SPDX-License-Identifier: Apache-2.0
//
// RequestTask: one request on objects that is on its way through the engine, with all it needs, how
// it is cancelled, and how it is answered.
#ifndef LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_
#define LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "worker/base/cancel.h"
#include "worker/base/metrics.h"
#include "worker/execution/engine.h"
#include "worker/execution/operation.h"
#include "worker/protocol/request_v2.h"

namespace lmshm {

class RequestTask : public Task, private CancelCheck {
 public:
  // `context.cancel` (may be null) says that the worker ends. `peer` names the client in the log
  // and must outlive this.
  // `read`: when its line was.
  RequestTask(RequestV2 request, OperationContext context, const std::string& peer,
              Metrics::Clock::time_point read = Metrics::Clock::now());

  uint64_t id() const { return operation_.request().id; }

  // Memory that it takes while it waits.
  size_t held_bytes() const { return held_bytes_; }

  // How much work it is, as bytes that could be moved in the same time.
  uint64_t cost() const { return cost_; }

  // Carries it out, or goes on with it, on any thread. True once it is over: then its answer, one
  // line, has been appended. False: its turn is. Blocks.
  bool Go(std::string* answers);

  // Its answer is on its way: counts how long that took. Nothing if it was dropped without one.
  void CountAnswered(Metrics::Clock::time_point now) const;

  // Tells it to stop as soon as it can. Any thread, at any time.
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  static OperationContext WithCancel(OperationContext context, const CancelCheck* cancel);
  bool Cancelled() const override;
  const char* Reason() const override;

  const size_t held_bytes_;
  const uint64_t cost_;
  const CancelCheck* const ending_;
  const std::string& peer_;
  const Metrics::Clock::time_point read_;
  Metrics& metrics_;
  bool answered_ = false;
  std::atomic<bool> cancelled_{false};
  Operation operation_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_REQUEST_TASK_H_
