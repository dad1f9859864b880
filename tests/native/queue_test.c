/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_test.c - waiting for words of a segment, and for the end of its owner,
 * across processes; also on kernels that lack what is used best.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "check.h"
#include "sandbox.h"

#define FOREVER UINT64_MAX
#define MINUTE_MS 60000u
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

static lmshm_queue* open_queue(void) {
  intptr_t queue = lmshm_queue_open(0);
  CHECK(queue > 0, "%ld", (long)queue);
  return (lmshm_queue*)queue;
}

static lmshm_segment* open_segment(uint32_t kind, const char* name, size_t size,
                                   _Atomic uint32_t** words) {
  lmshm_options options = check_options(kind, name, size);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  *words = (_Atomic uint32_t*)(uintptr_t)info.address;
  return (lmshm_segment*)segment;
}

/* The next event. Fails after a minute. */
static lmshm_event next(lmshm_queue* queue) {
  lmshm_event event = {.result = -1000};
  CHECK_EQUAL(lmshm_queue_ready(queue, MINUTE_MS), 1);
  CHECK_EQUAL(lmshm_queue_reap(queue, &event, 1), 1);
  CHECK_EQUAL(event.reserved, 0);
  return event;
}

/* Notifies until somebody was there to be woken: `wanted` in all. */
static void wake(lmshm_segment* segment, uint64_t offset, uint32_t count, int wanted) {
  for (int woken = 0; woken < wanted;) {
    int rc = lmshm_notify(segment, offset, count);
    CHECK(rc >= 0, "%d", rc);
    if (rc < 0) return;
    woken += rc;
    if (rc == 0) usleep(1000);
  }
}

