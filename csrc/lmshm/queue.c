/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - waits of a host program's event loop, each on a thread.
 *
 * One thread a wait, because only then the kernel's list of waiters has exactly
 * one entry for each: no wake is lost or counted twice, whatever else is waited
 * for (see futex.c). The threads are kept for a second after a wait, and sleep
 * in the kernel while they wait: some 50 KB each, and no CPU time.
 *
 * A wait is in one of three lists, by where it stands: `fresh` until a thread
 * takes it, `active` while the thread waits, `ended` until it is reaped. The
 * lock guards them all; no thread holds it while it waits.
 *
 * A queue of a thread (LMSHM_QUEUE_OF_THREAD) is shut by what the system calls
 * when the thread ends (a key of pthreads). Calls on other threads may be about
 * to look at it, so it is not freed then.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "futex.h"
#include "owner.h"
#include "segment.h"
#include "thread.h"

/* What callers in other languages rely on. */
_Static_assert(sizeof(lmshm_event) == 16, "lmshm_event is part of the ABI");

/* Address space; a thread that only waits touches 8 KiB of it. */
#define STACK_BYTES ((size_t)256 << 10)
#define IDLE_MS 1000
#define SECOND_NS 1000000000L

struct wait {
  struct wait *next, *previous;
  lmshm_event event;
  _Atomic uint32_t cancelled; /* a futex */
  bool timed;
  struct timespec deadline;
  uint32_t* word; /* NULL: of an owner */
  uint32_t expected;
  struct lmshm_owner_watch owner;
};

static const struct lmshm_owner_watch NO_WATCH = {.fd = -1, .events = -1, .cancel = -1};

/* First come, first served. */
struct list {
  struct wait *first, *last;
  uint32_t length;
};

struct lmshm_queue {
  pthread_mutex_t lock;
  pthread_cond_t work;  /* for idle threads: fresh grew, or closing */
  pthread_cond_t ready; /* for lmshm_queue_ready(): ended grew, or closing */
  pthread_cond_t quiet; /* for lmshm_queue_close(): a thread or a caller left */
  struct list fresh, active, ended;
  uint32_t threads, idle, callers;
  bool closing;
  bool of_thread;
  pthread_t opener;
  lmshm_queue* next; /* of the same thread */
  pid_t pid;
  int tell; /* where a byte goes when `ended` is not empty any more; or -1 */
};

/* ----------------------------------------------------------------------- lists */

static void append(struct list* list, struct wait* wait) {
  wait->next = NULL;
  wait->previous = list->last;
  if (list->last != NULL)
    list->last->next = wait;
  else
    list->first = wait;
  list->last = wait;
  list->length++;
}

static void take_out(struct list* list, struct wait* wait) {
  if (wait->next != NULL)
    wait->next->previous = wait->previous;
  else
    list->last = wait->previous;
  if (wait->previous != NULL)
    wait->previous->next = wait->next;
  else
    list->first = wait->next;
  list->length--;
}

static struct wait* find(const struct list* list, uint64_t id) {
  struct wait* wait = list->first;
  while (wait != NULL && wait->event.id != id) wait = wait->next;
  return wait;
}

static void free_wait(struct wait* wait) {
  lmshm_owner_unwatch(&wait->owner);
  free(wait);
}

/* --------------------------------------------------------------------- threads */

