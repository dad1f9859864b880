/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu.c - a GPU runtime without a GPU: it does what it is asked, keeps
 * books of it, and fails where it is told to. Its devices have memory, its
 * streams carry copies out later, and wrong use has the error codes that the
 * real ones have; see fake_gpu_memory.c and fake_gpu_stream.c.
 *
 * Compiled three times, with one of FAKE_GPU_CUDART, FAKE_GPU_DRIVER and
 * FAKE_GPU_HIP, it has the symbols of that library. The environment, read at
 * each call, gives the orders (or fake_gpu_order() does):
 *
 *   FAKE_GPU_DEVICES  how many devices it counts; 1 if not set
 *   FAKE_GPU_MEMORY   bytes of a device; 1 GiB if not set
 *   FAKE_GPU_ABSENT   base names of copies of it that count none, a comma after each
 *   FAKE_GPU_FAIL     "call:n:code" fails the nth call (from 1; 0: every one)
 *                     with that code; several with commas; see call_names
 *   FAKE_GPU_MAX      registering more bytes than this at once fails (code 2)
 *   FAKE_GPU_HIP_VERSION  of HIP's runtime; 60000000 if not set
 *   FAKE_GPU_LOG      file to which each call is appended, a line each
 *
 * It registers only memory that is mapped, and takes a range back only while
 * it still is: anything else is a violation. In a child made by fork() every
 * call fails, as with the real ones, and all but counting are violations.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_gpu_inside.h"

#if defined(FAKE_GPU_CUDART)
static const char kind[] = "cudart";
#elif defined(FAKE_GPU_DRIVER)
static const char kind[] = "driver";
#elif defined(FAKE_GPU_HIP)
static const char kind[] = "hip";
#endif

static const char* const call_names[kCalls] = {
    "count",  "register", "unregister", "init",      "device",   "retain", "push",   "set",
    "attr",   "malloc",   "free",       "hostalloc", "hostfree", "info",   "stream", "event",
    "record", "query",    "wait",       "copy",      "copy2d",   "memset"};

enum { kMaxOrders = 16 };

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
struct fake_gpu_books fake_books;
static int count_of[kCalls];
static struct { char variable[32], value[224]; } orders[kMaxOrders];
static pid_t user; /* whose the runtime is: it does not work after a fork */
static __thread int last_error;

/* --------------------------------------------------------------- orders and books */

static int lock(void) { return pthread_mutex_lock(&fake_lock); }

static int unlock(int code) {
  pthread_mutex_unlock(&fake_lock);
  return code;
}

const char* locked_order(const char* variable, char* room) {
  for (int i = 0; i < kMaxOrders; i++)
    if (strcmp(orders[i].variable, variable) == 0) {
      snprintf(room, 256, "%s", orders[i].value);
      return room;
    }
  return getenv(variable);
}

EXPORT void fake_gpu_order(const char* variable, const char* value) {
  lock();
  int slot = -1;
  for (int i = 0; i < kMaxOrders; i++) {
    if (strcmp(orders[i].variable, variable) == 0) slot = i;
    if (slot < 0 && orders[i].variable[0] == '\0') slot = i;
  }
  if (slot >= 0) {
    snprintf(orders[slot].variable, sizeof orders->variable, "%s", value ? variable : "");
    snprintf(orders[slot].value, sizeof orders->value, "%s", value ? value : "");
  }
  unlock(0);
}

EXPORT void fake_gpu_books(struct fake_gpu_books* books) {
  lock();
  fake_books.last_error = last_error;
  *books = fake_books;
  unlock(0);
}

EXPORT void fake_gpu_reset(void) {
  lock();
  if (user == getpid()) locked_forget_streams();
  locked_forget_memory();
  memset(&fake_books, 0, sizeof fake_books);
  memset(count_of, 0, sizeof count_of);
  last_error = 0;
  user = 0;
  unlock(0);
}

static const char* own_file(void) {
  Dl_info info;
  if (dladdr(&fake_books, &info) == 0 || info.dli_fname == NULL) return kind;
  const char* slash = strrchr(info.dli_fname, '/');
  return slash != NULL ? slash + 1 : info.dli_fname;
}

