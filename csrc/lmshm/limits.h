/* SPDX-License-Identifier: Apache-2.0
 *
 * limits.h - saying no at once, before a page is touched, to what can never
 * fit: on the file system, in memory, or in the pool of huge pages.
 *
 * These checks refuse the impossible, and nothing that might work: what they
 * let through is still reserved page by page, and undone when that fails. The
 * bound on memory keeps a request that is out of reach from waking the
 * kernel's out-of-memory killer, since shared memory cannot be dropped.
 */
#ifndef LMSHM_LIMITS_H_
#define LMSHM_LIMITS_H_

#include "task.h"

/* Free bytes of /dev/shm; UINT64_MAX: no limit. */
uint64_t lmshm_limits_space(void);

/* The most bytes of new shared memory that this process could ever be given:
 * what is not held by memory that only swapping could free. UINT64_MAX when
 * the kernel does not tell. */
uint64_t lmshm_limits_memory(void);

/* Bytes in free huge pages of that size; UINT64_MAX when not known. */
uint64_t lmshm_limits_huge(uint64_t page_size);

/* Whether the system counts all memory that could be written to, touched or
 * not (vm.overcommit_memory is 2). */
bool lmshm_limits_strict(void);

/* Checks memory, and for a named segment space, for so many new bytes. Returns
 * 0, or -ENOSPC or -ENOMEM with words, and info.available set. */
int lmshm_limits_check(bool named, uint64_t bytes, lmshm_task* task);

/* Words for an ENOSPC that came in spite of the check. Returns -ENOSPC. */
int lmshm_limits_no_space(bool named, uint64_t bytes, lmshm_task* task);

#endif /* LMSHM_LIMITS_H_ */
