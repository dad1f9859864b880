/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu_inside.h - what the parts of the fake GPU runtimes share: orders and
 * books (fake_gpu.c), memory (fake_gpu_memory.c), streams (fake_gpu_stream.c).
 *
 * One lock protects everything. Functions called fake_* take it themselves;
 * those called locked_* want it held.
 */
#ifndef LMSHM_TESTS_NATIVE_FAKE_GPU_INSIDE_H_
#define LMSHM_TESTS_NATIVE_FAKE_GPU_INSIDE_H_

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fake_gpu.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_DEVICES 8

/* Codes that CUDA and HIP share. */
enum {
  kInvalid = 1,
  kOutOfMemory = 2,
  kNotInitialised = 3,
  kNoDevice = 101,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotReady = 600,
  kAlready = 712,
  kNotRegistered = 713
};

/* What can be ordered to fail; see call_names. */
enum call {
  kCount,
  kRegister,
  kUnregister,
  kInit,
  kDevice,
  kRetain,
  kPush,
  kSet,
  kAttribute,
  kMalloc,
  kFree,
  kHostAlloc,
  kHostFree,
  kInfo,
  kStream,
  kEvent,
  kRecord,
  kQuery,
  kWait,
  kCopy,
  kCopy2D,
  kMemset,
  kCalls
};

extern pthread_mutex_t fake_lock;
extern struct fake_gpu_books fake_books;

/* Counts the call, and returns the code it is to fail with, or 0. */
int locked_ordered(enum call call);
/* Notes the call and its code, which it returns. */
int locked_done(enum call call, int code);
/* The order of that name, as text in `room` of 256 bytes, or NULL. */
const char* locked_order(const char* variable, char* room);
void locked_violation(const char* format, ...) __attribute__((format(printf, 1, 2)));

/* --------------------------------------------------------------------- memory */

enum space { kPageable, kRegistered, kHostAllocated, kOnDevice };

struct range {
  enum space space;
  int device;    /* where it was allocated or registered */
  char* begin;   /* as programs see it; not readable for kOnDevice */
  char* backing; /* where its bytes are */
  size_t size;
};

/* The range that has the address; space kPageable when none has. */
struct range locked_range(const void* address);
int locked_register(int device, void* address, size_t size, unsigned flags);
int locked_unregister(void* address);
int locked_allocate(enum space space, int device, size_t size, void** address);
int locked_release(enum space space, void* address);
size_t locked_allocated(int device);
size_t locked_capacity(void);
bool locked_is_mapped(const void* begin, size_t size);
/* Checks one side of a copy: `size` bytes that must be on a device, or not. */
int locked_check(const void* address, size_t size, bool on_device);
/* Where the bytes of an address are. */
char* locked_backing(const void* address);
void locked_forget_memory(void);

/* -------------------------------------------------------------------- streams */

/* Rows of `width` bytes, `height` of them, pitches apart; a memset has no source. */
struct copy {
  char* to;
  const char* from;
  size_t to_pitch, from_pitch, width, height;
  bool to_device, from_device;
  int value; /* of a memset */
};

int locked_stream_create(int device, void** handle);
int locked_stream_destroy(void* handle);
int locked_stream_copy(void* handle, const struct copy* copy);
int locked_stream_wait(void* handle, void* event);
int locked_event_create(int device, bool timing, void** handle);
int locked_event_destroy(void* handle);
int locked_event_record(void* handle, void* stream);
int locked_event_query(void* handle);
int locked_event_elapsed(float* milliseconds, void* start, void* end);
/* Waits until every stream is idle; gives the lock up meanwhile. */
void locked_idle(void);
void locked_forget_streams(void);

#endif /* LMSHM_TESTS_NATIVE_FAKE_GPU_INSIDE_H_ */
