// SPDX-License-Identifier: Apache-2.0
#include "worker/request_task.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "worker/answer_v2.h"
#include "worker/log.h"

namespace lmshm {

namespace {

// What opening, describing and closing a file costs, as bytes; making one; a disk's flush; reading
// a directory.
constexpr uint64_t kObjectCost = 16 * 1024;
constexpr uint64_t kNewObjectCost = 128 * 1024;
constexpr uint64_t kSyncCost = 16 << 20;
constexpr uint64_t kListCost = 4 << 20;
// From here on a task goes to the engine by itself.
constexpr uint64_t kSmallCost = 256 * 1024;

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
  const uint64_t objects = request.items.size() + request.keys.size();
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
                         size_t line_bytes)
    : Task(request.priority, BytesOf(request, context), CostOf(request, context) <= kSmallCost),
      request_(std::move(request)),
      line_bytes_(line_bytes),
      cost_(CostOf(request_, context)),
      ending_(context.cancel),
      context_(std::move(context)),
      peer_(peer) {
  context_.cancel = this;
}

bool RequestTask::Cancelled() const {
  return cancelled_.load(std::memory_order_relaxed) || (ending_ != nullptr && ending_->Cancelled());
}

const char* RequestTask::Reason() const {
  return cancelled_.load(std::memory_order_relaxed) ? "the client cancelled it" : ending_->Reason();
}

void RequestTask::Run(std::string* answers) {
  std::string result;
  // A batch that is cancelled later says so for each object.
  const Status status = Cancelled() ? CancelledBefore(request_, context_)
                                    : RunOperation(request_, context_, kMaxResultBytes, &result);
  if (status.ok()) {
    AppendOk(request_.id, result, answers);
  } else {
    AppendError(request_.id, status, answers);
  }
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + std::to_string(request_.id) + " " +
                              std::string(VerbName(request_.verb)) + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
}

}  // namespace lmshm
