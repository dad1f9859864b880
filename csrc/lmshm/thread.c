/* SPDX-License-Identifier: Apache-2.0
 *
 * thread.c - threads of the library's own. See thread.h.
 */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

int lmshm_thread_start(pthread_t* thread, size_t stack_bytes, void* (*run)(void*), void* argument) {
  pthread_attr_t attributes;
  int rc = pthread_attr_init(&attributes);
  if (rc != 0) return -rc;
  rc = pthread_attr_setstacksize(&attributes, stack_bytes);
  if (rc != 0) goto destroy;

  sigset_t all, before;
  sigfillset(&all);
  rc = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (rc != 0) goto destroy;
  rc = pthread_create(thread, &attributes, run, argument);
  /* A host with much thread-local storage may leave no room in that stack. */
  if (rc == EINVAL) rc = pthread_create(thread, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);

destroy:
  pthread_attr_destroy(&attributes);
  return -rc;
}

void lmshm_thread_pause(void) {
  const struct timespec shortest = {0, 1};
  nanosleep(&shortest, NULL);
}
