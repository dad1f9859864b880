/* SPDX-License-Identifier: Apache-2.0
 *
 * pin_test.c - page-locking, with fake GPU runtimes of all three kinds that
 * are told to fail at each step.
 *
 * The fakes lie beside the test program. They stay loaded, as a real runtime
 * would, so each test looks only at how their books change.
 */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <sys/resource.h>

#include "check.h"
#include "fake_gpu.h"

enum { kCudart, kDriver, kHip, kKinds };

static const char* const file_names[kKinds] = {"libfake_gpu_cudart.so", "libfake_gpu_driver.so",
                                               "libfake_gpu_hip.so"};
static const uint32_t pinned_by[kKinds] = {LMSHM_PINNED_BY_CUDA, LMSHM_PINNED_BY_CUDA_DRIVER,
                                           LMSHM_PINNED_BY_HIP};
static char paths[kKinds][PATH_MAX + 40];
static fake_gpu_books_fn book_keepers[kKinds];
static fake_gpu_reset_fn resets[kKinds];

static bool find_fakes(void) {
  if (book_keepers[0] != NULL) return true;
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return false;
  self[length] = '\0';
  const char* folder = dirname(self);
  for (int i = 0; i < kKinds; i++) {
    snprintf(paths[i], sizeof paths[i], "%s/%s", folder, file_names[i]);
    void* handle = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
    void* keeper = handle != NULL ? dlsym(handle, FAKE_GPU_BOOKS) : NULL;
    void* reset = handle != NULL ? dlsym(handle, FAKE_GPU_RESET) : NULL;
    CHECK(keeper != NULL && reset != NULL, "%s", dlerror());
    if (keeper == NULL || reset == NULL) return false;
    memcpy(&book_keepers[i], &keeper, sizeof keeper);
    memcpy(&resets[i], &reset, sizeof reset);
  }
  return true;
}

static struct fake_gpu_books books(int kind) {
  struct fake_gpu_books now;
  book_keepers[kind](&now);
  return now;
}

/* New orders, and new books. */
static void order(const char* fail, const char* max, const char* devices) {
  fail ? setenv("FAKE_GPU_FAIL", fail, 1) : unsetenv("FAKE_GPU_FAIL");
  max ? setenv("FAKE_GPU_MAX", max, 1) : unsetenv("FAKE_GPU_MAX");
  devices ? setenv("FAKE_GPU_DEVICES", devices, 1) : unsetenv("FAKE_GPU_DEVICES");
  for (int i = 0; i < kKinds; i++) resets[i]();
}

/* Nothing is left registered, retained, pushed, or for the host to find. */
static void check_books(int kind, const char* when) {
  struct fake_gpu_books now = books(kind);
  CHECK(now.registered == 0, "%s: %d ranges are registered (%s)", when, now.registered,
        file_names[kind]);
  CHECK(now.contexts == 0, "%s: %d contexts are retained", when, now.contexts);
  CHECK(now.pushed == 0, "%s: %d contexts are current", when, now.pushed);
  CHECK(now.last_error == 0, "%s: error %d is left", when, now.last_error);
  CHECK(now.violations == 0, "%s: %d violations", when, now.violations);
}

/* How many marks of pinning of the segment's file the kernel shows; -1: it shows
 * no locks. `by`: the byte that is locked. */
static int marks(const lmshm_info* info, uint32_t by) {
  FILE* locks = fopen("/proc/locks", "re");
  if (locks == NULL) return -1;
  unsigned long inode = strtoul(strrchr(info->identity, ':') + 1, NULL, 10);
  int found = 0;
  for (char line[256]; fgets(line, sizeof line, locks) != NULL;) {
    unsigned long shown;
    unsigned first, last;
    if (sscanf(line, "%*s OFDLCK ADVISORY READ -1 %*x:%*x:%lu %u %u", &shown, &first, &last) == 3)
      found += shown == inode && first == by && last == by;
  }
  fclose(locks);
  return found;
}

static lmshm_options with_gpu(int kind, uint32_t pin) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("pin"), 3 * MIB + 17);
  options.pin = pin;
  options.gpu_library = paths[kind];
  return options;
}

/* ------------------------------------------------------------------ what works */

