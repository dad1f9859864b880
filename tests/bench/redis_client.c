// SPDX-License-Identifier: Apache-2.0
//
// redis_client put|get PORT OBJECT_BYTES COUNT CONNECTIONS BATCH: the least that a client of a
// Redis server on loopback can do: it is written for this, sends from and receives into ordinary
// memory, computes no checksum, and knows in advance what each reply looks like. A thread for each
// connection; each sends BATCH commands before it reads the replies. It is the yardstick, not a
// part of the library.
//
// The object of each number is the same in every run, and what was got is compared after the clocks
// have stopped. Prints wall time and CPU time of the threads as one JSON object.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 16, MAX_BATCH = 256, HEAD_BYTES = 128, PARTS_AT_ONCE = 96 };

static bool putting;
static uint16_t port;
static size_t object_bytes, object_count, batch;
static char* memory;
static atomic_size_t next_object;
static pthread_barrier_t begin;

static void die(const char* what) {
  fprintf(stderr, "redis_client: %s: %s\n", what, errno == 0 ? "another reply" : strerror(errno));
  exit(1);
}

static long long clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static uint64_t word_of(size_t object, size_t word) {
  return (object * object_bytes + word) * 0x9e3779b97f4a7c15;
}

static int connect_to_server(void) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, (struct sockaddr*)&address, sizeof address) != 0) die("connect");
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

// Moves all parts, and changes them meanwhile.
static void move(int fd, struct iovec* parts, size_t count, bool sending) {
  while (count > 0) {
    struct msghdr message = {.msg_iov = parts};
    message.msg_iovlen = count < PARTS_AT_ONCE ? count : PARTS_AT_ONCE;
    ssize_t n = sending ? sendmsg(fd, &message, MSG_NOSIGNAL) : recvmsg(fd, &message, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) die(sending ? "send" : "receive");
    for (; count > 0 && (size_t)n >= parts->iov_len; parts++, count--) n -= (ssize_t)parts->iov_len;
    if (count == 0) return;
    parts->iov_base = (char*)parts->iov_base + n;
    parts->iov_len -= (size_t)n;
  }
}

static char heads[MAX_CONNECTIONS][MAX_BATCH][HEAD_BYTES];
static char replies[MAX_CONNECTIONS][MAX_BATCH][HEAD_BYTES];

static size_t key_of(size_t object, char* key) {
  return (size_t)sprintf(key, "plain:%zu@1@0@%016zx@bfloat16", object_bytes, object);
}

static void put_batch(int lane, int fd, size_t first, size_t count) {
  struct iovec parts[3 * MAX_BATCH];
  for (size_t i = 0; i < count; i++) {
    char key[HEAD_BYTES];
    const size_t length = key_of(first + i, key);
    char* head = heads[lane][i];
    const int n = snprintf(head, HEAD_BYTES, "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", length,
                           key, object_bytes);
    parts[3 * i] = (struct iovec){head, (size_t)n};
    parts[3 * i + 1] = (struct iovec){memory + (first + i) * object_bytes, object_bytes};
    parts[3 * i + 2] = (struct iovec){"\r\n", 2};
  }
  move(fd, parts, 3 * count, true);
  static const char kOk[] = "+OK\r\n";
  char all[MAX_BATCH * (sizeof kOk - 1)];
  struct iovec into = {all, count * (sizeof kOk - 1)};
  move(fd, &into, 1, false);
  for (size_t i = 0; i < count; i++) {
    errno = 0;
    if (memcmp(all + i * (sizeof kOk - 1), kOk, sizeof kOk - 1) != 0) die("SET");
  }
}

