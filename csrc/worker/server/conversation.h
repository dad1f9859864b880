// SPDX-License-Identifier: Apache-2.0
//
// Conversation: what answers a client's lines, whatever version of the protocol it speaks. This is
// all that a connection knows of it.
#ifndef LMSHM_WORKER_SERVER_CONVERSATION_H_
#define LMSHM_WORKER_SERVER_CONVERSATION_H_

#include <string>
#include <string_view>

namespace lmshm {

// Not thread safe: one thread a conversation.
class Conversation {
 public:
  // What to do after the answer has been sent.
  enum class Next {
    kContinue,
    kQuit,  // the client said QUIT: close
  };

  virtual ~Conversation() = default;

  // Takes the request `line` (without its ending). Either carries it out and appends the answer,
  // one line with '\n', and blocks for as long as that takes; or leaves it and its answer to others
  // (pipeline.h), and appends nothing.
  virtual Next Handle(std::string_view line, std::string* answer) = 0;

  // Answers a line that was too long to be kept.
  virtual void HandleTooLong(std::string* answer) = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_CONVERSATION_H_