static void each_kind_of_runtime_pins_and_lets_go(void) {
  if (!find_fakes()) return;
  for (int kind = 0; kind < kKinds; kind++) {
    for (uint32_t pin = LMSHM_PIN_AUTO; pin <= LMSHM_PIN_REQUIRE; pin++) {
      for (uint32_t what = 0; what < 4; what++) { /* create, attach, anonymous, by job */
        order(NULL, NULL, "3");
        lmshm_options options = with_gpu(kind, pin);
        intptr_t owner = 0;
        if (what == LMSHM_ATTACH) {
          options.pin = LMSHM_PIN_NONE;
          owner = lmshm_open(&options, NULL);
          options.pin = pin;
        }
        if (what == LMSHM_ANONYMOUS) options.name = NULL;
        options.kind = what % 3;
        lmshm_info info = check_info();
        intptr_t result = what < 3
                              ? lmshm_open(&options, &info)
                              : lmshm_job_finish((lmshm_job*)lmshm_open_start(&options), &info);
        CHECK(result > 0, "%ld: %s", (long)result, info.message);
        if (result < 0) return;
        CHECK_EQUAL(info.pinned_by, pinned_by[kind]);
        CHECK_EQUAL(info.gpu_devices, 3);
        CHECK_EQUAL(info.gpu_error, 0);
        CHECK_EQUAL(info.message[0], 0);
        CHECK_CONTAINS(info.gpu_library, file_names[kind]);
        CHECK_EQUAL(books(kind).registered, 1);
        CHECK_EQUAL(books(kind).contexts, kind == kDriver);
        bool shown = marks(&info, 0) == 0;
        if (shown) CHECK_EQUAL(marks(&info, info.pinned_by), 1);
        uint32_t flags = pin == LMSHM_PIN_AUTO ? LMSHM_CLOSE_KEEP_RANGE : 0;
        CHECK_EQUAL(lmshm_close((lmshm_segment*)result, flags), 0);
        if (flags != 0) munmap((void*)(uintptr_t)info.address, info.mapped_size);
        if (shown) CHECK_EQUAL(marks(&info, info.pinned_by), 0);
        if (owner > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)owner, 0), 0);
        check_books(kind, "after closing");
      }
    }
  }
}

static void nothing_is_asked_of_a_gpu_when_it_is_not_wanted(void) {
  if (!find_fakes()) return;
  order(NULL, NULL, NULL);
  int before = books(kCudart).calls;
  lmshm_options options = with_gpu(kCudart, LMSHM_PIN_NONE);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK_EQUAL(info.pinned_by, LMSHM_PINNED_BY_NONE);
  CHECK_EQUAL(info.message[0], 0);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  CHECK_EQUAL(books(kCudart).calls, before);
}

static void the_simple_interface_pins_with_the_library_of_the_environment(void) {
  if (!find_fakes()) return;
  order(NULL, NULL, NULL);
  for (int kind = 0; kind < kKinds; kind++) {
    setenv("LMSHM_GPU_LIBRARY", paths[kind], 1);
    const char* name = check_name("simple");
    intptr_t address = alloc_shm_pinned_ptr(5 * MIB, name);
    CHECK(address > 0, "%ld", (long)address);
    CHECK_EQUAL(books(kind).registered, 1);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4 * MIB, name), -EINVAL);
    CHECK_EQUAL(books(kind).registered, 1); /* a wrong free touches nothing */
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 5 * MIB, name), 0);
    check_books(kind, "after freeing");
  }
  unsetenv("LMSHM_GPU_LIBRARY");
}

static void the_options_come_before_the_environment(void) {
  if (!find_fakes()) return;
  order(NULL, NULL, NULL);
  setenv("LMSHM_GPU_LIBRARY", paths[kHip], 1);
  lmshm_options options = with_gpu(kCudart, LMSHM_PIN_REQUIRE);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK_EQUAL(info.pinned_by, LMSHM_PINNED_BY_CUDA);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  options.gpu_library = NULL;
  segment = lmshm_open(&options, &info);
  CHECK_EQUAL(info.pinned_by, LMSHM_PINNED_BY_HIP);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  unsetenv("LMSHM_GPU_LIBRARY");
}

/* --------------------------------------------------------------- what goes wrong */

struct failure {
  const char* fail;
  const char* devices;
  int required; /* what opening gives when a GPU is required */
  int code;     /* gpu_error */
  const char* says;
  bool driver_only;
};

static const struct failure failures[] = {
    {"count:0:35", NULL, -ENODEV, 35, "insufficient", false},
    {"count:0:100", NULL, -ENODEV, 100, "a fake error", false},
    {NULL, "0", -ENODEV, 0, "no GPU", false},
    {NULL, "-1", -ENODEV, 0, "no GPU", false},
    {"register:0:2", NULL, -EIO, 2, "out of memory", false},
    {"register:0:712", NULL, -EIO, 712, "already", false},
    {"init:0:100", NULL, -ENODEV, 100, "cuInit", true},
    {"device:0:101", NULL, -EIO, 101, "cuDeviceGet", true},
    {"retain:0:2", NULL, -EIO, 2, "cuDevicePrimaryCtxRetain", true},
    {"push:0:201", NULL, -EIO, 201, "cuCtxPushCurrent", true},
    {"register:0:999", NULL, -EIO, 999, "unknown error (999)", true},
};

