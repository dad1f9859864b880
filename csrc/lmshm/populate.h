/* SPDX-License-Identifier: Apache-2.0
 *
 * populate.h - giving every page of a new mapping its memory, at once, so that
 * no later access can fault, by several threads.
 *
 * Two ways lead there. Writing zeros to the file takes pages from the kernel in
 * runs, and reading one byte of each then maps them sixteen at a fault; but a
 * file has one lock for writing. MADV_POPULATE_WRITE does all that a fault
 * does for each page, and runs on many threads. So one thread writes while the
 * others populate, slice by slice from one counter.
 *
 * Measured with 4 KiB pages on two CPUs, as parts of the time of one write a
 * page in one thread: populating alone 1.0 with one thread and 0.6 with two;
 * writing alone 0.65; one thread writing and one populating 0.5.
 */
#ifndef LMSHM_POPULATE_H_
#define LMSHM_POPULATE_H_

#include <stddef.h>

#include "task.h"

#define LMSHM_POPULATE_THREADS_MAX 64

struct lmshm_populate {
  int fd;             /* of the file behind the mapping */
  char* address;      /* page aligned */
  uint64_t file_size; /* bytes */
  uint64_t page_size; /* of the backing */
  uint32_t threads;   /* 0: chosen here */
  bool named;         /* on /dev/shm: for the words of an error */
  bool may_write;     /* false where writing would spoil huge pages */
};

/* Populates the mapping of a new file, which holds zeros. Counts in
 * task->populated, and sets info.populate_threads. Returns 0, -ENOSPC,
 * -ENOMEM, -ECANCELED or another -errno, with words; never SIGBUS. */
int lmshm_populate(const struct lmshm_populate* what, lmshm_task* task);

#endif /* LMSHM_POPULATE_H_ */
