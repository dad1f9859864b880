// SPDX-License-Identifier: Apache-2.0
//
// s3_engine PORT put|get|put-unchecked|get-unchecked BYTES COUNT THREADS: the worker's S3 engine
// without protocol and runtime: so many objects of that size to or from bucket "kv-test" of the
// server on loopback, whose credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Every byte
// that is got is compared. s3_contenders.ts runs it beside curl and Bun's client.
//
// Prints seconds and CPU seconds of this process.
#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/s3/s3_store.h"

namespace {

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

const char* Environment(const char* name) {
  const char* const value = getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr,
            "usage: s3_engine PORT put|get|put-unchecked|get-unchecked BYTES COUNT THREADS\n");
    return 2;
  }
  const std::string what = argv[2];
  const size_t bytes = strtoull(argv[3], nullptr, 10);
  const int count = atoi(argv[4]);
  const size_t threads = strtoull(argv[5], nullptr, 10);
  const bool put = what.substr(0, 3) == "put";
  lmshm::TransferOptions transfer;
  transfer.checksum = what.find("unchecked") == std::string::npos;

  lmshm::StoreUrl url;
  url.scheme = "s3";
  url.hosts = {{"kv-test", 0}};
  url.path = "bench";
  url.parameters = {{"endpoint", std::string("http://127.0.0.1:") + argv[1]}};
  std::unique_ptr<lmshm::S3Store> store;
  const lmshm::Status opened = lmshm::S3Store::Open(
      url, {Environment("AWS_ACCESS_KEY_ID"), Environment("AWS_SECRET_ACCESS_KEY"), ""}, &store);
  if (!opened.ok()) {
    fprintf(stderr, "s3_engine: %s\n", opened.ToString().c_str());
    return 1;
  }
  void* const mapped = mmap(nullptr, bytes * threads, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (mapped == MAP_FAILED) return 1;
  char* const memory = static_cast<char*>(mapped);
  std::string wanted(bytes, '\0');
  for (size_t i = 0; i < bytes; i++) wanted[i] = static_cast<char>(i * 131 + i / 251);
  for (size_t t = 0; t < threads; t++) {
    if (put) memcpy(memory + t * bytes, wanted.data(), bytes);
  }

  std::atomic<int> next{0}, failed{0};
  const auto work = [&](size_t t) {
    char* const own = memory + t * bytes;
    for (int i = next++; i < count; i = next++) {
      const std::string key = "o" + std::to_string(i % 8);
      lmshm::Status status;
      if (put) {
        lmshm::PutItem item;
        item.key = key;
        item.data = {own, bytes};
        item.options = transfer;
        store->Put(&item, 1, nullptr);
        status = item.status;
      } else {
        lmshm::GetItem item;
        item.key = key;
        item.space = {own, bytes};
        item.options = transfer;
        store->Get(&item, 1, nullptr);
        status = item.status;
      }
      if (status.ok() && (put || memcmp(own, wanted.data(), bytes) == 0)) continue;
      if (failed++ == 0) fprintf(stderr, "s3_engine: %s\n", status.ToString().c_str());
    }
  };
  const double cpu = CpuSeconds();
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> running;
  for (size_t t = 0; t < threads; t++) running.emplace_back(work, t);
  for (std::thread& thread : running) thread.join();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  printf("%.6f %.6f\n", seconds, CpuSeconds() - cpu);
  return failed > 0 ? 1 : 0;
}
