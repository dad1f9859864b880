// SPDX-License-Identifier: Apache-2.0
//
// What reading from the page cache into shared memory costs, with a checksum and without: CPU
// seconds a GB, and GB/s of one thread. docs/io_engines.md has the results and what follows.
//
//     cmake --preset dev && cmake --build --preset dev --target cached_reads
//     build/dev/out/cached_reads DIRECTORY [MB an object, 8] [MB in all, 268] [rounds, 11]
//
// The ways take turns, in another order each round. "looked at": each object is read once more
// right after it has come, as by a client that is about to compute with it.
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "worker/base/crc32c.h"

namespace {

constexpr size_t kKiB = 1024;
constexpr size_t kMostBytes = 512 * kKiB;

enum class Then { kNothing, kChecksum, kCopy };
struct Way {
  const char* name;
  size_t piece;
  bool bounce;
  Then then;
  bool look;
};
constexpr Way kWays[] = {
    {"whole object in one call", 1 << 30, false, Then::kNothing, false},
    {"512 KiB", 512 * kKiB, false, Then::kNothing, false},
    {"512 KiB, checksum", 512 * kKiB, false, Then::kChecksum, false},
    {"256 KiB into a buffer alone", 256 * kKiB, true, Then::kNothing, false},
    {"256 KiB by way of a buffer, checksum", 256 * kKiB, true, Then::kCopy, false},
    {"512 KiB, checksum, looked at", 512 * kKiB, false, Then::kChecksum, true},
    {"256 KiB by way of a buffer, checksum, looked at", 256 * kKiB, true, Then::kCopy, true},
};
constexpr size_t kCount = std::size(kWays);

double Now(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

[[noreturn]] void Die(const char* what) {
  perror(what);
  exit(1);
}

uint32_t Load(int fd, char* to, size_t size, const Way& way, char* buffer) {
  uint32_t crc = 0;
  for (size_t at = 0; at < size;) {
    const size_t want = std::min(size - at, way.piece);
    const ssize_t n = pread(fd, way.bounce ? buffer : to + at, want, static_cast<off_t>(at));
    if (n <= 0) Die("pread");
    const auto got = static_cast<size_t>(n);
    if (way.then == Then::kChecksum) crc = lmshm::Crc32c(crc, to + at, got);
    if (way.then == Then::kCopy) crc = lmshm::Crc32cCopy(crc, to + at, buffer, got);
    at += got;
  }
  return crc;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fprintf(stderr, "%s DIRECTORY [MB] [MB in all] [rounds]\n", argv[0]), 2;
  const auto number = [&](int i, double usual) { return argc > i ? atof(argv[i]) : usual; };
  const size_t size = static_cast<size_t>(number(2, 8) * 1e6) / 4096 * 4096;
  const size_t count = std::max<size_t>(1, static_cast<size_t>(number(3, 268) * 1e6) / size);
  const size_t rounds = static_cast<size_t>(number(4, 11));
  const std::string name = "/lmshm_cached_reads_" + std::to_string(getpid());
  const int segment = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (segment < 0 || ftruncate(segment, static_cast<off_t>(size * count)) != 0) Die("shm_open");
  shm_unlink(name.c_str());
  char* const memory = static_cast<char*>(
      mmap(nullptr, size * count, PROT_READ | PROT_WRITE, MAP_SHARED, segment, 0));
  char* const buffer = static_cast<char*>(aligned_alloc(4096, kMostBytes));
  if (memory == MAP_FAILED || buffer == nullptr) Die("mmap");
  uint64_t noise = 88172645463325252u;
  for (size_t at = 0; at < size * count; at += 8) {
    noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
    *reinterpret_cast<uint64_t*>(memory + at) = noise;
  }
  std::vector<int> files;
  std::vector<uint32_t> sums;
  for (size_t i = 0; i < count; i++) {
    const std::string path = std::string(argv[1]) + name + "." + std::to_string(i);
    files.push_back(open(path.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600));
    if (files.back() < 0) Die(path.c_str());
    unlink(path.c_str());
    for (size_t at = 0; at < size; at += kMostBytes) {  // as the worker writes
      const size_t bytes = std::min(size - at, kMostBytes);
      if (pwrite(files.back(), memory + i * size + at, bytes, static_cast<off_t>(at)) !=
          static_cast<ssize_t>(bytes)) {
        Die("pwrite");
      }
    }
    sums.push_back(lmshm::Crc32c(0, memory + i * size, size));
  }
  sync();

  std::vector<double> cpu[kCount], wall[kCount];
  for (size_t round = 0; round <= rounds; round++) {
    for (size_t turn = 0; turn < kCount; turn++) {
      const size_t at = (turn * (round % 2 == 0 ? 1 : kCount - 1) + round) % kCount;
      const Way& way = kWays[at];
      const double begun = Now(CLOCK_MONOTONIC), used = Now(CLOCK_PROCESS_CPUTIME_ID);
      for (size_t i = 0; i < count; i++) {
        char* const to = memory + i * size;
        const uint32_t crc = Load(files[i], to, size, way, buffer);
        const bool wrong = (way.then != Then::kNothing && crc != sums[i]) ||
                           (way.look && lmshm::Crc32c(0, to, size) != sums[i]);
        if (wrong) return fprintf(stderr, "%s: wrong bytes\n", way.name), 1;
      }
      if (round == 0) continue;
      const double gigabytes = static_cast<double>(size * count) / 1e9;
      cpu[at].push_back((Now(CLOCK_PROCESS_CPUTIME_ID) - used) / gigabytes);
      wall[at].push_back(gigabytes / (Now(CLOCK_MONOTONIC) - begun));
    }
  }
  printf("%zu objects of %.1f MB, %zu rounds, checksums by %s\n", count,
         static_cast<double>(size) / 1e6, rounds, lmshm::Crc32cMethod());
  for (size_t at = 0; at < kCount; at++) {
    std::sort(cpu[at].begin(), cpu[at].end());
    std::sort(wall[at].begin(), wall[at].end());
    const size_t middle = rounds / 2;
    printf("%-48s %.4f CPU s a GB (%.4f-%.4f)  %5.1f GB/s (%.1f-%.1f)\n", kWays[at].name,
           cpu[at][middle], cpu[at].front(), cpu[at].back(), wall[at][middle], wall[at].front(),
           wall[at].back());
  }
}
