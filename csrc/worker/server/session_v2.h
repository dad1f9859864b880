// SPDX-License-Identifier: Apache-2.0
//
// SessionV2: a client's requests of version 2 of the protocol, from the line after HELLO on.
//
// The session itself keeps what belongs to the client (what is attached) and answers what concerns
// only that at once. Requests on objects go through a pipeline, which answers them later; without
// one they are carried out where they are said, one after the other.
#ifndef LMSHM_WORKER_SERVER_SESSION_V2_H_
#define LMSHM_WORKER_SERVER_SESSION_V2_H_

#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/execution/pipeline.h"
#include "worker/memory/attachment.h"
#include "worker/protocol/request_v2.h"
#include "worker/server/service.h"
#include "worker/storage/key_listing.h"

namespace lmshm {

// Not thread safe: one thread a session.
class SessionV2 {
 public:
  // `store` is the client's. `pipeline` (may be null) is open; nothing of this session
  // may be in flight in it when the session goes.
  SessionV2(const Service& service, std::string peer, std::shared_ptr<ObjectStore> store,
            Pipeline* pipeline);

  // Takes the request `line` (without its ending). Either carries it out and appends the answer,
  // one line with '\n', and blocks for as long as that takes; or leaves it and its answer to the
  // pipeline, and appends nothing.
  AfterAnswer Handle(std::string_view line, std::string* answer);

 private:
  // Of what is answered at once.
  Status Dispatch(const RequestV2& request, std::string* result, AfterAnswer* next);
  void Begin(RequestV2 request, Metrics::Clock::time_point read, std::string* answers);
  Status Attach(const RequestV2& request);

  const Service& service_;
  const std::string peer_;
  const std::shared_ptr<ObjectStore> store_;
  std::shared_ptr<const Attachment> attachment_;  // null before ATTACH
  Pipeline* const pipeline_;
  KeyListings listings_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SESSION_V2_H_
