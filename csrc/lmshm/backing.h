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
  int fd;             /* owned */
  bool fresh;         /* made here, and empty so far */
  bool owner;         /* made here, with a name */
  uint64_t size;      /* bytes of the segment; the file may be longer */
  uint64_t page_size; /* bytes */
  dev_t device;
  ino_t inode;
  struct lmshm_exit_note* exit_note; /* of the name; NULL: it has none */
};

/* Opens what the checked `options` describe; `name` may be NULL. A new file is
 * still of length 0. Returns 0, or -errno with words and nothing left. */
int lmshm_backing_open(const lmshm_options* options, const struct lmshm_name* name,
                       struct lmshm_backing* backing, lmshm_task* task);

/* Gives a new file its size, after checking that it can fit, and seals an
 * anonymous one. Returns 0 or -errno with words. */
int lmshm_backing_size(struct lmshm_backing* backing, lmshm_task* task);

/* Closes the descriptor, and unlinks a name that it owns. Returns 0, or the
 * -errno of unlinking. */
int lmshm_backing_undo(struct lmshm_backing* backing, const struct lmshm_name* name);

#endif /* LMSHM_BACKING_H_ */
