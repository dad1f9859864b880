// SPDX-License-Identifier: Apache-2.0
//
// Session: what one client has said so far, and the answer to what it says next. It begins in
// version 1 of the protocol, and `HELLO 2` takes it to version 2:
//
//     HELLO 2 [dir=<path>]  -> OK 2 boot=<16 hex> worker=lmshm-worker/<version> xattr=<0|1> ...
//     HELLO <n>             -> ERROR EPROTONOSUPPORT ...
//
// After an ERROR it stays in version 1, and another HELLO may be tried.
#ifndef LMSHM_WORKER_SERVER_SESSION_H_
#define LMSHM_WORKER_SERVER_SESSION_H_

#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/execution/pipeline.h"
#include "worker/server/service.h"
#include "worker/server/session_v1.h"
#include "worker/server/session_v2.h"

namespace lmshm {

// Not thread safe: one thread a session.
class Session {
 public:
  // `peer` names the client in the log. `pipeline`: where requests of version 2 go, opened by
  // HELLO; null: they are carried out where they are said, one after the other. `client`: see
  // SessionV1.
  Session(const Service& service, const std::string& peer, Pipeline* pipeline = nullptr,
          const CancelCheck* client = nullptr);

  // As SessionV2's.
  AfterAnswer Handle(std::string_view line, std::string* answer);

  // Answers a line that was too long to be kept.
  void HandleTooLong(std::string* answer) const;

 private:
  // `words` is what follows HELLO.
  Status Hello(std::string_view words, std::string* result);

  const Service& service_;
  Pipeline* const pipeline_;
  SessionV1 v1_;
  std::unique_ptr<SessionV2> v2_;  // null before HELLO 2
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SESSION_H_
