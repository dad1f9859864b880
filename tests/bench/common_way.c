// SPDX-License-Identifier: Apache-2.0
//
// common_way NAME BYTES: shared memory as most programs make it (shm_open, ftruncate, mmap, then
// one write a page in one thread, since nothing is there before that) and give it back. Prints how
// long both took. A contender of the benchmark, not a part of the library.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int fail(const char* what, const char* name) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  if (name != NULL) shm_unlink(name);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: common_way NAME BYTES\n");
    return 2;
  }
  const char* name = argv[1];
  const size_t size = strtoull(argv[2], NULL, 10);
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);

  const long long start = now_ns();
  const int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (fd < 0) return fail("shm_open", NULL);
  if (ftruncate(fd, (off_t)size) != 0) return fail("ftruncate", name);
  volatile char* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return fail("mmap", name);
  for (size_t at = 0; at < size; at += page) memory[at] = 0;
  const long long allocated = now_ns();

  struct stat found;
  if (fstat(fd, &found) != 0) return fail("fstat", name);

  const long long freeing = now_ns();
  if (shm_unlink(name) != 0) return fail("shm_unlink", NULL);
  if (munmap((void*)memory, size) != 0) return fail("munmap", NULL);
  if (close(fd) != 0) return fail("close", NULL);
  const long long freed = now_ns();

  printf("{\"allocateNs\":%lld,\"freeNs\":%lld,\"presentBytes\":%lld}\n", allocated - start,
         freed - freeing, (long long)found.st_blocks * 512);
  return 0;
}
