/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu.h - what a test may ask of the fake GPU runtimes (fake_gpu.c).
 */
#ifndef LMSHM_TESTS_NATIVE_FAKE_GPU_H_
#define LMSHM_TESTS_NATIVE_FAKE_GPU_H_

struct fake_gpu_books {
  int calls;        /* of every function */
  int registered;   /* ranges registered now */
  int contexts;     /* driver: references to primary contexts */
  int pushed;       /* driver: contexts on the stacks of all threads */
  int last_error;   /* left for the host program to find */
  int violations;   /* things no correct caller does; the log has them */
  int context_mask; /* bit n: device n has, or has had, a context */
  int device_ranges;
  int host_ranges; /* allocated by the runtime, page-locked */
  int streams;
  int events;
  int copies;  /* carried out, 2D ones and memsets too */
  int pending; /* queued, or being carried out */
};

/* Copies the books of the library that it is looked up in. */
typedef void (*fake_gpu_books_fn)(struct fake_gpu_books* books);
#define FAKE_GPU_BOOKS "fake_gpu_books"

/* Makes new books: nothing registered, no call counted. */
typedef void (*fake_gpu_reset_fn)(void);
#define FAKE_GPU_RESET "fake_gpu_reset"

/* Gives an order in the place of the environment's variable of that name; NULL
 * takes it back. For programs whose environment is not the C library's. */
typedef void (*fake_gpu_order_fn)(const char* variable, const char* value);
#define FAKE_GPU_ORDER "fake_gpu_order"

#endif /* LMSHM_TESTS_NATIVE_FAKE_GPU_H_ */
