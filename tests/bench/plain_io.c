// SPDX-License-Identifier: Apache-2.0
//
// plain_io write|read SEGMENT CHUNK_BYTES THREADS: what a C program without a worker, a protocol or
// a runtime reaches for the same files and the same memory, the yardstick of the transfer
// benchmark. Paths come on stdin, one a line; path number i goes with chunk i of the segment.
// Writing is into a temporary file with reserved space, then rename. Prints wall time and CPU time.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PATHS = 4096, MAX_PATH_BYTES = 4096, MAX_THREADS = 64 };

static char* paths[MAX_PATHS];
static size_t path_count;
static char* memory;
static size_t chunk_bytes;
static int writing;
static atomic_size_t next_path;
static atomic_int failed;

static long long clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int fail(const char* what, const char* path) {
  fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
  return -1;
}

static int write_file(const char* path, const char* from) {
  char temporary[MAX_PATH_BYTES + 8];
  snprintf(temporary, sizeof temporary, "%s.tmp", path);
  const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return fail("open", temporary);
  if (fallocate(fd, 0, 0, (off_t)chunk_bytes) != 0 && errno != EOPNOTSUPP) {
    close(fd);
    return fail("fallocate", temporary);
  }
  for (size_t done = 0; done < chunk_bytes;) {
    const ssize_t n = pwrite(fd, from + done, chunk_bytes - done, (off_t)done);
    if (n <= 0) {
      close(fd);
      return fail("pwrite", temporary);
    }
    done += (size_t)n;
  }
  if (close(fd) != 0) return fail("close", temporary);
  if (rename(temporary, path) != 0) return fail("rename", path);
  return 0;
}

static int read_file(const char* path, char* to) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail("open", path);
  for (size_t done = 0; done < chunk_bytes;) {
    const ssize_t n = pread(fd, to + done, chunk_bytes - done, (off_t)done);
    if (n <= 0) {
      close(fd);
      return fail("pread", path);
    }
    done += (size_t)n;
  }
  close(fd);
  return 0;
}

static void* run_lane(void* unused) {
  (void)unused;
  for (;;) {
    const size_t index = atomic_fetch_add(&next_path, 1);
    if (index >= path_count || atomic_load(&failed)) return NULL;
    char* chunk = memory + index * chunk_bytes;
    const int result = writing ? write_file(paths[index], chunk) : read_file(paths[index], chunk);
    if (result != 0) atomic_store(&failed, 1);
  }
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: plain_io write|read SEGMENT CHUNK_BYTES THREADS <PATHS\n");
    return 2;
  }
  writing = strcmp(argv[1], "write") == 0;
  chunk_bytes = strtoull(argv[3], NULL, 10);
  int threads = atoi(argv[4]);
  if (threads < 1 || threads > MAX_THREADS) threads = 1;

  char line[MAX_PATH_BYTES];
  while (path_count < MAX_PATHS && fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if ((paths[path_count++] = strdup(line)) == NULL) return 1;
  }
  const int fd = shm_open(argv[2], O_RDWR, 0);
  if (fd < 0) return -fail("shm_open", argv[2]);
  const size_t size = path_count * chunk_bytes;
  memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) return -fail("mmap", argv[2]);

  const long long wall = clock_ns(CLOCK_MONOTONIC);
  const long long cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  pthread_t lanes[MAX_THREADS];
  for (int i = 1; i < threads; i++) {
    if (pthread_create(&lanes[i], NULL, run_lane, NULL) != 0) return -fail("pthread_create", "");
  }
  run_lane(NULL);
  for (int i = 1; i < threads; i++) pthread_join(lanes[i], NULL);
  printf("{\"wallNs\":%lld,\"cpuNs\":%lld}\n", clock_ns(CLOCK_MONOTONIC) - wall,
         clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu);
  return atomic_load(&failed);
}
