/* SPDX-License-Identifier: Apache-2.0
 *
 * task.h - one opening or closing under way: what it reports, and whether it
 * has been asked to stop.
 *
 * The thread that does the work owns `info`. The atomics may be read and
 * written by any thread, which is how a job is polled and cancelled.
 */
#ifndef LMSHM_TASK_H_
#define LMSHM_TASK_H_

#include <stdatomic.h>
#include <stdbool.h>

#include "lmshm.h"

typedef struct lmshm_task {
  lmshm_info info;            /* the final report, filled along the way */
  _Atomic uint32_t step;      /* enum lmshm_step, as info.step */
  _Atomic uint64_t populated; /* bytes */
  atomic_bool cancelled;
} lmshm_task;

/* Starts an empty report at LMSHM_STEP_CHECK. */
void lmshm_task_init(lmshm_task* task);

/* Enters a step. Returns 0, or -ECANCELED when the task has been cancelled. */
int lmshm_task_step(lmshm_task* task, enum lmshm_step step);

bool lmshm_task_cancelled(const lmshm_task* task);

/* Puts words into info.message, replacing what was there; cut to its size. */
void lmshm_task_say(lmshm_task* task, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts words behind those in info.message, which are cut where both are too
 * long. */
void lmshm_task_add(lmshm_task* task, const char* words);

/* Records -errno `error` with words, in which %m is that error's text.
 * Returns `error`. */
int lmshm_task_fail(lmshm_task* task, int error, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

#endif /* LMSHM_TASK_H_ */
