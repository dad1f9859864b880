/* SPDX-License-Identifier: Apache-2.0
 *
 * thread.h - threads of the library's own.
 *
 * They run with every signal blocked, because the handlers of a host program
 * (a JavaScript runtime, say) must not run on a thread it does not know.
 */
#ifndef LMSHM_THREAD_H_
#define LMSHM_THREAD_H_

#include <pthread.h>
#include <stddef.h>

/* Starts a joinable thread with a stack of that many bytes. Returns 0 or
 * -errno. */
int lmshm_thread_start(pthread_t* thread, size_t stack_bytes, void* (*run)(void*), void* argument);

/* Sleeps for the shortest time there is, some 60 us. A thread that takes the
 * lock of the address space in a loop gets it again before one who waits for it
 * has woken up; with a pause in between, the host program's own mmap calls get
 * their turn. */
void lmshm_thread_pause(void);

#endif /* LMSHM_THREAD_H_ */
