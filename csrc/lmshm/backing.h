/* SPDX-License-Identifier: Apache-2.0
 *
 * backing.h - the file behind a segment: made or found, sized, not yet mapped.
 */
#ifndef LMSHM_BACKING_H_
#define LMSHM_BACKING_H_

#include <sys/types.h>

#include "exit_note.h"
#include "name.h"
#include "task.h"

struct lmshm_backing {
  int fd;             /* owned; where the windows come from, too */
  bool locked;        /* fd holds the lock of an owner: nobody else is to have it */
  bool fresh;         /* made here, and empty so far */
  bool owner;         /* made here, with a name */
  bool foreign;       /* the caller's descriptor, whose open file others share */
  uint64_t size;      /* bytes of the segment; the file may be longer */
  uint64_t page_size; /* bytes */
  dev_t device;
  ino_t inode;
  struct lmshm_name temporary; /* what it is called until it is complete; "": as it should be */
  struct lmshm_exit_note* exit_note; /* of the name; NULL: it has none */
};

/* Opens what the checked `options` describe; `name` may be NULL. A new file is
 * still of length 0. Returns 0, or -errno with words and nothing left. */
int lmshm_backing_open(const lmshm_options* options, const struct lmshm_name* name,
                       struct lmshm_backing* backing, lmshm_task* task);

/* Gives a new file its size, after checking that it can fit, and seals an
 * anonymous one. Returns 0 or -errno with words. */
int lmshm_backing_size(struct lmshm_backing* backing, lmshm_task* task);

/* Gives a complete segment the name that it should have. Returns 0, or -errno
 * with words and nothing changed. */
int lmshm_backing_publish(struct lmshm_backing* backing, const struct lmshm_name* name,
                          lmshm_task* task);

/* Once it is mapped: puts a descriptor without the lock in the place of an
 * owner's, which the mapping keeps. Where that cannot be had (no /proc, no
 * descriptor left) everything stays as it was. */
void lmshm_backing_share(struct lmshm_backing* backing);

/* Once it is pinned, and before the above: a shared lock of the byte whose number
 * is that of what pins it (enum lmshm_pinned_by), which the kernel shows in
 * /proc/locks and drops with the mapping. Nobody waits for it. Not on a caller's
 * descriptor: that lock would outlive this process. */
void lmshm_backing_mark(const struct lmshm_backing* backing, uint32_t pinned_by);

/* Before it is unmapped: takes the mark away where the descriptor has it still. A
 * memfd's open file may have been handed to a child. */
void lmshm_backing_unmark(const struct lmshm_backing* backing);

/* Closes the descriptor, and unlinks a name that it owns. Returns 0, or the
 * -errno of unlinking. */
int lmshm_backing_undo(struct lmshm_backing* backing, const struct lmshm_name* name);

#endif /* LMSHM_BACKING_H_ */
