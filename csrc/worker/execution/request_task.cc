// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/request_task.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "worker/base/log.h"
#include "worker/protocol/answer_v2.h"

namespace lmshm {

namespace {

// What a disk's flush costs, as bytes that could be moved in the same time; reading a directory.
constexpr uint64_t kSyncCost = 16 << 20;
constexpr uint64_t kListCost = 4 << 20;
// From here on a task goes to the engine by itself.
constexpr uint64_t kSmallCost = 256 * 1024;
// What the allocator and the pipeline's map take for one request.
constexpr size_t kMapBytes = 128;

uint64_t Sum(uint64_t a, uint64_t b) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  return a <= kMax - b ? a + b : kMax;
}

// What does not lie in the segment is refused without being moved.
uint64_t BytesOf(const RequestV2& request, const OperationContext& context) {
  if (context.memory == nullptr) return 0;
  uint64_t bytes = 0;
  for (const TransferItem& item : request.items) {
    if (item.size <= context.memory->size()) bytes = Sum(bytes, item.size);
  }
  return bytes;
}

uint64_t CostOf(const RequestV2& request, const OperationContext& context) {
  if (request.verb == Verb::kList) return kListCost;
  const uint64_t objects = request.items.size() + request.key_count;
  const uint64_t each = request.verb == Verb::kPut ? kNewObjectCost : kObjectCost;
  uint64_t cost = Sum(each * objects, BytesOf(request, context));
  if (request.verb != Verb::kPut) return cost;
  for (const TransferItem& item : request.items) {
    if (item.sync.value_or(context.sync) != Durability::kNone) cost = Sum(cost, kSyncCost);
  }
  return cost;
}

}  // namespace

RequestTask::RequestTask(RequestV2 request, OperationContext context, const std::string& peer,
                         Metrics::Clock::time_point read)
    : Task(request.priority, CostOf(request, context) <= kSmallCost),
      held_bytes_(sizeof(RequestTask) + kMapBytes + request.held_bytes()),
      cost_(CostOf(request, context)),
      ending_(context.cancel),
      peer_(peer),
      read_(read),
      metrics_(context.store->share().metrics),
      operation_(std::move(request), WithCancel(std::move(context), this)) {
  set_bytes(operation_.TurnBytes());
}

OperationContext RequestTask::WithCancel(OperationContext context, const CancelCheck* cancel) {
  context.cancel = cancel;
  return context;
}

bool RequestTask::Cancelled() const {
  return cancelled_.load(std::memory_order_relaxed) || (ending_ != nullptr && ending_->Cancelled());
}

const char* RequestTask::Reason() const {
  return cancelled_.load(std::memory_order_relaxed) ? "the client cancelled it" : ending_->Reason();
}

bool RequestTask::Go(std::string* answers) {
  Status status;
  std::string result;
  if (!operation_.Go(kMaxResultBytes, &status, &result)) {
    set_begun();
    return false;
  }
  answered_ = true;
  if (status.ok()) {
    AppendOk(id(), result, answers);
  } else {
    AppendError(id(), status, answers);
  }
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + std::to_string(id()) + " " +
                              std::string(VerbName(operation_.request().verb)) + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
  return true;
}

void RequestTask::CountAnswered(Metrics::Clock::time_point now) const {
  if (!answered_) return;
  metrics_.CountRequest(static_cast<size_t>(operation_.request().verb), now - read_);
}

}  // namespace lmshm
