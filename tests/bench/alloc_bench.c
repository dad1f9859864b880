/* SPDX-License-Identifier: Apache-2.0
 *
 * alloc_bench REPETITIONS MIB...
 *
 * Times allocating and freeing named segments in this process, without a
 * JavaScript runtime around it: the naive way (shm_open, ftruncate, mmap, one
 * write a page in one thread) against lmshm in several settings. The contenders
 * take turns; the first turn of each size warms the machine's memory up and is
 * not printed. One line of JSON a sample; times in seconds.
 *
 *   cc -O2 -D_GNU_SOURCE -Icsrc/include tests/bench/alloc_bench.c LIBRARY -o alloc_bench
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "lmshm.h"

struct sample {
  double allocate, free_again, cpu;
  uint64_t huge_bytes;
  uint32_t threads, pinned_by;
};

struct contender {
  const char* name;
  uint32_t pin, pages, threads;
  bool naive;
};

static const struct contender contenders[] = {
    {.name = "naive", .naive = true},
    {.name = "lmshm", .pin = LMSHM_PIN_NONE},
    {.name = "lmshm one thread", .pin = LMSHM_PIN_NONE, .threads = 1},
    {.name = "lmshm pinned if possible", .pin = LMSHM_PIN_AUTO},
    {.name = "lmshm transparent huge pages",
     .pin = LMSHM_PIN_NONE,
     .pages = LMSHM_PAGES_TRANSPARENT},
};
enum { kContenders = sizeof contenders / sizeof *contenders };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double cpu(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void fail(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static struct sample run_naive(const char* name, size_t size) {
  struct sample sample = {.threads = 1};
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const double cpu_before = cpu(), start = now();
  int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)size) != 0) fail("shm_open", strerror(errno));
  volatile char* bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (bytes == MAP_FAILED) fail("mmap", strerror(errno));
  for (size_t at = 0; at < size; at += page) bytes[at] = 0;
  const double allocated = now();
  sample.cpu = cpu() - cpu_before;
  shm_unlink(name);
  munmap((void*)bytes, size);
  close(fd);
  sample.allocate = allocated - start;
  sample.free_again = now() - allocated;
  return sample;
}

static struct sample run_lmshm(const struct contender* contender, const char* name, size_t size) {
  struct sample sample;
  const lmshm_options options = {.struct_size = sizeof options,
                                 .kind = LMSHM_CREATE,
                                 .name = name,
                                 .size = size,
                                 .pin = contender->pin,
                                 .pages = contender->pages,
                                 .populate_threads = contender->threads};
  lmshm_info info = {.struct_size = sizeof info};
  const double cpu_before = cpu(), start = now();
  const intptr_t segment = lmshm_open(&options, &info);
  const double allocated = now();
  sample.cpu = cpu() - cpu_before;
  if (segment < 0) fail(contender->name, info.message);
  lmshm_close((lmshm_segment*)segment, 0);
  sample.allocate = allocated - start;
  sample.free_again = now() - allocated;
  sample.huge_bytes = info.huge_bytes;
  sample.threads = info.populate_threads;
  sample.pinned_by = info.pinned_by;
  return sample;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: alloc_bench REPETITIONS MIB...\n");
    return 2;
  }
  char name[64];
  snprintf(name, sizeof name, "/lmshm-bench-%d", (int)getpid());
  const int repetitions = atoi(argv[1]);
  for (int i = 2; i < argc; i++) {
    const size_t size = (size_t)strtoull(argv[i], NULL, 10) << 20;
    for (int repetition = 0; repetition <= repetitions; repetition++) {
      for (int turn = 0; turn < kContenders; turn++) {
        const struct contender* contender = &contenders[(turn + repetition) % kContenders];
        const struct sample sample =
            contender->naive ? run_naive(name, size) : run_lmshm(contender, name, size);
        if (repetition == 0) continue;
        printf(
            "{\"contender\":\"%s\",\"bytes\":%zu,\"repetition\":%d,\"allocate\":%.6f,"
            "\"free\":%.6f,\"cpu\":%.6f,\"threads\":%u,\"pinnedBy\":%u,\"hugeBytes\":%llu}\n",
            contender->name, size, repetition, sample.allocate, sample.free_again, sample.cpu,
            sample.threads, sample.pinned_by, (unsigned long long)sample.huge_bytes);
        fflush(stdout);
      }
    }
  }
  return 0;
}
