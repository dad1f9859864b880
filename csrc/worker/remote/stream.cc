// SPDX-License-Identifier: Apache-2.0
#include "worker/remote/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

namespace lmshm {

namespace {

// Not all at once where a call would be: a cancelled transfer is noticed between two.
constexpr size_t kMostParts = 64;

void Set(int fd, int level, int name, int value) {
  // What cannot be set costs speed, not correctness.
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

std::string_view AddressOf(const sockaddr_storage& name) {
  if (name.ss_family == AF_INET) {
    const auto* const in = reinterpret_cast<const sockaddr_in*>(&name);
    return {reinterpret_cast<const char*>(&in->sin_addr), sizeof in->sin_addr};
  }
  const auto* const in6 = reinterpret_cast<const sockaddr_in6*>(&name);
  return {reinterpret_cast<const char*>(&in6->sin6_addr), sizeof in6->sin6_addr};
}

// Whether both ends of a connection are on this machine.
bool IsLocal(int fd) {
  sockaddr_storage here = {};
  sockaddr_storage there = {};
  socklen_t here_size = sizeof here;
  socklen_t there_size = sizeof there;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&here), &here_size) != 0 ||
      getpeername(fd, reinterpret_cast<sockaddr*>(&there), &there_size) != 0) {
    return false;
  }
  constexpr char kLoopbackNet = 127;
  const std::string_view address = AddressOf(there);
  return address == AddressOf(here) ||
         (there.ss_family == AF_INET && address.front() == kLoopbackNet);
}

// Where BBR is the machine's way with congestion it sends at a measured pace, by a timer, which
// between two processes of one machine costs as much CPU again as copying. There is nothing there
// that could be congested. Reno has no pace, and every kernel has it.
void DoNotPace(int fd) {
  constexpr std::string_view kReno = "reno";
  (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(),
                   static_cast<socklen_t>(kReno.size()));
}

int ConnectOne(const SocketAddress& address, WaitLimit* limit, UniqueFd* result) {
  const int family = address.storage.ss_family;
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return errno;
  if (family != AF_UNIX) {
    Set(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    // A server that has gone without a word is noticed while a connection is idle.
    Set(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
    Set(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, 30);
    Set(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, 10);
    Set(fd.get(), IPPROTO_TCP, TCP_KEEPCNT, 3);
  }
  const auto* const name = reinterpret_cast<const sockaddr*>(&address.storage);
  for (;;) {
    if (connect(fd.get(), name, address.size) == 0) break;
    if (errno == EAGAIN) {
      // A Unix socket whose queue is full cannot be waited for.
      const int error = limit->Sleep(std::chrono::milliseconds(10));
      if (error != 0) return error;
      continue;
    }
    if (errno != EINPROGRESS && errno != EINTR) return errno;
    const int error = limit->Wait(fd.get(), POLLOUT);
    if (error != 0) return error;
    int outcome = 0;
    socklen_t size = sizeof outcome;
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &outcome, &size) != 0) return errno;
    if (outcome != 0) return outcome;
    break;
  }
  if (family != AF_UNIX && IsLocal(fd.get())) DoNotPace(fd.get());
  *result = std::move(fd);
  return 0;
}

const char* Hint(int error, bool is_unix) {
  switch (error) {
    case ECONNREFUSED:
      return "is the server running, and does it listen there?";
    case ENOENT:
      return "is the server running, and is that the path of its socket?";
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return "is the address right, and does a firewall let it through?";
    case EACCES:
    case EPERM:
      return is_unix ? "may this user open the socket?"
                     : "the worker's fence lets it connect only to the ports that it knew when it "
                       "started: restart it, and name all nodes in its URL";
    default:
      return "";
  }
}

}  // namespace

size_t Advance(iovec* parts, size_t count, size_t bytes) {
  size_t used = 0;
  while (used < count && bytes >= parts[used].iov_len) bytes -= parts[used++].iov_len;
  if (bytes > 0) {
    parts[used].iov_base = static_cast<char*>(parts[used].iov_base) + bytes;
    parts[used].iov_len -= bytes;
  }
  return used;
}

Status Stream::Connect(const Endpoint& endpoint, const std::vector<SocketAddress>& addresses,
                       WaitLimit* limit, Stream* stream) {
  int error = EHOSTUNREACH;
  for (size_t i = 0; i < addresses.size(); i++) {
    const auto left = static_cast<int64_t>(addresses.size() - i);
    WaitLimit one(std::max(limit->Left() / left, std::chrono::milliseconds(1)), limit->cancel());
    error = ConnectOne(addresses[i], &one, &stream->fd_);
    if (error == 0) {
      limit->Progress();
      return Status::OK();
    }
    if (error == ECANCELED) break;
  }
  const std::string action = "connect to " + endpoint.ToString();
  if (error == ECANCELED) {
    const CancelCheck* const cancel = limit->cancel();
    return Status::System(error, action, cancel != nullptr ? cancel->Reason() : "");
  }
  const char* const hint = Hint(error, !endpoint.unix_path.empty());
  return *hint == '\0' ? Status::System(error, action) : Status::System(error, action, hint);
}

int Stream::SendSome(const iovec* parts, size_t count, size_t* sent) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(std::min(count, kMostParts));
  ssize_t n;
  do {
    n = sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EWOULDBLOCK ? EAGAIN : errno;
  *sent = static_cast<size_t>(n);
  return 0;
}

int Stream::ReceiveSome(const iovec* parts, size_t count, size_t* received) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(std::min(count, kMostParts));
  ssize_t n;
  do {
    n = recvmsg(fd_.get(), &message, MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EWOULDBLOCK ? EAGAIN : errno;
  if (n == 0) return ECONNRESET;
  *received = static_cast<size_t>(n);
  return 0;
}

int Stream::ReceiveSome(void* into, size_t size, size_t* received) {
  const iovec part = {into, size};
  return ReceiveSome(&part, 1, received);
}

int Stream::SendAll(iovec* parts, size_t count, WaitLimit* limit) {
  size_t first = Advance(parts, count, 0);
  while (first < count) {
    size_t sent = 0;
    int error = SendSome(parts + first, count - first, &sent);
    if (error == EAGAIN) {
      error = limit->Wait(fd_.get(), POLLOUT);
      if (error != 0) return error;
      continue;
    }
    if (error != 0) return error;
    limit->Progress();
    if (limit->Cancelled()) return ECANCELED;
    first += Advance(parts + first, count - first, sent);
  }
  return 0;
}

int Stream::ReceiveAll(void* into, size_t size, WaitLimit* limit) {
  char* at = static_cast<char*>(into);
  while (size > 0) {
    size_t received = 0;
    int error = ReceiveSome(at, size, &received);
    if (error == EAGAIN) {
      error = limit->Wait(fd_.get(), POLLIN);
      if (error != 0) return error;
      continue;
    }
    if (error != 0) return error;
    limit->Progress();
    if (limit->Cancelled()) return ECANCELED;
    at += received;
    size -= received;
  }
  return 0;
}

bool Stream::Quiet() const {
  if (!fd_.valid()) return false;
  char byte;
  return recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
         (errno == EAGAIN || errno == EWOULDBLOCK);
}

}  // namespace lmshm
