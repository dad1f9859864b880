// SPDX-License-Identifier: Apache-2.0
//
// redis_engine PORT [ROUNDS [SIZE]]: what the worker's Redis engine reaches, without protocol and
// runtime, beside the least that a client can do: one that is written for it, sends from and
// receives into ordinary memory with as many connections, and knows in advance what every reply
// looks like. It is the yardstick, not a part of the library.
//
// The server, any Redis or Valkey on loopback, must be empty and have 2 GB of memory. Contenders
// take turns; each sample is put or get of so many objects by 1 or 4 threads, and what was read is
// compared. Prints one line for each combination: median of the rounds in MB/s, the spread, and CPU
// milliseconds a GB of this process.
//
//   plain    the yardstick
//   engine   RedisStore with record and checksum
//   nocrc    the same without a checksum

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/redis/redis_store.h"

namespace {

constexpr size_t kMemory = 512 << 20;

uint16_t port;
char* segment;  // shared memory: the first half is put, the second is read into
char* plain;    // ordinary memory, the same

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "redis_engine: %s\n", what.c_str());
  exit(1);
}

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// --------------------------------------------------------------------------- the yardstick

class PlainClient {
 public:
  PlainClient() {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Fail("connect");
    const int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  ~PlainClient() { close(fd_); }

  void Put(const std::vector<std::string>& keys, char* data, size_t size) {
    std::vector<std::string> heads;
    for (const std::string& key : keys) {
      heads.push_back("*3\r\n$3\r\nSET\r\n$" + std::to_string(key.size()) + "\r\n" + key + "\r\n$" +
                      std::to_string(size) + "\r\n");
    }
    std::vector<iovec> parts;
    for (size_t i = 0; i < keys.size(); i++) {
      parts.push_back({heads[i].data(), heads[i].size()});
      parts.push_back({data + i * size, size});
      parts.push_back({const_cast<char*>("\r\n"), 2});
    }
    Move(parts, true);
    std::string replies(keys.size() * 5, '\0');
    parts.assign(1, {replies.data(), replies.size()});
    Move(parts, false);
    for (size_t i = 0; i < replies.size(); i += 5) {
      if (replies.compare(i, 5, "+OK\r\n") != 0) Fail("SET: " + replies.substr(i, 60));
    }
  }

  void Get(const std::vector<std::string>& keys, char* space, size_t size) {
    std::string commands;
    for (const std::string& key : keys) {
      commands += "*2\r\n$3\r\nGET\r\n$" + std::to_string(key.size()) + "\r\n" + key + "\r\n";
    }
    std::vector<iovec> parts = {{commands.data(), commands.size()}};
    Move(parts, true);
    const std::string head = "$" + std::to_string(size) + "\r\n";
    std::vector<char> around((head.size() + 2) * keys.size());
    parts.clear();
    for (size_t i = 0; i < keys.size(); i++) {
      char* const at = around.data() + i * (head.size() + 2);
      parts.push_back({at, head.size()});
      parts.push_back({space + i * size, size});
      parts.push_back({at + head.size(), 2});
    }
    Move(parts, false);
    for (size_t i = 0; i < keys.size(); i++) {
      const char* const at = around.data() + i * (head.size() + 2);
      if (memcmp(at, head.data(), head.size()) != 0) Fail("GET: another reply");
    }
  }

 private:
  void Move(std::vector<iovec>& parts, bool send) const {
    for (size_t first = 0; first < parts.size();) {
      msghdr message = {};
      message.msg_iov = &parts[first];
      message.msg_iovlen =
          static_cast<decltype(message.msg_iovlen)>(std::min<size_t>(parts.size() - first, 96));
      const ssize_t n = send ? sendmsg(fd_, &message, MSG_NOSIGNAL) : recvmsg(fd_, &message, 0);
      if (n <= 0) Fail(send ? "send" : "receive");
      first += lmshm::Advance(&parts[first], parts.size() - first, static_cast<size_t>(n));
    }
  }

  int fd_;
};

// ------------------------------------------------------------------------------- contenders

struct Case {
  size_t size;
  size_t count;  // objects of a sample
  size_t batch;  // of one call
  size_t threads;
};

std::vector<std::string> Keys(const char* who, size_t first, size_t count) {
  std::vector<std::string> keys;
  for (size_t i = 0; i < count; i++) {
    keys.push_back("bench/llama@1@0@" + std::to_string(first + i) + "@" + who);
  }
  return keys;
}

// Calls `batch(thread, first, count)` for all objects, by so many threads.
void Spread(const Case& what, const std::function<void(size_t, size_t, size_t)>& batch) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < what.threads; t++) {
    threads.emplace_back([&, t] {
      for (;;) {
        const size_t first = next.fetch_add(what.batch);
        if (first >= what.count) return;
        batch(t, first, std::min(what.batch, what.count - first));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class Contender {
 public:
  virtual ~Contender() = default;
  virtual void Run(const Case& what, bool put) = 0;
  virtual char* memory() const = 0;
};

class Plain : public Contender {
 public:
  void Run(const Case& what, bool put) override {
    while (clients_.size() < what.threads) clients_.push_back(std::make_unique<PlainClient>());
    Spread(what, [&](size_t t, size_t first, size_t count) {
      const std::vector<std::string> keys = Keys("half", first, count);
      if (put) {
        clients_[t]->Put(keys, plain + first * what.size, what.size);
      } else {
        clients_[t]->Get(keys, plain + kMemory + first * what.size, what.size);
      }
    });
  }
  char* memory() const override { return plain; }

 private:
  std::vector<std::unique_ptr<PlainClient>> clients_;
};

class Engine : public Contender {
 public:
  explicit Engine(bool checksum) : checksum_(checksum) {
    lmshm::StoreUrl url;
    const std::string text = "redis://127.0.0.1:" + std::to_string(port) + "?prefix=e";
    lmshm::Status status = lmshm::ParseStoreUrl(text, &url);
    if (status.ok()) status = lmshm::RedisStore::Open(url, {}, nullptr, &store_);
    if (!status.ok()) Fail(status.ToString());
  }
  void Run(const Case& what, bool put) override {
    Spread(what, [&](size_t, size_t first, size_t count) {
      const std::vector<std::string> keys = Keys("half", first, count);
      std::vector<lmshm::PutItem> puts(put ? count : 0);
      std::vector<lmshm::GetItem> gets(put ? 0 : count);
      for (size_t i = 0; i < count; i++) {
        char* const at = segment + (put ? 0 : kMemory) + (first + i) * what.size;
        if (put) {
          puts[i].key = keys[i];
          puts[i].data = {at, what.size};
          puts[i].options.checksum = checksum_;
        } else {
          gets[i].key = keys[i];
          gets[i].space = {at, what.size};
          gets[i].options.checksum = checksum_;
        }
      }
      if (put) store_->Put(puts.data(), count, nullptr);
      if (!put) store_->Get(gets.data(), count, nullptr);
      for (const auto& item : puts) Check(item.status);
      for (const auto& item : gets) Check(item.status);
    });
  }
  char* memory() const override { return segment; }

 private:
  static void Check(const lmshm::Status& status) {
    if (!status.ok()) Fail(status.ToString());
  }

  const bool checksum_;
  std::unique_ptr<lmshm::RedisStore> store_;
};

// ------------------------------------------------------------------------------- measuring

struct Samples {
  std::vector<double> rates;  // MB/s
  std::vector<double> cpu;    // ms a GB
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Measure(const Case& what, int rounds) {
  Plain yardstick;
  Engine engine(true);
  Engine without(false);
  const std::vector<std::pair<const char*, Contender*>> contenders = {
      {"plain", &yardstick}, {"engine", &engine}, {"nocrc", &without}};
  const size_t bytes = what.size * what.count;
  for (const bool put : {true, false}) {
    std::vector<Samples> samples(contenders.size());
    for (int round = -1; round < rounds; round++) {
      for (size_t i = 0; i < contenders.size(); i++) {
        Contender* const one = contenders[i].second;
        if (!put) memset(one->memory() + kMemory, 0, bytes);
        const double wall = Seconds(CLOCK_MONOTONIC);
        const double cpu = Seconds(CLOCK_PROCESS_CPUTIME_ID);
        one->Run(what, put);
        const double used = Seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        const double took = Seconds(CLOCK_MONOTONIC) - wall;
        if (!put && memcmp(one->memory(), one->memory() + kMemory, bytes) != 0) Fail("other bytes");
        if (round < 0) continue;
        samples[i].rates.push_back(static_cast<double>(bytes) / took / 1e6);
        samples[i].cpu.push_back(used * 1e3 / (static_cast<double>(bytes) / 1e9));
      }
    }
    const double best = Median(samples[0].rates);
    for (size_t i = 0; i < contenders.size(); i++) {
      const std::vector<double>& rates = samples[i].rates;
      const auto [low, high] = std::minmax_element(rates.begin(), rates.end());
      printf(
          "%s %8zu bytes, batch %3zu, %zu threads, %-6s %6.0f MB/s (%5.0f-%5.0f) %.2f of plain, "
          "%4.0f ms CPU/GB\n",
          put ? "put" : "get", what.size, what.batch, what.threads, contenders[i].first,
          Median(rates), *low, *high, Median(rates) / best, Median(samples[i].cpu));
    }
    fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) Fail("usage: redis_engine PORT [ROUNDS [SIZE]]");
  port = static_cast<uint16_t>(atoi(argv[1]));
  const int rounds = argc > 2 ? atoi(argv[2]) : 5;
  const size_t only = argc > 3 ? strtoull(argv[3], nullptr, 10) : 0;
  const int protection = PROT_READ | PROT_WRITE;
  segment = static_cast<char*>(
      mmap(nullptr, 2 * kMemory, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  plain = static_cast<char*>(
      mmap(nullptr, 2 * kMemory, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  if (segment == MAP_FAILED || plain == MAP_FAILED) Fail("no memory");
  for (size_t i = 0; i < kMemory / 8; i++) {
    const uint64_t value = i * 0x9e3779b97f4a7c15;
    memcpy(segment + i * 8, &value, 8);
    memcpy(plain + i * 8, &value, 8);
  }
  constexpr size_t kChunk = 33'554'432;
  for (const Case& what :
       {Case{65536, 4096, 64, 1}, Case{65536, 4096, 64, 4}, Case{1 << 20, 256, 4, 1},
        Case{1 << 20, 256, 4, 4}, Case{kChunk, 12, 1, 1}, Case{kChunk, 12, 1, 4}}) {
    if (only == 0 || only == what.size) Measure(what, rounds);
  }
  return 0;
}
