// SPDX-License-Identifier: Apache-2.0
#include "worker/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "worker/log.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr int kAcceptPauseMs = 100;             // after an accept that failed for want of something
constexpr std::chrono::seconds kWarnEvery(10);  // that it fails
constexpr milliseconds kLinger(200);            // for the client to read our last answer
constexpr milliseconds kJoinMargin(3000);       // beyond the grace period

std::string TcpPeer(const sockaddr_storage& storage) {
  char host[INET6_ADDRSTRLEN] = "?";
  unsigned port = 0;
  if (storage.ss_family == AF_INET) {
    const auto* address = reinterpret_cast<const sockaddr_in*>(&storage);
    inet_ntop(AF_INET, &address->sin_addr, host, sizeof host);
    port = ntohs(address->sin_port);
  } else if (storage.ss_family == AF_INET6) {
    const auto* address = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof host);
    port = ntohs(address->sin6_port);
  }
  return "tcp client " + std::string(host) + " port " + std::to_string(port);
}

// One line to a client that is not served. It may not be there any more; that is its affair.
void SendLast(int fd, const std::string& line) {
  const ssize_t ignored = send(fd, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)ignored;
  shutdown(fd, SHUT_WR);
}

// Reads what the client still sends, for a moment: closing a socket with unread data resets the
// connection, and the client might not see the last answer.
void Drain(int fd, milliseconds time) {
  const Clock::time_point end = Clock::now() + time;
  char rest[4096];
  for (;;) {
    const ssize_t n = recv(fd, rest, sizeof rest, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return;
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now()).count();
    if (left <= 0) return;
    if (n > 0) continue;
    struct pollfd p = {fd, POLLIN, 0};
    poll(&p, 1, static_cast<int>(left));
  }
}

}  // namespace

Status Server::Run(const std::vector<std::unique_ptr<Listener>>& listeners) {
  ended_event_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended_event_.valid()) return Status::System(errno, "create an eventfd");

  std::vector<struct pollfd> polled;
  polled.push_back({shutdown_.fd(), POLLIN, 0});
  polled.push_back({ended_event_.get(), POLLIN, 0});
  for (const auto& listener : listeners) polled.push_back({listener->fd(), POLLIN, 0});

  while (!shutdown_.requested()) {
    if (poll(polled.data(), polled.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return Status::System(errno, "wait for clients");
    }
    Reap();
    bool pause = false;
    for (size_t i = 0; i < listeners.size(); i++) {
      if (polled[i + 2].revents != 0 && !Accept(*listeners[i])) pause = true;
    }
    // Without this, poll() would return at once, again and again.
    if (pause) poll(polled.data(), 1, kAcceptPauseMs);
  }
  return WaitForClients();
}

bool Server::Accept(const Listener& listener) {
  sockaddr_storage storage = {};
  socklen_t size;
  UniqueFd fd;
  const auto accept_one = [&] {
    size = sizeof storage;
    fd.Reset(accept4(listener.fd(), reinterpret_cast<sockaddr*>(&storage), &size, SOCK_CLOEXEC));
    return fd.valid() ? Status::OK() : Status::System(errno, "accept a client");
  };
  const Status accepted = service_.WithSpareRoom(accept_one, false);
  if (!accepted.ok()) {
    switch (accepted.number()) {
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        if (Clock::now() - last_accept_warning_ > kWarnEvery) {
          last_accept_warning_ = Clock::now();
          Log(LogLevel::kWarn, accepted.ToString());
        }
        return false;
      default:  // it went away again, or there was none
        return true;
    }
  }

  if (listener.tcp()) {
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    Start(std::move(fd), TcpPeer(storage), true);
    return true;
  }
  struct ucred peer = {};
  size = sizeof peer;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) {
    Log(LogLevel::kWarn, "refused a client of user " + std::to_string(peer.uid) + ", process " +
                             std::to_string(peer.pid));
    SendLast(fd.get(),
             "ERROR EACCES this worker serves user " + std::to_string(geteuid()) + " only\n");
    Drain(fd.get(), milliseconds(0));
    return true;
  }
  Start(std::move(fd), "unix client, process " + std::to_string(peer.pid), false);
  return true;
}

void Server::Start(UniqueFd fd, const std::string& peer, bool tcp) {
  std::string refusal;
  if (clients_.size() >= limits_.clients) {
    refusal = "EAGAIN " + std::to_string(limits_.clients) +
              " clients are connected already, which is this worker's --max-clients";
  } else {
    auto client = std::make_unique<Client>();
    client->fd = std::move(fd);
    client->peer = peer;
    client->secret = tcp ? secret_ : nullptr;
    Client* const raw = client.get();
    try {
      raw->thread = std::thread([this, raw] { Serve(raw); });
      clients_.push_back(std::move(client));
      return;
    } catch (const std::system_error& error) {
      fd = std::move(client->fd);
      refusal = std::string("EAGAIN no thread for another client: ") + error.what();
    }
  }
  Log(LogLevel::kWarn, "refused " + peer + ": " + refusal);
  SendLast(fd.get(), "ERROR " + refusal + "\n");
  Drain(fd.get(), milliseconds(0));
}

void Server::Serve(Client* client) {
  Log(LogLevel::kInfo, client->peer + ": connected");
  {
    Wire wire(client->fd.get(), client->fd.get(), shutdown_);
    const ConnectionEnd end =
        ServeClient(&wire, service_, client->secret, client->peer, limits_.connection, shutdown_);
    std::string text = client->peer + ": ended: " + ConnectionEndText(end);
    if (end == ConnectionEnd::kBroken) text += ": " + ErrnoName(wire.error());
    const bool unusual = end == ConnectionEnd::kRejected || end == ConnectionEnd::kStuck ||
                         end == ConnectionEnd::kBroken;
    Log(unusual ? LogLevel::kWarn : LogLevel::kInfo, text);
    shutdown(client->fd.get(), SHUT_WR);
    if (end == ConnectionEnd::kQuit || end == ConnectionEnd::kRejected) {
      Drain(client->fd.get(), kLinger);
    }
  }
  client->fd.Reset();
  client->ended.store(true);
  const uint64_t one = 1;
  const ssize_t ignored = write(ended_event_.get(), &one, sizeof one);
  (void)ignored;  // it fails only when the counter is full, and then it is readable anyway
}

void Server::Reap() {
  uint64_t count;
  const ssize_t ignored = read(ended_event_.get(), &count, sizeof count);
  (void)ignored;
  clients_.remove_if([](const std::unique_ptr<Client>& client) {
    if (!client->ended.load()) return false;
    client->thread.join();
    return true;
  });
}

Status Server::WaitForClients() {
  const Clock::time_point end = Clock::now() + std::chrono::seconds(kGraceSeconds) + kJoinMargin;
  for (;;) {
    Reap();
    if (clients_.empty()) return Status::OK();
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now()).count();
    if (left <= 0) break;
    struct pollfd p = {ended_event_.get(), POLLIN, 0};
    poll(&p, 1, static_cast<int>(left));
  }
  return Status::Error(ETIMEDOUT,
                       std::to_string(clients_.size()) + " clients' requests did not end in time");
}

}  // namespace lmshm
