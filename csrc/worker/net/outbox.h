// SPDX-License-Identifier: Apache-2.0
//
// Outbox: a client's answers on their way out, from any thread.
//
// Nobody waits in it. A thread that adds an answer also sends what has gathered. If another thread
// is sending at that moment, it sends this answer too. But where the wire takes short pieces whole,
// a short answer is sent at once, past that thread: its own write may have woken the client on the
// CPU that it needs to go on. (Answers need no order; they only must not get between the parts of
// another.)
// When the client takes no more for the moment, what is left stays, and the connection's own thread
// is woken: it waits for the client and goes on.
#ifndef LMSHM_WORKER_NET_OUTBOX_H_
#define LMSHM_WORKER_NET_OUTBOX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "worker/base/mutex.h"
#include "worker/base/wake_up.h"
#include "worker/net/wire.h"

namespace lmshm {

// Thread safe.
class Outbox {
 public:
  // `wake` is signalled when the connection's thread has to look.
  Outbox(Wire* wire, const WakeUp* wake) : wire_(wire), wake_(wake) {}
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  // Whole lines. Dropped when the connection is broken. True if it was full and this has changed
  // it.
  bool Add(std::string_view lines);

  // The client takes no more at present: wait until it does, then Pump(). Both are for the
  // connection's own thread.
  bool stalled() const;
  void Pump();

  // Bytes that are not sent yet; and whether these are so many that nothing more should be begun.
  size_t pending() const { return pending_.load(); }
  bool full() const;
  // Bytes sent so far.
  uint64_t sent() const { return sent_.load(); }

 private:
  // These two with the lock held, which is released while the system call runs. They return what
  // Add() does.
  bool Send() REQUIRES(mutex_);
  bool Pass(std::string_view lines) REQUIRES(mutex_);
  // Whether `lines` may be sent although another thread is sending something.
  bool CanPass(std::string_view lines) const REQUIRES(mutex_);
  // True if it was full before.
  bool Sent(size_t bytes);
  void Mixed();

  Wire* const wire_;
  const WakeUp* const wake_;
  std::atomic<size_t> pending_{0};
  std::atomic<uint64_t> sent_{0};
  mutable Mutex mutex_;
  std::string gathered_ GUARDED_BY(mutex_);
  // Of which `left_` bytes are sent. Only the thread that sends changes it.
  std::string leaving_ GUARDED_BY(mutex_);
  size_t left_ GUARDED_BY(mutex_) = 0;
  size_t passing_ GUARDED_BY(mutex_) = 0;   // threads that send something of their own
  uint64_t passed_ GUARDED_BY(mutex_) = 0;  // how often one began to
  bool sending_ GUARDED_BY(mutex_) = false;
  bool stalled_ GUARDED_BY(mutex_) = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_NET_OUTBOX_H_
