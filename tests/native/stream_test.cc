// SPDX-License-Identifier: Apache-2.0
//
// Stream: how a connection to a server is set.

#include "worker/remote/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <chrono>
#include <string>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker_check.hh"

namespace {

// What the kernel does about congestion on a connection of ours to `host`, where a server listens.
std::string CongestionControlTo(const char* host, int family) {
  const lmshm::UniqueFd server(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage name = {};
  name.ss_family = static_cast<sa_family_t>(family);
  socklen_t size = sizeof name;
  REQUIRE_EQ(listen(server.get(), 1), 0);  // at a port of the kernel's choice, on every address
  REQUIRE_EQ(getsockname(server.get(), reinterpret_cast<sockaddr*>(&name), &size), 0);
  lmshm::Endpoint endpoint;
  endpoint.host = host;
  endpoint.port = ntohs(reinterpret_cast<const sockaddr_in*>(&name)->sin_port);
  lmshm::WaitLimit limit(std::chrono::seconds(20), nullptr);
  std::vector<lmshm::SocketAddress> addresses;
  lmshm::Stream stream;
  CHECK_OK(lmshm::Resolve(endpoint, &limit, &addresses));
  CHECK_OK(lmshm::Stream::Connect(endpoint, addresses, &limit, &stream));
  char text[32] = {};
  socklen_t length = sizeof text - 1;
  CHECK_EQ(getsockopt(stream.fd(), IPPROTO_TCP, TCP_CONGESTION, text, &length), 0);
  return text;
}

}  // namespace

TEST(a_connection_within_this_machine_is_not_paced) {
  CHECK_EQ(CongestionControlTo("127.0.0.1", AF_INET), "reno");
  CHECK_EQ(CongestionControlTo("127.0.0.2", AF_INET), "reno");
  CHECK_EQ(CongestionControlTo("::1", AF_INET6), "reno");
}

CHECK_MAIN
