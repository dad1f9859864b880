// SPDX-License-Identifier: Apache-2.0
//
// Wire: the two directions of a client's byte stream, with limits on every wait.
//
// Works on a socket or on a pair of pipes, files or terminals, blocking or not.
#ifndef LMSHM_WORKER_WIRE_H_
#define LMSHM_WORKER_WIRE_H_

#include <chrono>
#include <cstddef>
#include <string_view>

#include "worker/shutdown.h"

namespace lmshm {

using Clock = std::chrono::steady_clock;

// Not thread safe. Does not own the descriptors.
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

  // Waits until something can be read, and reads up to `size` bytes. `deadline` may be
  // Clock::time_point::max(). `*got` is set when kOk.
  Result Read(char* to, size_t size, Clock::time_point deadline, size_t* got);

  // Writes all of `text`. kTimeout when the peer takes nothing for `patience`; zero waits for as
  // long as the peer lives. During a shutdown it still writes, for the grace period at most.
  Result Write(std::string_view text, std::chrono::milliseconds patience);

  // Sleeps; kOk, or kShutdown as soon as that is requested.
  Result Sleep(std::chrono::milliseconds time) const;

  // The errno value behind kBroken.
  int error() const { return error_; }

 private:
  Result Broken(int error);

  const int in_;
  const int out_;
  const Shutdown& shutdown_;
  bool out_is_socket_ = true;  // until it turns out not to be
  int error_ = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_WIRE_H_
