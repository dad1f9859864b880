// SPDX-License-Identifier: Apache-2.0
//
// WakeUp: has a thread that waits in poll() return from it.
#ifndef LMSHM_WORKER_WAKE_UP_H_
#define LMSHM_WORKER_WAKE_UP_H_

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "worker/status.h"
#include "worker/unique_fd.h"

namespace lmshm {

// Thread safe once it is open.
class WakeUp {
 public:
  // EMFILE: the process has as many descriptors as it may.
  Status Open() {
    event_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return event_.valid() ? Status::OK() : Status::System(errno, "create an eventfd");
  }

  // To poll for POLLIN; -1 before Open().
  int fd() const { return event_.get(); }

  // Makes fd() readable. Nothing before Open().
  void Signal() const {
    const uint64_t one = 1;
    const ssize_t ignored = write(event_.get(), &one, sizeof one);
    (void)ignored;  // it fails only when the counter is full, and then it is readable anyway
  }

  // Makes fd() unreadable until the next Signal().
  void Clear() const {
    uint64_t count;
    const ssize_t ignored = read(event_.get(), &count, sizeof count);
    (void)ignored;
  }

 private:
  UniqueFd event_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_WAKE_UP_H_