static void finish(lmshm_queue* queue, struct wait* wait, int result) {
  if (queue->closing) { /* nobody reaps */
    free_wait(wait);
    return;
  }
  wait->event.result = result;
  append(&queue->ended, wait);
  pthread_cond_broadcast(&queue->ready);
  if (queue->ended.length == 1 && queue->tell >= 0) {
    ssize_t sent = send(queue->tell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* when it is full, nobody has looked yet */
  }
}

static int run(struct wait* wait) {
  const struct timespec* deadline = wait->timed ? &wait->deadline : NULL;
  if (wait->word == NULL) return lmshm_owner_wait(&wait->owner, deadline);
  return lmshm_futex_wait(wait->word, wait->expected, &wait->cancelled, deadline);
}

/* So many milliseconds from now. */
static struct timespec after(uint64_t ms) {
  struct timespec end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += (time_t)(ms / 1000);
  end.tv_nsec += (long)(ms % 1000) * 1000000;
  if (end.tv_nsec >= SECOND_NS) {
    end.tv_sec++;
    end.tv_nsec -= SECOND_NS;
  }
  return end;
}

/* Waits for work. False: none came. */
static bool idle(lmshm_queue* queue) {
  const struct timespec end = after(IDLE_MS);
  int rc = 0;
  queue->idle++;
  while (rc == 0 && queue->fresh.first == NULL && !queue->closing)
    rc = pthread_cond_timedwait(&queue->work, &queue->lock, &end);
  queue->idle--;
  return queue->fresh.first != NULL;
}

static void* serve(void* argument) {
  lmshm_queue* queue = argument;
  pthread_detach(pthread_self());
  pthread_mutex_lock(&queue->lock);
  while (queue->fresh.first != NULL || idle(queue)) {
    struct wait* wait = queue->fresh.first;
    take_out(&queue->fresh, wait);
    append(&queue->active, wait);
    pthread_mutex_unlock(&queue->lock);
    int result = run(wait);
    lmshm_owner_let_go(&wait->owner);
    pthread_mutex_lock(&queue->lock);
    take_out(&queue->active, wait);
    struct lmshm_owner_watch watch = wait->owner;
    wait->owner = NO_WATCH;
    finish(queue, wait, result);
    if (watch.cancel < 0) continue;
    /* Neither the one that reaps nor the lock waits for inotify. */
    pthread_mutex_unlock(&queue->lock);
    lmshm_owner_unwatch(&watch);
    pthread_mutex_lock(&queue->lock);
  }
  queue->threads--;
  pthread_cond_broadcast(&queue->quiet);
  pthread_mutex_unlock(&queue->lock);
  return NULL;
}

/* With the lock held. Returns 0 or -errno. */
static int add_thread(lmshm_queue* queue) {
  if (queue->threads >= LMSHM_QUEUE_WAITS_MAX) return -EBUSY;
  pthread_t thread;
  int rc = lmshm_thread_start(&thread, STACK_BYTES, serve, queue);
  if (rc == 0) queue->threads++;
  return rc == -EAGAIN ? -ENOMEM : rc; /* -EAGAIN says that the word is another */
}

/* ------------------------------------------------------------------- the queue */

/* A child made by fork() has none of the threads. */
static bool is_usable(const lmshm_queue* queue) { return queue != NULL && queue->pid == getpid(); }

/* With the lock held. */
static void cancel_active(struct wait* wait) {
  if (wait->word != NULL)
    lmshm_futex_cancel(&wait->cancelled);
  else
    lmshm_owner_cancel(&wait->owner);
}

static void free_all(struct list* list) {
  while (list->first != NULL) {
    struct wait* wait = list->first;
    take_out(list, wait);
    free_wait(wait);
  }
}

/* With the lock held: has all waits end, and all who wait for events go. */
static void shut(lmshm_queue* queue) {
  queue->closing = true;
  free_all(&queue->fresh);
  free_all(&queue->ended);
  for (struct wait* wait = queue->active.first; wait != NULL; wait = wait->next)
    cancel_active(wait);
  pthread_cond_broadcast(&queue->work);
  pthread_cond_broadcast(&queue->ready);
  if (queue->tell >= 0) close(queue->tell);
  queue->tell = -1;
}

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t queues_of_thread; /* the first, see lmshm_queue.next */
static bool has_key;

static void end_of_thread(void* first) {
  for (lmshm_queue* queue = first; queue != NULL; queue = queue->next) {
    if (!is_usable(queue)) continue;
    pthread_mutex_lock(&queue->lock);
    shut(queue);
    pthread_mutex_unlock(&queue->lock);
  }
}

static void make_key(void) { has_key = pthread_key_create(&queues_of_thread, end_of_thread) == 0; }

/* Makes the queue one of this thread's. */
static bool tie(lmshm_queue* queue) {
  pthread_once(&key_once, make_key);
  if (!has_key) return false;
  queue->next = pthread_getspecific(queues_of_thread);
  queue->of_thread = true;
  queue->opener = pthread_self();
  return pthread_setspecific(queues_of_thread, queue) == 0;
}

static void untie(const lmshm_queue* queue) {
  lmshm_queue* first = pthread_getspecific(queues_of_thread);
  if (first == queue) {
    pthread_setspecific(queues_of_thread, queue->next);
    return;
  }
  while (first->next != queue) first = first->next;
  first->next = queue->next;
}

intptr_t lmshm_queue_open(uint32_t flags) {
  if ((flags & ~LMSHM_QUEUE_OF_THREAD) != 0) return -EINVAL;
  lmshm_queue* queue = calloc(1, sizeof *queue);
  if (queue == NULL) return -ENOMEM;
  if ((flags & LMSHM_QUEUE_OF_THREAD) != 0 && !tie(queue)) {
    free(queue);
    return -ENOMEM;
  }
  queue->tell = -1;
  queue->pid = getpid();
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&queue->lock, NULL);
  pthread_cond_init(&queue->work, &attributes);
  pthread_cond_init(&queue->ready, &attributes);
  pthread_cond_init(&queue->quiet, &attributes);
  pthread_condattr_destroy(&attributes);
  return (intptr_t)queue;
}

int lmshm_queue_fd(lmshm_queue* queue) {
  int pair[2];
  if (!is_usable(queue)) return -EINVAL;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return -errno;
  pthread_mutex_lock(&queue->lock);
  int before = queue->tell;
  queue->tell = pair[1];
  pthread_mutex_unlock(&queue->lock);
  if (before >= 0) close(before);
  return pair[0];
}

