// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/engine.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "worker/base/heap.h"
#include "worker/base/log.h"
#include "worker/execution/give_way.h"

namespace lmshm {

namespace {

constexpr size_t kMaxPassedOver = 8;
// Small tasks in one lot. The fewer wait, the fewer are taken, so that all threads are done at
// about the same time.
constexpr size_t kMaxLot = 32;
constexpr size_t kMinLot = 8;
// Waking a thread costs about as much as this many small tasks, and takes it as long to come.
constexpr size_t kWorthWaking = 16;
// A part of a piece of work that takes less is quick: see Parallel::Pace.
constexpr auto kQuickPart = std::chrono::microseconds(100);
// So much was held that the allocator may have kept a multiple of what is usual; and how long after
// that the threads are idle it is told to give that back.
constexpr size_t kMuchMemory = 1 << 20;
constexpr auto kTrimAfter = std::chrono::seconds(1);

}  // namespace

Engine::Engine(const EngineLimits& limits)
    : limits_(limits), cpus_(UsableCpus()), low_limit_(std::max<size_t>(limits.threads, 2) - 1) {}

Engine::~Engine() {
  {
    const Lock lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Status Engine::Start() {
  try {
    while (threads_.size() < limits_.threads) threads_.emplace_back([this] { ThreadMain(); });
  } catch (const std::system_error& error) {
    const std::string text = "start I/O thread " + std::to_string(threads_.size() + 1) + " of " +
                             std::to_string(limits_.threads) + ": " + error.what();
    if (threads_.empty()) return Status::Error(EAGAIN, text);
    Log(LogLevel::kWarn, text + "; going on with fewer");
  }
  Lock lock(mutex_);
  started_.wait(lock, [this] { return nice_.has_value(); });
  return Status::OK();
}

void Engine::Wake(size_t threads) {
  threads = std::min(threads, idle_);
  for (size_t i = 0; i < threads; i++) work_.notify_one();
}

void Engine::List(Client* client, size_t level) {
  if (client->waiting_[level].listed) return;
  client->waiting_[level].listed = true;
  turns_[level].push_back(client);
}

void Engine::Enqueue(Client* client, std::unique_ptr<Task> task) {
  const auto level = static_cast<size_t>(task->priority());
  TaskLot& queue = client->waiting_[level].Of(*task);
  queue.push_back(std::move(task));
  queued_.fetch_add(1, std::memory_order_relaxed);
  List(client, level);
}

// What the client left of a lot goes before what waits.
void Engine::GiveBack(Hand* hand) {
  Client::Waiting* const waiting = hand->client->waiting_;
  TaskLot behind[kPriorities][2];
  for (size_t level = 0; level < kPriorities; level++) {
    behind[level][0].swap(waiting[level].small);
    behind[level][1].swap(waiting[level].large);
  }
  while (!hand->lot.empty()) Enqueue(hand->client, hand->lot.pop_front());
  for (size_t level = 0; level < kPriorities; level++) {
    waiting[level].small.append(&behind[level][0]);
    waiting[level].large.append(&behind[level][1]);
  }
}

void Engine::Submit(Client* client, TaskLot* tasks) {
  size_t small = 0;
  size_t large = 0;
  const Lock lock(mutex_);
  while (!tasks->empty()) {
    (tasks->front()->small() ? small : large)++;
    Enqueue(client, tasks->pop_front());
  }
  // With the first of the small ones this thread can be done before another has come. If they turn
  // out to be slow, Carry() wakes others. When the client's thread may not help, somebody must
  // come.
  Wake(std::max<size_t>(large + small / kWorthWaking, bytes_short_ ? 1 : 0));
}

void Engine::Grasp(Client* client, Hand* hand) {
  hand->client = client;
  hand->tasks = hand->lot.size();
  size_t fresh = 0;
  hand->lot.for_each([&](const Task& task) {
    hand->bytes += task.bytes();
    if (task.small()) return;
    hand->large++;
    if (!task.begun()) fresh++;
  });
  CountBegun(client, 0, fresh);
  running_ += hand->tasks;
  bytes_ += hand->bytes;
  if (hand->low) low_lots_++;
  client->lots_++;
}

void Engine::CountBegun(Client* client, size_t before, size_t after) {
  client->begun_ += after - before;  // modulo 2^64, and so is the next
  begun_ += after - before;
}

void Engine::Carry(Hand* hand, Lock* lock) {
  at_work_.fetch_add(1, std::memory_order_relaxed);
  lock->unlock();
  hand->client->RunLot(&hand->lot);
  lock->lock();
  at_work_.fetch_sub(1, std::memory_order_relaxed);
  running_ -= hand->tasks;
  bytes_ -= hand->bytes;
  if (hand->low) low_lots_--;
  // Each large one for a thread of its own; with small ones one more is enough to begin with.
  size_t large = 0;
  size_t begun = 0;
  hand->lot.for_each([&](const Task& task) {
    large += task.small() ? 0 : 1;
    begun += !task.small() && task.begun() ? 1 : 0;
  });
  CountBegun(hand->client, hand->large, begun);
  const size_t rest = hand->lot.empty() ? 0 : std::max<size_t>(large, 1);
  if (rest > 0) GiveBack(hand);
  const bool may_begin = begin_wanted_ && begun < hand->large;
  if (bytes_wanted_ && hand->bytes > 0) {
    bytes_wanted_ = false;
    work_.notify_all();
  } else {
    Wake(std::max<size_t>(rest, (low_wanted_ && hand->low) || may_begin ? 1 : 0));
  }
  if (--hand->client->lots_ == 0) left_.notify_all();
}

bool Engine::RunNow(Client* client, TaskLot* tasks) {
  Hand hand;
  uint64_t bytes = 0;
  bool small = true;
  tasks->for_each([&](const Task& task) {
    bytes += task.bytes();
    small = small && task.small();
  });
  Lock lock(mutex_);
  if (!FitsNow(bytes) || (!small && !CanBegin(*client))) return false;
  for (const Client::Waiting& waiting : client->waiting_) {
    if (!waiting.small.empty() || (!small && !waiting.large.empty())) return false;
  }
  hand.lot.swap(*tasks);
  Grasp(client, &hand);
  Carry(&hand, &lock);
  return true;
}

bool Engine::Help(Client* client) {
  Hand hand;
  Lock lock(mutex_);
  if (client->Held()) return false;
  for (Client::Waiting& waiting : client->waiting_) {
    if (waiting.small.empty()) continue;
    if (!FitsNow(waiting.small.front()->bytes())) {
      bytes_wanted_ = true;  // nobody else may know of this task
      continue;
    }
    TakeLot(&waiting.small, &hand);
    Grasp(client, &hand);
    Carry(&hand, &lock);
    return true;
  }
  return false;
}

std::unique_ptr<Task> Engine::Take(Client* client, const Task* task) {
  const Lock lock(mutex_);
  const auto level = static_cast<size_t>(task->priority());
  std::unique_ptr<Task> taken = client->waiting_[level].Of(*task).remove(task);
  if (taken != nullptr) queued_.fetch_sub(1, std::memory_order_relaxed);
  if (taken != nullptr && taken->begun() && !taken->small()) CountBegun(client, 1, 0);
  return taken;
}

TaskLot Engine::TakeUnbegun(Client* client) {
  const Lock lock(mutex_);
  TaskLot taken;
  for (Client::Waiting& waiting : client->waiting_) {
    waiting.small.MoveUnbegun(&taken);
    waiting.large.MoveUnbegun(&taken);
  }
  queued_.fetch_sub(taken.size(), std::memory_order_relaxed);
  return taken;
}

void Engine::Resume() {
  const Lock lock(mutex_);
  work_.notify_all();
}

void Engine::Leave(Client* client) {
  Lock lock(mutex_);
  left_.wait(lock, [&] { return client->lots_ == 0; });
  WantTrim();
  for (size_t level = 0; level < kPriorities; level++) {
    if (!client->waiting_[level].listed) continue;
    std::deque<Client*>& turns = turns_[level];
    turns.erase(std::find(turns.begin(), turns.end(), client));
  }
}

void Engine::TakeLot(TaskLot* queue, Hand* hand) {
  const size_t limit = queue->front()->small()
                           ? std::clamp(queue->size() / (limits_.threads + 1), kMinLot, kMaxLot)
                           : 1;
  uint64_t bytes = 0;
  do {
    bytes += queue->front()->bytes();
    hand->lot.push_back(queue->pop_front());
  } while (!queue->empty() && hand->lot.size() < limit && Fits(bytes + queue->front()->bytes()));
  queued_.fetch_sub(hand->lot.size(), std::memory_order_relaxed);
}

bool Engine::Fits(uint64_t bytes) const {
  return bytes == 0 || bytes_ == 0 || (bytes_ <= limits_.bytes && bytes <= limits_.bytes - bytes_);
}

// A client may always have one large task begun. More, so that all threads have something to do.
bool Engine::CanBegin(const Client& client) const {
  return begun_ < limits_.begun && (client.begun_ == 0 || begun_ < limits_.threads);
}

// The queue that the client's next task is in; null if nothing of its may be carried out now.
TaskLot* Engine::NextOf(Client* client, size_t level) {
  Client::Waiting& waiting = client->waiting_[level];
  TaskLot& large = waiting.large;
  // What has been begun holds something, and is finished whether answers are taken or not.
  const bool begun = !large.empty() && large.front()->begun();
  if (client->Held()) return begun ? &large : nullptr;
  TaskLot& next = waiting.Next();
  if (&next == &waiting.small || begun || CanBegin(*client)) return &next;
  begin_wanted_ = true;
  return waiting.small.empty() ? nullptr : &waiting.small;
}

// One of `level` whose turn it is.
Engine::Picked Engine::PickLevel(size_t level, Hand* hand) {
  std::deque<Client*>& turns = turns_[level];
  for (size_t left = turns.size(); left > 0; left--) {
    Client* const client = turns.front();
    Client::Waiting& waiting = client->waiting_[level];
    if (waiting.empty()) {
      waiting.listed = false;
      turns.pop_front();
      continue;
    }
    TaskLot* const next = NextOf(client, level);
    if (next == nullptr) {
      turns.pop_front();
      turns.push_back(client);
      continue;
    }
    TaskLot& queue = *next;
    const bool low = level == static_cast<size_t>(Priority::kLow);
    if (low && low_lots_ >= low_limit_) return Picked::kTooManyLow;
    if (!Fits(queue.front()->bytes())) return Picked::kNoBytes;
    waiting.large_next = queue.front()->small();
    turns.pop_front();
    TakeLot(&queue, hand);
    hand->low = low;
    Grasp(client, hand);
    waiting.listed = !waiting.empty();
    if (waiting.listed) turns.push_back(client);
    return Picked::kOne;
  }
  return Picked::kNone;
}

bool Engine::Pick(Hand* hand) {
  low_wanted_ = false;
  begin_wanted_ = false;
  bytes_short_ = false;
  // The order of levels: first one that was passed over too often, then by priority.
  size_t first = 0;
  for (size_t level = 1; level < kPriorities; level++) {
    if (passed_over_[level] >= kMaxPassedOver) first = level;
  }
  for (size_t i = 0; i <= kPriorities; i++) {
    const size_t level = i == 0 ? first : i - 1;
    if (i > 0 && level == first) continue;
    const Picked picked = PickLevel(level, hand);
    if (picked == Picked::kNone) continue;
    if (picked == Picked::kOne) {
      passed_over_[level] = 0;
      for (size_t lower = level + 1; lower < kPriorities; lower++) {
        passed_over_[lower] = turns_[lower].empty() ? 0 : passed_over_[lower] + 1;
      }
      return true;
    }
    (picked == Picked::kNoBytes ? bytes_wanted_ : low_wanted_) = true;
    // What comes later must not take the bytes that this one waits for.
    bytes_short_ = picked == Picked::kNoBytes;
    if (bytes_short_) return false;
  }
  return false;
}

bool Engine::JoinHelp(Lock* lock) {
  for (HelpWanted* const wanted : help_) {
    if (wanted->helpers >= wanted->seats) continue;
    if (wanted->next.load(std::memory_order_relaxed) >= wanted->parts) continue;
    wanted->helpers++;
    at_work_.fetch_add(1, std::memory_order_relaxed);
    lock->unlock();
    for (;;) {
      const size_t part = wanted->next.fetch_add(1, std::memory_order_relaxed);
      if (part >= wanted->parts) break;
      (*wanted->part)(part);
      if (queued_.load(std::memory_order_relaxed) > 0) break;  // somebody's turn
    }
    lock->lock();
    at_work_.fetch_sub(1, std::memory_order_relaxed);
    // With the lock held: the condition variable goes when its owner sees the number.
    if (--wanted->helpers == 0) wanted->done.notify_one();
    return true;
  }
  return false;
}

void Engine::ThreadMain() {
  const int nice = GiveWay(limits_.nice);
  Lock lock(mutex_);
  nice_ = nice;
  started_.notify_one();
  while (!ending_) {
    Hand hand;
    if (Pick(&hand)) {
      Carry(&hand, &lock);
      continue;
    }
    if (JoinHelp(&lock)) continue;
    WaitForWork(&lock);
  }
}

// The first thread that has had nothing to do for a moment gives back memory, if much was held.
void Engine::WaitForWork(Lock* lock) {
  idle_++;
  if (!trim_wanted_.load(std::memory_order_relaxed) || trimming_) {
    work_.wait(*lock);
  } else {
    trimming_ = true;
    const bool quiet = work_.wait_for(*lock, kTrimAfter) == std::cv_status::timeout &&
                       held_.load(std::memory_order_relaxed) < kMuchMemory;
    if (quiet) {
      trim_wanted_.store(false);
      lock->unlock();
      GiveBackMemory();
      lock->lock();
    }
    trimming_ = false;
  }
  idle_--;
}

void Engine::Hold(size_t bytes) {
  const size_t now = held_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (now < kMuchMemory || trim_wanted_.load(std::memory_order_relaxed)) return;
  const Lock lock(mutex_);
  WantTrim();
}

void Engine::WantTrim() {
  if (!trim_wanted_.exchange(true)) Wake(1);  // somebody must look after it
}

bool Engine::HasSpareCpu() const {
  constexpr size_t kClient = 1;
  return at_work_.load(std::memory_order_relaxed) + kClient < cpus_;
}

void Engine::Run(size_t parts, size_t at_once, Pace pace, const std::function<void(size_t)>& part) {
  HelpWanted wanted;
  wanted.part = &part;
  wanted.parts = parts;
  wanted.seats = std::min(at_once, parts);
  bool may_call = wanted.seats > 1;
  std::list<HelpWanted*>::iterator place;
  bool called = false;
  const auto call = [&] {
    wanted.seats--;  // this thread's
    const Lock lock(mutex_);
    place = help_.insert(help_.end(), &wanted);
    called = true;
    Wake(wanted.seats);
  };
  if (may_call && (pace == Pace::kSlow || HasSpareCpu())) call();
  may_call = may_call && !called;
  const auto begun =
      may_call ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
  for (;;) {
    const size_t next = wanted.next.fetch_add(1, std::memory_order_relaxed);
    if (next >= parts) break;
    part(next);
    if (!may_call || next + 2 >= parts) continue;  // for the last one nobody is called
    if (std::chrono::steady_clock::now() - begun < kQuickPart * (next + 1)) continue;
    call();
    may_call = false;
  }
  if (!called) return;
  Lock lock(mutex_);
  help_.erase(place);
  wanted.done.wait(lock, [&] { return wanted.helpers == 0; });
}

Engine::Counts Engine::counts() const {
  const Lock lock(mutex_);
  Counts counts;
  counts.threads = threads_.size();
  counts.nice = nice_.value_or(0);
  counts.max_bytes = limits_.bytes;
  counts.queued = queued_.load(std::memory_order_relaxed);
  counts.running = running_;
  counts.bytes = bytes_;
  return counts;
}

}  // namespace lmshm
