/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu.c - finding and calling a GPU's runtime library. See gpu.h.
 *
 * Signatures are those of the CUDA Runtime API, the CUDA Driver API and the
 * HIP Runtime API; their result enumerations are passed as int, and 0 is
 * success in all of them.
 */
#include "gpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "thread.h"

/* cudaHostRegisterPortable and -Mapped, CU_MEMHOSTREGISTER_PORTABLE and
 * -_DEVICEMAP, hipHostRegisterPortable and -Mapped: pinned for every context,
 * not only the current, and with an address for kernels. */
#define FLAGS (1u | 2u)

#define ENVIRONMENT "LMSHM_GPU_LIBRARY"
#define DEVICE_ENVIRONMENT "LMSHM_GPU_DEVICE"

#define ANY_DEVICE (-1)

/* cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY, hipErrorOutOfMemory */
#define OUT_OF_MEMORY 2

/* Enough for a runtime that makes its context on the thread. */
#define STACK_BYTES ((size_t)2 << 20)

static const char* const candidates[] = {
    "libcudart.so.13",  "libcudart.so.12",  "libcudart.so.11.0", "libcudart.so",   "libcuda.so.1",
    "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5",  "libamdhip64.so",
};
#define CANDIDATES (sizeof candidates / sizeof *candidates)

__attribute__((format(printf, 3, 4))) static void say(char* why, size_t why_bytes,
                                                      const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, why_bytes, format, arguments);
  va_end(arguments);
}

/* -------------------------------------------------------------------- symbols */

