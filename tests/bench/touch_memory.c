// SPDX-License-Identifier: Apache-2.0
//
// touch_memory BYTES: takes so much memory, writes to all of it and gives it back. A virtual
// machine may have returned its free memory to the host; touching that is up to thirty times slower
// than touching what was in use a moment ago, and would be what a benchmark measures. Free memory
// that was in use last is what the kernel hands out first.

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { THREADS = 2, STEP_BYTES = 4096 };

struct part {
  volatile char* memory;
  size_t bytes;
};

static void* touch(void* of) {
  const struct part* part = of;
  for (size_t at = 0; at < part->bytes; at += STEP_BYTES) part->memory[at] = 1;
  return NULL;
}

int main(int argc, char** argv) {
  const size_t bytes = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
  if (bytes < THREADS) {
    fprintf(stderr, "usage: touch_memory BYTES\n");
    return 2;
  }
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  char* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fprintf(stderr, "mmap of %zu bytes: %s\n", bytes, strerror(errno));
    return 1;
  }
  // Large pages where they are to be had: the page cache takes large pieces as well.
  madvise(memory, bytes, MADV_HUGEPAGE);
  struct part parts[THREADS];
  pthread_t other;
  for (size_t i = 0; i < THREADS; i++) {
    parts[i] = (struct part){memory + i * (bytes / THREADS), bytes / THREADS};
  }
  const int failed = pthread_create(&other, NULL, touch, &parts[1]);
  touch(&parts[0]);
  if (failed) {
    touch(&parts[1]);
  } else {
    pthread_join(other, NULL);
  }
  munmap(memory, bytes);
  clock_gettime(CLOCK_MONOTONIC, &end);
  printf("{\"wallNs\":%lld}\n",
         (long long)(end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec));
  return 0;
}