static void get_batch(int lane, int fd, size_t first, size_t count) {
  struct iovec parts[3 * MAX_BATCH];
  for (size_t i = 0; i < count; i++) {
    char key[HEAD_BYTES];
    const size_t length = key_of(first + i, key);
    char* head = heads[lane][i];
    const int n = snprintf(head, HEAD_BYTES, "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", length, key);
    parts[i] = (struct iovec){head, (size_t)n};
  }
  move(fd, parts, count, true);
  char expected[HEAD_BYTES];
  const size_t head_bytes = (size_t)snprintf(expected, sizeof expected, "$%zu\r\n", object_bytes);
  for (size_t i = 0; i < count; i++) {
    char* reply = replies[lane][i];
    parts[3 * i] = (struct iovec){reply, head_bytes};
    parts[3 * i + 1] = (struct iovec){memory + (first + i) * object_bytes, object_bytes};
    parts[3 * i + 2] = (struct iovec){reply + head_bytes, 2};
  }
  move(fd, parts, 3 * count, false);
  for (size_t i = 0; i < count; i++) {
    errno = 0;
    if (memcmp(replies[lane][i], expected, head_bytes) != 0) die("GET");
  }
}

struct lane {
  pthread_t thread;
  int number;
  long long cpu_ns;
};

static void* run_lane(void* of) {
  struct lane* lane = of;
  const int fd = connect_to_server();
  pthread_barrier_wait(&begin);
  const long long cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  for (;;) {
    const size_t first = atomic_fetch_add(&next_object, batch);
    if (first >= object_count) break;
    const size_t left = object_count - first;
    (putting ? put_batch : get_batch)(lane->number, fd, first, left < batch ? left : batch);
  }
  lane->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
  close(fd);
  return NULL;
}

int main(int argc, char** argv) {
  if (argc != 7 || (strcmp(argv[1], "put") != 0 && strcmp(argv[1], "get") != 0)) {
    fprintf(stderr, "usage: redis_client put|get PORT OBJECT_BYTES COUNT CONNECTIONS BATCH\n");
    return 2;
  }
  putting = strcmp(argv[1], "put") == 0;
  port = (uint16_t)atoi(argv[2]);
  object_bytes = strtoull(argv[3], NULL, 10);
  object_count = strtoull(argv[4], NULL, 10);
  const int connections = atoi(argv[5]);
  batch = strtoull(argv[6], NULL, 10);
  if (connections < 1 || connections > MAX_CONNECTIONS || batch < 1 || batch > MAX_BATCH ||
      object_bytes % sizeof(uint64_t) != 0) {
    fprintf(stderr, "CONNECTIONS is 1 to %d, BATCH 1 to %d, OBJECT_BYTES a multiple of 8\n",
            MAX_CONNECTIONS, MAX_BATCH);
    return 2;
  }
  const size_t size = object_count * object_bytes;
  memory =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  const size_t words = object_bytes / sizeof(uint64_t);
  for (size_t i = 0; putting && i < object_count; i++) {
    uint64_t* object = (uint64_t*)(memory + i * object_bytes);
    for (size_t word = 0; word < words; word++) object[word] = word_of(i, word);
  }

  pthread_barrier_init(&begin, NULL, (unsigned)connections + 1);
  struct lane lanes[MAX_CONNECTIONS];
  for (int i = 0; i < connections; i++) {
    lanes[i] = (struct lane){.number = i};
    errno = pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]);
    if (errno != 0) die("pthread_create");
  }
  pthread_barrier_wait(&begin);
  const long long wall = clock_ns(CLOCK_MONOTONIC);
  long long cpu_ns = 0;
  for (int i = 0; i < connections; i++) {
    pthread_join(lanes[i].thread, NULL);
    cpu_ns += lanes[i].cpu_ns;
  }
  const long long wall_ns = clock_ns(CLOCK_MONOTONIC) - wall;
  for (size_t i = 0; !putting && i < object_count; i++) {
    const uint64_t* object = (const uint64_t*)(memory + i * object_bytes);
    for (size_t word = 0; word < words; word++) {
      errno = 0;
      if (object[word] != word_of(i, word)) die("got other bytes");
    }
  }
  printf("{\"wallNs\":%lld,\"cpuNs\":%lld}\n", wall_ns, cpu_ns);
  return 0;
}