/* Stores the address of the first symbol there is into a function pointer. */
static bool look_up(void* handle, void* function, const char* name, const char* older_name) {
  void* symbol = dlsym(handle, name);
  if (symbol == NULL && older_name != NULL) symbol = dlsym(handle, older_name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

static bool bind_cudart(void* handle, struct lmshm_gpu* gpu) {
  gpu->kind = LMSHM_PINNED_BY_CUDA;
  return look_up(handle, &gpu->add, "cudaHostRegister", NULL) &&
         look_up(handle, &gpu->drop, "cudaHostUnregister", NULL) &&
         look_up(handle, &gpu->count, "cudaGetDeviceCount", NULL) &&
         look_up(handle, &gpu->set, "cudaSetDevice", NULL) &&
         look_up(handle, &gpu->current, "cudaGetDevice", NULL) &&
         look_up(handle, &gpu->text, "cudaGetErrorString", NULL) &&
         look_up(handle, &gpu->last, "cudaGetLastError", NULL);
}

static bool bind_hip(void* handle, struct lmshm_gpu* gpu) {
  gpu->kind = LMSHM_PINNED_BY_HIP;
  return look_up(handle, &gpu->add, "hipHostRegister", NULL) &&
         look_up(handle, &gpu->drop, "hipHostUnregister", NULL) &&
         look_up(handle, &gpu->count, "hipGetDeviceCount", NULL) &&
         look_up(handle, &gpu->set, "hipSetDevice", NULL) &&
         look_up(handle, &gpu->current, "hipGetDevice", NULL) &&
         look_up(handle, &gpu->text, "hipGetErrorString", NULL) &&
         look_up(handle, &gpu->last, "hipGetLastError", NULL);
}

/* The driver's ABI names end in _v2 where a first version is kept for old
 * programs; cuMemHostRegister has taken PORTABLE in both. */
static bool bind_driver(void* handle, struct lmshm_gpu* gpu) {
  gpu->kind = LMSHM_PINNED_BY_CUDA_DRIVER;
  return look_up(handle, &gpu->add, "cuMemHostRegister_v2", "cuMemHostRegister") &&
         look_up(handle, &gpu->drop, "cuMemHostUnregister", NULL) &&
         look_up(handle, &gpu->count, "cuDeviceGetCount", NULL) &&
         look_up(handle, &gpu->init, "cuInit", NULL) &&
         look_up(handle, &gpu->device, "cuDeviceGet", NULL) &&
         look_up(handle, &gpu->retain, "cuDevicePrimaryCtxRetain", NULL) &&
         look_up(handle, &gpu->release, "cuDevicePrimaryCtxRelease_v2",
                 "cuDevicePrimaryCtxRelease") &&
         look_up(handle, &gpu->push, "cuCtxPushCurrent_v2", "cuCtxPushCurrent") &&
         look_up(handle, &gpu->pop, "cuCtxPopCurrent_v2", "cuCtxPopCurrent") &&
         look_up(handle, &gpu->driver_text, "cuGetErrorString", NULL);
}

static bool bind(void* handle, const char* name, struct lmshm_gpu* gpu) {
  memset(gpu, 0, sizeof *gpu);
  if (!bind_cudart(handle, gpu) && !bind_driver(handle, gpu) && !bind_hip(handle, gpu)) {
    gpu->kind = LMSHM_PINNED_BY_NONE;
    return false;
  }
  void* function;
  memcpy(&function, &gpu->count, sizeof function);
  Dl_info where;
  if (dladdr(function, &where) != 0 && where.dli_fname != NULL) name = where.dli_fname;
  snprintf(gpu->library, sizeof gpu->library, "%s", name);
  return true;
}

/* --------------------------------------------------------------------- errors */

/* "cudaGetDeviceCount: no device (100)", and takes a runtime's record of its
 * last error back, so that the host program does not find ours. */
static int report(const struct lmshm_gpu* gpu, const char* call, int code, char* why,
                  size_t why_bytes) {
  const char* text = NULL;
  if (gpu->kind == LMSHM_PINNED_BY_CUDA_DRIVER) {
    if (gpu->driver_text(code, &text) != 0) text = NULL;
  } else {
    text = gpu->text(code);
    gpu->last();
  }
  const char* slash = strrchr(gpu->library, '/');
  say(why, why_bytes, "%s of %s: %s (%d)", call, slash ? slash + 1 : gpu->library,
      text ? text : "unknown error", code);
  return code;
}

/* ---------------------------------------------------------------------- finding */

/* The device that is asked for: `gpu_device` - 1, else the environment's;
 * ANY_DEVICE when neither says. Returns 0, or -ENODEV with words. */
static int named_device(uint32_t gpu_device, int* device, char* why, size_t why_bytes) {
  *device = gpu_device <= INT32_MAX ? (int)gpu_device - 1 : INT32_MAX;
  const char* text = gpu_device == 0 ? secure_getenv(DEVICE_ENVIRONMENT) : NULL;
  if (text == NULL || *text == '\0') return 0;
  char* end;
  errno = 0;
  long number = strtol(text, &end, 10);
  if (errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && number < INT32_MAX) {
    *device = (int)number;
    return 0;
  }
  say(why, why_bytes, DEVICE_ENVIRONMENT " is \"%.40s\", which is no number of a device", text);
  return -ENODEV;
}

/* Settles which device's context is used from now on, without making one. */
static int choose_device(struct lmshm_gpu* gpu, int device, char* why, size_t why_bytes,
                         int32_t* code) {
  if (device >= (int)gpu->devices) {
    say(why, why_bytes, "there is no GPU %d: %s counts %u, from 0", device, gpu->library,
        gpu->devices);
    return -ENODEV;
  }
  if (device == ANY_DEVICE && gpu->kind == LMSHM_PINNED_BY_CUDA_DRIVER) device = 0;
  if (device == ANY_DEVICE && (*code = gpu->current(&device)) != 0) {
    report(gpu, "asking for the current device", *code, why, why_bytes);
    return -ENODEV;
  }
  gpu->ordinal = device;
  return 0;
}

/* Loads a library, counts its devices and settles on one (or ANY_DEVICE).
 * Returns 0 or -ENODEV with words. */
static int try_library(struct lmshm_gpu* gpu, const char* name, int device, char* why,
                       size_t why_bytes, int32_t* code) {
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    const char* text = dlerror();
    say(why, why_bytes, "%s", text ? text : name);
    return -ENODEV;
  }
  int count = 0;
  if (!bind(handle, name, gpu)) {
    say(why, why_bytes, "%s is neither a CUDA nor a HIP runtime library", name);
  } else if (gpu->init != NULL && (*code = gpu->init(0)) != 0) {
    report(gpu, "cuInit", *code, why, why_bytes);
  } else if ((*code = gpu->count(&count)) != 0) {
    report(gpu, "counting devices", *code, why, why_bytes);
  } else if (count <= 0) {
    say(why, why_bytes, "%s counts no GPU", gpu->library);
  } else {
    gpu->devices = (uint32_t)count;
    int rc = choose_device(gpu, device, why, why_bytes, code);
    if (rc == 0) return 0; /* and it stays loaded */
    dlclose(handle);
    return rc;
  }
  dlclose(handle);
  return -ENODEV;
}

static const char* named_library(const char* library) {
  if (library == NULL) library = secure_getenv(ENVIRONMENT);
  return library != NULL && *library != '\0' ? library : NULL;
}

int lmshm_gpu_find(struct lmshm_gpu* gpu, const char* library, uint32_t gpu_device, char* why,
                   size_t why_bytes, int32_t* code) {
  memset(gpu, 0, sizeof *gpu);
  *code = 0;
  int device;
  int rc = named_device(gpu_device, &device, why, why_bytes);
  if (rc != 0) return rc;
  library = named_library(library);
  if (library != NULL) {
    rc = try_library(gpu, library, device, why, why_bytes, code);
  } else {
    say(why, why_bytes, "no GPU runtime library found (libcudart, libcuda, libamdhip64)");
    rc = -ENODEV;
    /* The first library that is there tells most about why there is none. */
    char first[sizeof gpu->library] = "";
    for (size_t i = 0; rc != 0 && i < CANDIDATES; i++) {
      char reason[256];
      int32_t reason_code = 0;
      rc = try_library(gpu, candidates[i], device, reason, sizeof reason, &reason_code);
      if (rc != 0 && gpu->kind != LMSHM_PINNED_BY_NONE && first[0] == '\0') {
        memcpy(first, gpu->library, sizeof first);
        say(why, why_bytes, "%s", reason);
        *code = reason_code;
      }
    }
    if (rc != 0) memcpy(gpu->library, first, sizeof first);
  }
  if (rc == 0) {
    *code = 0;
    *why = '\0';
  } else {
    gpu->kind = LMSHM_PINNED_BY_NONE;
  }
  return rc;
}

/* -------------------------------------------------------------- driver contexts */

/* Makes the primary context of the device current, taking a reference to it. */
static int enter(const struct lmshm_gpu* gpu, int* device, char* why, size_t why_bytes) {
  void* context;
  int code = gpu->device(device, gpu->ordinal);
  if (code != 0) return report(gpu, "cuDeviceGet", code, why, why_bytes);
  code = gpu->retain(&context, *device);
  if (code != 0) return report(gpu, "cuDevicePrimaryCtxRetain", code, why, why_bytes);
  code = gpu->push(context);
  if (code == 0) return 0;
  report(gpu, "cuCtxPushCurrent", code, why, why_bytes);
  gpu->release(*device);
  return code;
}

static void leave(const struct lmshm_gpu* gpu) {
  void* context;
  gpu->pop(&context);
}

/* Registers (size > 0), or unregisters. */
static int driver_call(const struct lmshm_gpu* gpu, void* address, size_t size, char* why,
                       size_t why_bytes) {
  int device;
  int code = enter(gpu, &device, why, why_bytes);
  if (code != 0) return code;
  code = size > 0 ? gpu->add(address, size, FLAGS) : gpu->drop(address);
  if (code != 0)
    report(gpu, size > 0 ? "cuMemHostRegister" : "cuMemHostUnregister", code, why, why_bytes);
  leave(gpu);
  if (size > 0 && code == 0) return 0; /* the reference is kept while registered */
  gpu->release(device);
  if (size == 0 && code == 0) gpu->release(device); /* the reference of registering */
  return code;
}

/* ------------------------------------------------------------- runtime's devices */

/* One call to a runtime, which works with the current device of its thread. */
struct call {
  const struct lmshm_gpu* gpu;
  void* address;
  size_t size; /* 0: unregister */
  char* why;
  size_t why_bytes;
  int code;
};

static void runtime_call(struct call* call) {
  const struct lmshm_gpu* gpu = call->gpu;
  const char* what = call->size > 0 ? "registering host memory" : "unregistering host memory";
  call->code =
      call->size > 0 ? gpu->add(call->address, call->size, FLAGS) : gpu->drop(call->address);
  if (call->code != 0) report(gpu, what, call->code, call->why, call->why_bytes);
}

static void* runtime_call_elsewhere(void* argument) {
  struct call* call = argument;
  call->code = call->gpu->set(call->gpu->ordinal);
  if (call->code != 0)
    report(call->gpu, "choosing the device", call->code, call->why, call->why_bytes);
  else
    runtime_call(call);
  return NULL;
}

/* Makes the call where the device is current: here, or on a thread of its own,
 * because setting it here would make a context when it is set back. */
static int runtime_call_on_device(struct call* call) {
  int current;
  int code = call->gpu->current(&current);
  if (code != 0)
    return report(call->gpu, "asking for the current device", code, call->why, call->why_bytes);
  if (current == call->gpu->ordinal) {
    runtime_call(call);
    return call->code;
  }
  pthread_t thread;
  int rc = lmshm_thread_start(&thread, STACK_BYTES, runtime_call_elsewhere, call);
  if (rc != 0) {
    say(call->why, call->why_bytes, "no thread to call the GPU's runtime on: %s", strerror(-rc));
    return OUT_OF_MEMORY;
  }
  pthread_join(thread, NULL);
  return call->code;
}

/* ---------------------------------------------------------------- registering */

int lmshm_gpu_register(const struct lmshm_gpu* gpu, void* address, size_t size, char* why,
                       size_t why_bytes) {
  if (gpu->kind == LMSHM_PINNED_BY_CUDA_DRIVER)
    return driver_call(gpu, address, size, why, why_bytes);
  struct call call = {gpu, address, size, why, why_bytes, 0};
  return runtime_call_on_device(&call);
}

int lmshm_gpu_unregister(const struct lmshm_gpu* gpu, void* address, char* why, size_t why_bytes) {
  return lmshm_gpu_register(gpu, address, 0, why, why_bytes);
}

/* Unregisters with a library, if it is loaded already. */
static bool unregister_with(const char* name, char* address, size_t size, size_t piece) {
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (handle == NULL) return false;
  struct lmshm_gpu gpu;
  char why[8];
  bool found = false;
  int device, count = 0;
  int32_t code;
  if (bind(handle, name, &gpu) && (gpu.init == NULL || gpu.init(0) == 0) &&
      gpu.count(&count) == 0 && count > 0) {
    gpu.devices = (uint32_t)count;
    bool chosen = named_device(0, &device, why, sizeof why) == 0 &&
                  choose_device(&gpu, device, why, sizeof why, &code) == 0;
    for (size_t at = 0; chosen && at < size; at += piece) {
      if (lmshm_gpu_unregister(&gpu, address + at, why, sizeof why) != 0) break;
      found = true;
    }
  }
  dlclose(handle);
  return found;
}

void lmshm_gpu_unregister_unknown(char* address, size_t size, size_t piece) {
  const char* library = named_library(NULL);
  if (library != NULL) {
    unregister_with(library, address, size, piece);
    return;
  }
  for (size_t i = 0; i < CANDIDATES; i++)
    if (unregister_with(candidates[i], address, size, piece)) return;
}
