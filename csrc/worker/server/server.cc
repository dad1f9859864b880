// SPDX-License-Identifier: Apache-2.0
#include "worker/server/server.h"

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

#include "worker/base/log.h"
#include "worker/protocol/answer.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAcceptPause(100);  // after an accept that failed for want of something
constexpr milliseconds kLinger(200);       // for the client to read our last answer
constexpr milliseconds kJoinMargin(3000);  // beyond the grace period

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

// For poll().
int MsUntil(Clock::time_point time) {
  if (time == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(time - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(left, 0));
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

  listeners_ = listeners.size();
  const PendingLogins::Admit admit = [this](size_t listener, const std::string& peer, UniqueFd* fd,
                                            Opening opening) {
    return Start(listener, peer, fd, std::move(opening));
  };
  std::vector<struct pollfd> polled;
  Clock::time_point accept_from;
  while (!shutdown_.requested()) {
    // After a failed accept the listeners rest: they would be ready at once, again and again.
    const bool resting = Clock::now() < accept_from;
    polled.clear();
    polled.push_back({shutdown_.fd(), POLLIN, 0});
    polled.push_back({ended_event_.get(), POLLIN, 0});
    for (const auto& listener : listeners) {
      polled.push_back({resting ? -1 : listener->fd(), POLLIN, 0});
    }
    const size_t pending_at = polled.size();
    pending_.AppendTo(&polled);
    const size_t lingering_at = polled.size();
    lingering_.AppendTo(&polled);
    Clock::time_point deadline = std::min(pending_.deadline(), lingering_.deadline());
    if (resting) deadline = std::min(deadline, accept_from);
    if (poll(polled.data(), polled.size(), MsUntil(deadline)) < 0) {
      if (errno == EINTR) continue;
      return Status::System(errno, "wait for clients");
    }
    Reap();
    // The lingering first, because those who are refused below join them; then those who are about
    // to log in, who would otherwise give way to newcomers.
    lingering_.Serve(polled.data() + lingering_at);
    pending_.Serve(polled.data() + pending_at, admit);
    for (size_t i = 0; i < listeners.size(); i++) {
      if (polled[i + 2].revents != 0 && !Accept(*listeners[i], i)) {
        accept_from = Clock::now() + kAcceptPause;
      }
    }
  }
  pending_.Clear();
  return WaitForClients();
}

bool Server::Accept(const Listener& listener, size_t index) {
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
        // Who has not authenticated must not cost a client its descriptor.
        if (pending_.DropOldest()) return true;
        accept_warnings_.Say(accepted.ToString());
        return false;
      default:  // it went away again, or there was none
        return true;
    }
  }

  std::string peer;
  if (listener.tcp()) {
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    peer = TcpPeer(storage);
    if (login_.secret != nullptr && !listener.no_auth()) {
      pending_.Add(std::move(fd), std::move(peer), index);
      return true;
    }
  } else {
    struct ucred user = {};
    size = sizeof user;
    const bool known = getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &user, &size) == 0;
    peer = "unix client, process " + std::to_string(user.pid);
    if (!known || user.uid != geteuid()) {
      const std::string own = std::to_string(geteuid());
      Refuse(peer + " of user " + std::to_string(user.uid), std::move(fd),
             Status::Error(EACCES, "this worker serves user " + own + " only"));
      return true;
    }
  }
  const Status started = Start(index, peer, &fd, {});
  if (!started.ok()) Refuse(peer, std::move(fd), started);
  return true;
}

Status Server::CheckPlace(size_t listener) const {
  const size_t share = std::max<size_t>(limits_.clients / (2 * listeners_), 1);
  std::vector<size_t> clients(listeners_);
  for (const auto& client : clients_) clients[client->listener]++;
  // Taken, or kept for other listeners.
  size_t taken = 0;
  for (size_t i = 0; i < listeners_; i++) {
    taken += i == listener ? clients[i] : std::max(clients[i], share);
  }
  if (taken < limits_.clients) return Status::OK();
  std::string text = std::to_string(clients_.size()) + " clients are connected already";
  text += clients_.size() >= limits_.clients
              ? ", which is this worker's --max-clients"
              : ", and the rest of --max-clients " + std::to_string(limits_.clients) +
                    " is kept for those of other addresses";
  return Status::Error(EAGAIN, text);
}

Status Server::Start(size_t listener, const std::string& peer, UniqueFd* fd, Opening opening) {
  Status status = CheckPlace(listener);
  if (!status.ok()) return status;
  auto client = std::make_unique<Client>();
  client->fd = std::move(*fd);
  client->peer = peer;
  client->listener = listener;
  client->opening = std::move(opening);
  Client* const raw = client.get();
  try {
    raw->thread = std::thread([this, raw] { Serve(raw); });
  } catch (const std::system_error& error) {
    *fd = std::move(client->fd);
    return Status::Error(EAGAIN, std::string("no thread for another client: ") + error.what());
  }
  clients_.push_back(std::move(client));
  return Status::OK();
}

void Server::Refuse(const std::string& peer, UniqueFd fd, const Status& why) {
  refusals_.Say("refused " + peer + ": " + why.ToString());
  std::string line;
  AppendError(why, &line);
  lingering_.Add(std::move(fd), line);
}

void Server::Serve(Client* client) {
  Log(LogLevel::kInfo, client->peer + ": connected");
  {
    Wire wire(client->fd.get(), client->fd.get(), shutdown_);
    const ConnectionEnd end = ServeClient(&wire, service_, client->peer, limits_.connection,
                                          shutdown_, std::move(client->opening));
    std::string text = client->peer + ": ended: " + ConnectionEndText(end);
    if (end == ConnectionEnd::kBroken) text += ": " + ErrnoName(wire.error());
    const bool unusual = end == ConnectionEnd::kStuck || end == ConnectionEnd::kBroken;
    Log(unusual ? LogLevel::kWarn : LogLevel::kInfo, text);
    shutdown(client->fd.get(), SHUT_WR);
    if (end == ConnectionEnd::kQuit) Drain(client->fd.get(), kLinger);
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
