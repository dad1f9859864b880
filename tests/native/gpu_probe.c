/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_probe.c - what scripts/gpu_check.sh asks of a real GPU from C. It uses
 * the library as any program would, and then the GPU's own library, which that
 * one has loaded, to find out whether what it says is so.
 *
 *   gpu_probe pinned MIB           pins in all ways; is it registered? prints lines
 *   gpu_probe register MIB REPEAT  seconds of registering, against plain memory
 *
 * Exit status 0: all is well; 1: something is not; 77: there is no GPU.
 */
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lmshm.h"

#define MIB ((uint64_t)1 << 20)

/* The GPU's library, by the symbols that it has. */
static struct {
  int (*runtime_attributes)(void*, const void*);
  int (*driver_attribute)(void*, int, const void*);
  int (*add)(void*, size_t, unsigned);
  int (*drop)(void*);
} gpu;

static void* symbol(void* handle, const char* name) { return dlsym(handle, name); }

static bool load(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    printf("%s\n", dlerror());
    return false;
  }
  struct {
    void* to;
    const char* names[3];
  } wanted[] = {
      {&gpu.runtime_attributes, {"cudaPointerGetAttributes", "hipPointerGetAttributes"}},
      {&gpu.driver_attribute, {"cuPointerGetAttribute"}},
      {&gpu.add, {"cudaHostRegister", "cuMemHostRegister_v2", "hipHostRegister"}},
      {&gpu.drop, {"cudaHostUnregister", "cuMemHostUnregister", "hipHostUnregister"}},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    void* found = NULL;
    for (int n = 0; n < 3 && found == NULL; n++)
      if (wanted[i].names[n] != NULL) found = symbol(handle, wanted[i].names[n]);
    memcpy(wanted[i].to, &found, sizeof found);
  }
  if (gpu.driver_attribute == NULL || gpu.runtime_attributes != NULL) return gpu.add != NULL;
  /* The driver wants a context on this thread: the one that pinning made. */
  int (*device)(int*, int);
  int (*retain)(void**, int);
  int (*push)(void*);
  void* found[] = {symbol(handle, "cuDeviceGet"), symbol(handle, "cuDevicePrimaryCtxRetain"),
                   symbol(handle, "cuCtxPushCurrent_v2")};
  memcpy(&device, &found[0], sizeof device);
  memcpy(&retain, &found[1], sizeof retain);
  memcpy(&push, &found[2], sizeof push);
  int number;
  void* context;
  return device(&number, 0) == 0 && retain(&context, number) == 0 && push(context) == 0;
}

/* What the GPU says of an address: page-locked for it, or not. */
static bool is_registered(const void* address) {
  if (gpu.runtime_attributes != NULL) {
    struct {
      int type, device;
      char rest[120];
    } attributes = {0, 0, ""};
    return gpu.runtime_attributes(&attributes, address) == 0 && attributes.type == 1;
  }
  unsigned type = 0;
  return gpu.driver_attribute(&type, 2, address) == 0 && type == 1;
}

static int failures;

__attribute__((format(printf, 2, 3))) static void tell(bool ok, const char* format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  printf("%s %s\n", ok ? "ok    " : "FAILED", text);
  fflush(stdout);
  if (!ok) failures++;
}

