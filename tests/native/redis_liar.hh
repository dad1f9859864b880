// SPDX-License-Identifier: Apache-2.0
//
// A server that answers what the test says, on loopback: for replies that no real server gives.
#ifndef LMSHM_TESTS_NATIVE_REDIS_LIAR_H_
#define LMSHM_TESTS_NATIVE_REDIS_LIAR_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker/redis/reply.h"
#include "worker/redis/slots.h"
#include "worker_check.hh"

// One thread for each connection. Ends, and closes what is open, when destroyed.
class RedisLiar {
 public:
  // What one connection is answered to `words`, the `number`th command that it sends (0: the
  // first). Bytes as they are; kClose at the end closes the connection behind them, kHang answers
  // nothing more.
  static constexpr char kClose[] = "<close>";
  static constexpr char kHang[] = "<hang>";
  using Answer = std::function<std::string(const std::vector<std::string>& words, int number)>;

  // `refuse`: what it says to a SET of which 100,000 bytes have come, and then closes, as servers
  // do with what they will not read to the end; kClose: it breaks off without a word. Empty: it
  // reads on. So it does after `refusals` of them.
  explicit RedisLiar(Answer answer, std::string refuse = "", int refusals = 1 << 20)
      : answer_(std::move(answer)), refuse_(std::move(refuse)), refusals_(refusals) {
    listener_.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    REQUIRE_EQ(bind(listener_.get(), name, size), 0);
    REQUIRE_EQ(listen(listener_.get(), 16), 0);
    REQUIRE_EQ(getsockname(listener_.get(), name, &size), 0);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { Accept(); });
  }
  RedisLiar(const RedisLiar&) = delete;
  RedisLiar& operator=(const RedisLiar&) = delete;
  ~RedisLiar() {
    ending_ = true;
    accepting_.join();
    for (std::thread& thread : serving_) thread.join();
  }

  std::string url(const std::string& parameters = "?timeout=5") const {
    return "redis://127.0.0.1:" + std::to_string(port_) + parameters;
  }
  uint16_t port() const { return port_; }
  int connections() const { return connections_; }
  int commands() const { return commands_; }

 private:
  bool Readable(int fd) const {
    while (!ending_) {
      pollfd one = {fd, POLLIN, 0};
      if (poll(&one, 1, 20) > 0) return true;
    }
    return false;
  }

  void Accept() {
    while (Readable(listener_.get())) {
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      connections_++;
      serving_.emplace_back([this, fd] { Serve(lmshm::UniqueFd(fd)); });
    }
  }

  void Serve(lmshm::UniqueFd fd) {
    std::string buffer;
    for (int number = 0; Readable(fd.get());) {
      char bytes[65536];
      const ssize_t n = recv(fd.get(), bytes, sizeof bytes, 0);
      if (n <= 0) return;
      buffer.append(bytes, static_cast<size_t>(n));
      if (!refuse_.empty() && buffer.size() > 100000 && refusals_ > 0) {
        refusals_--;
        if (refuse_ == kClose) return;
        (void)!send(fd.get(), refuse_.data(), refuse_.size(), MSG_NOSIGNAL);
        shutdown(fd.get(), SHUT_WR);
        while (Readable(fd.get()) && recv(fd.get(), bytes, sizeof bytes, 0) > 0) {
        }
        return;
      }
      size_t used = 0;
      for (lmshm::Reply command;
           lmshm::ParseReply(buffer, &used, &command) == lmshm::Parsed::kWhole; number++) {
        buffer.erase(0, used);
        std::vector<std::string> words;
        for (const lmshm::Reply& word : command.items) words.push_back(word.text);
        commands_++;
        std::string text = answer_(words, number);
        const bool close = EndsWith(&text, kClose);
        const bool hang = EndsWith(&text, kHang);
        size_t sent = 0;
        while (sent < text.size()) {
          const ssize_t m = send(fd.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
          if (m <= 0) return;
          sent += static_cast<size_t>(m);
        }
        if (close) return;
        while (hang && !ending_) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }

  static bool EndsWith(std::string* text, const char* word) {
    const size_t size = strlen(word);
    if (text->size() < size || text->compare(text->size() - size, size, word) != 0) return false;
    text->resize(text->size() - size);
    return true;
  }

  const Answer answer_;
  const std::string refuse_;
  std::atomic<int> refusals_;
  lmshm::UniqueFd listener_;
  uint16_t port_ = 0;
  std::atomic<bool> ending_{false};
  std::atomic<int> connections_{0};
  std::atomic<int> commands_{0};
  std::vector<std::thread> serving_;
  std::thread accepting_;
};

// Parts of what a server says.
inline std::string Bulk(const std::string& text) {
  return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
}

// CLUSTER SLOTS of these ranges: first, last, port.
inline std::string SlotsOf(const std::vector<std::array<int, 3>>& ranges) {
  std::string text = "*" + std::to_string(ranges.size()) + "\r\n";
  for (const auto& [first, last, port] : ranges) {
    text += "*3\r\n:" + std::to_string(first) + "\r\n:" + std::to_string(last) + "\r\n*2\r\n" +
            Bulk("127.0.0.1") + ":" + std::to_string(port) + "\r\n";
  }
  return text;
}

// The first of these names whose slot is in this range.
inline std::string NameIn(const std::string& stem, int first, int last) {
  for (int i = 0;; i++) {
    const std::string name = stem + std::to_string(i);
    const int slot = lmshm::SlotOf(name);
    if (slot >= first && slot <= last) return name;
  }
}

#endif  // LMSHM_TESTS_NATIVE_REDIS_LIAR_H_
