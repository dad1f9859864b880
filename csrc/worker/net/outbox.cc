// SPDX-License-Identifier: Apache-2.0
#include "worker/net/outbox.h"

#include <cerrno>

namespace lmshm {

namespace {

// Of answers that a client does not take.
constexpr size_t kFullBytes = 256 * 1024;

}  // namespace

bool Outbox::full() const { return pending() > kFullBytes; }

bool Outbox::Add(std::string_view lines) {
  if (lines.empty()) return false;
  const MutexLock lock(&mutex_);
  if (wire_->broken()) return false;
  pending_.fetch_add(lines.size());
  if (sending_ && CanPass(lines)) return Pass(lines);
  gathered_.append(lines);
  return !sending_ && !stalled_ && Send();
}

bool Outbox::stalled() const {
  const MutexLock lock(&mutex_);
  return stalled_;
}

void Outbox::Pump() {
  const MutexLock lock(&mutex_);
  if (sending_ || wire_->broken()) return;
  stalled_ = false;
  Send();
}

bool Outbox::Sent(size_t bytes) {
  const size_t before = pending_.fetch_sub(bytes);
  sent_.fetch_add(bytes);
  return before > kFullBytes && before - bytes <= kFullBytes;
}

bool Outbox::CanPass(std::string_view lines) const {
  return gathered_.empty() && left_ == 0 && leaving_.size() <= Wire::kWholeBytes &&
         lines.size() <= Wire::kWholeBytes && wire_->writes_whole();
}

bool Outbox::Pass(std::string_view lines) {
  passing_++;
  passed_++;
  mutex_.Unlock();
  std::string_view rest = lines;
  const bool broken = wire_->WriteNow(&rest) != Wire::Result::kOk;
  mutex_.Lock();
  passing_--;
  bool relieved = Sent(lines.size() - rest.size());
  if (broken) {
    wake_->Signal();
  } else if (rest.size() == lines.size()) {
    gathered_.append(lines);
  } else if (wire_->divided()) {
    Mixed();
  }
  // What was left to this thread, or has just been added.
  if (!sending_ && !stalled_ && !gathered_.empty() && !wire_->broken()) {
    relieved = Send() || relieved;
  }
  return relieved;
}

// The stream has divided a short piece while others were sending: one of their lines may have come
// between its parts. Linux does not; what only looks like it may.
void Outbox::Mixed() {
  wire_->SetBroken(EPROTO);
  wake_->Signal();
}

bool Outbox::Send() {
  bool relieved = false;
  sending_ = true;
  for (;;) {
    if (left_ == leaving_.size()) {
      leaving_.clear();
      left_ = 0;
      if (gathered_.empty()) break;
      // More would go in parts, and those who pass could come between; the last of them sends it.
      if (passing_ > 0 && gathered_.size() > Wire::kWholeBytes) break;
      leaving_.swap(gathered_);
    }
    const uint64_t passed = passed_ - passing_;
    std::string_view rest = std::string_view(leaving_).substr(left_);
    mutex_.Unlock();
    const size_t before = rest.size();
    const bool divided = wire_->divided();
    const bool broken = wire_->WriteNow(&rest) != Wire::Result::kOk;
    mutex_.Lock();
    left_ += before - rest.size();
    relieved = Sent(before - rest.size()) || relieved;
    if (passed_ != passed && wire_->divided() && !divided) Mixed();
    if (broken) {
      gathered_.clear();
    } else if (!rest.empty()) {
      stalled_ = true;
    } else {
      continue;
    }
    wake_->Signal();
    break;
  }
  sending_ = false;
  return relieved;
}

}  // namespace lmshm
