// SPDX-License-Identifier: Apache-2.0
//
// data_plane put|get SEGMENT OBJECT_BYTES THREADS [WORD]...: the best that system calls alone reach
// for the objects and the memory of the benchmarks, without a worker, a protocol or a runtime. It
// is the yardstick, not a part of the library.
//
// stdin: a directory, then lines of a number and the name of a file in it; the number says which
// object of the segment goes with the file. A put writes a temporary file in reserved space and
// renames it. Words:
//   direct   past the page cache (O_DIRECT); addresses and OBJECT_BYTES must be multiples of 4096
//   worker   with the system calls that lmshm-worker makes for a new object in protocol version 2:
//            an unnamed file that gets its name at the end, one extended attribute, and when
//            reading one byte more than there should be
//
// Each thread is bound to a CPU of its own where there are enough, and all are awake when the
// clocks start: a wake-up takes longer than many an object. Prints wall time and CPU time of the
// threads as one JSON object.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINE_BYTES = 4096, MAX_THREADS = 64, OBJECTS_AT_ONCE = 1024 };

// Below this the worker reserves nothing: a call more costs about what it gains.
static const size_t kReserveAboveBytes = 8 * 1024;

struct object {
  size_t number;
  char* name;
};

static struct object* objects;
static size_t object_count;
static size_t segment_objects;
static int directory = -1;
static char* memory;
static size_t object_bytes;
static bool putting, direct, worker;
static atomic_size_t next_object;
static atomic_int failed;
static atomic_int ready;
static atomic_bool started;

static long long clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int fail(const char* what, const char* name) {
  fprintf(stderr, "%s %s: %s\n", what, name, strerror(errno));
  return -1;
}

// The attribute that the worker stores with each object, and as long as its own: length, checksum
// and a hash of the key. A file system without attributes: the worker does without, too.
static const char kAttribute[] = "user.lmshm";

static int set_attribute(int fd, const char* name) {
  char value[64];
  const int n = snprintf(value, sizeof value, "%zu 00000000 00000000", object_bytes);
  if (fsetxattr(fd, kAttribute, value, (size_t)n, 0) == 0 || errno == EOPNOTSUPP) return 0;
  return fail("fsetxattr", name);
}

static int get_attribute(int fd, const char* name) {
  char value[1024];
  if (fgetxattr(fd, kAttribute, value, sizeof value) >= 0) return 0;
  return errno == EOPNOTSUPP || errno == ENODATA ? 0 : fail("fgetxattr", name);
}

// Moves up to `bytes` from or to the offset. A read of the worker's ends with one byte that no
// object has.
static ssize_t transfer_once(int fd, char* object, size_t bytes, off_t offset) {
  if (putting) return pwrite(fd, object, bytes, offset);
  if (!worker) return pread(fd, object, bytes, offset);
  char beyond;
  const struct iovec parts[2] = {{object, bytes}, {&beyond, 1}};
  return preadv(fd, parts, 2, offset);
}

static int transfer(int fd, const char* name, char* object) {
  for (size_t done = 0; done < object_bytes;) {
    const ssize_t n = transfer_once(fd, object + done, object_bytes - done, (off_t)done);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) return fail(putting ? "pwrite" : "pread", name);
    done += (size_t)n;
  }
  return 0;
}

static int fill_file(int fd, const char* name, char* object) {
  if (object_bytes > kReserveAboveBytes && fallocate(fd, 0, 0, (off_t)object_bytes) != 0 &&
      errno != EOPNOTSUPP) {
    return fail("fallocate", name);
  }
  if (transfer(fd, name, object) != 0) return -1;
  return worker ? set_attribute(fd, name) : 0;
}

// The worker's way: nobody sees the file before it is whole, and nothing has to be replaced.
static int put_unnamed(const char* name, char* object) {
  const int flags = O_WRONLY | O_TMPFILE | O_CLOEXEC | (direct ? O_DIRECT : 0);
  const int fd = openat(directory, ".", flags, 0600);
  if (fd < 0) return fail("open an unnamed file for", name);
  int result = fill_file(fd, name, object);
  if (result == 0 && linkat(fd, "", directory, name, AT_EMPTY_PATH) != 0) {
    result = fail("link", name);
  }
  if (close(fd) != 0 && result == 0) result = fail("close", name);
  return result;
}

static int put(const char* name, char* object) {
  if (worker) return put_unnamed(name, object);
  char temporary[MAX_LINE_BYTES + 32];
  snprintf(temporary, sizeof temporary, ".%s.tmp", name);
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | (direct ? O_DIRECT : 0);
  const int fd = openat(directory, temporary, flags, 0600);
  if (fd < 0) return fail("open", temporary);
  int result = fill_file(fd, name, object);
  if (close(fd) != 0 && result == 0) result = fail("close", temporary);
  if (result == 0 && renameat(directory, temporary, directory, name) != 0) {
    result = fail("rename", temporary);
  }
  if (result != 0) unlinkat(directory, temporary, 0);
  return result;
}

