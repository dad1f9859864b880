/* SPDX-License-Identifier: Apache-2.0
 *
 * owner.h - waiting until the owner of an attached segment has ended.
 */
#ifndef LMSHM_OWNER_H_
#define LMSHM_OWNER_H_

#include <time.h>

/* What is known of the file. */
struct lmshm_owner_watch {
  int fd;     /* the file; -1 for no watch */
  int events; /* an inotify descriptor, -1 where there is none to be had */
  int cancel; /* an eventfd: readable when the waiting is to end */
};

/* Begins to watch; what happens from now on is seen. Takes over `fd`, also when
 * it fails. Returns 0, -ENOTSUP for what has no owner that the kernel knows, or
 * another -errno. */
int lmshm_owner_watch(struct lmshm_owner_watch* watch, int fd);

/* Waits until nobody owns the file any more. The deadline is of CLOCK_MONOTONIC;
 * NULL for none. Returns an enum lmshm_owner_end, -ETIMEDOUT, -ECANCELED, or
 * another -errno. */
int lmshm_owner_wait(struct lmshm_owner_watch* watch, const struct timespec* deadline);

/* Has the waiting end. */
void lmshm_owner_cancel(const struct lmshm_owner_watch* watch);

/* Closes the file, once the waiting is over. */
void lmshm_owner_let_go(struct lmshm_owner_watch* watch);

/* Closes all that is open. With inotify that takes 10 ms. */
void lmshm_owner_unwatch(struct lmshm_owner_watch* watch);

#endif /* LMSHM_OWNER_H_ */
