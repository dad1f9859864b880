// SPDX-License-Identifier: Apache-2.0
//
// Task: something for the engine to carry out. TaskLot: several, in order.
//
// A lot is a chain through the tasks themselves, so handing them on allocates nothing: small
// requests come by the hundred thousand a second, and the C library of the worker that ships maps
// and unmaps memory for what other containers would want.
#ifndef LMSHM_WORKER_EXECUTION_TASK_H_
#define LMSHM_WORKER_EXECUTION_TASK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "worker/base/work.h"

namespace lmshm {

// What it does, only its client knows.
class Task {
 public:
  // `small`: takes about as long as waking a thread, and one turn.
  Task(Priority priority, bool small) : priority_(priority), small_(small) {}
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  virtual ~Task() = default;

  Priority priority() const { return priority_; }
  // Of shared memory, that it moves in one turn.
  uint64_t bytes() const { return bytes_; }
  bool small() const { return small_; }
  // Its first turn is over, and it holds files and memory.
  bool begun() const { return begun_; }

 protected:
  // For whoever has it at the moment, before it waits for a turn.
  void set_bytes(uint64_t bytes) { bytes_ = bytes; }
  void set_begun() { begun_ = true; }

 private:
  friend class TaskLot;
  const Priority priority_;
  const bool small_;
  bool begun_ = false;
  uint64_t bytes_ = 0;
  Task* next_ = nullptr;  // in its lot
};

// Owns its tasks. Not thread safe.
class TaskLot {
 public:
  TaskLot() = default;
  TaskLot(TaskLot&& other) noexcept { swap(other); }
  TaskLot& operator=(TaskLot&& other) noexcept {
    swap(other);
    return *this;
  }
  ~TaskLot() { clear(); }

  bool empty() const { return first_ == nullptr; }
  size_t size() const { return size_; }
  Task* front() const { return first_; }

  void push_back(std::unique_ptr<Task> task) {
    Task* const added = task.release();
    (first_ == nullptr ? first_ : last_->next_) = added;
    last_ = added;
    size_++;
  }

  // The first one, which there is.
  std::unique_ptr<Task> pop_front() {
    std::unique_ptr<Task> task(first_);
    first_ = std::exchange(task->next_, nullptr);
    size_--;
    return task;
  }

  // Moves those that have not been begun behind what is in `other`.
  void MoveUnbegun(TaskLot* other) {
    TaskLot kept;
    while (!empty()) (front()->begun() ? kept : *other).push_back(pop_front());
    swap(kept);
  }

  // Takes `task` out; null if it is not in here.
  std::unique_ptr<Task> remove(const Task* task) {
    Task* before = nullptr;
    for (Task* at = first_; at != nullptr; before = at, at = at->next_) {
      if (at != task) continue;
      if (before == nullptr) return pop_front();
      before->next_ = std::exchange(at->next_, nullptr);
      if (last_ == at) last_ = before;
      size_--;
      return std::unique_ptr<Task>(at);
    }
    return nullptr;
  }

  // Moves all of `other` behind what is here.
  void append(TaskLot* other) {
    if (other->empty()) return;
    (first_ == nullptr ? first_ : last_->next_) = std::exchange(other->first_, nullptr);
    last_ = other->last_;
    size_ += std::exchange(other->size_, 0);
  }

  class Iterator {
   public:
    explicit Iterator(const Task* at) : at_(at) {}
    const Task& operator*() const { return *at_; }
    Iterator& operator++() {
      at_ = at_->next_;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return at_ != other.at_; }

   private:
    const Task* at_;
  };
  Iterator begin() const { return Iterator(first_); }
  Iterator end() const { return Iterator(nullptr); }

  void clear() {
    while (!empty()) pop_front();
  }

  void swap(TaskLot& other) noexcept {
    std::swap(first_, other.first_);
    std::swap(last_, other.last_);
    std::swap(size_, other.size_);
  }

 private:
  Task* first_ = nullptr;
  Task* last_ = nullptr;  // means nothing when there is none
  size_t size_ = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_TASK_H_
