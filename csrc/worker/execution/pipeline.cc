// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/pipeline.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

namespace lmshm {

namespace {

// What is carried out on the connection's thread without asking whether others are free; and the
// same for a request that is the only one in flight, and for small ones where there is no CPU for
// others anyway. (Large ones wait for the disk, which other threads can use meanwhile.)
constexpr uint64_t kInlineCost = 320 * 1024;
constexpr uint64_t kLoneCost = 2 << 20;
// So many are handed to the engine while the lines behind them are still being read.
constexpr size_t kAheadTasks = 64;
// A client that had several requests in flight is taken for one that waits for each answer once it
// has done so this many times.
constexpr size_t kUntilPatient = 8;
// Answers are sent at the latest after so long, or so many bytes.
constexpr auto kAnswerDelay = std::chrono::microseconds(100);
constexpr size_t kAnswerBytes = 32 * 1024;
constexpr size_t kUsualAnswers = 2048;  // bytes of a lot's

// Nothing else is ever submitted.
RequestTask* AsRequest(Task* task) { return static_cast<RequestTask*>(task); }
const RequestTask& AsRequest(const Task& task) { return static_cast<const RequestTask&>(task); }

}  // namespace

Status Pipeline::Open() {
  if (engine_ == nullptr) return Status::Error(ENOTSUP, "no engine");
  wake_->Open();
  open_ = true;
  return Status::OK();
}

void Pipeline::Close() {
  if (open_) engine_->Leave(this);
  open_ = false;
}

bool Pipeline::Has(uint64_t id) const {
  const MutexLock lock(&mutex_);
  return in_flight_.count(id) > 0;
}

void Pipeline::Accept(std::unique_ptr<RequestTask> task) {
  {
    const MutexLock lock(&mutex_);
    in_flight_.emplace(task->id(), task.get());
  }
  unfinished_.fetch_add(1);
  unanswered_.fetch_add(1);
  held_bytes_.fetch_add(task->held_bytes());
  engine_->Hold(task->held_bytes());
  accepted_cost_ += std::min(task->cost(), kLoneCost + 1);
  accepted_small_ = accepted_small_ && task->small();
  accepted_.push_back(std::move(task));
  if (accepted_.size() >= kAheadTasks) Go();
}

void Pipeline::Go() {
  if (accepted_.empty()) return;
  // While this thread is at a large request it reads no lines: what a client sends behind it would
  // wait, and its requests would be carried out one after the other.
  const bool lone = unanswered_.load() == 1;
  until_patient_ = lone ? std::max<size_t>(until_patient_, 1) - 1 : kUntilPatient;
  const uint64_t enough_for_lone = until_patient_ == 0 ? kLoneCost : kInlineCost;
  const uint64_t enough_for_small = engine_->HasSpareCpu() ? kInlineCost : kLoneCost;
  const bool here = (lone && accepted_cost_ <= enough_for_lone) ||
                    (accepted_small_ && accepted_cost_ <= enough_for_small);
  accepted_cost_ = 0;
  accepted_small_ = true;
  if (!here || Held() || !engine_->RunNow(this, &accepted_)) engine_->Submit(this, &accepted_);
}

bool Pipeline::Help() { return engine_->Help(this); }

bool Pipeline::AskWake(size_t unfinished) {
  // Either this sees the last one finished, or Finish() sees the wish.
  wake_at_.store(unfinished + 1);
  if (this->unfinished() > unfinished) return true;
  wake_at_.store(0);
  return false;
}

bool Pipeline::AskWakeForRoom() {
  const size_t now = unfinished();
  if (now >= kWindow) return AskWake(kWindow * 3 / 4);
  return now > 0 && AskWake(now - 1);  // few and long ones
}

void Pipeline::RunLot(TaskLot* lot) {
  const auto begun = std::chrono::steady_clock::now();
  TaskLot done;
  std::string answers;
  answers.reserve(kUsualAnswers);
  do {
    if (!AsRequest(lot->front())->Go(&answers)) break;  // its turn is over
    done.push_back(lot->pop_front());
  } while (!lot->empty() && answers.size() < kAnswerBytes &&
           std::chrono::steady_clock::now() - begun < kAnswerDelay);
  Finish(done, answers);
}

bool Pipeline::Held() const { return outbox_->full() && !abandoned_.load(); }

void Pipeline::Finish(const TaskLot& done, const std::string& answers) {
  if (done.empty()) return;
  size_t held_bytes = 0;
  for (const Task& task : done) held_bytes += AsRequest(task).held_bytes();
  {
    // Before the client has an answer, after which it may use the id again.
    const MutexLock lock(&mutex_);
    for (const Task& task : done) in_flight_.erase(AsRequest(task).id());
  }
  // Likewise: who waits for each answer must not look as if two of its requests were in flight.
  unanswered_.fetch_sub(done.size());
  if (outbox_->Add(answers)) engine_->Resume();
  if (!answers.empty()) {
    const auto now = Metrics::Clock::now();
    for (const Task& task : done) AsRequest(task).CountAnswered(now);
  }
  held_bytes_.fetch_sub(held_bytes);
  engine_->Release(held_bytes);
  const size_t left = unfinished_.fetch_sub(done.size()) - done.size();
  size_t wish = wake_at_.load();
  if (left < wish && wake_at_.compare_exchange_strong(wish, 0)) wake_->Signal();
}

bool Pipeline::Cancel(uint64_t id) {
  TaskLot taken;
  {
    const MutexLock lock(&mutex_);
    const auto found = in_flight_.find(id);
    if (found == in_flight_.end()) return false;
    found->second->Cancel();
    std::unique_ptr<Task> task = engine_->Take(this, found->second);
    if (task != nullptr) taken.push_back(std::move(task));
  }
  std::string answers;
  while (!taken.empty() && !AsRequest(taken.front())->Go(&answers)) {
  }
  Finish(taken, answers);
  return true;
}

void Pipeline::Drop() {
  Finish(accepted_, std::string());
  accepted_.clear();
  Finish(engine_->TakeUnbegun(this), std::string());
}

void Pipeline::Abandon() {
  abandoned_.store(true);
  Drop();
  {
    const MutexLock lock(&mutex_);
    for (const auto& [id, task] : in_flight_) task->Cancel();
  }
  engine_->Resume();
}

void Pipeline::Resume() { engine_->Resume(); }

}  // namespace lmshm
