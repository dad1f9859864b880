// SPDX-License-Identifier: Apache-2.0
//
// SessionV1: a client's requests of version 1 of the protocol, each carried out where it is said.
// It is handed lines and hands back answers. Nothing a client sends can make it fail: the worst is
// an ERROR answer.
#ifndef LMSHM_WORKER_SERVER_SESSION_V1_H_
#define LMSHM_WORKER_SERVER_SESSION_V1_H_

#include <memory>
#include <string>
#include <string_view>

#include "worker/base/metrics.h"
#include "worker/base/status.h"
#include "worker/memory/attachment.h"
#include "worker/protocol/request.h"
#include "worker/server/service.h"

namespace lmshm {

// Not thread safe: one thread a session.
class SessionV1 {
 public:
  // `peer` names the client in the log.
  SessionV1(const Service& service, std::string peer);

  // Carries out the request `line` (without its ending) and appends the answer, one line with '\n'.
  // Blocks for as long as that takes.
  AfterAnswer Handle(std::string_view line, std::string* answer);

  // Lets go of the segment, as if nothing had been attached.
  void Detach();

  const std::string& peer() const { return peer_; }

 private:
  Status Dispatch(const Request& request, std::string* result, AfterAnswer* next);
  Status Attach(const Request& request);
  Status Transfer(const Request& request, std::string* result);
  void Count(Command command, const Status& status, Metrics::Clock::duration took) const;

  const Service& service_;
  const std::string peer_;
  std::shared_ptr<const Attachment> attachment_;  // null before ATTACH
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SESSION_V1_H_
