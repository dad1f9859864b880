/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu.c - a GPU runtime without a GPU, which keeps books of what it is
 * asked and fails where it is told to.
 *
 * Compiled three times, with one of FAKE_GPU_CUDART, FAKE_GPU_DRIVER and
 * FAKE_GPU_HIP, it has the symbols of that library. The environment, read at
 * each call, gives the orders:
 *
 *   FAKE_GPU_DEVICES  how many devices it counts; 1 if not set
 *   FAKE_GPU_ABSENT   base names of copies of it that count none, a comma after each
 *   FAKE_GPU_FAIL     "call:n:code" fails the nth call (from 1; 0: every one)
 *                     with that code; several with commas. Calls: count,
 *                     register, unregister, init, device, retain, push
 *   FAKE_GPU_MAX      registering more bytes than this at once fails (code 2)
 *   FAKE_GPU_LOG      file to which each call is appended, a line each
 *
 * It registers only memory that is mapped, and takes a range back only while
 * it still is: anything else is a violation.
 */
#include "fake_gpu.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { kMaxRanges = 64, kInvalid = 1, kOutOfMemory = 2, kAlready = 712, kNotRegistered = 713 };

#if defined(FAKE_GPU_CUDART)
static const char kind[] = "cudart";
#elif defined(FAKE_GPU_DRIVER)
static const char kind[] = "driver";
#elif defined(FAKE_GPU_HIP)
static const char kind[] = "hip";
#endif

enum call { kCount, kRegister, kUnregister, kInit, kDevice, kRetain, kPush, kCalls };
static const char* const call_names[kCalls] = {"count",  "register", "unregister", "init",
                                               "device", "retain",   "push"};

static struct {
  struct fake_gpu_books books;
  int count_of[kCalls];
  char* begin[kMaxRanges];
  size_t size[kMaxRanges];
} state;

EXPORT void fake_gpu_books(struct fake_gpu_books* books) { *books = state.books; }
EXPORT void fake_gpu_reset(void) { memset(&state, 0, sizeof state); }

static const char* own_file(void) {
  Dl_info info;
  if (dladdr(&state, &info) == 0 || info.dli_fname == NULL) return kind;
  const char* slash = strrchr(info.dli_fname, '/');
  return slash != NULL ? slash + 1 : info.dli_fname;
}

__attribute__((format(printf, 1, 2))) static void note(const char* format, ...) {
  const char* path = getenv("FAKE_GPU_LOG");
  FILE* log = path != NULL ? fopen(path, "ae") : NULL;
  if (log == NULL) return;
  va_list arguments;
  va_start(arguments, format);
  fprintf(log, "%s ", own_file());
  vfprintf(log, format, arguments);
  fprintf(log, "\n");
  va_end(arguments);
  fclose(log);
}