static int get(const char* name, char* object) {
  const int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
  if (fd < 0) return fail("open", name);
  int result = worker ? get_attribute(fd, name) : 0;
  if (result == 0) result = transfer(fd, name, object);
  close(fd);
  return result;
}

// Binds the calling thread to the CPU of this number among those that the process may use. Without
// an effect where there are fewer CPUs than threads: then the scheduler knows better.
static void take_cpu(int number, int threads) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < threads) return;
  CPU_ZERO(&one);
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &allowed) && number-- == 0) CPU_SET(cpu, &one);
  }
  sched_setaffinity(0, sizeof one, &one);
}

static void move_objects(void) {
  for (;;) {
    const size_t index = atomic_fetch_add(&next_object, 1);
    if (index >= object_count || atomic_load(&failed)) return;
    const struct object* object = &objects[index];
    char* bytes = memory + object->number * object_bytes;
    if ((putting ? put : get)(object->name, bytes) != 0) atomic_store(&failed, 1);
  }
}

struct lane {
  pthread_t thread;
  int number, threads;
  long long cpu_ns;
};

static void* run_lane(void* of) {
  struct lane* lane = of;
  take_cpu(lane->number, lane->threads);
  atomic_fetch_add(&ready, 1);
  while (!atomic_load(&started)) {
    if (lane->threads > 2) sched_yield();
  }
  const long long cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  move_objects();
  lane->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
  return NULL;
}

// The directory and the files on stdin. Returns 0, or -1 having said why.
static int read_objects(void) {
  char line[MAX_LINE_BYTES];
  if (fgets(line, sizeof line, stdin) == NULL) return fail("stdin", "has no directory");
  line[strcspn(line, "\n")] = '\0';
  directory = open(line, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return fail("open", line);
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (object_count % OBJECTS_AT_ONCE == 0) {
      objects = realloc(objects, (object_count + OBJECTS_AT_ONCE) * sizeof *objects);
      if (objects == NULL) return fail("memory for", line);
    }
    char* end;
    const size_t number = strtoull(line, &end, 10);
    errno = EINVAL;
    if (end == line || *end != ' ') return fail("stdin: no number before", line);
    char* name = strdup(end + 1);
    if (name == NULL) return fail("memory for", line);
    objects[object_count++] = (struct object){number, name};
    if (number >= segment_objects) segment_objects = number + 1;
  }
  return 0;
}

static int map_segment(const char* name) {
  const int fd = shm_open(name, O_RDWR, 0);
  if (fd < 0) return fail("shm_open", name);
  const size_t size = segment_objects * object_bytes;
  memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  return memory == MAP_FAILED ? fail("mmap", name) : 0;
}

int main(int argc, char** argv) {
  if (argc < 5 || (strcmp(argv[1], "put") != 0 && strcmp(argv[1], "get") != 0)) {
    fprintf(stderr, "usage: data_plane put|get SEGMENT OBJECT_BYTES THREADS [WORD]... <FILES\n");
    return 2;
  }
  putting = strcmp(argv[1], "put") == 0;
  object_bytes = strtoull(argv[3], NULL, 10);
  const int threads = atoi(argv[4]);
  for (int i = 5; i < argc; i++) {
    if (strcmp(argv[i], "direct") == 0) direct = true;
    if (strcmp(argv[i], "worker") == 0) worker = true;
  }
  if (threads < 1 || threads > MAX_THREADS) {
    fprintf(stderr, "THREADS is 1 to %d, not %s\n", MAX_THREADS, argv[4]);
    return 2;
  }
  if (read_objects() != 0 || map_segment(argv[2]) != 0) return 1;

  // The last lane is this thread. Binding a thread comes after the others were made, because they
  // would inherit it.
  struct lane lanes[MAX_THREADS];
  for (int i = 0; i < threads; i++) {
    lanes[i] = (struct lane){.number = i, .threads = threads};
    if (i + 1 == threads) break;
    if (pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]) != 0) {
      return -fail("pthread_create", "");
    }
  }
  while (atomic_load(&ready) < threads - 1) sched_yield();
  const long long wall = clock_ns(CLOCK_MONOTONIC);
  atomic_store(&started, true);
  run_lane(&lanes[threads - 1]);
  long long cpu_ns = lanes[threads - 1].cpu_ns;
  for (int i = 0; i + 1 < threads; i++) {
    pthread_join(lanes[i].thread, NULL);
    cpu_ns += lanes[i].cpu_ns;
  }
  printf("{\"wallNs\":%lld,\"cpuNs\":%lld}\n", clock_ns(CLOCK_MONOTONIC) - wall, cpu_ns);
  return atomic_load(&failed);
}
