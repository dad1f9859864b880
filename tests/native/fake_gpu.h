/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu.h - what a test may ask of the fake GPU runtimes (fake_gpu.c).
 */
#ifndef LMSHM_TESTS_NATIVE_FAKE_GPU_H_
#define LMSHM_TESTS_NATIVE_FAKE_GPU_H_

struct fake_gpu_books {
  int calls;      /* of every function */
  int registered; /* ranges registered now */
  int contexts;   /* driver: references to the primary context */
  int pushed;     /* driver: contexts on the stack */
  int last_error; /* left for the host program to find */
  int violations; /* things no correct caller does; the log has them */
};

/* Copies the books of the library that it is looked up in. */
typedef void (*fake_gpu_books_fn)(struct fake_gpu_books* books);
#define FAKE_GPU_BOOKS "fake_gpu_books"

/* Makes new books: nothing registered, no call counted. */
typedef void (*fake_gpu_reset_fn)(void);
#define FAKE_GPU_RESET "fake_gpu_reset"

#endif /* LMSHM_TESTS_NATIVE_FAKE_GPU_H_ */
