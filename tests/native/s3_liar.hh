// SPDX-License-Identifier: Apache-2.0
//
// A server that answers HTTP as a test tells it to, true or not; and what tests of the S3 engine
// share.
#ifndef LMSHM_TESTS_NATIVE_S3_LIAR_H_
#define LMSHM_TESTS_NATIVE_S3_LIAR_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/base/unique_fd.h"
#include "worker/s3/s3_record.h"
#include "worker/s3/s3_store.h"
#include "worker/storage/object_record.h"
#include "worker_fixture.hh"

// One request as it has come, without its body; and the way back.
class LiarPeer {
 public:
  LiarPeer(int fd, int connection, const std::atomic<bool>* ending)
      : fd_(fd), connection_(connection), ending_(ending) {}

  const std::string& head() const { return head_; }
  bool Is(const std::string& method) const { return check::StartsWith(head_, method + " "); }
  bool Has(const std::string& text) const { return head_.find(text) != std::string::npos; }
  int connection() const { return connection_; }  // 0 is the first that was accepted

  void Send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }

  // "Content-Length" and what follows are added.
  void Answer(const std::string& status, const std::string& body = "",
              const std::string& headers = "") {
    Send("HTTP/1.1 " + status + "\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + (Is("HEAD") ? "" : body));
  }

  // The body of the request, as long as its head says; shorter if it ends before.
  std::string Body() {
    size_t length = 0;
    const size_t at = head_.find("content-length: ");
    if (at != std::string::npos) length = std::stoul(head_.substr(at + 16));
    while (rest_.size() < length && More()) {
    }
    std::string body = rest_.substr(0, length);
    rest_.erase(0, length);
    return body;
  }

  // Until the other end closes the connection, or the test ends.
  void WaitForTheEnd() {
    while (More()) rest_.clear();
  }

  // The same without reading anything.
  void HoldUntilClosed() {
    pollfd p = {fd_, POLLRDHUP, 0};
    while (!*ending_ && poll(&p, 1, 20) == 0) {
    }
  }

  // The next head; false when there is none.
  bool Next() {
    size_t end;
    while ((end = rest_.find("\r\n\r\n")) == std::string::npos) {
      if (!More()) return false;
    }
    head_ = rest_.substr(0, end + 2);
    rest_.erase(0, end + 4);
    return true;
  }

 private:
  bool More() {
    char buffer[64 * 1024];
    for (;;) {
      if (*ending_) return false;
      pollfd p = {fd_, POLLIN, 0};
      if (poll(&p, 1, 20) == 0) continue;
      const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return false;
      rest_.append(buffer, static_cast<size_t>(n));
      return true;
    }
  }

  const int fd_;
  const int connection_;
  const std::atomic<bool>* const ending_;
  std::string head_;
  std::string rest_;
};

// Serves each connection on a thread of its own. `answer` is called for each request, from any of
// them; it returns whether the connection goes on.
class Liar {
 public:
  explicit Liar(std::function<bool(LiarPeer&)> answer) : answer_(std::move(answer)) {
    listener_.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    REQUIRE_EQ(bind(listener_.get(), name, size), 0);
    REQUIRE_EQ(listen(listener_.get(), 64), 0);
    REQUIRE_EQ(getsockname(listener_.get(), name, &size), 0);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { Accept(); });
  }
  ~Liar() {
    ending_ = true;
    accepting_.join();
    for (std::thread& thread : threads_) thread.join();
  }

  int port() const { return port_; }
  int requests() const { return requests_; }
  int connections() const { return connections_; }

 private:
  void Accept() {
    while (!ending_) {
      pollfd p = {listener_.get(), POLLIN, 0};
      if (poll(&p, 1, 20) != 1) continue;
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      const int number = connections_++;
      threads_.emplace_back([this, fd, number] {
        lmshm::UniqueFd own(fd);
        LiarPeer peer(fd, number, &ending_);
        while (peer.Next()) {
          requests_++;
          if (!answer_(peer)) return;
        }
      });
    }
  }

  const std::function<bool(LiarPeer&)> answer_;
  lmshm::UniqueFd listener_;
  int port_ = 0;
  std::atomic<bool> ending_{false};
  std::atomic<int> requests_{0};
  std::atomic<int> connections_{0};
  std::thread accepting_;
  std::vector<std::thread> threads_;
};

// --------------------------------------------------------------------------------- the store

using Parameters = std::vector<std::pair<std::string, std::string>>;

