// SPDX-License-Identifier: Apache-2.0
//
// ServeConnection: reads a client's lines, has a conversation answer them, sends the answers back.
//
// Answers of requests that came together go out together, unless the first of them has waited for
// half a millisecond already. A client that does not take its answers is not read from, and is
// dropped after a while: it costs one thread and two small buffers, and delays nobody else.
#ifndef LMSHM_WORKER_CONNECTION_H_
#define LMSHM_WORKER_CONNECTION_H_

#include <chrono>

#include "worker/conversation.h"
#include "worker/wire.h"

namespace lmshm {

// Zero is no limit.
struct ConnectionLimits {
  std::chrono::milliseconds idle{0};   // without a byte received
  std::chrono::milliseconds login{0};  // from the beginning until authenticated
  std::chrono::milliseconds send{0};   // without a byte taken by the client
};

enum class ConnectionEnd {
  kQuit,      // the client said so
  kClosed,    // the client closed its side
  kShutdown,  // this process ends
  kRejected,  // wrong secret, or none in time
  kIdle,
  kStuck,   // the client took no answers
  kBroken,  // reading or writing failed; Wire::error() has the errno value
};

// In words, for the log.
const char* ConnectionEndText(ConnectionEnd end);

// Serves until the end; answers everything that was received whole before the client closed.
ConnectionEnd ServeConnection(Wire* wire, Conversation* session, const ConnectionLimits& limits,
                              const Shutdown& shutdown);

}  // namespace lmshm

#endif  // LMSHM_WORKER_CONNECTION_H_