__attribute__((format(printf, 1, 2))) static void note(const char* format, ...) {
  char room[256];
  const char* path = locked_order("FAKE_GPU_LOG", room);
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

void locked_violation(const char* format, ...) {
  char text[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fake_books.violations++;
  note("VIOLATION %s", text);
}

int locked_ordered(enum call call) {
  fake_books.calls++;
  int nth = ++count_of[call];
  if (user == 0) user = getpid();
  if (user != getpid()) {
    if (call != kCount && call != kInit) locked_violation("%s after fork", call_names[call]);
    return kNotInitialised;
  }
  char room[256];
  const char* order = locked_order("FAKE_GPU_FAIL", room);
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

int locked_done(enum call call, int code) {
  note("%s %d", call_names[call], code);
  if (code != 0 && code != kNotReady) last_error = code;
  return code;
}

/* Whether a list with a comma after each name has one. */
static bool is_listed(const char* list, const char* name) {
  size_t length = strlen(name);
  for (; list != NULL && *list != '\0'; list = strchr(list, ','), list += list != NULL)
    if (strncmp(list, name, length) == 0 && list[length] == ',') return true;
  return false;
}

static int devices(void) {
  char room[256];
  const char* text = locked_order("FAKE_GPU_DEVICES", room);
  int count = text != NULL ? atoi(text) : 1;
  const char* absent = locked_order("FAKE_GPU_ABSENT", room);
  return absent != NULL && is_listed(absent, own_file()) ? 0 : count;
}

static int count_devices(int* count) {
  lock();
  int code = locked_ordered(kCount);
  if (code == 0) *count = devices(); /* upon failure it is left as it was */
  return unlock(locked_done(kCount, code));
}

static const char* text_of(int code) {
  switch (code) {
    case kInvalid:
      return "invalid argument";
    case kOutOfMemory:
      return "out of memory";
    case kNotInitialised:
      return "initialization error";
    case 35:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case kInvalidHandle:
      return "invalid resource handle";
    case kNotReady:
      return "device not ready";
    case kAlready:
      return "already registered";
    case kNotRegistered:
      return "not registered";
    default:
      return "a fake error";
  }
}

/* ------------------------------------------------- devices, as each kind has them */

/* The device that a call works on, which gets a context by it; -1: there is
 * none (a driver's context is missing). */
static int locked_device(const char* what);

/* What every call that needs a device begins with: the lock, the order, the
 * device. Without a code to fail with, `*device` is one. */
static int begin(enum call call, int* device) {
  lock();
  int code = locked_ordered(call);
  *device = 0;
  if (code != 0) return code;
  *device = locked_device(call_names[call]);
  return *device < 0 ? kInvalidContext : 0;
}

static int end(enum call call, int code) { return unlock(locked_done(call, code)); }

static int add(void* address, size_t size, unsigned flags) {
  int device, code = begin(kRegister, &device);
  if (code == 0) code = locked_register(device, address, size, flags);
  return end(kRegister, code);
}

static int drop(void* address) {
  int device, code = begin(kUnregister, &device);
  if (code == 0) code = locked_unregister(address);
  return end(kUnregister, code);
}

static int allocate(enum call call, enum space space, void** address, size_t size) {
  int device, code = begin(call, &device);
  if (code == 0) code = locked_allocate(space, device, size, address);
  return end(call, code);
}

static int release(enum call call, enum space space, void* address) {
  int device, code = begin(call, &device);
  if (code == 0) code = locked_release(space, address);
  return end(call, code);
}

static int memory_info(size_t* left, size_t* total) {
  int device, code = begin(kInfo, &device);
  if (code == 0) {
    *total = locked_capacity();
    *left = *total - locked_allocated(device);
  }
  return end(kInfo, code);
}

static int stream_create(void** stream, unsigned flags) {
  int device, code = begin(kStream, &device);
  if (code == 0) code = flags == 1 ? locked_stream_create(device, stream) : kInvalid;
  return end(kStream, code);
}

static int stream_destroy(void* stream) {
  int device, code = begin(kStream, &device);
  if (code == 0) code = locked_stream_destroy(stream);
  return end(kStream, code);
}

static int stream_wait(void* stream, void* event, unsigned flags) {
  int device, code = begin(kWait, &device);
  if (code == 0) code = flags == 0 ? locked_stream_wait(stream, event) : kInvalid;
  return end(kWait, code);
}

static int event_create(void** event, unsigned flags) {
  int device, code = begin(kEvent, &device);
  if (code == 0)
    code = (flags & ~2u) == 0 ? locked_event_create(device, flags == 0, event) : kInvalid;
  return end(kEvent, code);
}

static int event_destroy(void* event) {
  int device, code = begin(kEvent, &device);
  if (code == 0) code = locked_event_destroy(event);
  return end(kEvent, code);
}

static int event_record(void* event, void* stream) {
  int device, code = begin(kRecord, &device);
  if (code == 0) code = locked_event_record(event, stream);
  return end(kRecord, code);
}

static int event_query(void* event) {
  int device, code = begin(kQuery, &device);
  if (code == 0) code = locked_event_query(event);
  return end(kQuery, code);
}

static int event_elapsed(float* milliseconds, void* start, void* stop) {
  int device, code = begin(kQuery, &device);
  if (code == 0) code = locked_event_elapsed(milliseconds, start, stop);
  return end(kQuery, code);
}

static int copy(enum call call, void* stream, const struct copy* what) {
  int device, code = begin(call, &device);
  if (code == 0) code = locked_stream_copy(stream, what);
  return end(call, code);
}

static int copy_flat(void* to, const void* from, size_t size, bool to_device, bool from_device,
                     void* stream) {
  struct copy what = {to, from, size, size, size, size > 0, to_device, from_device, 0};
  return copy(kCopy, stream, &what);
}

static int fill(void* to, int value, size_t size, void* stream) {
  struct copy what = {to, NULL, size, 0, size, size > 0, true, false, value};
  return copy(kMemset, stream, &what);
}

static int bus_id(char* text, int room, int device) {
  lock();
  int code = locked_ordered(kAttribute);
  if (code == 0 && (device < 0 || device >= devices())) code = kNoDevice;
  if (code == 0) snprintf(text, (size_t)room, "0000:%02X:00.0", device + 1);
  return end(kAttribute, code);
}

static int attribute(int* value, int which, int device) {
  lock();
  int code = locked_ordered(kAttribute);
  if (code == 0 && (device < 0 || device >= devices())) code = kNoDevice;
  if (code == 0) *value = which == 75 ? 9 : which == 76 ? 0 : 1; /* the compute capability */
  return end(kAttribute, code);
}

/* ------------------------------------------------------------- libcudart and HIP */

#if defined(FAKE_GPU_CUDART) || defined(FAKE_GPU_HIP)
static __thread int current;

static int locked_device(const char* what) {
  (void)what;
  fake_books.context_mask |= 1 << current;
  return current;
}

/* Since CUDA 12, choosing a device makes its context. */
static int set_device(int device) {
  lock();
  int code = locked_ordered(kSet);
  if (code == 0 && (device < 0 || device >= devices())) code = kNoDevice;
  if (code == 0) {
    current = device;
    locked_device("set");
  }
  return end(kSet, code);
}

static int get_device(int* device) {
  *device = current;
  return 0;
}

static int take_last_error(void) {
  int code = last_error;
  last_error = 0;
  return code;
}

/* 1: to a device, 2: from one, 3: on devices */
static int copy_kind(void* to, const void* from, size_t size, int which, void* stream) {
  if (which < 1 || which > 3) return kInvalid;
  return copy_flat(to, from, size, which != 2, which != 1, stream);
}

static int copy_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                   size_t height, int which, void* stream) {
  if (which < 1 || which > 3) return kInvalid;
  struct copy what = {to, from, to_pitch, from_pitch, width, height, which != 2, which != 1, 0};
  return copy(kCopy2D, stream, &what);
}

/* struct cudaPointerAttributes, and HIP's, which has more behind */
struct attributes {
  int type, device;
  void *device_pointer, *host_pointer;
};

static int pointer_attributes(struct attributes* attributes, const void* address) {
  int device, code = begin(kAttribute, &device);
  if (code == 0) {
    struct range range = locked_range(address);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = range.space == kPageable ? 0 : range.space == kOnDevice ? 2 : 1;
    attributes->device = range.space == kPageable ? -2 : range.device;
    if (range.space != kPageable) attributes->device_pointer = (void*)(uintptr_t)address;
    if (range.space != kOnDevice) attributes->host_pointer = (void*)(uintptr_t)address;
  }
  return end(kAttribute, code);
}
#endif

#if defined(FAKE_GPU_CUDART)
EXPORT int cudaGetDeviceCount(int* count) { return count_devices(count); }
EXPORT int cudaSetDevice(int device) { return set_device(device); }
EXPORT int cudaGetDevice(int* device) { return get_device(device); }
EXPORT int cudaDeviceGetAttribute(int* value, int which, int device) {
  return attribute(value, which, device);
}
EXPORT int cudaDeviceGetPCIBusId(char* text, int room, int device) {
  return bus_id(text, room, device);
}
/* The name comes first, and the memory at 288, in all versions from 10. */
EXPORT int cudaGetDeviceProperties(char* properties, int device) {
  lock();
  int code = locked_ordered(kAttribute);
  if (code == 0 && (device < 0 || device >= devices())) code = kNoDevice;
  if (code == 0) {
    memset(properties, 0, 1008);
    snprintf(properties, 256, "Fake GPU %d", device);
    size_t bytes = locked_capacity();
    memcpy(properties + 288, &bytes, sizeof bytes);
  }
  return end(kAttribute, code);
}
EXPORT int cudaDriverGetVersion(int* version) { return *version = 13000, 0; }
EXPORT int cudaRuntimeGetVersion(int* version) { return *version = 12090, 0; }
EXPORT int cudaHostRegister(void* address, size_t size, unsigned flags) {
  return add(address, size, flags);
}
EXPORT int cudaHostUnregister(void* address) { return drop(address); }
EXPORT int cudaMalloc(void** address, size_t size) {
  return allocate(kMalloc, kOnDevice, address, size);
}
EXPORT int cudaFree(void* address) { return release(kFree, kOnDevice, address); }
EXPORT int cudaHostAlloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  return allocate(kHostAlloc, kHostAllocated, address, size);
}
EXPORT int cudaFreeHost(void* address) { return release(kHostFree, kHostAllocated, address); }
EXPORT int cudaMemGetInfo(size_t* left, size_t* total) { return memory_info(left, total); }
EXPORT int cudaMemcpyAsync(void* to, const void* from, size_t size, int which, void* stream) {
  return copy_kind(to, from, size, which, stream);
}
EXPORT int cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                               size_t size, void* stream) {
  if (to_device >= devices() || from_device >= devices()) return kNoDevice;
  return copy_kind(to, from, size, 3, stream);
}
EXPORT int cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                             size_t width, size_t height, int which, void* stream) {
  return copy_2d(to, to_pitch, from, from_pitch, width, height, which, stream);
}
EXPORT int cudaMemsetAsync(void* to, int value, size_t size, void* stream) {
  return fill(to, value, size, stream);
}
EXPORT int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  return stream_create(stream, flags);
}
EXPORT int cudaStreamDestroy(void* stream) { return stream_destroy(stream); }
EXPORT int cudaStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return stream_wait(stream, event, flags);
}
EXPORT int cudaEventCreateWithFlags(void** event, unsigned flags) {
  return event_create(event, flags);
}
EXPORT int cudaEventDestroy(void* event) { return event_destroy(event); }
EXPORT int cudaEventRecord(void* event, void* stream) { return event_record(event, stream); }
EXPORT int cudaEventQuery(void* event) { return event_query(event); }
EXPORT int cudaEventElapsedTime(float* milliseconds, void* start, void* stop) {
  return event_elapsed(milliseconds, start, stop);
}
EXPORT int cudaPointerGetAttributes(struct attributes* attributes, const void* address) {
  return pointer_attributes(attributes, address);
}
EXPORT const char* cudaGetErrorString(int code) { return text_of(code); }
EXPORT const char* cudaGetErrorName(int code) {
  return code == 35 ? "cudaErrorInsufficientDriver" : "cudaErrorFake";
}
EXPORT int cudaGetLastError(void) { return take_last_error(); }

