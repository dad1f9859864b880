// SPDX-License-Identifier: Apache-2.0
#include "worker/remote/endpoint.h"

#include <netdb.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "worker/base/mutex.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSlice(100);
// That look up names at one time, those that do not come back among them. Others wait.
constexpr int kMostLookups = 16;
constexpr milliseconds kTurn(5);

std::atomic<int> lookups{0};

// Of one look-up; the thread may outlive whoever asked.
struct Lookup {
  Mutex mutex;
  CondVar finished;
  bool done GUARDED_BY(mutex) = false;
  int error GUARDED_BY(mutex) = 0;  // EAI_...
  std::vector<SocketAddress> addresses GUARDED_BY(mutex);
};

int LookUp(const std::string& host, uint16_t port, int flags,
           std::vector<SocketAddress>* addresses) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* first = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &first);
  if (error != 0) return error;
  for (const addrinfo* one = first; one != nullptr; one = one->ai_next) {
    SocketAddress address;
    if (one->ai_addrlen > sizeof address.storage) continue;
    memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    address.size = one->ai_addrlen;
    addresses->push_back(address);
  }
  freeaddrinfo(first);
  return 0;
}

Status UnixAddress(const std::string& path, std::vector<SocketAddress>* addresses) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) {
    return Status::Error(ENAMETOOLONG, Printable(path) + ": the path of a socket has at most " +
                                           std::to_string(sizeof name.sun_path - 1) + " bytes");
  }
  memcpy(name.sun_path, path.data(), path.size());
  SocketAddress address;
  memcpy(&address.storage, &name, sizeof name);
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  *addresses = {address};
  return Status::OK();
}

Status Unknown(const Endpoint& endpoint, const std::string& why) {
  return Status::Error(EHOSTUNREACH, "look up " + Printable(endpoint.host) + ": " + why);
}

}  // namespace

std::string Endpoint::ToString() const {
  if (!unix_path.empty()) return Printable(unix_path);
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + Printable(host) + "]" : Printable(host)) + ":" + std::to_string(port);
}

bool Endpoint::IsAddress() const {
  std::vector<SocketAddress> ignored;
  return !unix_path.empty() || LookUp(host, port, AI_NUMERICHOST, &ignored) == 0;
}

Status Resolve(const Endpoint& endpoint, WaitLimit* limit, std::vector<SocketAddress>* addresses) {
  if (!endpoint.unix_path.empty()) return UnixAddress(endpoint.unix_path, addresses);
  std::vector<SocketAddress> found;
  if (LookUp(endpoint.host, endpoint.port, AI_NUMERICHOST, &found) == 0) {
    *addresses = std::move(found);
    return Status::OK();
  }
  while (lookups.fetch_add(1) >= kMostLookups) {
    lookups.fetch_sub(1);
    const int error = limit->Sleep(kTurn);
    if (error == ECANCELED) return Status::Error(ECANCELED, limit->cancel()->Reason());
    if (error != 0) return Unknown(endpoint, "nothing that looks up names answers here");
  }
  const auto lookup = std::make_shared<Lookup>();
  try {
    std::thread([lookup, host = endpoint.host, port = endpoint.port] {
      std::vector<SocketAddress> all;
      const int error = LookUp(host, port, AI_ADDRCONFIG, &all);
      MutexLock lock(&lookup->mutex);
      lookup->error = error;
      lookup->addresses = std::move(all);
      lookup->done = true;
      lookups.fetch_sub(1);
      lookup->finished.Signal();
    }).detach();
  } catch (const std::system_error& error) {
    lookups.fetch_sub(1);
    return Unknown(endpoint, error.what());
  }
  MutexLock lock(&lookup->mutex);
  while (!lookup->done) {
    const milliseconds left = limit->Left();
    if (limit->Cancelled()) return Status::Error(ECANCELED, limit->cancel()->Reason());
    if (left.count() == 0) {
      return Status::Error(ETIMEDOUT, "look up " + Printable(endpoint.host) + ": no answer in " +
                                          std::to_string(limit->stall().count()) + " ms");
    }
    lookup->finished.WaitFor(&lookup->mutex, std::min(left, kSlice));
  }
  if (lookup->error != 0) return Unknown(endpoint, gai_strerror(lookup->error));
  if (lookup->addresses.empty()) return Unknown(endpoint, "it has no address");
  *addresses = lookup->addresses;
  return Status::OK();
}

}  // namespace lmshm