static void whatever_fails_require_is_a_clear_error_and_nothing_leaks(void) {
  if (!find_fakes()) return;
  for (int kind = 0; kind < kKinds; kind++) {
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
      const struct failure* failure = &failures[i];
      if (failure->driver_only && kind != kDriver) continue;
      order(failure->fail, NULL, failure->devices);
      lmshm_options options = with_gpu(kind, LMSHM_PIN_REQUIRE);
      lmshm_info info = check_info();
      intptr_t result = lmshm_open(&options, &info);
      CHECK(result == failure->required, "%s: %ld", failure->fail, (long)result);
      CHECK_EQUAL(info.error, failure->required);
      CHECK_EQUAL(info.step, LMSHM_STEP_PIN);
      CHECK_EQUAL(info.gpu_error, failure->code);
      CHECK_CONTAINS(info.message, failure->says);
      CHECK_CONTAINS(info.message, "required");
      CHECK_EQUAL(info.populated == 0, failure->required == -ENODEV); /* said at once */
      CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
      check_books(kind, failure->says);
    }
  }
  order(NULL, NULL, NULL);
}

static void whatever_fails_auto_goes_on_without_the_gpu_and_says_so(void) {
  if (!find_fakes()) return;
  for (int kind = 0; kind < kKinds; kind++) {
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
      const struct failure* failure = &failures[i];
      if (failure->driver_only && kind != kDriver) continue;
      order(failure->fail, NULL, failure->devices);
      lmshm_options options = with_gpu(kind, LMSHM_PIN_AUTO);
      lmshm_info info = check_info();
      intptr_t result = lmshm_open(&options, &info);
      CHECK(result > 0, "%s: %ld: %s", failure->fail, (long)result, info.message);
      CHECK(info.pinned_by == LMSHM_PINNED_BY_MLOCK || info.pinned_by == LMSHM_PINNED_BY_NONE, "%u",
            info.pinned_by);
      CHECK_EQUAL(info.error, 0);
      CHECK_EQUAL(info.gpu_error, failure->code);
      CHECK_CONTAINS(info.message, failure->says);
      CHECK_CONTAINS(info.message, "mlock");
      check_books(kind, failure->says);
      CHECK_EQUAL(lmshm_close((lmshm_segment*)result, 0), 0);
      check_books(kind, failure->says);
    }
  }
  order(NULL, NULL, NULL);
}

static void a_gpu_that_will_not_let_go_is_reported_and_the_rest_is_done(void) {
  if (!find_fakes()) return;
  static const char* const fails[] = {"unregister:0:4", "device:0:101", "retain:0:2", "push:0:201"};
  for (int kind = 0; kind < kKinds; kind++) {
    for (size_t i = 0; i < (kind == kDriver ? 4 : 1); i++) {
      order(NULL, NULL, NULL);
      lmshm_options options = with_gpu(kind, LMSHM_PIN_REQUIRE);
      lmshm_info info = check_info();
      intptr_t segment = lmshm_open(&options, &info);
      CHECK(segment > 0, "%s", info.message);
      setenv("FAKE_GPU_FAIL", fails[i], 1);
      lmshm_job* job = (lmshm_job*)lmshm_close_start((lmshm_segment*)segment, 0);
      uint64_t address = info.address;
      CHECK_EQUAL(lmshm_job_finish(job, &info), -EIO);
      CHECK_EQUAL(info.step, LMSHM_STEP_RELEASE);
      CHECK(info.gpu_error != 0, "%s", info.message);
      CHECK_CONTAINS(info.message, "let go");
      CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
      unsigned char resident;
      CHECK_EQUAL(mincore((void*)(uintptr_t)address, 4096, &resident), -1);
      CHECK_EQUAL(books(kind).last_error, 0);
      CHECK_EQUAL(books(kind).pushed, 0);
      CHECK_EQUAL(books(kind).violations, 0);
    }
  }
  order(NULL, NULL, NULL);
}

