/* SPDX-License-Identifier: Apache-2.0
 *
 * futex.h - waiting on a word that other processes map, and waking who waits.
 *
 * The kernel keys a shared futex by the file and the offset in it, so that it
 * does not matter where each process has the word. What it must not be is
 * private (FUTEX_PRIVATE_FLAG): that is keyed by address.
 */
#ifndef LMSHM_FUTEX_H_
#define LMSHM_FUTEX_H_

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Waits until the word is woken. `cancel` is a word of this process: what sets
 * it and calls lmshm_futex_cancel() ends the waiting. The deadline is of
 * CLOCK_MONOTONIC; NULL for none.
 *
 * Returns 0 when woken, -EAGAIN when the word was not `expected` to begin with,
 * -ETIMEDOUT, -ECANCELED, or another -errno. Who is woken and cancelled at once
 * was woken. */
int lmshm_futex_wait(uint32_t* word, uint32_t expected, _Atomic uint32_t* cancel,
                     const struct timespec* deadline);

/* Ends the lmshm_futex_wait() that has this `cancel`. */
void lmshm_futex_cancel(_Atomic uint32_t* cancel);

/* Wakes at most `count` that wait for the word, in any process. Returns how
 * many, or -errno. */
int lmshm_futex_wake(uint32_t* word, uint32_t count);

#endif /* LMSHM_FUTEX_H_ */