static void a_word_that_is_another_is_not_waited_for(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  atomic_store(&words[3], 7);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 12, 8, FOREVER, 1), -EAGAIN);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 12, 7, 0, 1), -ETIMEDOUT);
  CHECK_EQUAL(lmshm_queue_cancel(queue, 1), -ENOENT);
  CHECK_EQUAL(lmshm_queue_ready(queue, 0), 0);
  lmshm_event event;
  CHECK_EQUAL(lmshm_queue_reap(queue, &event, 1), 0);
  CHECK_EQUAL(lmshm_notify(segment, 12, 1), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void what_is_no_word_is_refused(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, 4099, &words);
  static const uint64_t offsets[] = {1, 2, 3, 4097, 4100, 8192, UINT64_MAX, UINT64_MAX - 3};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
    CHECK_EQUAL(lmshm_queue_wait(queue, segment, offsets[i], 0, FOREVER, 1), -EINVAL);
    CHECK_EQUAL(lmshm_notify(segment, offsets[i], 1), -EINVAL);
  }
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 4096, 0, FOREVER, 1), -EINVAL); /* half a word */
  CHECK_EQUAL(lmshm_notify(segment, 4092, 1), 0);
  CHECK_EQUAL(lmshm_queue_wait(NULL, segment, 0, 0, FOREVER, 1), -EINVAL);
  CHECK_EQUAL(lmshm_queue_wait(queue, NULL, 0, 0, FOREVER, 1), -EINVAL);
  CHECK_EQUAL(lmshm_notify(NULL, 0, 1), -EINVAL);
  CHECK_EQUAL(lmshm_queue_close(NULL), -EINVAL);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void each_wait_is_woken_and_counted_once(void) {
  enum { WAITS = 50 };
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  for (int i = 0; i < WAITS; i++)
    CHECK_EQUAL(lmshm_queue_wait(queue, segment, 4096, 0, FOREVER, 100 + (uint64_t)i), 0);
  wake(segment, 4096, 1, 1);
  lmshm_event first = next(queue);
  CHECK_EQUAL(first.result, 0);
  CHECK_EQUAL(lmshm_queue_ready(queue, 50), 0); /* one, and no other */
  wake(segment, 4096, UINT32_MAX, WAITS - 1);
  uint64_t sum = first.id;
  for (int i = 1; i < WAITS; i++) {
    lmshm_event event = next(queue);
    CHECK_EQUAL(event.result, 0);
    sum += event.id;
  }
  CHECK_EQUAL(sum, 100 * WAITS + WAITS * (WAITS - 1) / 2);
  CHECK_EQUAL(lmshm_notify(segment, 4096, UINT32_MAX), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void a_wait_ends_at_its_limit_or_when_it_is_cancelled(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 0, 0, 20, 1), 0);
  lmshm_event event = next(queue);
  CHECK_EQUAL(event.id, 1);
  CHECK_EQUAL(event.result, -ETIMEDOUT);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 0, 0, FOREVER, 2), 0);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 0, 0, FOREVER, 3), 0);
  CHECK_EQUAL(lmshm_queue_cancel(queue, 2), 0);
  event = next(queue);
  CHECK_EQUAL(event.id, 2);
  CHECK_EQUAL(event.result, -ECANCELED);
  CHECK_EQUAL(lmshm_queue_cancel(queue, 2), -ENOENT);
  wake(segment, 0, UINT32_MAX, 1);
  event = next(queue);
  CHECK_EQUAL(event.id, 3);
  CHECK_EQUAL(event.result, 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void a_segment_may_be_closed_and_a_queue_too_while_somebody_waits(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  for (int round = 0; round < 20; round++) {
    lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
    for (uint64_t id = 0; id < 4; id++)
      CHECK_EQUAL(lmshm_queue_wait(queue, segment, 64, 0, FOREVER, id), 0);
    for (uint64_t id = 0; id < 4; id++) CHECK_EQUAL(lmshm_queue_cancel(queue, id), 0);
    CHECK_EQUAL(lmshm_close(segment, 0), 0);
    for (int i = 0; i < 4; i++) CHECK_EQUAL(next(queue).result, -ECANCELED);
  }
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  for (uint64_t id = 0; id < 4; id++)
    CHECK_EQUAL(lmshm_queue_wait(queue, segment, 64, 0, FOREVER, id), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
  CHECK_EQUAL(lmshm_notify(segment, 64, UINT32_MAX), 0); /* nobody is left */
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void the_descriptor_is_readable_when_there_is_an_event(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  struct pollfd socket = {.fd = lmshm_queue_fd(queue), .events = POLLIN};
  CHECK(socket.fd >= 0, "%d", socket.fd);
  char byte;
  for (uint64_t id = 0; id < 3; id++) {
    CHECK_EQUAL(lmshm_queue_wait(queue, segment, 0, 0, FOREVER, id), 0);
    CHECK_EQUAL(poll(&socket, 1, 0), 0);
    wake(segment, 0, 1, 1);
    CHECK_EQUAL(poll(&socket, 1, MINUTE_MS), 1);
    CHECK_EQUAL(read(socket.fd, &byte, 1), 1);
    CHECK_EQUAL(next(queue).id, id);
  }
  CHECK_EQUAL(close(socket.fd), 0);
  CHECK_EQUAL(lmshm_queue_wait(queue, segment, 0, 0, 1, 9), 0); /* nobody listens any more */
  CHECK_EQUAL(next(queue).result, -ETIMEDOUT);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void there_is_a_limit_to_waits(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  lmshm_segment* segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  uint64_t id = 0;
  int rc = 0;
  while (rc == 0 && id <= LMSHM_QUEUE_WAITS_MAX)
    rc = lmshm_queue_wait(queue, segment, 0, 0, FOREVER, ++id);
  if (rc == -ENOMEM)
    check_skip("this user cannot have so many threads");
  else
    CHECK(rc == -EBUSY && id == LMSHM_QUEUE_WAITS_MAX + 1, "%d at %" PRIu64, rc, id);
  atomic_store(&words[0], 1);
  wake(segment, 0, UINT32_MAX, 1);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

/* ------------------------------------------------------------ several processes */

/* Two processes count to `ROUNDS` in turns, each waiting for the other. */
enum { ROUNDS = 200 };

static const char* shared_name;

static void take_turns(lmshm_segment* segment, _Atomic uint32_t* words, uint32_t mine) {
  lmshm_queue* queue = open_queue();
  for (uint32_t turn = atomic_load(&words[5]); turn < ROUNDS; turn = atomic_load(&words[5])) {
    if (turn % 2 == mine) {
      atomic_store(&words[5], turn + 1);
      lmshm_notify(segment, 20, UINT32_MAX);
      continue;
    }
    int rc = lmshm_queue_wait(queue, segment, 20, turn, MINUTE_MS, turn);
    if (rc == 0) rc = next(queue).result;
    CHECK(rc == 0 || rc == -EAGAIN, "turn %u: %d", turn, rc);
    if (check_failures > 0) break;
  }
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void attach_and_take_turns(void) {
  _Atomic uint32_t* words;
  lmshm_segment* segment = open_segment(LMSHM_ATTACH, shared_name, 0, &words);
  take_turns(segment, words, 1);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void two_processes_take_turns(void) {
  _Atomic uint32_t* words;
  shared_name = check_name("turns");
  lmshm_segment* segment = open_segment(LMSHM_CREATE, shared_name, MIB, &words);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    check_failures = 0;
    attach_and_take_turns();
    fflush(stdout);
    _exit(check_failures);
  }
  take_turns(segment, words, 0);
  int status = -1;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
  CHECK_EQUAL(atomic_load(&words[5]), ROUNDS);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static lmshm_queue* parents_queue;

static void use_the_parents_queue(void) {
  lmshm_event event;
  CHECK_EQUAL(lmshm_queue_reap(parents_queue, &event, 1), -EINVAL);
  CHECK_EQUAL(lmshm_queue_ready(parents_queue, 0), -EINVAL);
  CHECK_EQUAL(lmshm_queue_cancel(parents_queue, 1), -EINVAL);
  CHECK_EQUAL(lmshm_queue_fd(parents_queue), -EINVAL);
  CHECK_EQUAL(lmshm_queue_close(parents_queue), -EINVAL);
}

static void a_forked_child_has_no_queue(void) {
  parents_queue = open_queue();
  CHECK_EQUAL(check_in_child(use_the_parents_queue), 0);
  CHECK_EQUAL(lmshm_queue_close(parents_queue), 0);
}

/* -------------------------------------------------------------------- the owner */

/* A process that owns a segment until it is told by its pipe to give it back. */
struct owner {
  pid_t pid;
  int tell;
};

static struct owner start_owner(const char* name) {
  int said[2], told[2];
  struct owner owner = {-1, -1};
  if (pipe2(said, O_CLOEXEC) != 0 || pipe2(told, O_CLOEXEC) != 0) return owner;
  fflush(stdout);
  owner.pid = fork();
  if (owner.pid == 0) {
    intptr_t address = alloc_shm_pinned_ptr(MIB, name);
    char byte = 0;
    alarm(60);
    if (write(said[1], &byte, 1) != 1 || read(told[0], &byte, 1) != 1) _exit(1);
    if (free_shm_pinned_ptr((void*)address, MIB, name) != 0) _exit(2);
    pause(); /* it lives on */
    _exit(3);
  }
  close(said[1]);
  close(told[0]);
  char byte;
  CHECK_EQUAL(read(said[0], &byte, 1), 1);
  close(said[0]);
  owner.tell = told[1];
  return owner;
}

static void end_owner(struct owner owner) {
  kill(owner.pid, SIGKILL);
  waitpid(owner.pid, NULL, 0);
  close(owner.tell);
}

struct ended_thread {
  lmshm_segment *segment, *attached;
  lmshm_queue* queue;
};

static void* wait_and_end(void* argument) {
  struct ended_thread* test = argument;
  intptr_t closed = lmshm_queue_open(LMSHM_QUEUE_OF_THREAD);
  intptr_t queue = lmshm_queue_open(LMSHM_QUEUE_OF_THREAD);
  CHECK(closed > 0 && queue > 0, "%ld %ld", (long)closed, (long)queue);
  test->queue = (lmshm_queue*)queue;
  CHECK_EQUAL(lmshm_queue_close((lmshm_queue*)closed), 0);
  CHECK_EQUAL(lmshm_queue_wait(test->queue, test->segment, 0, 0, FOREVER, 1), 0);
  wake(test->segment, 0, 1, 1); /* this one's event is never reaped */
  for (uint64_t id = 2; id < 6; id++)
    CHECK_EQUAL(lmshm_queue_wait(test->queue, test->segment, 0, 0, FOREVER, id), 0);
  CHECK_EQUAL(lmshm_queue_owner(test->queue, test->attached, FOREVER, 6), 0);
  CHECK_EQUAL(lmshm_queue_wait(test->queue, test->segment, 4, 0, FOREVER, 7), 0);
  wake(test->segment, 4, 1, 1); /* so the others wait as well, or are about to */
  return NULL;
}

static void a_queue_of_a_thread_ends_with_it(void) {
  _Atomic uint32_t* words;
  static struct ended_thread test; /* a queue that is shut keeps its own memory: see lmshm.h */
  const char* name = check_name("thread");
  struct owner owner = start_owner(name);
  test.attached = open_segment(LMSHM_ATTACH, name, 0, &words);
  test.segment = open_segment(LMSHM_ANONYMOUS, NULL, MIB, &words);
  const int before = check_resources().descriptors;
  const int threads = check_count_entries("/proc/self/task", "");
  pthread_t thread;
  CHECK_EQUAL(pthread_create(&thread, NULL, wait_and_end, &test), 0);
  pthread_join(thread, NULL);
  CHECK_EQUAL(lmshm_queue_ready(test.queue, MINUTE_MS), -ECANCELED);
  CHECK_EQUAL(lmshm_queue_wait(test.queue, test.segment, 0, 0, FOREVER, 8), -ECANCELED);
  CHECK_EQUAL(lmshm_queue_close(test.queue), -EINVAL);
  /* The last that it lets go are those of the owner's wait. */
  for (int ms = 0; check_resources().descriptors != before && ms < 60000; ms++) usleep(1000);
  CHECK_EQUAL(check_resources().descriptors, before);
  for (int ms = 0; check_count_entries("/proc/self/task", "") > threads && ms < 60000; ms++)
    usleep(1000);
  CHECK_EQUAL(lmshm_notify(test.segment, 0, 100), 0);
  end_owner(owner);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
  CHECK_EQUAL(lmshm_close(test.attached, 0), 0);
  CHECK_EQUAL(lmshm_close(test.segment, 0), 0);
}

static void an_owner_that_is_killed_has_died(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  const char* name = check_name("killed");
  struct owner owner = start_owner(name);
  lmshm_segment* segment = open_segment(LMSHM_ATTACH, name, 0, &words);
  atomic_store(&words[0], 77);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 5), 0);
  CHECK_EQUAL(lmshm_queue_ready(queue, 100), 0);
  kill(owner.pid, SIGSTOP); /* who is stopped lives */
  CHECK_EQUAL(lmshm_queue_ready(queue, 100), 0);
  end_owner(owner);
  lmshm_event event = next(queue);
  CHECK_EQUAL(event.id, 5);
  CHECK_EQUAL(event.result, LMSHM_OWNER_DIED);
  CHECK_EQUAL(atomic_load(&words[0]), 77); /* the memory stays */
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 6), 0);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_DIED);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 7), 0);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_DIED); /* also without the name */
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void an_owner_that_gives_back_has_released(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  const char* name = check_name("released");
  struct owner owner = start_owner(name);
  lmshm_segment* segment = open_segment(LMSHM_ATTACH, name, 0, &words);
  /* Others who come and go are nobody's end. */
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 1), 0);
  _Atomic uint32_t* others;
  lmshm_segment* other = open_segment(LMSHM_ATTACH, name, 0, &others);
  CHECK_EQUAL(lmshm_close(other, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(lmshm_queue_ready(queue, 300), 0);
  /* Not even just before the owner's. */
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 2), 0);
  CHECK_EQUAL(lmshm_queue_ready(queue, 300), 0);
  other = open_segment(LMSHM_ATTACH, name, 0, &others);
  CHECK_EQUAL(lmshm_close(other, 0), 0);
  CHECK_EQUAL(write(owner.tell, "", 1), 1);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_RELEASED);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_RELEASED);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 3), 0); /* nor after the fact */
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_RELEASED);
  end_owner(owner);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void waiting_for_an_owner_ends_at_its_limit_or_when_it_is_cancelled(void) {
  _Atomic uint32_t* words;
  lmshm_queue* queue = open_queue();
  const char* name = check_name("limits");
  struct owner owner = start_owner(name);
  lmshm_segment* segment = open_segment(LMSHM_ATTACH, name, 0, &words);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, 20, 1), 0);
  CHECK_EQUAL(next(queue).result, -ETIMEDOUT);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 2), 0);
  CHECK_EQUAL(lmshm_queue_cancel(queue, 2), 0);
  CHECK_EQUAL(next(queue).result, -ECANCELED);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 3), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0); /* it has a descriptor of its own */
  end_owner(owner);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_DIED);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

