/* SPDX-License-Identifier: Apache-2.0
 *
 * owner.c - see owner.h.
 *
 * An owner holds locks that the kernel drops when it unmaps the segment or dies
 * (name.h). Waiting for such a lock by the system call that does so cannot be
 * ended but by a signal, which a library must not use. So inotify tells when
 * somebody closed the file, as the end of a mapping does, and then the lock is
 * looked at. It is dropped a moment after the event, so it is looked at again,
 * less and less often, but always once a second: the owner may be stopped, or
 * throttled, in that moment. Without inotify (a user may have 128) it is looked
 * at every 50 ms.
 *
 * Who gives a segment back marks its file before (lmshm_name_give_back()); who is
 * killed does not. The events cannot tell them apart: others open, close and
 * unlink the file as well.
 */
#include "owner.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_status.h"
#include "lmshm.h"
#include "name.h"

#define FIRST_LOOK_MS 1
#define SELDOM_MS 1000
#define BLIND_MS 50 /* without inotify */
#define SECOND_NS 1000000000L
#define MS_NS 1000000L

static void start_events(struct lmshm_owner_watch* watch) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", watch->fd);
  watch->events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (watch->events < 0 || inotify_add_watch(watch->events, path, IN_CLOSE) >= 0) return;
  close(watch->events);
  watch->events = -1;
}

int lmshm_owner_watch(struct lmshm_owner_watch* watch, int fd) {
  *watch = (struct lmshm_owner_watch){.fd = fd, .events = -1, .cancel = -1};
  struct stat status;
  int rc = lmshm_fstat(fd, &status);
  if (rc == 0 && (status.st_mode & S_ISVTX) == 0) rc = -ENOTSUP;
  if (rc == 0) {
    watch->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watch->cancel < 0) rc = -errno;
  }
  if (rc == 0)
    start_events(watch);
  else
    lmshm_owner_unwatch(watch);
  return rc;
}

void lmshm_owner_cancel(const struct lmshm_owner_watch* watch) { eventfd_write(watch->cancel, 1); }

void lmshm_owner_let_go(struct lmshm_owner_watch* watch) {
  if (watch->fd >= 0) close(watch->fd);
  watch->fd = -1;
}

void lmshm_owner_unwatch(struct lmshm_owner_watch* watch) {
  lmshm_owner_let_go(watch);
  if (watch->events >= 0) close(watch->events);
  if (watch->cancel >= 0) close(watch->cancel);
  watch->events = watch->cancel = -1;
}

static void drop_events(const struct lmshm_owner_watch* watch) {
  _Alignas(struct inotify_event) char bytes[4096];
  while (watch->events >= 0 && read(watch->events, bytes, sizeof bytes) > 0) continue;
}

/* Returns an enum lmshm_owner_end, 0 while the owner lives, or -errno. */
static int look(const struct lmshm_owner_watch* watch) {
  int owner = lmshm_name_owner(watch->fd);
  if (owner < 0) return owner;
  if (owner != LMSHM_NO_OWNER) return 0; /* or one that unlinks what a dead one left */
  int orderly = lmshm_name_is_given_back(watch->fd);
  if (orderly < 0) return orderly;
  return orderly ? LMSHM_OWNER_RELEASED : LMSHM_OWNER_DIED;
}

/* Milliseconds until the deadline, rounded up; at most `most`. */
static int time_left(const struct timespec* deadline, int most) {
  if (deadline == NULL) return most;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t seconds = (int64_t)deadline->tv_sec - now.tv_sec;
  if (seconds > SELDOM_MS) return most;
  int64_t ns = seconds * SECOND_NS + (deadline->tv_nsec - now.tv_nsec);
  if (ns <= 0) return 0;
  int64_t ms = (ns + MS_NS - 1) / MS_NS;
  return ms < most ? (int)ms : most;
}

int lmshm_owner_wait(struct lmshm_owner_watch* watch, const struct timespec* deadline) {
  struct pollfd fds[2] = {{.fd = watch->cancel, .events = POLLIN},
                          {.fd = watch->events, .events = POLLIN}};
  const bool blind = watch->events < 0; /* poll() passes over it */
  int pause = blind ? BLIND_MS : SELDOM_MS;
  for (;;) {
    int rc = look(watch);
    if (rc != 0) return rc;
    int left = time_left(deadline, pause);
    if (left == 0) return -ETIMEDOUT;
    int ready = poll(fds, 2, left);
    if (ready < 0 && errno != EINTR) return -errno;
    if (ready > 0 && fds[0].revents != 0) return -ECANCELED;
    if (ready > 0) {
      drop_events(watch);
      pause = FIRST_LOOK_MS;
    } else if (!blind && pause < SELDOM_MS) {
      pause = pause * 2 < SELDOM_MS ? pause * 2 : SELDOM_MS;
    }
  }
}