/* Hands a wait to a thread. Frees it when that fails. Returns 0 or -errno. */
static int submit(lmshm_queue* queue, struct wait* wait) {
  pthread_mutex_lock(&queue->lock);
  /* A thread that is idle may be meant for one that is fresh already. */
  int rc = queue->closing ? -ECANCELED : 0;
  if (rc == 0 && queue->idle <= queue->fresh.length) rc = add_thread(queue);
  if (rc == 0) {
    append(&queue->fresh, wait);
    pthread_cond_signal(&queue->work);
  }
  pthread_mutex_unlock(&queue->lock);
  if (rc != 0) free_wait(wait);
  return rc;
}

static struct wait* make_wait(uint64_t id, uint64_t timeout_ms) {
  struct wait* wait = calloc(1, sizeof *wait);
  if (wait == NULL) return NULL;
  wait->event.id = id;
  wait->owner = NO_WATCH;
  atomic_init(&wait->cancelled, 0);
  wait->timed = timeout_ms < UINT32_MAX; /* longer is for ever */
  if (wait->timed) wait->deadline = after(timeout_ms);
  return wait;
}

int lmshm_queue_wait(lmshm_queue* queue, const lmshm_segment* segment, uint64_t offset,
                     uint32_t expected, uint64_t timeout_ms, uint64_t id) {
  uint32_t* word = is_usable(queue) ? lmshm_segment_word(segment, offset) : NULL;
  if (word == NULL) return -EINVAL;
  if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != expected) return -EAGAIN;
  if (timeout_ms == 0) return -ETIMEDOUT;
  struct wait* wait = make_wait(id, timeout_ms);
  if (wait == NULL) return -ENOMEM;
  wait->word = word;
  wait->expected = expected;
  return submit(queue, wait);
}

int lmshm_queue_owner(lmshm_queue* queue, const lmshm_segment* segment, uint64_t timeout_ms,
                      uint64_t id) {
  if (!is_usable(queue) || segment == NULL) return -EINVAL;
  struct wait* wait = make_wait(id, timeout_ms);
  if (wait == NULL) return -ENOMEM;
  int file = lmshm_segment_file(segment), rc = file;
  if (file >= 0) rc = lmshm_owner_watch(&wait->owner, file);
  if (rc == 0) return submit(queue, wait);
  free_wait(wait);
  return rc;
}

int lmshm_queue_cancel(lmshm_queue* queue, uint64_t id) {
  if (!is_usable(queue)) return -EINVAL;
  pthread_mutex_lock(&queue->lock);
  struct wait* wait = find(&queue->fresh, id);
  int rc = 0;
  if (wait != NULL) {
    take_out(&queue->fresh, wait);
    finish(queue, wait, -ECANCELED);
  } else if ((wait = find(&queue->active, id)) != NULL) {
    cancel_active(wait);
  } else {
    rc = -ENOENT;
  }
  pthread_mutex_unlock(&queue->lock);
  return rc;
}

int lmshm_queue_reap(lmshm_queue* queue, lmshm_event* events, uint32_t count) {
  if (!is_usable(queue) || (events == NULL && count > 0) || count > INT32_MAX) return -EINVAL;
  uint32_t reaped = 0;
  pthread_mutex_lock(&queue->lock);
  while (reaped < count && queue->ended.first != NULL) {
    struct wait* wait = queue->ended.first;
    take_out(&queue->ended, wait);
    events[reaped++] = wait->event;
    free_wait(wait);
  }
  pthread_mutex_unlock(&queue->lock);
  return (int)reaped;
}

int lmshm_queue_ready(lmshm_queue* queue, uint32_t timeout_ms) {
  if (!is_usable(queue)) return -EINVAL;
  const struct timespec end = after(timeout_ms);
  pthread_mutex_lock(&queue->lock);
  queue->callers++;
  int rc = 0;
  while (rc == 0 && queue->ended.first == NULL && !queue->closing)
    rc = pthread_cond_timedwait(&queue->ready, &queue->lock, &end);
  rc = queue->closing ? -ECANCELED : queue->ended.first != NULL;
  queue->callers--;
  pthread_cond_broadcast(&queue->quiet);
  pthread_mutex_unlock(&queue->lock);
  return rc;
}

int lmshm_queue_close(lmshm_queue* queue) {
  if (!is_usable(queue)) return -EINVAL;
  if (queue->of_thread) {
    if (!pthread_equal(queue->opener, pthread_self())) return -EINVAL;
    untie(queue);
  }
  pthread_mutex_lock(&queue->lock);
  shut(queue);
  while (queue->threads > 0 || queue->callers > 0) pthread_cond_wait(&queue->quiet, &queue->lock);
  pthread_mutex_unlock(&queue->lock);
  pthread_cond_destroy(&queue->work);
  pthread_cond_destroy(&queue->ready);
  pthread_cond_destroy(&queue->quiet);
  pthread_mutex_destroy(&queue->lock);
  free(queue);
  return 0;
}

int lmshm_notify(const lmshm_segment* segment, uint64_t offset, uint32_t count) {
  uint32_t* word = lmshm_segment_word(segment, offset);
  return word == NULL ? -EINVAL : lmshm_futex_wake(word, count);
}