static void what_has_no_other_owner_is_refused(void) {
  _Atomic uint32_t *words, *same;
  lmshm_queue* queue = open_queue();
  const char* name = check_name("own");
  lmshm_segment* segment = open_segment(LMSHM_CREATE, name, MIB, &words);
  CHECK_EQUAL(lmshm_queue_owner(queue, segment, FOREVER, 1), -EINVAL);
  CHECK_EQUAL(lmshm_queue_owner(queue, NULL, FOREVER, 1), -EINVAL);
  /* Attached by the same process, it has an owner like any other. */
  lmshm_segment* attached = open_segment(LMSHM_ATTACH, name, 0, &same);
  CHECK_EQUAL(lmshm_queue_owner(queue, attached, FOREVER, 2), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(next(queue).result, LMSHM_OWNER_RELEASED);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);

  const char* strangers = check_name("stranger");
  int fd = open(check_path(strangers), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  CHECK_EQUAL(ftruncate(fd, 4096), 0);
  close(fd);
  attached = open_segment(LMSHM_ATTACH, strangers, 0, &same);
  CHECK_EQUAL(lmshm_queue_owner(queue, attached, FOREVER, 3), -ENOTSUP);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  CHECK_EQUAL(unlink(check_path(strangers)), 0);
  CHECK_EQUAL(lmshm_queue_close(queue), 0);
}

/* ------------------------------------------------------------------ old kernels */

static int refused_with;

static void wait_without_waitv(void) {
  if (sandbox_fail(SYS_futex_waitv, refused_with, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  two_processes_take_turns();
  each_wait_is_woken_and_counted_once();
  a_wait_ends_at_its_limit_or_when_it_is_cancelled();
  a_segment_may_be_closed_and_a_queue_too_while_somebody_waits();
}

static void it_works_without_futex_waitv(void) {
  static const int errors[] = {ENOSYS, EPERM};
  for (int i = 0; i < 2; i++) {
    refused_with = errors[i];
    int status = check_in_child(wait_without_waitv);
    if (status == SANDBOX_REFUSED)
      check_skip("no seccomp");
    else
      CHECK_EQUAL(status, 0);
  }
}

static void watch_without_inotify(void) {
  if (sandbox_fail(SYS_inotify_init1, EMFILE, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  an_owner_that_is_killed_has_died();
  waiting_for_an_owner_ends_at_its_limit_or_when_it_is_cancelled();
}

static void owners_are_watched_without_inotify(void) {
  int status = check_in_child(watch_without_inotify);
  if (status == SANDBOX_REFUSED)
    check_skip("no seccomp");
  else
    CHECK_EQUAL(status, 0);
}

/* A sanitizer of threads has no threads in a child of one that has some: those
 * that fork first. */
CHECK_MAIN(CASE(it_works_without_futex_waitv), CASE(owners_are_watched_without_inotify),
           CASE(two_processes_take_turns), CASE(a_word_that_is_another_is_not_waited_for),
           CASE(what_is_no_word_is_refused), CASE(each_wait_is_woken_and_counted_once),
           CASE(a_wait_ends_at_its_limit_or_when_it_is_cancelled),
           CASE(a_segment_may_be_closed_and_a_queue_too_while_somebody_waits),
           CASE(the_descriptor_is_readable_when_there_is_an_event), CASE(there_is_a_limit_to_waits),
           CASE(a_forked_child_has_no_queue), CASE(a_queue_of_a_thread_ends_with_it),
           CASE(an_owner_that_is_killed_has_died), CASE(an_owner_that_gives_back_has_released),
           CASE(waiting_for_an_owner_ends_at_its_limit_or_when_it_is_cancelled),
           CASE(what_has_no_other_owner_is_refused))
