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

/* cudaHostRegisterPortable, CU_MEMHOSTREGISTER_PORTABLE and
 * hipHostRegisterPortable: pinned for every context, not only the current. */
#define PORTABLE 1u

#define ENVIRONMENT "LMSHM_GPU_LIBRARY"

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
         look_up(handle, &gpu->text, "cudaGetErrorString", NULL) &&
         look_up(handle, &gpu->last, "cudaGetLastError", NULL);
}

static bool bind_hip(void* handle, struct lmshm_gpu* gpu) {
  gpu->kind = LMSHM_PINNED_BY_HIP;
  return look_up(handle, &gpu->add, "hipHostRegister", NULL) &&
         look_up(handle, &gpu->drop, "hipHostUnregister", NULL) &&
         look_up(handle, &gpu->count, "hipGetDeviceCount", NULL) &&
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

/* Loads a library and counts its devices. Returns 0 or -ENODEV with words. */
static int try_library(struct lmshm_gpu* gpu, const char* name, char* why, size_t why_bytes,
                       int32_t* code) {
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
    return 0; /* and it stays loaded */
  }
  dlclose(handle);
  return -ENODEV;
}

static const char* named_library(const char* library) {
  if (library == NULL) library = secure_getenv(ENVIRONMENT);
  return library != NULL && *library != '\0' ? library : NULL;
}

int lmshm_gpu_find(struct lmshm_gpu* gpu, const char* library, char* why, size_t why_bytes,
                   int32_t* code) {
  memset(gpu, 0, sizeof *gpu);
  *code = 0;
  int rc;
  library = named_library(library);
  if (library != NULL) {
    rc = try_library(gpu, library, why, why_bytes, code);
  } else {
    say(why, why_bytes, "no GPU runtime library found (libcudart, libcuda, libamdhip64)");
    rc = -ENODEV;
    /* The first library that is there tells most about why there is none. */
    char first[sizeof gpu->library] = "";
    for (size_t i = 0; rc != 0 && i < CANDIDATES; i++) {
      char reason[256];
      int32_t reason_code = 0;
      rc = try_library(gpu, candidates[i], reason, sizeof reason, &reason_code);
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

/* Makes the primary context of device 0 current, taking a reference to it. */
static int enter(const struct lmshm_gpu* gpu, int* device, char* why, size_t why_bytes) {
  void* context;
  int code = gpu->device(device, 0);
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

/* ---------------------------------------------------------------- registering */

int lmshm_gpu_register(const struct lmshm_gpu* gpu, void* address, size_t size, char* why,
                       size_t why_bytes) {
  int code;
  if (gpu->kind != LMSHM_PINNED_BY_CUDA_DRIVER) {
    code = gpu->add(address, size, PORTABLE);
    return code == 0 ? 0 : report(gpu, "registering host memory", code, why, why_bytes);
  }
  int device;
  code = enter(gpu, &device, why, why_bytes);
  if (code != 0) return code;
  code = gpu->add(address, size, PORTABLE);
  if (code != 0) report(gpu, "cuMemHostRegister", code, why, why_bytes);
  leave(gpu);
  if (code != 0) gpu->release(device); /* else kept until it is unregistered */
  return code;
}

int lmshm_gpu_unregister(const struct lmshm_gpu* gpu, void* address, char* why, size_t why_bytes) {
  int code;
  if (gpu->kind != LMSHM_PINNED_BY_CUDA_DRIVER) {
    code = gpu->drop(address);
    return code == 0 ? 0 : report(gpu, "unregistering host memory", code, why, why_bytes);
  }
  int device;
  code = enter(gpu, &device, why, why_bytes);
  if (code != 0) return code;
  code = gpu->drop(address);
  if (code != 0) report(gpu, "cuMemHostUnregister", code, why, why_bytes);
  leave(gpu);
  gpu->release(device);
  if (code == 0) gpu->release(device); /* the reference of registering */
  return code;
}

/* Unregisters with a library, if it is loaded already. */
static bool unregister_with(const char* name, char* address, size_t size, size_t piece) {
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (handle == NULL) return false;
  struct lmshm_gpu gpu;
  char why[8];
  bool found = false;
  if (bind(handle, name, &gpu) && (gpu.init == NULL || gpu.init(0) == 0)) {
    for (size_t at = 0; at < size; at += piece) {
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
