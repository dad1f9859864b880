// SPDX-License-Identifier: Apache-2.0
//
// Wire: the two directions of a client's byte stream, with limits on every wait.
//
// Works on a socket or on a pair of pipes, files or terminals, blocking or not.
#ifndef LMSHM_WORKER_NET_WIRE_H_
#define LMSHM_WORKER_NET_WIRE_H_

#include <poll.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string_view>
#include <vector>

#include "worker/base/shutdown.h"

namespace lmshm {

using Clock = std::chrono::steady_clock;

// Not thread safe but for WriteNow(). Does not own the descriptors.
class Wire {
 public:
  enum class Result {
    kOk,
    kEnd,       // the peer will send no more
    kTimeout,   //
    kShutdown,  // this process is asked to end
    kBroken,    // error() says why
  };

  Wire(int in, int out, const Shutdown& shutdown) : in_(in), out_(out), shutdown_(shutdown) {}

  // What to wait for, and what has come. Of the parts that are not asked for nothing is said.
  struct Event {
    bool readable = false;  // something to read, or its end
    bool writable = false;
    bool woken = false;  // `wake_fd` is readable
    bool gone = false;   // nobody will read what is written; only when `watch_gone`
    bool other = false;  // something of `others`
  };
  struct Wanted {
    bool readable = false;
    bool writable = false;
    int wake_fd = -1;
    bool watch_gone = false;
    bool heed_shutdown = true;                    // else a shutdown does not end the wait
    const std::vector<pollfd>* others = nullptr;  // what else to wait for
  };

  // Waits until something of `wanted` comes: kOk; or kTimeout, kShutdown, kBroken.
  Result Wait(const Wanted& wanted, Clock::time_point deadline, Event* event);

  // Reads what is there, up to `size` bytes, after `readable`: kOk (`*got` may be 0), kEnd,
  // kBroken.
  Result ReadNow(char* to, size_t size, size_t* got);

  // Writes what is taken at once, and removes it from `*text`: kOk, even if that is nothing, or
  // kBroken. May be called on another thread than the others, by one at a time. By several, if none
  // of their texts is longer than kWholeBytes and writes_whole(): such a text is taken whole, or
  // nothing of it.
  Result WriteNow(std::string_view* text);
  static constexpr size_t kWholeBytes = 4096;
  // Known once something has been written.
  bool writes_whole() const { return writes_whole_.load(std::memory_order_relaxed); }
  // A short text was taken in parts nevertheless. From then on it is not writes_whole() any more.
  bool divided() const { return divided_.load(std::memory_order_relaxed); }

  // Writes all of `text`. kTimeout when the peer takes nothing for `patience`; zero waits for as
  // long as the peer lives. During a shutdown it still writes, for the grace period at most.
  Result Write(std::string_view text, std::chrono::milliseconds patience);

  // One wait of Write(): until the peer takes something, or for a moment. kOk in both cases;
  // kTimeout at `deadline`, kShutdown when the grace period is over.
  Result WaitForPeer(Clock::time_point deadline);

  // Whether nobody will read what is written, as far as the system knows now: over TCP it learns
  // that only by writing. Does not wait. May be called on any thread.
  bool PeerGone() const;

  // The errno value behind kBroken.
  int error() const { return error_.load(); }
  bool broken() const { return error() != 0; }
  // For a peer of whom something else said that it is gone.
  void SetBroken(int error) { error_.store(error); }

 private:
  // How `out_` is written to without waiting. Tried in this order, until one is possible.
  enum class Way {
    kSend,        // a socket
    kPipe,        // a pipe, on Linux 6.5 and later, where no filter is against it
    kPollBefore,  // anything
  };

  Result Broken(int error);
  // Something was written in `way`.
  void Learn(Way way);
  ssize_t TryWrite(std::string_view text);

  const int in_;
  const int out_;
  const Shutdown& shutdown_;
  std::atomic<Way> way_{Way::kSend};
  std::atomic<bool> learnt_{false};
  std::atomic<bool> writes_whole_{false};
  std::atomic<bool> divided_{false};
  std::atomic<int> error_{0};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_NET_WIRE_H_
