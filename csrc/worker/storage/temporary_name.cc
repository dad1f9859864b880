// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/temporary_name.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <ctime>

#include "worker/base/random.h"

namespace lmshm {

namespace {

constexpr size_t kRandomDigits = 16;
constexpr std::string_view kTail = ".tmp";

// The first bytes of `name`, at most 64, that do not end in the middle of a UTF-8 character: there
// are file systems that refuse such a name.
std::string Stem(const std::string& name) {
  size_t length = 64;
  if (name.size() <= length) return name;
  while (length > 60 && (static_cast<unsigned char>(name[length]) & 0xc0) == 0x80) length--;
  return name.substr(0, length);
}

uint64_t RandomNumber() {
  uint64_t random;
  if (FillRandom(&random, sizeof random) == 0) return random;
  struct timespec now;  // exclusive creation bears with it
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000007u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

std::string TemporaryName(const std::string& target) {
  static const uint64_t start = RandomNumber();
  static std::atomic<uint64_t> count{0};
  // Odd, so that the numbers repeat only after 2^64.
  const uint64_t number =
      start + count.fetch_add(1, std::memory_order_relaxed) * uint64_t{0x9e3779b97f4a7c15u};
  char tail[48];
  snprintf(tail, sizeof tail, ".%ld.%016llx.tmp", static_cast<long>(getpid()),
           static_cast<unsigned long long>(number));
  return "." + Stem(target) + tail;
}

bool IsTemporaryName(std::string_view name) {
  const auto digits = [&](std::string_view allowed) {
    const size_t last = name.find_last_not_of(allowed);
    const size_t begin = last == std::string_view::npos ? 0 : last + 1;
    const size_t count = name.size() - begin;
    name = name.substr(0, begin);
    return count;
  };
  if (name.size() < kTail.size() || name.substr(name.size() - kTail.size()) != kTail) return false;
  name.remove_suffix(kTail.size());
  if (digits("0123456789abcdef") != kRandomDigits) return false;
  if (name.empty() || name.back() != '.') return false;
  name.remove_suffix(1);
  if (digits("0123456789") == 0) return false;
  return name.size() >= 3 && name.front() == '.' && name.back() == '.';
}

}  // namespace lmshm
