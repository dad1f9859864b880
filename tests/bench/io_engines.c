// SPDX-License-Identifier: Apache-2.0
//
// Threads or io_uring: moves the same files by plain system calls on threads and by io_uring (its
// raw system calls, no library), for the cases that the worker has, and prints both. The worker's
// engine follows from its numbers; docs/io_engines.md has them.
//
//   io_engines DIRECTORY [--rounds N] [--objects N] [--object-bytes N] [--part-bytes N]
//              [--files N] [--json FILE] [--threads-only]
//
// Contenders of a case take turns, in another order each round; every sample's bytes are checked
// outside of the time. It makes files in DIRECTORY and removes them. Exit status 0; 1 something
// failed; 2 wrong usage; 77 io_uring cannot be used here (--threads-only measures the rest).
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ROUNDS = 101, MAX_IN_FLIGHT = 16, RING_ENTRIES = 256, SMALL_BYTES = 4096 };
enum { CHAINS = 64 };  // small files in flight in one ring

static struct {
  const char* directory;
  long rounds, objects, object_bytes, part_bytes, files;
  const char* json;
  bool threads_only;
} options = {NULL, 7, 8, 33554432, 4194304, 4000, NULL, false};

static void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "io_engines: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  exit(1);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_seconds(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
         (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

// ------------------------------------------------------------------------------------- io_uring

struct ring {
  int fd;
  unsigned *sq_head, *sq_tail, *sq_mask, *sq_array;
  unsigned *cq_head, *cq_tail, *cq_mask;
  struct io_uring_sqe* sqes;
  struct io_uring_cqe* cqes;
  unsigned pending;  // written and not submitted
};

// 0 or -errno.
static int ring_open(struct ring* r) {
  struct io_uring_params p;
  memset(&p, 0, sizeof p);
  r->fd = (int)syscall(__NR_io_uring_setup, RING_ENTRIES, &p);
  if (r->fd < 0) return -errno;
  if (!(p.features & IORING_FEAT_SINGLE_MMAP)) return -ENOSYS;
  const size_t sq = p.sq_off.array + p.sq_entries * sizeof(unsigned);
  const size_t cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  char* const base =
      mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
  r->sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
                 MAP_SHARED, r->fd, IORING_OFF_SQES);
  if (base == MAP_FAILED || r->sqes == MAP_FAILED) return -errno;
  r->sq_head = (unsigned*)(base + p.sq_off.head);
  r->sq_tail = (unsigned*)(base + p.sq_off.tail);
  r->sq_mask = (unsigned*)(base + p.sq_off.ring_mask);
  r->sq_array = (unsigned*)(base + p.sq_off.array);
  r->cq_head = (unsigned*)(base + p.cq_off.head);
  r->cq_tail = (unsigned*)(base + p.cq_off.tail);
  r->cq_mask = (unsigned*)(base + p.cq_off.ring_mask);
  r->cqes = (struct io_uring_cqe*)(base + p.cq_off.cqes);
  r->pending = 0;
  return 0;  // mappings and descriptor stay until the process ends
}

static struct io_uring_sqe* ring_next(struct ring* r) {
  const unsigned tail = *r->sq_tail, slot = tail & *r->sq_mask;
  struct io_uring_sqe* const sqe = &r->sqes[slot];
  memset(sqe, 0, sizeof *sqe);
  r->sq_array[slot] = slot;
  __atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
  r->pending++;
  return sqe;
}

static void ring_submit(struct ring* r, unsigned wait_for) {
  for (;;) {
    const long n = syscall(__NR_io_uring_enter, r->fd, r->pending, wait_for,
                           wait_for > 0 ? IORING_ENTER_GETEVENTS : 0, NULL, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) die("io_uring_enter: %s", strerror(errno));
    r->pending -= (unsigned)n;
    if (r->pending == 0) return;
  }
}

