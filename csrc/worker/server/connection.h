// SPDX-License-Identifier: Apache-2.0
//
// ServeClient: a client's connection, from its first byte to its last.
//
// This thread reads the lines and has the session answer them; in version 2 it leaves the work
// to the engine and helps, and where the store has a lane it sees to what is under way there.
// Answers of requests that came together go out together, unless the first of them has waited for
// half a millisecond already. A client that does not take its answers is not read from, and is
// dropped after a while: it costs one thread and two small buffers, and delays nobody else.
#ifndef LMSHM_WORKER_SERVER_CONNECTION_H_
#define LMSHM_WORKER_SERVER_CONNECTION_H_

#include <chrono>
#include <string>

#include "worker/net/wire.h"
#include "worker/server/service.h"

namespace lmshm {

// Zero is no limit.
struct ConnectionLimits {
  std::chrono::milliseconds idle{0};  // without a byte received
  std::chrono::milliseconds send{0};  // without a byte taken by the client
};

// What happened on a connection before ServeClient() got it.
struct Opening {
  std::string answer;  // not sent yet
  std::string input;   // received and not heard yet, at most kMaxLineBytes
};

enum class ConnectionEnd {
  kQuit,      // the client said so
  kClosed,    // the client closed its side
  kShutdown,  // this process ends
  kIdle,
  kStuck,   // the client took no answers
  kBroken,  // reading or writing failed; Wire::error() has the errno value
};

// In words, for the log.
const char* ConnectionEndText(ConnectionEnd end);

// Serves until the end; everything that was received whole before the client closed is carried out
// and, if the client still listens, answered. When it returns, no request of this client uses
// memory or files any more. Whoever is at the other end may do everything: login.h comes before.
// `peer` names it in the log. Ends the process if requests do not end long after a shutdown was
// asked for.
ConnectionEnd ServeClient(Wire* wire, const Service& service, const std::string& peer,
                          const ConnectionLimits& limits, const Shutdown& shutdown,
                          Opening opening = {});

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_CONNECTION_H_