static bool all_registered(const char* address, uint64_t size, bool wanted) {
  for (uint64_t at = 0; at < size; at += 64 * MIB)
    if (is_registered(address + at) != wanted) return false;
  return is_registered(address + size - 1) == wanted;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static lmshm_segment* open_segment(lmshm_options options, lmshm_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = sizeof *info;
  options.struct_size = sizeof options;
  intptr_t result = lmshm_open(&options, info);
  return result > 0 ? (lmshm_segment*)result : NULL;
}

/* --------------------------------------------------------------------- pinned */

/* Named, anonymous and attached segments, from this process and a child. */
static int pinned(uint64_t size) {
  char name[64];
  snprintf(name, sizeof name, "/lmshm-gpu-probe-%d", (int)getpid());
  lmshm_info info, other;
  lmshm_options options = {
      .kind = LMSHM_CREATE, .size = size, .name = name, .pin = LMSHM_PIN_REQUIRE};
  lmshm_segment* owner = open_segment(options, &info);
  if (owner == NULL) {
    tell(info.error == -ENODEV, "%s", info.message);
    return info.error == -ENODEV ? 77 : 1;
  }
  if (!load(info.gpu_library)) {
    tell(false, "%s has not what is needed of it", info.gpu_library);
    return 1;
  }
  char* address = (char*)(uintptr_t)info.address;
  tell(all_registered(address, size, true), "a named segment of %" PRIu64 " MiB is registered (%s)",
       size / MIB, info.gpu_library);
  void* pageable = malloc(4096);
  tell(!is_registered(pageable), "ordinary memory is not: the question can be answered with no");
  free(pageable);

  options = (lmshm_options){.kind = LMSHM_ATTACH, .name = name, .pin = LMSHM_PIN_REQUIRE};
  lmshm_segment* attached = open_segment(options, &other);
  char* second = (char*)(uintptr_t)other.address;
  tell(attached != NULL && all_registered(second, size, true),
       "a second mapping of it in the same process is registered, too");
  if (attached != NULL) tell(lmshm_close(attached, 0) == 0, "and is let go");

  fflush(stdout);
  pid_t child = fork();
  if (child == 0) { /* may not use the GPU, and says so instead of breaking */
    options.pin = LMSHM_PIN_AUTO;
    lmshm_segment* mine = open_segment(options, &other);
    bool fine = mine != NULL && other.pinned_by != info.pinned_by && other.message[0] != '\0' &&
                lmshm_close(mine, 0) == 0;
    _exit(fine ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  tell(status == 0, "a forked child opens it without the GPU, and is told so");
  tell(all_registered(address, size, true), "the parent's is still registered after that");

  tell(lmshm_close(owner, LMSHM_CLOSE_KEEP_RANGE) == 0, "the owner lets go");
  tell(all_registered(address, size, false), "and its addresses are not registered any more");

  options = (lmshm_options){.kind = LMSHM_ANONYMOUS, .size = size, .pin = LMSHM_PIN_REQUIRE};
  lmshm_segment* anonymous = open_segment(options, &info);
  tell(anonymous != NULL && all_registered((char*)(uintptr_t)info.address, size, true),
       "an anonymous segment is registered");
  if (anonymous != NULL) lmshm_close(anonymous, 0);

  intptr_t simple = alloc_shm_pinned_ptr(size, name);
  tell(simple > 0 && all_registered((char*)simple, size, true),
       "what alloc_shm_pinned_ptr() gives is registered");
  if (simple > 0)
    tell(free_shm_pinned_ptr((void*)simple, size, name) == 0, "and free_shm_pinned_ptr() frees it");
  return failures == 0 ? 0 : 1;
}

/* ------------------------------------------------------------------- register */

static int compare(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static double median(double* values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare);
  return values[count / 2];
}

/* Registering alone, on pages that are there: a segment's, by attaching to it,
 * and plain anonymous memory by the GPU's own call. */
static int registering(uint64_t size, int repeat) {
  enum { kMost = 99 };
  double segment_s[kMost], plain_s[kMost], create_s[kMost], release_s[kMost];
  lmshm_info info, other;
  lmshm_options options = {.kind = LMSHM_ANONYMOUS, .size = MIB, .pin = LMSHM_PIN_REQUIRE};
  lmshm_segment* first = open_segment(options, &info); /* makes the context */
  if (first == NULL) {
    printf("%s\n", info.message);
    return info.error == -ENODEV ? 77 : 1;
  }
  if (!load(info.gpu_library)) return 1;
  for (int i = 0; i < repeat && i < kMost; i++) {
    double start = seconds();
    options = (lmshm_options){.kind = LMSHM_ANONYMOUS, .size = size, .pin = LMSHM_PIN_NONE};
    lmshm_segment* owner = open_segment(options, &info);
    create_s[i] = seconds() - start;
    if (owner == NULL) {
      printf("%s\n", info.message);
      return 1;
    }
    start = seconds();
    options = (lmshm_options){.kind = LMSHM_ATTACH, .fd = info.fd, .pin = LMSHM_PIN_REQUIRE};
    lmshm_segment* attached = open_segment(options, &other);
    segment_s[i] = seconds() - start;
    if (attached == NULL) {
      printf("%s\n", other.message);
      return 1;
    }
    start = seconds();
    int rc = lmshm_close(attached, 0);
    release_s[i] = seconds() - start;
    if (rc != 0 || lmshm_close(owner, 0) != 0) return 1;

    char* plain =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (plain == MAP_FAILED) {
      perror("mmap");
      return 1;
    }
    start = seconds();
    rc = gpu.add(plain, size, 3);
    plain_s[i] = seconds() - start;
    if (rc != 0 || gpu.drop(plain) != 0) {
      printf("the GPU refuses plain memory: %d\n", rc);
      return 1;
    }
    munmap(plain, size);
  }
  lmshm_close(first, 0);
  /* MiB, then seconds: create, register a segment, let go of it, register plain memory */
  double segment = median(segment_s, repeat), plain = median(plain_s, repeat);
  printf("%" PRIu64 " %.4f %.4f %.4f %.4f %.2f\n", size / MIB, median(create_s, repeat), segment,
         median(release_s, repeat), plain, plain > 0 ? segment / plain : 0.0);
  return 0;
}

int main(int argc, char** argv) {
  uint64_t size = argc > 2 ? strtoull(argv[2], NULL, 10) * MIB : 0;
  int repeat = argc > 3 ? atoi(argv[3]) : 0;
  if (size > 0 && argc == 3 && strcmp(argv[1], "pinned") == 0) return pinned(size);
  if (size > 0 && repeat > 0 && repeat < 99 && strcmp(argv[1], "register") == 0)
    return registering(size, repeat);
  fprintf(stderr, "usage: gpu_probe pinned MIB | register MIB REPEAT\n");
  return 2;
}
