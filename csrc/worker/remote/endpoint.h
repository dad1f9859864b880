// SPDX-License-Identifier: Apache-2.0
//
// Endpoint: where a server listens, by name, IPv4 or IPv6 address, or the path of a Unix socket,
// and the socket addresses that this stands for now.
#ifndef LMSHM_WORKER_REMOTE_ENDPOINT_H_
#define LMSHM_WORKER_REMOTE_ENDPOINT_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "worker/base/status.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

struct Endpoint {
  std::string host;  // a name, an IPv4 address, or an IPv6 address without brackets
  uint16_t port = 0;
  std::string unix_path;  // if not empty: instead of both

  // For messages, and as a key: "host:port", "[::1]:port", or the path.
  std::string ToString() const;
  // Whether no name has to be looked up.
  bool IsAddress() const;
};

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;
};

// All addresses of `endpoint`, in the order in which to try them. A name is looked up on a thread
// of its own that is given up when the limit is over: the system's resolver knows no limit.
// `*addresses` is set on success only.
//   ENAMETOOLONG  the path of the socket
//   EHOSTUNREACH  no such name, or nobody who knew it
Status Resolve(const Endpoint& endpoint, WaitLimit* limit, std::vector<SocketAddress>* addresses);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REMOTE_ENDPOINT_H_
