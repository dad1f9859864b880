// SPDX-License-Identifier: Apache-2.0
//
// Stream: one connection to a server, over TCP or a Unix socket. Nothing in it blocks but what
// takes a WaitLimit.
//
// What is sent and where it is received may be memory that vanishes (shared_bytes.h): only the
// kernel touches it. EFAULT then is a result like others; the connection is of no more use, because
// what was sent before cannot be taken back.
#ifndef LMSHM_WORKER_REMOTE_STREAM_H_
#define LMSHM_WORKER_REMOTE_STREAM_H_

#include <sys/uio.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/remote/endpoint.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

// Move-only; closed when destroyed.
class Stream {
 public:
  Stream() = default;
  // Of a socket that is connected.
  explicit Stream(UniqueFd fd) : fd_(std::move(fd)) {}

  // Tries `addresses` of `endpoint`, one after the other; each may take what is left divided by
  // those that are left. The text says what was tried. `*stream` is set on success only.
  static Status Connect(const Endpoint& endpoint, const std::vector<SocketAddress>& addresses,
                        WaitLimit* limit, Stream* stream);

  bool open() const { return fd_.valid(); }
  void Close() { fd_.Reset(); }
  int fd() const { return fd_.get(); }

  // What goes at once, into `*sent` or `*received`: 0; EAGAIN, nothing does now: wait for POLLOUT
  // or POLLIN; or what the system call said, EFAULT among it. The end of what the server sends is
  // ECONNRESET, as if it had broken off. At least one part, and none of them changes.
  [[nodiscard]] int SendSome(const iovec* parts, size_t count, size_t* sent);
  [[nodiscard]] int ReceiveSome(const iovec* parts, size_t count, size_t* received);
  [[nodiscard]] int ReceiveSome(void* into, size_t size, size_t* received);

  // All of it, waiting: 0, or as above and as WaitLimit::Wait() says. Changes the parts.
  [[nodiscard]] int SendAll(iovec* parts, size_t count, WaitLimit* limit);
  [[nodiscard]] int ReceiveAll(void* into, size_t size, WaitLimit* limit);

  // Whether it can be used again after a pause: it is open at the other end, too, and nothing has
  // come that nobody waited for.
  bool Quiet() const;

 private:
  UniqueFd fd_;
};

// Takes `bytes` off the beginning of `parts`; returns how many parts that uses up.
size_t Advance(iovec* parts, size_t count, size_t bytes);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REMOTE_STREAM_H_
