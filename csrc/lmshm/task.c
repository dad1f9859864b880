/* SPDX-License-Identifier: Apache-2.0
 *
 * task.c - the report of an opening or closing under way. See task.h.
 */
#include "task.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void lmshm_task_init(lmshm_task* task) {
  memset(&task->info, 0, sizeof task->info);
  task->info.struct_size = sizeof task->info;
  task->info.fd = -1;
  atomic_init(&task->step, LMSHM_STEP_CHECK);
  atomic_init(&task->populated, 0);
  atomic_init(&task->cancelled, false);
}

bool lmshm_task_cancelled(const lmshm_task* task) {
  return atomic_load_explicit(&task->cancelled, memory_order_relaxed);
}

int lmshm_task_step(lmshm_task* task, enum lmshm_step step) {
  task->info.step = step;
  atomic_store_explicit(&task->step, step, memory_order_relaxed);
  if (lmshm_task_cancelled(task)) return lmshm_task_fail(task, -ECANCELED, "cancelled");
  return 0;
}

void lmshm_task_say(lmshm_task* task, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(task->info.message, sizeof task->info.message, format, arguments);
  va_end(arguments);
}

void lmshm_task_add(lmshm_task* task, const char* words) {
  char* message = task->info.message;
  size_t held = strlen(message), room = sizeof task->info.message;
  size_t wanted = strlen(words) + (held > 0 ? 2 : 0) + 1;
  if (held > 0 && held + wanted > room) held = wanted < room ? room - wanted : 0;
  snprintf(message + held, room - held, "%s%s", held > 0 ? "; " : "", words);
}

int lmshm_task_fail(lmshm_task* task, int error, const char* format, ...) {
  task->info.error = error;
  va_list arguments;
  va_start(arguments, format);
  errno = -error;
  vsnprintf(task->info.message, sizeof task->info.message, format, arguments);
  va_end(arguments);
  return error;
}
