// SPDX-License-Identifier: Apache-2.0
//
// ListenAddress: the value of --listen, as text. Pure; no name is looked up.
#ifndef LMSHM_WORKER_NET_LISTEN_ADDRESS_H_
#define LMSHM_WORKER_NET_LISTEN_ADDRESS_H_

#include <netinet/in.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

struct ListenAddress {
  enum class Kind { kUnix, kIpv4, kIpv6 };

  Kind kind = Kind::kIpv4;
  std::string path;      // kUnix
  in_addr ipv4 = {};     // kIpv4
  in6_addr ipv6 = {};    // kIpv6
  uint16_t port = 0;     // TCP; 0: the system chooses
  bool loopback = true;  // only this machine can reach it
  bool any = false;      // of all networks: 0.0.0.0, [::]
  bool no_auth = false;  // its clients need no secret; not of the text
  std::string text;      // as given

  bool tcp() const { return kind != Kind::kUnix; }
};

// Parses
//     unix:PATH, or any value with a slash   a Unix socket
//     HOST:PORT, :PORT                       TCP; no host means 127.0.0.1
//     [IPV6]:PORT
// HOST is a numeric IPv4 address or "localhost". EINVAL or ENAMETOOLONG with a text that says what
// would be accepted; `*address` is set on success only.
Status ParseListenAddress(std::string_view text, ListenAddress* address);

}  // namespace lmshm

#endif  // LMSHM_WORKER_NET_LISTEN_ADDRESS_H_