static bool ring_reap(struct ring* r, uint64_t* data, int* result) {
  const unsigned head = *r->cq_head;
  if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE)) return false;
  const struct io_uring_cqe* const cqe = &r->cqes[head & *r->cq_mask];
  *data = cqe->user_data;
  *result = cqe->res;
  __atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
  return true;
}

// ---------------------------------------------------------------------------------- large files

static char* memory;  // one object, shared memory as a segment is
static int directory_fd;

static void part_range(long part, size_t* offset, size_t* size) {
  *offset = (size_t)part * (size_t)options.part_bytes;
  const size_t left = (size_t)options.object_bytes - *offset;
  *size = left < (size_t)options.part_bytes ? left : (size_t)options.part_bytes;
}

static long part_count(void) {
  return (options.object_bytes + options.part_bytes - 1) / options.part_bytes;
}

// What the threads of one sample share.
struct crew {
  pthread_barrier_t begin, end;
  atomic_long next;
  int fd;  // -1: the sample is over
  bool writing;
};

static void crew_work(struct crew* crew) {
  for (long part; (part = atomic_fetch_add(&crew->next, 1)) < part_count();) {
    size_t offset, size;
    part_range(part, &offset, &size);
    for (size_t done = 0; done < size;) {
      char* const at = memory + offset + done;
      const off_t where = (off_t)(offset + done);
      const ssize_t n = crew->writing ? pwrite(crew->fd, at, size - done, where)
                                      : pread(crew->fd, at, size - done, where);
      if (n <= 0) die("%s: %s", crew->writing ? "pwrite" : "pread", n < 0 ? strerror(errno) : "0");
      done += (size_t)n;
    }
  }
}

static void* crew_member(void* argument) {
  struct crew* const crew = argument;
  for (;;) {
    pthread_barrier_wait(&crew->begin);
    if (crew->fd < 0) return NULL;
    crew_work(crew);
    pthread_barrier_wait(&crew->end);
  }
}

static void move_by_ring(struct ring* ring, int fd, bool writing, int in_flight) {
  const long parts = part_count();
  long begun = 0, ended = 0;
  while (ended < parts) {
    while (begun < parts && begun - ended < in_flight) {
      size_t offset, size;
      part_range(begun, &offset, &size);
      struct io_uring_sqe* const sqe = ring_next(ring);
      sqe->opcode = writing ? IORING_OP_WRITE : IORING_OP_READ;
      sqe->fd = fd;
      sqe->addr = (uint64_t)(uintptr_t)(memory + offset);
      sqe->len = (unsigned)size;
      sqe->off = offset;
      sqe->user_data = (uint64_t)begun++;
    }
    ring_submit(ring, 1);
    uint64_t part;
    for (int result; ring_reap(ring, &part, &result); ended++) {
      size_t offset, size;
      part_range((long)part, &offset, &size);
      if (result != (int)size) die("io_uring: part of %zu bytes gave %d", size, result);
    }
  }
}

enum engine { THREADS, URING };

struct contender {
  enum engine engine;
  int in_flight;  // parts of one object; small files: threads
  bool direct;
};

enum kind { READ_COLD, READ_CACHED, WRITE, READ_SMALL };

struct test {
  const char* name;
  enum kind kind;
  struct contender contenders[12];
};

static const struct test tests[] = {
    {"read cold",
     READ_COLD,
     {{THREADS, 1, false},
      {THREADS, 2, false},
      {THREADS, 4, false},
      {URING, 1, false},
      {URING, 2, false},
      {URING, 4, false},
      {THREADS, 1, true},
      {THREADS, 2, true},
      {THREADS, 4, true},
      {URING, 1, true},
      {URING, 2, true},
      {URING, 4, true}}},
    {"read cached",
     READ_CACHED,
     {{THREADS, 1, false},
      {THREADS, 2, false},
      {URING, 1, false},
      {URING, 2, false},
      {URING, 4, false}}},
    {"write",
     WRITE,
     {{THREADS, 1, true},
      {THREADS, 2, true},
      {THREADS, 4, true},
      {URING, 1, true},
      {URING, 2, true},
      {URING, 4, true},
      {THREADS, 1, false},
      {THREADS, 2, false},
      {URING, 1, false},
      {URING, 2, false}}},
    {"read 4 KiB cached",
     READ_SMALL,
     {{THREADS, 1, false}, {THREADS, 2, false}, {URING, 1, false}, {URING, 2, false}}},
};

