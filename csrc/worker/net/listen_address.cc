// SPDX-License-Identifier: Apache-2.0
#include "worker/net/listen_address.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr size_t kMaxSocketPathBytes = sizeof(sockaddr_un::sun_path) - 1;

Status Refuse(std::string_view text, const std::string& why) {
  return Status::Error(EINVAL, "--listen " + Printable(text) + ": " + why +
                                   "; expected HOST:PORT, [IPV6]:PORT or unix:PATH");
}

Status ParseUnix(std::string_view text, std::string_view path, ListenAddress* address) {
  if (path.empty()) return Refuse(text, "the socket's path is empty");
  if (path.find('\0') != std::string_view::npos) return Refuse(text, "the path has a NUL byte");
  if (path.size() > kMaxSocketPathBytes) {
    return Status::Error(ENAMETOOLONG, "--listen " + Printable(text) +
                                           ": a socket's path has at most " +
                                           std::to_string(kMaxSocketPathBytes) +
                                           " bytes, this one has " + std::to_string(path.size()));
  }
  if (path.back() == '/') return Refuse(text, "the path ends in a slash");
  address->kind = ListenAddress::Kind::kUnix;
  address->path = path;
  return Status::OK();
}

Status ParseHost(std::string_view text, const std::string& host, bool bracketed,
                 ListenAddress* address) {
  if (bracketed) {
    address->kind = ListenAddress::Kind::kIpv6;
    if (inet_pton(AF_INET6, host.c_str(), &address->ipv6) != 1) {
      return Refuse(text, "\"" + Printable(host) + "\" is not an IPv6 address");
    }
    const uint8_t* bytes = address->ipv6.s6_addr;
    address->any = IN6_IS_ADDR_UNSPECIFIED(&address->ipv6) ||
                   (IN6_IS_ADDR_V4MAPPED(&address->ipv6) &&
                    std::all_of(bytes + 12, bytes + 16, [](uint8_t byte) { return byte == 0; }));
    address->loopback = IN6_IS_ADDR_LOOPBACK(&address->ipv6) ||
                        (IN6_IS_ADDR_V4MAPPED(&address->ipv6) && bytes[12] == 127);
    return Status::OK();
  }
  address->kind = ListenAddress::Kind::kIpv4;
  const std::string numeric = host.empty() || host == "localhost" ? "127.0.0.1" : host;
  if (inet_pton(AF_INET, numeric.c_str(), &address->ipv4) != 1) {
    return Refuse(text, host.find(':') != std::string::npos
                            ? "an IPv6 address is written in brackets"
                            : "\"" + Printable(host) +
                                  "\" is not a numeric IPv4 address (names are not looked up)");
  }
  address->any = address->ipv4.s_addr == htonl(INADDR_ANY);
  address->loopback = ntohl(address->ipv4.s_addr) >> 24 == 127;
  return Status::OK();
}

}  // namespace

Status ParseListenAddress(std::string_view text, ListenAddress* address) {
  ListenAddress parsed;
  parsed.text = text;
  Status status;
  if (text.substr(0, kUnixPrefix.size()) == kUnixPrefix) {
    status = ParseUnix(text, text.substr(kUnixPrefix.size()), &parsed);
  } else if (text.find('/') != std::string_view::npos) {
    status = ParseUnix(text, text, &parsed);
  } else {
    const size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return Refuse(text, "no port");
    std::string_view host = text.substr(0, colon);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    uint64_t port;
    if (ParseU64(text.substr(colon + 1), &port) != NumberError::kNone || port > 65535) {
      return Refuse(text, "the port is not a number from 0 to 65535");
    }
    parsed.port = static_cast<uint16_t>(port);
    status = ParseHost(text, std::string(host), bracketed, &parsed);
  }
  if (status.ok()) *address = parsed;
  return status;
}

}  // namespace lmshm
