// SPDX-License-Identifier: Apache-2.0
//
// Outbox: a client's answers on their way out, from any thread.
//
// Nobody waits in it. Whoever adds an answer also sends what has gathered, unless somebody else is
// at it, who then sends this one too. When the client takes no more for the moment, what is left
// stays, and the connection's own thread is woken: it waits for the client and goes on.
#ifndef LMSHM_WORKER_OUTBOX_H_
#define LMSHM_WORKER_OUTBOX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "worker/wake_up.h"
#include "worker/wire.h"

namespace lmshm {

// Thread safe.
class Outbox {
 public:
  // `wake` is signalled when the connection's thread has to look.
  Outbox(Wire* wire, const WakeUp* wake) : wire_(wire), wake_(wake) {}
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  // Whole lines. Dropped when the connection is broken.
  void Add(std::string_view lines);

  // The client takes no more at present: wait until it does, then Pump(). For the connection's own
  // thread, and so is the next.
  bool stalled() const;
  void Pump();

  // Bytes that are not sent yet.
  size_t pending() const { return pending_.load(); }
  // Bytes sent so far.
  uint64_t sent() const { return sent_.load(); }

 private:
  // With the lock held, which is released while the system call runs.
  void Send(std::unique_lock<std::mutex>* lock);

  Wire* const wire_;
  const WakeUp* const wake_;
  std::atomic<size_t> pending_{0};
  std::atomic<uint64_t> sent_{0};
  mutable std::mutex mutex_;  // guards the rest
  std::string gathered_;
  std::string
      leaving_;  // whose first `left_` bytes are sent; only the thread that sends touches it
  size_t left_ = 0;
  bool sending_ = false;
  bool stalled_ = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_OUTBOX_H_