static void cancelling_while_pinning_leaves_nothing_registered(void) {
  if (!find_fakes()) return;
  for (int kind = 0; kind < kKinds; kind++) {
    order(NULL, NULL, NULL);
    lmshm_options options = with_gpu(kind, LMSHM_PIN_REQUIRE);
    options.size = 128 * MIB;
    for (useconds_t wait = 0; wait < 100000; wait += 20000) {
      lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
      usleep(wait);
      lmshm_job_cancel(job);
      intptr_t result = lmshm_job_finish(job, NULL);
      CHECK(result > 0 || result == -ECANCELED, "%ld", (long)result);
      if (result > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)result, 0), 0);
      check_books(kind, "after cancelling");
    }
  }
}

/* ----------------------------------------------------------- libraries and mlock */

static void a_library_that_is_not_one_is_named_in_the_error(void) {
  static const char* const wrong[] = {"/nowhere/libcudart.so", "libm.so.6", "/etc/passwd"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("wrong"), MIB);
    options.pin = LMSHM_PIN_REQUIRE;
    options.gpu_library = wrong[i];
    lmshm_info info = check_info();
    CHECK_EQUAL(lmshm_open(&options, &info), -ENODEV);
    CHECK_CONTAINS(info.message, wrong[i]);
    options.pin = LMSHM_PIN_AUTO;
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    CHECK_CONTAINS(info.message, wrong[i]);
    CHECK_EQUAL(info.gpu_library[0], 0);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
}

static uint64_t locked_bytes(void) {
  char line[256];
  uint64_t kib = 0;
  FILE* file = fopen("/proc/self/status", "re");
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "VmLck: %" SCNu64, &kib) == 1) break;
  if (file != NULL) fclose(file);
  return kib * 1024;
}

static void drop_privileges_and_limit_locks(rlim_t bytes) {
  const struct rlimit limit = {bytes, bytes};
  CHECK_EQUAL(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
  if (geteuid() == 0) CHECK_EQUAL(setgid(12345) | setuid(12345), 0);
}

static void lock_below_the_limit(void) {
  drop_privileges_and_limit_locks(4 * MIB);
  for (int what = 0; what < 2; what++) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("lock"), 3 * MIB);
    intptr_t owner = 0;
    if (what == LMSHM_ATTACH) owner = lmshm_open(&options, NULL);
    options.kind = (uint32_t)what;
    options.pin = LMSHM_PIN_AUTO;
    options.gpu_library = "/nowhere/libcudart.so";
    lmshm_info info = check_info();
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    CHECK_EQUAL(info.pinned_by, LMSHM_PINNED_BY_MLOCK);
    CHECK_CONTAINS(info.message, "not for DMA");
    CHECK_EQUAL(locked_bytes(), 3 * MIB);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
    CHECK_EQUAL(locked_bytes(), 0);
    if (owner > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)owner, 0), 0);
  }
}

static void lock_above_the_limit(void) {
  drop_privileges_and_limit_locks(65536);
  for (int what = 0; what < 2; what++) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("lock"), 3 * MIB);
    intptr_t owner = 0;
    if (what == LMSHM_ATTACH) owner = lmshm_open(&options, NULL);
    options.kind = (uint32_t)what;
    options.pin = LMSHM_PIN_AUTO;
    options.gpu_library = "/nowhere/libcudart.so";
    lmshm_info info = check_info();
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    CHECK_EQUAL(info.pinned_by, LMSHM_PINNED_BY_NONE);
    CHECK_CONTAINS(info.message, "65536");
    CHECK_CONTAINS(info.message, "not page-locked");
    CHECK_EQUAL(locked_bytes(), 0);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
    if (owner > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)owner, 0), 0);
  }
}

static void without_a_gpu_mlock_locks_what_the_limit_allows(void) {
  CHECK_EQUAL(check_in_child(lock_below_the_limit), 0);
  CHECK_EQUAL(check_in_child(lock_above_the_limit), 0);
}

CHECK_MAIN(CASE(each_kind_of_runtime_pins_and_lets_go),
           CASE(nothing_is_asked_of_a_gpu_when_it_is_not_wanted),
           CASE(the_simple_interface_pins_with_the_library_of_the_environment),
           CASE(the_options_come_before_the_environment),
           CASE(whatever_fails_require_is_a_clear_error_and_nothing_leaks),
           CASE(whatever_fails_auto_goes_on_without_the_gpu_and_says_so),
           CASE(a_gpu_that_will_not_let_go_is_reported_and_the_rest_is_done),
           CASE(cancelling_while_pinning_leaves_nothing_registered),
           CASE(a_library_that_is_not_one_is_named_in_the_error),
           CASE(without_a_gpu_mlock_locks_what_the_limit_allows))
