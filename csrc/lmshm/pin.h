/* SPDX-License-Identifier: Apache-2.0
 *
 * pin.h - page-locking a segment: by the GPU, else by mlock(2), else not.
 *
 * A GPU is looked for before pages are populated, so that "require" fails at
 * once where there is none, and because mlock of pages yet to come costs
 * nothing: each is locked as it is populated. Registering with a GPU needs the
 * pages, and comes after.
 */
#ifndef LMSHM_PIN_H_
#define LMSHM_PIN_H_

#include "gpu.h"
#include "task.h"

/* The most that is registered at once when all at once was refused. Drivers
 * keep a table of pages in one allocation of the kernel, and refuse above some
 * hundred GB; 64 GiB are well below, and few enough pieces, since a copy that
 * crosses from one into the next may be refused or run as unpinned. */
#define LMSHM_PIN_PIECE_BYTES ((size_t)64 << 30)

struct lmshm_pinning {
  uint32_t by;  /* enum lmshm_pinned_by, what took effect */
  size_t piece; /* bytes of a registration, the last may be shorter */
  struct lmshm_gpu gpu;
};

/* What the options say of pinning. */
struct lmshm_pin_wish {
  enum lmshm_pin mode;
  uint32_t device;     /* 0: not said; else its number + 1 */
  const char* library; /* NULL: to be looked for */
};

/* Before populating. Finds a GPU as the wish says; without one, and when pages
 * will be populated (`fresh`), locks them ahead. Returns 0, or -ENODEV when a
 * GPU is required and there is none; words in the task. */
int lmshm_pin_prepare(struct lmshm_pinning* pin, const struct lmshm_pin_wish* wish, void* address,
                      size_t size, bool fresh, lmshm_task* task);

/* After populating. Registers with the GPU, all at once or in pieces of at
 * most `piece_max` bytes, whole MiB. Returns 0, -EIO when the GPU is required and
 * refuses, or -ECANCELED; nothing is left registered then. */
int lmshm_pin_apply(struct lmshm_pinning* pin, enum lmshm_pin mode, void* address, size_t size,
                    size_t piece_max, lmshm_task* task);

/* Undoes lmshm_pin_apply(), which must come before unmapping. What mlock
 * locked is unlocked by unmapping. Returns 0, or -EIO with words. */
int lmshm_pin_release(struct lmshm_pinning* pin, void* address, size_t size, lmshm_task* task);

#endif /* LMSHM_PIN_H_ */
