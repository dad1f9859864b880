// SPDX-License-Identifier: Apache-2.0
//
// Server: accepts connections, and gives each client a thread of its own.
//
// That thread reads the client's lines and carries out version 1, in which a client waits for one
// answer at a time; requests of version 2 go on to the engine's threads. The number of clients is
// bounded, so the number of threads is. A connection becomes a client when it is known who is at
// its other end: on a Unix socket at once, over TCP after it has logged in (pending_logins.h),
// unless no secret is asked for.
//
// Each listener keeps a share of the clients' places, which those of the others cannot take: half
// of the places are divided among the listeners, at least one each, and the rest is for whoever
// comes. A worker with one listener gives it all.
#ifndef LMSHM_WORKER_SERVER_SERVER_H_
#define LMSHM_WORKER_SERVER_SERVER_H_

#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/base/log.h"
#include "worker/base/shutdown.h"
#include "worker/base/unique_fd.h"
#include "worker/net/listener.h"
#include "worker/server/connection.h"
#include "worker/server/lingering_closes.h"
#include "worker/server/login.h"
#include "worker/server/pending_logins.h"
#include "worker/server/session.h"

namespace lmshm {

struct ServerLimits {
  size_t clients = 64;  // at least one a listener
  size_t pending_logins = kMaxPendingLogins;
  size_t lingering = kMaxLingering;
  ConnectionLimits connection;
};

class Server {
 public:
  // `login` is for TCP; without a secret everybody is welcome there. All must outlive the server.
  Server(const Service& service, const LoginRules& login, const ServerLimits& limits,
         const Shutdown& shutdown)
      : service_(service),
        login_(login),
        limits_(limits),
        shutdown_(shutdown),
        lingering_(limits.lingering),
        pending_(login, limits.pending_logins, &lingering_) {}
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves until a shutdown is requested, and waits for the clients' threads to end. ETIMEDOUT: a
  // thread did not end within the grace period (a hung file system); the process must then be
  // ended with _exit(), because that thread still uses what this object refers to.
  Status Run(const std::vector<std::unique_ptr<Listener>>& listeners);

 private:
  struct Client {
    UniqueFd fd;
    std::string peer;
    size_t listener = 0;
    Opening opening;
    std::atomic<bool> ended{false};
    std::thread thread;
  };

  // Accepts one connection. False if it should be tried again later: no descriptors, no memory.
  bool Accept(const Listener& listener, size_t index);
  // Whether there is a place for another client of this listener.
  Status CheckPlace(size_t listener) const;
  // Gives `*fd` a thread, or leaves it and says why not.
  Status Start(size_t listener, const std::string& peer, UniqueFd* fd, Opening opening);
  void Refuse(const std::string& peer, UniqueFd fd, const Status& why);
  void Serve(Client* client);
  void Reap();
  Status WaitForClients();

  const Service& service_;
  const LoginRules login_;
  const ServerLimits limits_;
  const Shutdown& shutdown_;
  UniqueFd ended_event_;  // an eventfd that ending threads write to
  size_t listeners_ = 1;
  LingeringCloses lingering_;
  PendingLogins pending_;
  std::list<std::unique_ptr<Client>> clients_;
  RareWarning accept_warnings_{std::chrono::seconds(10)};
  RareWarning refusals_{std::chrono::seconds(1)};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SERVER_H_