struct sample {
  double per_second;  // MB, or files
  double cpu;         // seconds a GB, or microseconds a file
};

static void object_name(char* name, size_t size, const char* kind, long round, int who, long i) {
  snprintf(name, size, "io_engines.%ld.%s.%ld.%d.%ld", (long)getpid(), kind, round, who, i);
}

static uint64_t stamp(long object, size_t page) {
  return ((uint64_t)object << 32 | page) * UINT64_C(0x9e3779b97f4a7c15);
}

static void fill(long object) {
  for (size_t at = 0; at < (size_t)options.object_bytes; at += 4096) {
    const uint64_t value = stamp(object, at / 4096);
    memcpy(memory + at, &value, sizeof value);
  }
}

static void verify(long object) {
  for (size_t at = 0; at < (size_t)options.object_bytes; at += 4096) {
    const uint64_t value = stamp(object, at / 4096);
    if (memcmp(memory + at, &value, sizeof value) != 0) {
      die("object %ld has other bytes than were written, at %zu", object, at);
    }
  }
}

static void read_whole(int fd) {
  for (size_t done = 0; done < (size_t)options.object_bytes;) {
    const ssize_t n = pread(fd, memory + done, (size_t)options.object_bytes - done, (off_t)done);
    if (n <= 0) die("read: %s", n < 0 ? strerror(errno) : "short");
    done += (size_t)n;
  }
}

static int open_object(const char* name, int flags) {
  const int fd = openat(directory_fd, name, flags | O_CLOEXEC, 0600);
  if (fd < 0) die("open %s: %s", name, strerror(errno));
  return fd;
}

static struct sample move_large(const struct contender* c, enum kind kind, long round, int who) {
  static struct ring ring;
  static bool ring_ready;
  if (c->engine == URING && !ring_ready) {
    const int error = ring_open(&ring);
    if (error != 0) die("io_uring_setup: %s", strerror(-error));
    ring_ready = true;
  }
  const bool writing = kind == WRITE;
  char name[128];
  if (kind == READ_COLD) {
    for (long i = 0; i < options.objects; i++) {
      object_name(name, sizeof name, "source", 0, 0, i);
      const int fd = open_object(name, O_RDONLY);
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      close(fd);
    }
  }
  if (writing) {
    fill(0);
    syncfs(directory_fd);  // what is still to be written must not take this sample's time
  }

