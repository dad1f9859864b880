// SPDX-License-Identifier: Apache-2.0
//
// Shutdown: SIGTERM, SIGINT and SIGHUP as something that can be polled and asked.
//
// The first such signal asks for a clean end: the request at work is finished and answered, no
// other is begun. After kGraceSeconds the work itself is cancelled. A second signal kills at once,
// as signals do by default. There is one Shutdown in a process, because there is one set of
// signal handlers.
#ifndef LMSHM_WORKER_BASE_SHUTDOWN_H_
#define LMSHM_WORKER_BASE_SHUTDOWN_H_

#include "worker/base/status.h"
#include "worker/base/work.h"

namespace lmshm {

inline constexpr int kGraceSeconds = 5;

class Shutdown : public CancelCheck {
 public:
  // The one; not installed yet.
  static Shutdown& Get();

  // Installs the handlers, and has SIGPIPE and SIGXFSZ ignored so that they become EPIPE and
  // EFBIG. Call once, before threads exist.
  Status Install();

  // Asks for the end as a signal does. Thread safe.
  void Request();

  // Whether the end was asked for. Thread safe, and so are the others.
  bool requested() const;

  // Readable from Request() on; never read from it. -1 before Install().
  int fd() const;

  // The grace period is over.
  bool Cancelled() const override;

 private:
  Shutdown() = default;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_SHUTDOWN_H_
