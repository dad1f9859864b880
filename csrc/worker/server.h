// SPDX-License-Identifier: Apache-2.0
//
// Server: accepts clients and gives each a thread of its own.
//
// That thread reads the client's lines and carries out version 1, in which a client waits for one
// answer at a time; requests of version 2 go on to the engine's threads. The number of clients is
// bounded, so the number of threads is.
#ifndef LMSHM_WORKER_SERVER_H_
#define LMSHM_WORKER_SERVER_H_

#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/connection.h"
#include "worker/listener.h"
#include "worker/session.h"
#include "worker/shutdown.h"
#include "worker/unique_fd.h"

namespace lmshm {

struct ServerLimits {
  size_t clients = 64;
  ConnectionLimits connection;
};

class Server {
 public:
  // `secret` is for TCP clients; null: they need none. All of it must outlive the server.
  Server(const Service& service, const Secret* secret, const ServerLimits& limits,
         const Shutdown& shutdown)
      : service_(service), secret_(secret), limits_(limits), shutdown_(shutdown) {}
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
    const Secret* secret = nullptr;
    std::atomic<bool> ended{false};
    std::thread thread;
  };

  // Accepts one connection. False if it should be tried again later: no descriptors, no memory.
  bool Accept(const Listener& listener);
  void Start(UniqueFd fd, const std::string& peer, bool tcp);
  void Serve(Client* client);
  void Reap();
  Status WaitForClients();

  const Service& service_;
  const Secret* const secret_;
  const ServerLimits limits_;
  const Shutdown& shutdown_;
  UniqueFd ended_event_;  // an eventfd that ending threads write to
  std::list<std::unique_ptr<Client>> clients_;
  Clock::time_point last_accept_warning_ = Clock::time_point() - std::chrono::hours(1);
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_H_