#elif defined(FAKE_GPU_HIP)
EXPORT int hipGetDeviceCount(int* count) { return count_devices(count); }
EXPORT int hipSetDevice(int device) { return set_device(device); }
EXPORT int hipGetDevice(int* device) { return get_device(device); }
EXPORT int hipDeviceGetAttribute(int* value, int which, int device) {
  return attribute(value, which, device);
}
EXPORT int hipDeviceGetPCIBusId(char* text, int room, int device) {
  return bus_id(text, room, device);
}
EXPORT int hipDeviceGetName(char* text, int room, int device) {
  snprintf(text, (size_t)room, "Fake GPU %d", device);
  return 0;
}
EXPORT int hipDeviceTotalMem(size_t* bytes, int device) {
  (void)device;
  lock();
  *bytes = locked_capacity();
  return unlock(0);
}
static int hip_version(int* version) {
  char room[256];
  lock();
  const char* text = locked_order("FAKE_GPU_HIP_VERSION", room);
  *version = text != NULL ? atoi(text) : 60000000;
  return unlock(0);
}
EXPORT int hipDriverGetVersion(int* version) { return hip_version(version); }
EXPORT int hipRuntimeGetVersion(int* version) { return hip_version(version); }
EXPORT int hipHostRegister(void* address, size_t size, unsigned flags) {
  return add(address, size, flags);
}
EXPORT int hipHostUnregister(void* address) { return drop(address); }
EXPORT int hipMalloc(void** address, size_t size) {
  return allocate(kMalloc, kOnDevice, address, size);
}
EXPORT int hipFree(void* address) { return release(kFree, kOnDevice, address); }
EXPORT int hipHostMalloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  return allocate(kHostAlloc, kHostAllocated, address, size);
}
EXPORT int hipHostFree(void* address) { return release(kHostFree, kHostAllocated, address); }
EXPORT int hipMemGetInfo(size_t* left, size_t* total) { return memory_info(left, total); }
EXPORT int hipMemcpyAsync(void* to, const void* from, size_t size, int which, void* stream) {
  return copy_kind(to, from, size, which, stream);
}
EXPORT int hipMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                              size_t size, void* stream) {
  if (to_device >= devices() || from_device >= devices()) return kNoDevice;
  return copy_kind(to, from, size, 3, stream);
}
EXPORT int hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                            size_t width, size_t height, int which, void* stream) {
  return copy_2d(to, to_pitch, from, from_pitch, width, height, which, stream);
}
EXPORT int hipMemsetAsync(void* to, int value, size_t size, void* stream) {
  return fill(to, value, size, stream);
}
EXPORT int hipStreamCreateWithFlags(void** stream, unsigned flags) {
  return stream_create(stream, flags);
}
EXPORT int hipStreamDestroy(void* stream) { return stream_destroy(stream); }
EXPORT int hipStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return stream_wait(stream, event, flags);
}
EXPORT int hipEventCreateWithFlags(void** event, unsigned flags) {
  return event_create(event, flags);
}
EXPORT int hipEventDestroy(void* event) { return event_destroy(event); }
EXPORT int hipEventRecord(void* event, void* stream) { return event_record(event, stream); }
EXPORT int hipEventQuery(void* event) { return event_query(event); }
EXPORT int hipEventElapsedTime(float* milliseconds, void* start, void* stop) {
  return event_elapsed(milliseconds, start, stop);
}
EXPORT int hipPointerGetAttributes(struct attributes* attributes, const void* address) {
  return pointer_attributes(attributes, address);
}
EXPORT const char* hipGetErrorString(int code) { return text_of(code); }
EXPORT const char* hipGetErrorName(int code) {
  (void)code;
  return "hipErrorFake";
}
EXPORT int hipGetLastError(void) { return take_last_error(); }