  struct crew crew = {.writing = writing, .fd = 0};
  pthread_t members[MAX_IN_FLIGHT];
  const bool threads = c->engine == THREADS && c->in_flight > 1;
  if (threads) {
    pthread_barrier_init(&crew.begin, NULL, (unsigned)c->in_flight);
    pthread_barrier_init(&crew.end, NULL, (unsigned)c->in_flight);
    for (int t = 1; t < c->in_flight; t++) {
      if (pthread_create(&members[t], NULL, crew_member, &crew) != 0) die("no thread");
    }
  }
  const double cpu = cpu_seconds(), start = seconds();
  for (long i = 0; i < options.objects; i++) {
    if (writing) {
      object_name(name, sizeof name, "written", round, who, i);
    } else {
      object_name(name, sizeof name, "source", 0, 0, i);
    }
    const int direct = c->direct ? O_DIRECT : 0;
    const int fd = open_object(name, (writing ? O_WRONLY | O_CREAT | O_EXCL : O_RDONLY) | direct);
    if (writing && fallocate(fd, 0, 0, options.object_bytes) != 0 && errno != EOPNOTSUPP) {
      die("fallocate: %s", strerror(errno));
    }
    if (c->engine == URING) {
      move_by_ring(&ring, fd, writing, c->in_flight);
    } else {
      crew.fd = fd;
      atomic_store(&crew.next, 0);
      if (threads) pthread_barrier_wait(&crew.begin);
      crew_work(&crew);
      if (threads) pthread_barrier_wait(&crew.end);
    }
    close(fd);
  }
  const double took = seconds() - start, used = cpu_seconds() - cpu;
  if (threads) {
    crew.fd = -1;
    pthread_barrier_wait(&crew.begin);
    for (int t = 1; t < c->in_flight; t++) pthread_join(members[t], NULL);
    pthread_barrier_destroy(&crew.begin);
    pthread_barrier_destroy(&crew.end);
  }
  for (long i = 0; writing && i < options.objects; i++) {
    object_name(name, sizeof name, "written", round, who, i);
    const int fd = open_object(name, O_RDONLY);
    if (i == 0) {
      memset(memory, 0, (size_t)options.object_bytes);
      read_whole(fd);
    }
    // The next sample finds memory that is free and that this machine has touched before: a
    // virtual machine's first touch is several times slower.
    if (fsync(fd) != 0) die("fsync: %s", strerror(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
  verify(writing ? 0 : options.objects - 1);
  const double bytes = (double)options.objects * (double)options.object_bytes;
  return (struct sample){bytes / took / 1e6, used / bytes * 1e9};
}

// ---------------------------------------------------------------------------------- small files

struct small_work {
  long begin, end;
  char* space;  // CHAINS * SMALL_BYTES
  struct ring ring;
};

static void check_small(const char* space, long i) {
  long found;
  memcpy(&found, space, sizeof found);
  if (found != i) die("file %ld has the bytes of %ld", i, found);
}

static void* read_small_plainly(void* argument) {
  const struct small_work* const w = argument;
  for (long i = w->begin; i < w->end; i++) {
    char name[128];
    object_name(name, sizeof name, "small", 0, 0, i);
    const int fd = open_object(name, O_RDONLY);
    if (pread(fd, w->space, SMALL_BYTES, 0) != SMALL_BYTES) die("pread: %s", strerror(errno));
    close(fd);
    check_small(w->space, i);
  }
  return NULL;
}

// Three linked requests a file: open into a slot of the ring's own file table, read, close.
static void* read_small_by_ring(void* argument) {
  struct small_work* const w = argument;
  static _Thread_local char names[CHAINS][128];
  long of_slot[CHAINS];
  int open_slots[CHAINS], free_slots = CHAINS, left_of[CHAINS];
  for (int s = 0; s < CHAINS; s++) open_slots[s] = s;
  long begun = w->begin, ended = w->begin;
  while (ended < w->end) {
    // All free slots are filled before the kernel is entered.
    while (begun < w->end && free_slots > 0) {
      const int slot = open_slots[--free_slots];
      of_slot[slot] = begun;
      left_of[slot] = 3;
      object_name(names[slot], sizeof names[slot], "small", 0, 0, begun++);
      struct io_uring_sqe* sqe = ring_next(&w->ring);
      sqe->opcode = IORING_OP_OPENAT;
      sqe->fd = directory_fd;
      sqe->addr = (uint64_t)(uintptr_t)names[slot];
      sqe->open_flags = O_RDONLY;
      sqe->file_index = (unsigned)slot + 1;
      sqe->flags = IOSQE_IO_LINK;
      sqe->user_data = (uint64_t)slot << 2;
      sqe = ring_next(&w->ring);
      sqe->opcode = IORING_OP_READ;
      sqe->fd = slot;
      sqe->flags = IOSQE_FIXED_FILE | IOSQE_IO_LINK;
      sqe->addr = (uint64_t)(uintptr_t)(w->space + (size_t)slot * SMALL_BYTES);
      sqe->len = SMALL_BYTES;
      sqe->user_data = (uint64_t)slot << 2 | 1;
      sqe = ring_next(&w->ring);
      sqe->opcode = IORING_OP_CLOSE;
      sqe->file_index = (unsigned)slot + 1;
      sqe->user_data = (uint64_t)slot << 2 | 2;
    }
    ring_submit(&w->ring, 1);
    uint64_t data;
    for (int result; ring_reap(&w->ring, &data, &result);) {
      const int slot = (int)(data >> 2), step = (int)(data & 3);
      if (step == 1 ? result != SMALL_BYTES : result < 0) {
        die("io_uring: step %d of a small file gave %d", step, result);
      }
      if (--left_of[slot] > 0) continue;
      check_small(w->space + (size_t)slot * SMALL_BYTES, of_slot[slot]);
      open_slots[free_slots++] = slot;
      ended++;
    }
  }
  return NULL;
}

static struct sample read_small(const struct contender* c) {
  struct small_work work[MAX_IN_FLIGHT];
  pthread_t threads[MAX_IN_FLIGHT];
  for (int t = 0; t < c->in_flight; t++) {
    work[t].begin = options.files * t / c->in_flight;
    work[t].end = options.files * (t + 1) / c->in_flight;
    work[t].space = memory + (size_t)t * CHAINS * SMALL_BYTES;
    if (c->engine == THREADS) continue;
    const int error = ring_open(&work[t].ring);
    if (error != 0) die("io_uring_setup: %s", strerror(-error));
    int table[CHAINS];
    for (int s = 0; s < CHAINS; s++) table[s] = -1;
    if (syscall(__NR_io_uring_register, work[t].ring.fd, IORING_REGISTER_FILES, table, CHAINS)) {
      die("io_uring_register: %s", strerror(errno));
    }
  }
  void* (*const run)(void*) = c->engine == THREADS ? read_small_plainly : read_small_by_ring;
  const double cpu = cpu_seconds(), start = seconds();
  for (int t = 1; t < c->in_flight; t++) {
    if (pthread_create(&threads[t], NULL, run, &work[t]) != 0) die("no thread");
  }
  run(&work[0]);
  for (int t = 1; t < c->in_flight; t++) pthread_join(threads[t], NULL);
  const double took = seconds() - start, used = cpu_seconds() - cpu;
  if (c->engine == URING) {
    for (int t = 0; t < c->in_flight; t++) close(work[t].ring.fd);
  }
  return (struct sample){(double)options.files / took, used / (double)options.files * 1e6};
}

// -------------------------------------------------------------------------------------- the run

static void make_sources(void) {
  char name[128];
  for (long i = 0; i < options.objects; i++) {
    object_name(name, sizeof name, "source", 0, 0, i);
    const int fd = open_object(name, O_WRONLY | O_CREAT | O_EXCL);
    fill(i);
    for (size_t done = 0; done < (size_t)options.object_bytes;) {
      const ssize_t n = write(fd, memory + done, (size_t)options.object_bytes - done);
      if (n <= 0) die("write: %s", n < 0 ? strerror(errno) : "0");
      done += (size_t)n;
    }
    if (fsync(fd) != 0) die("fsync: %s", strerror(errno));
    close(fd);
  }
  char block[SMALL_BYTES] = {0};
  for (long i = 0; i < options.files; i++) {
    object_name(name, sizeof name, "small", 0, 0, i);
    const int fd = open_object(name, O_WRONLY | O_CREAT | O_EXCL);
    memcpy(block, &i, sizeof i);
    if (write(fd, block, sizeof block) != SMALL_BYTES) die("write: %s", strerror(errno));
    close(fd);
  }
}

static void remove_files(void) {
  char name[128];
  for (long i = 0; i < options.objects; i++) {
    object_name(name, sizeof name, "source", 0, 0, i);
    unlinkat(directory_fd, name, 0);
    for (long round = 0; round < options.rounds; round++) {
      for (int who = 0; who < 12; who++) {
        object_name(name, sizeof name, "written", round, who, i);
        unlinkat(directory_fd, name, 0);
      }
    }
  }
  for (long i = 0; i < options.files; i++) {
    object_name(name, sizeof name, "small", 0, 0, i);
    unlinkat(directory_fd, name, 0);
  }
}

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return x < y ? -1 : x > y;
}

static void report(FILE* json, const struct test* test, const struct contender* c,
                   const struct sample* samples, double* first_median, bool first_in_json) {
  double speed[MAX_ROUNDS], cpu[MAX_ROUNDS];
  const size_t n = (size_t)options.rounds;
  for (size_t i = 0; i < n; i++) {
    speed[i] = samples[i].per_second;
    cpu[i] = samples[i].cpu;
  }
  if (json != NULL) {
    fprintf(json, "%s\n    {\"test\":\"%s\",\"engine\":\"%s\",\"inFlight\":%d,\"direct\":%s,",
            first_in_json ? "" : ",", test->name, c->engine == THREADS ? "threads" : "io_uring",
            c->in_flight, c->direct ? "true" : "false");
    const bool small = test->kind == READ_SMALL;
    fprintf(json, "\"unit\":\"%s\",\"cpuUnit\":\"%s\",\"samples\":[", small ? "files/s" : "MB/s",
            small ? "us/file" : "s/GB");
    for (size_t i = 0; i < n; i++) {
      fprintf(json, "%s[%.1f,%.4f]", i == 0 ? "" : ",", speed[i], cpu[i]);
    }
    fprintf(json, "]}");
  }
  qsort(speed, n, sizeof *speed, compare);
  qsort(cpu, n, sizeof *cpu, compare);
  if (*first_median == 0) *first_median = speed[n / 2];
  printf("%-18s %-8s %9d %-7s %9.0f %9.0f %9.0f %8.2f %9.3f\n", test->name,
         c->engine == THREADS ? "threads" : "io_uring", c->in_flight,
         c->direct ? "direct" : "cached", speed[n / 2], speed[0], speed[n - 1],
         speed[n / 2] / *first_median, cpu[n / 2]);
}

static void run_test(const struct test* test, FILE* json, bool* first_in_json) {
  enum { MOST = sizeof test->contenders / sizeof *test->contenders };
  static struct sample samples[MOST][MAX_ROUNDS];
  const struct contender* used[MOST];
  int count = 0;
  for (int i = 0; i < MOST && test->contenders[i].in_flight > 0; i++) {
    if (test->contenders[i].engine == URING && options.threads_only) continue;
    used[count++] = &test->contenders[i];
  }
  for (long round = -1; round < options.rounds; round++) {  // the first is for warming up
    for (int turn = 0; turn < count; turn++) {
      const int who = (int)((turn + round + count) % count);
      if (round < 0 && test->kind == WRITE) continue;  // it would only need room
      const struct sample s = test->kind == READ_SMALL
                                  ? read_small(used[who])
                                  : move_large(used[who], test->kind, round, who);
      if (round >= 0) samples[who][round] = s;
    }
  }
  double first_median = 0;
  for (int who = 0; who < count; who++) {
    report(json, test, used[who], samples[who], &first_median, *first_in_json);
    *first_in_json = false;
  }
}

static long number(const char* option, const char* text, long smallest, long largest) {
  char* end = NULL;
  errno = 0;
  const long value = text == NULL ? 0 : strtol(text, &end, 10);
  if (text == NULL || *text == '\0' || *end != '\0' || errno != 0 || value < smallest ||
      value > largest) {
    fprintf(stderr, "io_engines: %s: expected a number from %ld to %ld\n", option, smallest,
            largest);
    exit(2);
  }
  return value;
}

static void parse(int argc, char** argv) {
  for (int i = 1; i < argc; i++) {
    const char* const option = argv[i];
    if (option[0] != '-') {
      options.directory = option;
    } else if (strcmp(option, "--threads-only") == 0) {
      options.threads_only = true;
    } else if (strcmp(option, "--json") == 0 && i + 1 < argc) {
      options.json = argv[++i];
    } else if (strcmp(option, "--rounds") == 0) {
      options.rounds = number(option, argv[++i], 1, MAX_ROUNDS);
    } else if (strcmp(option, "--objects") == 0) {
      options.objects = number(option, argv[++i], 1, 1000);
    } else if (strcmp(option, "--object-bytes") == 0) {
      options.object_bytes = number(option, argv[++i], 1 << 20, 1L << 31);
    } else if (strcmp(option, "--part-bytes") == 0) {
      options.part_bytes = number(option, argv[++i], 4096, 1L << 30);
    } else if (strcmp(option, "--files") == 0) {
      options.files = number(option, argv[++i], 1, 1000000);
    } else {
      fprintf(stderr, "io_engines: %s is no option\n", option);
      exit(2);
    }
  }
  if (options.directory == NULL || options.object_bytes % 4096 != 0 ||
      options.part_bytes % 4096 != 0) {
    fprintf(stderr,
            "usage: io_engines DIRECTORY [--rounds N] [--objects N] [--object-bytes N]\n"
            "       [--part-bytes N] [--files N] [--json FILE] [--threads-only]\n"
            "Bytes are multiples of 4096.\n");
    exit(2);
  }
}

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!options.threads_only) {
    struct ring ring;
    const int error = ring_open(&ring);
    if (error != 0) {
      fprintf(stderr,
              "io_engines: io_uring cannot be used here: %s. A container's system call filter or "
              "kernel.io_uring_disabled may forbid it. --threads-only measures the rest.\n",
              strerror(-error));
      return 77;
    }
    close(ring.fd);
  }
  directory_fd = open(options.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory_fd < 0) die("open %s: %s", options.directory, strerror(errno));
  memory = mmap(NULL, (size_t)options.object_bytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) die("mmap: %s", strerror(errno));
  FILE* const json = options.json == NULL ? NULL : fopen(options.json, "w");
  if (options.json != NULL && json == NULL) die("open %s: %s", options.json, strerror(errno));

