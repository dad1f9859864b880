// SPDX-License-Identifier: Apache-2.0
#include "worker/net/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr int kBacklog = 128;

// Holds flock() on a directory while a stale socket in it is looked at and replaced, so that of two
// workers started together one does not remove the socket of the other. Best effort: where the
// lock cannot be had within a second, the race is accepted.
class DirectoryLock {
 public:
  explicit DirectoryLock(int fd) : fd_(fd) {
    for (int i = 0; i < 100 && flock(fd_, LOCK_EX | LOCK_NB) != 0; i++) usleep(10 * 1000);
  }
  ~DirectoryLock() { flock(fd_, LOCK_UN); }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  const int fd_;
};

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());  // the length was checked
  return address;
}

// Whether a process accepts connections on the socket `path`: 0 no, EADDRINUSE yes, else errno.
int SomebodyListens(const std::string& path) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return errno;
  const sockaddr_un address = UnixAddress(path);
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return EADDRINUSE;
  }
  if (errno == ECONNREFUSED) return 0;
  return errno == EAGAIN ? EADDRINUSE : errno;  // EAGAIN: listens, and its queue is full
}

std::string BoundName(int fd) {
  sockaddr_storage storage = {};
  socklen_t size = sizeof storage;
  getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size);
  char host[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET6) {
    const auto* address = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof host);
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(address->sin6_port));
  }
  const auto* address = reinterpret_cast<const sockaddr_in*>(&storage);
  inet_ntop(AF_INET, &address->sin_addr, host, sizeof host);
  return std::string(host) + ":" + std::to_string(ntohs(address->sin_port));
}

}  // namespace

Listener::~Listener() {
  if (file_.empty()) return;
  const DirectoryLock lock(directory_.get());
  if (IsOurs()) unlinkat(directory_.get(), file_.c_str(), 0);
}

bool Listener::IsOurs() const {
  struct stat st;
  return fstatat(directory_.get(), file_.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
         st.st_dev == device_ && st.st_ino == inode_;
}

Status Listener::Open(const ListenAddress& address, std::unique_ptr<Listener>* result) {
  std::unique_ptr<Listener> listener(new Listener);
  Status status = address.tcp() ? listener->OpenTcp(address) : listener->OpenUnix(address);
  if (!status.ok()) return status;
  listener->no_auth_ = address.no_auth;
  *result = std::move(listener);
  return Status::OK();
}

Status Listener::OpenTcp(const ListenAddress& address) {
  const std::string action = "listen on " + Printable(address.text);
  const bool v6 = address.kind == ListenAddress::Kind::kIpv6;
  tcp_ = true;
  fd_.Reset(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd_.valid()) return Status::System(errno, action);
  const int on = 1;
  setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);

  sockaddr_in6 in6 = {};
  sockaddr_in in4 = {};
  int failed;
  if (v6) {
    setsockopt(fd_.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    in6.sin6_family = AF_INET6;
    in6.sin6_addr = address.ipv6;
    in6.sin6_port = htons(address.port);
    failed = bind(fd_.get(), reinterpret_cast<const sockaddr*>(&in6), sizeof in6);
  } else {
    in4.sin_family = AF_INET;
    in4.sin_addr = address.ipv4;
    in4.sin_port = htons(address.port);
    failed = bind(fd_.get(), reinterpret_cast<const sockaddr*>(&in4), sizeof in4);
  }
  if (failed != 0) {
    return errno == EADDRINUSE ? Status::System(errno, action, "another process listens there")
                               : Status::System(errno, action);
  }
  if (listen(fd_.get(), kBacklog) != 0) return Status::System(errno, action);
  name_ = BoundName(fd_.get());
  return Status::OK();
}

Status Listener::OpenUnix(const ListenAddress& address) {
  const std::string action = "listen on " + Printable(address.text);
  const size_t slash = address.path.rfind('/');
  const std::string directory = slash == std::string::npos ? "."
                                : slash == 0               ? "/"
                                                           : address.path.substr(0, slash);
  directory_.Reset(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory_.valid()) {
    return Status::System(errno, action + ": open directory " + Printable(directory));
  }
  file_ = slash == std::string::npos ? address.path : address.path.substr(slash + 1);
  Status status = BindUnix(address.path);
  if (!status.ok()) file_.clear();  // it is not ours to remove
  name_ = "unix:" + address.path;
  return status;
}

Status Listener::BindUnix(const std::string& path) {
  const std::string action = "listen on unix:" + Printable(path);
  const DirectoryLock lock(directory_.get());
  struct stat st;
  if (fstatat(directory_.get(), file_.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(st.st_mode)) {
      return Status::Error(EEXIST, action + ": the path exists and is no socket");
    }
    const int busy = SomebodyListens(path);
    if (busy == EADDRINUSE) {
      return Status::Error(EADDRINUSE, action + ": another process listens there");
    }
    if (busy != 0 && busy != ENOENT) return Status::System(busy, action);
    if (unlinkat(directory_.get(), file_.c_str(), 0) != 0 && errno != ENOENT) {
      return Status::System(errno, action + ": remove the stale socket");
    }
  }

  fd_.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd_.valid()) return Status::System(errno, action);
  const sockaddr_un address = UnixAddress(path);
  // The file is made by bind(), and must never be seen with wider rights.
  const mode_t old_mask = umask(0177);
  const int failed = bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  umask(old_mask);
  if (failed != 0) return Status::System(error, action);
  if (fstatat(directory_.get(), file_.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return Status::System(errno, action);
  }
  device_ = st.st_dev;
  inode_ = st.st_ino;
  if (listen(fd_.get(), kBacklog) != 0) {
    const int listen_error = errno;
    unlinkat(directory_.get(), file_.c_str(), 0);
    return Status::System(listen_error, action);
  }
  return Status::OK();
}

}  // namespace lmshm