__attribute__((format(printf, 1, 2))) static void violation(const char* format, ...) {
  char text[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  state.books.violations++;
  note("VIOLATION %s", text);
}

/* Counts the call, and returns the code it is to fail with, or 0. */
static int ordered(enum call call) {
  state.books.calls++;
  int nth = ++state.count_of[call];
  const char* order = getenv("FAKE_GPU_FAIL");
  for (; order != NULL && *order != '\0'; order = strchr(order, ',')) {
    if (*order == ',') order++;
    size_t length = strlen(call_names[call]);
    int at, code;
    if (strncmp(order, call_names[call], length) == 0 && order[length] == ':' &&
        sscanf(order + length, ":%d:%d", &at, &code) == 2 && (at == 0 || at == nth))
      return code;
  }
  return 0;
}

static int done(enum call call, int code) {
  note("%s %d", call_names[call], code);
  if (code != 0) state.books.last_error = code;
  return code;
}

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static int is_mapped(char* begin, size_t size) {
  unsigned char* pages = malloc(size / page() + 1);
  int mapped = pages != NULL && mincore(begin, size, pages) == 0;
  free(pages);
  return mapped;
}

/* Whether a list with a comma after each name has one. */
static int is_listed(const char* list, const char* name) {
  size_t length = strlen(name);
  for (; list != NULL && *list != '\0'; list = strchr(list, ','), list += list != NULL)
    if (strncmp(list, name, length) == 0 && list[length] == ',') return 1;
  return 0;
}

static int count_devices(int* count) {
  int code = ordered(kCount);
  const char* devices = getenv("FAKE_GPU_DEVICES");
  const char* absent = getenv("FAKE_GPU_ABSENT");
  if (code == 0) *count = devices != NULL ? atoi(devices) : 1;
  if (code == 0 && absent != NULL && is_listed(absent, own_file())) *count = 0;
  return done(kCount, code); /* upon failure `*count` is left as it was */
}

static int add(void* address, size_t size, unsigned flags) {
  int code = ordered(kRegister);
  const char* max = getenv("FAKE_GPU_MAX");
  if (flags != 1) violation("registering with flags %u", flags);
  if ((uintptr_t)address % page() != 0) violation("registering %p", address);
  if (!is_mapped(address, size)) violation("registering what is not mapped");
  if (code == 0 && max != NULL && size > strtoull(max, NULL, 10)) code = kOutOfMemory;
  int slot = -1;
  for (int i = 0; code == 0 && i < kMaxRanges; i++) {
    char* begin = address;
    if (state.begin[i] == NULL)
      slot = i;
    else if (begin < state.begin[i] + state.size[i] && state.begin[i] < begin + size)
      code = kAlready;
  }
  if (code == 0 && slot < 0) code = kOutOfMemory;
  if (code == 0) {
    state.begin[slot] = address;
    state.size[slot] = size;
    state.books.registered++;
  }
  return done(kRegister, code);
}

static int drop(void* address) {
  int code = ordered(kUnregister);
  if (code == 0) {
    code = kNotRegistered;
    for (int i = 0; i < kMaxRanges; i++) {
      if (address == NULL || state.begin[i] != (char*)address) continue;
      if (!is_mapped(address, state.size[i])) violation("unregistering after unmapping");
      state.begin[i] = NULL;
      state.books.registered--;
      code = 0;
      break;
    }
  }
  return done(kUnregister, code);
}

static const char* text_of(int code) {
  switch (code) {
    case kOutOfMemory:
      return "out of memory";
    case 35:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case kAlready:
      return "already registered";
    case kNotRegistered:
      return "not registered";
    default:
      return "a fake error";
  }
}

static int take_last_error(void) {
  int code = state.books.last_error;
  state.books.last_error = 0;
  return code;
}

#if defined(FAKE_GPU_CUDART)
EXPORT int cudaGetDeviceCount(int* count) { return count_devices(count); }
EXPORT int cudaHostRegister(void* address, size_t size, unsigned flags) {
  return add(address, size, flags);
}
EXPORT int cudaHostUnregister(void* address) { return drop(address); }
EXPORT const char* cudaGetErrorString(int code) { return text_of(code); }
EXPORT int cudaGetLastError(void) { return take_last_error(); }

#elif defined(FAKE_GPU_HIP)
EXPORT int hipGetDeviceCount(int* count) { return count_devices(count); }
EXPORT int hipHostRegister(void* address, size_t size, unsigned flags) {
  return add(address, size, flags);
}
EXPORT int hipHostUnregister(void* address) { return drop(address); }
EXPORT const char* hipGetErrorString(int code) { return text_of(code); }
EXPORT int hipGetLastError(void) { return take_last_error(); }

#elif defined(FAKE_GPU_DRIVER)
static int initialised;

/* The driver keeps no last error, and wants a context for memory. */
static int driver(int code) {
  take_last_error();
  return code;
}

static void need_context(const char* what) {
  if (state.books.pushed == 0) violation("%s without a context", what);
}

EXPORT int cuInit(unsigned flags) {
  int code = ordered(kInit);
  if (flags != 0) code = kInvalid;
  initialised = code == 0;
  return driver(done(kInit, code));
}
EXPORT int cuDeviceGetCount(int* count) { return driver(initialised ? count_devices(count) : 3); }
EXPORT int cuDeviceGet(int* device, int ordinal) {
  int code = ordered(kDevice);
  if (code == 0) *device = ordinal + 7; /* a handle is not an ordinal */
  return driver(done(kDevice, code));
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
  int code = ordered(kRetain);
  if (device != 7) violation("retaining device %d", device);
  if (code == 0) *context = &state;
  if (code == 0) state.books.contexts++;
  return driver(done(kRetain, code));
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  if (device != 7 || state.books.contexts <= 0) violation("releasing device %d", device);
  state.books.contexts--;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void* context) {
  int code = ordered(kPush);
  if (context != &state) violation("pushing %p", context);
  if (code == 0) state.books.pushed++;
  return driver(done(kPush, code));
}
EXPORT int cuCtxPopCurrent_v2(void** context) {
  if (state.books.pushed <= 0) violation("popping nothing");
  state.books.pushed--;
  *context = &state;
  return 0;
}
EXPORT int cuMemHostRegister_v2(void* address, size_t size, unsigned flags) {
  need_context("registering");
  return driver(add(address, size, flags));
}
EXPORT int cuMemHostUnregister(void* address) {
  need_context("unregistering");
  return driver(drop(address));
}
EXPORT int cuGetErrorString(int code, const char** text) {
  *text = text_of(code);
  return code == 999 ? kInvalid : 0;
}
#endif