/* ------------------------------------------------------------------------ libcuda */

#elif defined(FAKE_GPU_DRIVER)
enum { kMaxStack = 32, kHandle = 7 }; /* a device's handle is not its number */

static int initialised;
static struct { int references; } contexts[MAX_DEVICES];
static __thread int stack[kMaxStack], height;

/* The driver keeps no last error. */
static int driver(int code) {
  last_error = 0;
  return code;
}

static int locked_device(const char* what) {
  if (height > 0) return stack[height - 1];
  locked_violation("%s without a context", what);
  return -1;
}

static int device_of(int handle) {
  int device = handle - kHandle;
  return device >= 0 && device < MAX_DEVICES ? device : -1;
}

static int device_of_context(const void* context) {
  for (int i = 0; i < MAX_DEVICES; i++)
    if (context == &contexts[i] && contexts[i].references > 0) return i;
  return -1;
}

EXPORT int cuInit(unsigned flags) {
  lock();
  int code = locked_ordered(kInit);
  if (flags != 0) code = kInvalid;
  initialised = code == 0;
  return driver(end(kInit, code));
}
EXPORT int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
EXPORT int cuDeviceGetCount(int* count) {
  return driver(initialised ? count_devices(count) : kNotInitialised);
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
  lock();
  int code = locked_ordered(kDevice);
  if (code == 0 && (ordinal < 0 || ordinal >= devices())) code = kNoDevice;
  if (code == 0) *device = ordinal + kHandle;
  return driver(end(kDevice, code));
}
EXPORT int cuDeviceGetName(char* text, int room, int device) {
  snprintf(text, (size_t)room, "Fake GPU %d", device_of(device));
  return 0;
}
EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  (void)device;
  lock();
  *bytes = locked_capacity();
  return unlock(0);
}
EXPORT int cuDeviceGetAttribute(int* value, int which, int device) {
  return driver(attribute(value, which, device_of(device)));
}
EXPORT int cuDeviceGetPCIBusId(char* text, int room, int device) {
  return driver(bus_id(text, room, device_of(device)));
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int handle) {
  lock();
  int code = locked_ordered(kRetain), device = device_of(handle);
  if (device < 0) locked_violation("retaining device %d", handle);
  if (code == 0 && device >= 0) {
    *context = &contexts[device];
    contexts[device].references++;
    fake_books.contexts++;
    fake_books.context_mask |= 1 << device;
  }
  return driver(end(kRetain, code));
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int handle) {
  lock();
  int device = device_of(handle);
  if (device < 0 || contexts[device].references <= 0) {
    locked_violation("releasing device %d", handle);
  } else {
    contexts[device].references--;
    fake_books.contexts--;
  }
  return unlock(0);
}
EXPORT int cuCtxPushCurrent_v2(void* context) {
  lock();
  int code = locked_ordered(kPush), device = device_of_context(context);
  if (code == 0 && (device < 0 || height == kMaxStack)) {
    locked_violation("pushing %p", context);
    code = kInvalidContext;
  }
  if (code == 0) {
    stack[height++] = device;
    fake_books.pushed++;
  }
  return driver(end(kPush, code));
}
EXPORT int cuCtxPopCurrent_v2(void** context) {
  lock();
  if (height == 0) {
    locked_violation("popping nothing");
  } else {
    *context = &contexts[stack[--height]];
    fake_books.pushed--;
  }
  return unlock(0);
}
EXPORT int cuMemHostRegister_v2(void* address, size_t size, unsigned flags) {
  return driver(add(address, size, flags));
}
EXPORT int cuMemHostUnregister(void* address) { return driver(drop(address)); }
EXPORT int cuMemAlloc_v2(void** address, size_t size) {
  return driver(allocate(kMalloc, kOnDevice, address, size));
}
EXPORT int cuMemFree_v2(void* address) { return driver(release(kFree, kOnDevice, address)); }
EXPORT int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  return driver(allocate(kHostAlloc, kHostAllocated, address, size));
}
EXPORT int cuMemFreeHost(void* address) {
  return driver(release(kHostFree, kHostAllocated, address));
}
EXPORT int cuMemGetInfo_v2(size_t* left, size_t* total) { return driver(memory_info(left, total)); }
EXPORT int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t size, void* stream) {
  return driver(copy_flat(to, from, size, true, false, stream));
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t size, void* stream) {
  return driver(copy_flat(to, from, size, false, true, stream));
}
EXPORT int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t size, void* stream) {
  return driver(copy_flat(to, from, size, true, true, stream));
}
EXPORT int cuMemcpyPeerAsync(void* to, void* to_context, const void* from, void* from_context,
                             size_t size, void* stream) {
  if (device_of_context(to_context) < 0 || device_of_context(from_context) < 0)
    return kInvalidContext;
  return driver(copy_flat(to, from, size, true, true, stream));
}
/* CUDA_MEMCPY2D */
struct copy_2d {
  size_t from_x, from_y;
  int from_type;
  const void *from_host, *from_device;
  void* from_array;
  size_t from_pitch, to_x, to_y;
  int to_type;
  void *to_host, *to_device;
  void* to_array;
  size_t to_pitch, width, height;
};
_Static_assert(sizeof(struct copy_2d) == 128, "as in cuda.h");
EXPORT int cuMemcpy2DAsync_v2(const struct copy_2d* what, void* stream) {
  if (what->from_type < 1 || what->from_type > 2 || what->to_type < 1 || what->to_type > 2 ||
      what->from_x != 0 || what->from_y != 0 || what->to_x != 0 || what->to_y != 0)
    return kInvalid;
  bool from_device = what->from_type == 2, to_device = what->to_type == 2;
  struct copy rows = {to_device ? what->to_device : what->to_host,
                      from_device ? what->from_device : what->from_host,
                      what->to_pitch,
                      what->from_pitch,
                      what->width,
                      what->height,
                      to_device,
                      from_device,
                      0};
  return driver(copy(kCopy2D, stream, &rows));
}
EXPORT int cuMemsetD8Async(void* to, unsigned char value, size_t size, void* stream) {
  return driver(fill(to, value, size, stream));
}
EXPORT int cuStreamCreate(void** stream, unsigned flags) {
  return driver(stream_create(stream, flags));
}
EXPORT int cuStreamDestroy_v2(void* stream) { return driver(stream_destroy(stream)); }
EXPORT int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return driver(stream_wait(stream, event, flags));
}
EXPORT int cuEventCreate(void** event, unsigned flags) {
  return driver(event_create(event, flags));
}
EXPORT int cuEventDestroy_v2(void* event) { return driver(event_destroy(event)); }
EXPORT int cuEventRecord(void* event, void* stream) { return driver(event_record(event, stream)); }
EXPORT int cuEventQuery(void* event) { return driver(event_query(event)); }
EXPORT int cuEventElapsedTime(float* milliseconds, void* start, void* stop) {
  return driver(event_elapsed(milliseconds, start, stop));
}
EXPORT int cuPointerGetAttribute(void* value, int which, const void* address) {
  int device, code = begin(kAttribute, &device);
  struct range range = locked_range(address);
  if (code == 0 && range.space == kPageable) code = kInvalid; /* unknown to the driver */
  if (code == 0) {
    switch (which) {
      case 2: /* memory type, 32 bits */
        memcpy(value, &(unsigned){range.space == kOnDevice ? 2 : 1}, sizeof(unsigned));
        break;
      case 3: /* device pointer */
        memcpy(value, &address, sizeof address);
        break;
      case 9: /* device */
        memcpy(value, &range.device, sizeof range.device);
        break;
      default:
        code = kInvalid;
    }
  }
  return driver(end(kAttribute, code));
}
EXPORT int cuGetErrorString(int code, const char** text) {
  *text = text_of(code);
  return code == 999 ? kInvalid : 0;
}
EXPORT int cuGetErrorName(int code, const char** text) {
  *text = "CUDA_ERROR_FAKE";
  return code == 999 ? kInvalid : 0;
}
#endif