inline std::unique_ptr<lmshm::S3Store> StoreAt(
    int port, Parameters parameters = {},
    const lmshm::StoreSecrets& secrets = {"testkey", "testsecret", ""},
    const std::string& bucket = "kv-test", const std::string& prefix = "") {
  lmshm::StoreUrl url;
  url.scheme = "s3";
  url.hosts = {{bucket, 0}};
  url.path = prefix;
  url.parameters = std::move(parameters);
  const bool has_endpoint =
      std::any_of(url.parameters.begin(), url.parameters.end(),
                  [](const auto& parameter) { return parameter.first == "endpoint"; });
  if (!has_endpoint) {
    url.parameters.emplace_back("endpoint", "http://127.0.0.1:" + std::to_string(port));
  }
  std::unique_ptr<lmshm::S3Store> store;
  CHECK_OK(lmshm::S3Store::Open(url, secrets, &store));
  REQUIRE(store != nullptr);
  return store;
}

class Flag : public lmshm::CancelCheck {
 public:
  bool Cancelled() const override { return set; }
  const char* Reason() const override { return "the test says so"; }
  std::atomic<bool> set{false};
};

inline lmshm::Status PutRange(lmshm::ObjectStore& store, std::string_view key, void* at,
                              size_t size, std::vector<lmshm::Attribute> attributes = {},
                              const lmshm::CancelCheck* cancel = nullptr) {
  lmshm::PutItem item;
  item.key = key;
  item.data = {at, size};
  item.attributes = std::move(attributes);
  item.options.cancel = cancel;
  store.Put(&item, 1, nullptr);
  CHECK(item.done);
  return item.status;
}

inline lmshm::Status Put(lmshm::ObjectStore& store, std::string_view key, std::string value,
                         std::vector<lmshm::Attribute> attributes = {}) {
  return PutRange(store, key, value.data(), value.size(), std::move(attributes));
}

// Only if there is no object.
inline lmshm::Status PutNew(lmshm::ObjectStore& store, std::string_view key, std::string value) {
  lmshm::PutItem item;
  item.key = key;
  item.data = {value.data(), value.size()};
  item.options.if_absent = true;
  store.Put(&item, 1, nullptr);
  CHECK(item.done);
  return item.status;
}

inline lmshm::Status GetRange(lmshm::ObjectStore& store, std::string_view key, void* at,
                              size_t size, lmshm::ObjectInfo* info = nullptr,
                              const lmshm::CancelCheck* cancel = nullptr) {
  lmshm::GetItem item;
  item.key = key;
  item.space = {at, size};
  item.options.cancel = cancel;
  store.Get(&item, 1, nullptr);
  CHECK(item.done);
  if (info != nullptr) *info = item.info;
  return item.status;
}

// The value, or the errno's name.
inline std::string Get(lmshm::ObjectStore& store, std::string_view key, size_t room = 1 << 20) {
  std::string value(room, '?');
  lmshm::ObjectInfo info;
  const lmshm::Status status = GetRange(store, key, value.data(), room, &info);
  if (!status.ok()) return lmshm::ErrnoName(status.number());
  CHECK(value.find_first_not_of('?', static_cast<size_t>(info.length)) == std::string::npos);
  return value.substr(0, static_cast<size_t>(info.length));
}

inline std::string NameOf(const lmshm::Status& status) {
  return status.ok() ? "OK" : lmshm::ErrnoName(status.number());
}

inline std::string Exists(lmshm::ObjectStore& store, const std::string& key) {
  std::vector<bool> yes;
  const lmshm::Status status = store.Exists({key}, nullptr, &yes);
  if (!status.ok()) return lmshm::ErrnoName(status.number());
  return yes[0] ? "yes" : "no";
}

inline std::string Remove(lmshm::ObjectStore& store, const std::string& key) {
  std::vector<bool> yes;
  const lmshm::Status status = store.Remove({key}, nullptr, &yes);
  if (!status.ok()) return lmshm::ErrnoName(status.number());
  return yes[0] ? "removed" : "nothing";
}

// All keys with `prefix`, in pages of `page`; or the errno's name alone.
inline std::vector<std::string> List(lmshm::ObjectStore& store, const std::string& prefix = "",
                                     size_t page = 100) {
  std::unique_ptr<lmshm::ObjectListing> listing;
  CHECK_OK(store.BeginListing(prefix, &listing));
  std::vector<std::string> keys;
  for (bool ended = false; !ended;) {
    const lmshm::Status status = listing->Read({page, page * 60}, nullptr, &keys, &ended);
    if (!status.ok()) return {lmshm::ErrnoName(status.number())};
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

// The header of an object's metadata, with its line end.
inline std::string RecordLine(std::string_view key, const std::string& value) {
  lmshm::ObjectRecord record;
  record.length = value.size();
  record.crc32c = lmshm::Crc32c(0, value.data(), value.size());
  record.key_check = lmshm::KeyCheck(key);
  std::string text;
  CHECK_OK(lmshm::RecordHeader(record, &text));
  return "x-amz-meta-lmshm: " + text + "\r\n";
}

inline std::string ErrorBody(const std::string& code) {
  return "<Error><Code>" + code + "</Code><Message>No.</Message></Error>";
}

#endif  // LMSHM_TESTS_NATIVE_S3_LIAR_H_
