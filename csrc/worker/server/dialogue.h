// SPDX-License-Identifier: Apache-2.0
//
// Dialogue: a client's conversation from its first line on. It begins in version 1 of the protocol,
// and `HELLO 2` takes it to version 2:
//
//     HELLO 2 [dir=<path>]  -> OK 2 boot=<16 hex> worker=lmshm-worker/<version> xattr=<0|1> ...
//     HELLO <n>             -> ERROR EPROTONOSUPPORT ...
//
// After an ERROR it stays in version 1, and another HELLO may be tried.
#ifndef LMSHM_WORKER_SERVER_DIALOGUE_H_
#define LMSHM_WORKER_SERVER_DIALOGUE_H_

#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/execution/pipeline.h"
#include "worker/server/conversation.h"
#include "worker/server/session.h"
#include "worker/server/session_v2.h"

namespace lmshm {

class Dialogue : public Conversation {
 public:
  // As Session's. `pipeline`: where requests of version 2 go, opened by HELLO; null: they are
  // carried out where they are said, one after the other.
  Dialogue(const Service& service, const std::string& peer, Pipeline* pipeline = nullptr);

  Next Handle(std::string_view line, std::string* answer) override;
  void HandleTooLong(std::string* answer) override { current().HandleTooLong(answer); }

 private:
  Conversation& current();
  // `words` is what follows HELLO.
  Status Hello(std::string_view words, std::string* result);

  const Service& service_;
  Pipeline* const pipeline_;
  Session v1_;
  std::unique_ptr<SessionV2> v2_;  // null before HELLO 2
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_DIALOGUE_H_
