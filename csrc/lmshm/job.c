/* SPDX-License-Identifier: Apache-2.0
 *
 * job.c - opening and closing on a thread of the library's own, for callers
 * that have an event loop to keep running.
 *
 * The job belongs to the caller from start to finish. Its thread writes the
 * result and the report, and then says so by `ended`; nobody reads them before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "segment.h"
#include "task.h"
#include "thread.h"

/* Enough for a GPU's runtime library, which is loaded and called on it. */
#define STACK_BYTES ((size_t)2 << 20)

struct lmshm_job {
  pthread_t thread;
  lmshm_task task;
  atomic_bool ended;
  intptr_t result;

  lmshm_options options; /* of an opening; with copies of the strings */
  char* name;
  char* gpu_library;

  lmshm_segment* segment; /* of a closing, else NULL */
  uint32_t flags;
};

static void free_job(lmshm_job* job) {
  free(job->name);
  free(job->gpu_library);
  free(job);
}

static void* run_open(void* argument) {
  lmshm_job* job = argument;
  lmshm_segment* segment = NULL;
  int rc = lmshm_segment_open(&job->options, &job->task, &segment);
  job->result = rc == 0 ? (intptr_t)segment : rc;
  atomic_store_explicit(&job->ended, true, memory_order_release);
  return NULL;
}

static void* run_close(void* argument) {
  lmshm_job* job = argument;
  job->result = lmshm_segment_close(job->segment, job->flags, &job->task);
  atomic_store_explicit(&job->ended, true, memory_order_release);
  return NULL;
}

static intptr_t start(lmshm_job* job, void* (*run)(void*)) {
  lmshm_task_init(&job->task);
  atomic_init(&job->ended, false);
  int rc = lmshm_thread_start(&job->thread, STACK_BYTES, run, job);
  if (rc == 0) return (intptr_t)job;
  free_job(job);
  return rc;
}

/* Copies a string that may be NULL. Returns false when there is no memory. */
static bool copy(const char* text, char** out) {
  *out = text == NULL ? NULL : strdup(text);
  return text == NULL || *out != NULL;
}

intptr_t lmshm_open_start(const lmshm_options* options) {
  if (options == NULL || options->struct_size != sizeof *options) return -EINVAL;
  lmshm_job* job = calloc(1, sizeof *job);
  if (job == NULL) return -ENOMEM;
  job->options = *options;
  if (!copy(options->name, &job->name) || !copy(options->gpu_library, &job->gpu_library)) {
    free_job(job);
    return -ENOMEM;
  }
  job->options.name = job->name;
  job->options.gpu_library = job->gpu_library;
  return start(job, run_open);
}

intptr_t lmshm_close_start(lmshm_segment* segment, uint32_t flags) {
  if (segment == NULL || (flags & ~LMSHM_CLOSE_KEEP_RANGE) != 0) return -EINVAL;
  lmshm_job* job = calloc(1, sizeof *job);
  if (job == NULL) return -ENOMEM;
  job->segment = segment;
  job->flags = flags;
  return start(job, run_close);
}

int lmshm_job_poll(lmshm_job* job, lmshm_info* info) {
  if (job == NULL || (info != NULL && info->struct_size != sizeof *info)) return -EINVAL;
  bool ended = atomic_load_explicit(&job->ended, memory_order_acquire);
  if (info == NULL) return ended;
  if (ended) {
    *info = job->task.info;
    return 1;
  }
  memset(info, 0, sizeof *info);
  info->struct_size = sizeof *info;
  info->fd = -1;
  info->step = atomic_load_explicit(&job->task.step, memory_order_relaxed);
  info->size = job->options.size;
  info->populated = atomic_load_explicit(&job->task.populated, memory_order_relaxed);
  return 0;
}

void lmshm_job_cancel(lmshm_job* job) {
  if (job != NULL && job->segment == NULL)
    atomic_store_explicit(&job->task.cancelled, true, memory_order_relaxed);
}

intptr_t lmshm_job_finish(lmshm_job* job, lmshm_info* info) {
  if (job == NULL || (info != NULL && info->struct_size != sizeof *info)) return -EINVAL;
  pthread_join(job->thread, NULL);
  if (info != NULL) *info = job->task.info;
  intptr_t result = job->result;
  free_job(job);
  return result;
}
