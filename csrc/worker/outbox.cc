// SPDX-License-Identifier: Apache-2.0
#include "worker/outbox.h"

namespace lmshm {

void Outbox::Add(std::string_view lines) {
  if (lines.empty()) return;
  std::unique_lock<std::mutex> lock(mutex_);
  if (wire_->broken()) return;
  gathered_.append(lines);
  pending_.fetch_add(lines.size());
  if (!sending_ && !stalled_) Send(&lock);
}

bool Outbox::stalled() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stalled_;
}

void Outbox::Pump() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (sending_ || wire_->broken()) return;
  stalled_ = false;
  Send(&lock);
}

void Outbox::Send(std::unique_lock<std::mutex>* lock) {
  sending_ = true;
  for (;;) {
    if (left_ == leaving_.size()) {
      leaving_.clear();
      left_ = 0;
      if (gathered_.empty()) break;
      leaving_.swap(gathered_);
    }
    lock->unlock();
    std::string_view rest = std::string_view(leaving_).substr(left_);
    const size_t before = rest.size();
    const bool broken = wire_->WriteNow(&rest) != Wire::Result::kOk;
    lock->lock();
    left_ += before - rest.size();
    pending_.fetch_sub(before - rest.size());
    sent_.fetch_add(before - rest.size());
    if (broken) {
      gathered_.clear();
      pending_.store(0);
    } else if (!rest.empty()) {
      stalled_ = true;
    } else {
      continue;
    }
    wake_->Signal();
    break;
  }
  sending_ = false;
}

}  // namespace lmshm