  struct utsname system;
  struct statfs fs;
  uname(&system);
  fstatfs(directory_fd, &fs);
  printf(
      "kernel %s, %ld processors, file system 0x%lx, %ld objects of %ld bytes in parts of %ld, "
      "%ld files of %d bytes, %ld rounds\n",
      system.release, sysconf(_SC_NPROCESSORS_ONLN), (unsigned long)fs.f_type, options.objects,
      options.object_bytes, options.part_bytes, options.files, SMALL_BYTES, options.rounds);
  if (json != NULL) {
    fprintf(json,
            "{\"kernel\":\"%s\",\"processors\":%ld,\"fileSystem\":\"0x%lx\",\"objects\":%ld,"
            "\"objectBytes\":%ld,\"partBytes\":%ld,\"files\":%ld,\"rounds\":%ld,\"results\":[",
            system.release, sysconf(_SC_NPROCESSORS_ONLN), (unsigned long)fs.f_type,
            options.objects, options.object_bytes, options.part_bytes, options.files,
            options.rounds);
  }
  printf("%-18s %-8s %9s %-7s %9s %9s %9s %8s %9s\n", "MB/s (4 KiB: files)", "engine", "in flight",
         "mode", "median", "lowest", "highest", "ratio", "CPU s/GB");
  make_sources();
  bool first_in_json = true;
  for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
    run_test(&tests[i], json, &first_in_json);
    fflush(stdout);
  }
  remove_files();
  printf("(CPU of small files in microseconds a file; ratio to the first line of each case)\n");
  if (json != NULL) {
    fprintf(json, "\n]}\n");
    if (fclose(json) != 0) die("write %s: %s", options.json, strerror(errno));
  }
  return 0;
}
