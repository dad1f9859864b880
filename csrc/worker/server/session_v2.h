// SPDX-License-Identifier: Apache-2.0
//
// SessionV2: a client's conversation in protocol version 2, from the line after HELLO on.
//
// The session itself keeps what belongs to the client (what is attached) and answers what concerns
// only that at once. Requests on objects go through a pipeline, which answers
// them later; without one they are carried out where they are said, one after the other.
#ifndef LMSHM_WORKER_SERVER_SESSION_V2_H_
#define LMSHM_WORKER_SERVER_SESSION_V2_H_

#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/execution/pipeline.h"
#include "worker/memory/attachment.h"
#include "worker/protocol/answer_v2.h"
#include "worker/protocol/request_v2.h"
#include "worker/server/conversation.h"
#include "worker/server/session.h"
#include "worker/storage/key_listing.h"

namespace lmshm {

class SessionV2 : public Conversation {
 public:
  // `store` is the client's directory. `pipeline` (may be null) is open; nothing of this session
  // may be in flight in it when the session goes.
  SessionV2(const Service& service, std::string peer, Directories::Store store, Pipeline* pipeline);

  Next Handle(std::string_view line, std::string* answer) override;
  void HandleTooLong(std::string* answer) override;

 private:
  // Of what is answered at once.
  Status Dispatch(const RequestV2& request, std::string* result, Next* next);
  void Begin(RequestV2 request, Metrics::Clock::time_point read, std::string* answers);
  Status Attach(const RequestV2& request);

  const Service& service_;
  const std::string peer_;
  const Directories::Store store_;
  std::shared_ptr<const Attachment> attachment_;  // null before ATTACH
  Pipeline* const pipeline_;
  KeyListings listings_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SESSION_V2_H_
