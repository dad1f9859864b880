/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_device_test.c - which device pins, that no other gets a context, and what
 * happens in other processes: attachers, which register for themselves, and
 * forked children, which cannot use their parent's GPU.
 *
 * With the fakes that lie beside the test program; see fake_gpu.c.
 */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"
#include "fake_gpu.h"

enum { kCudart, kDriver, kHip, kKinds };

static const char* const names[kKinds] = {"cudart", "driver", "hip"};
static char paths[kKinds][PATH_MAX + 40];
static struct {
  fake_gpu_books_fn books;
  fake_gpu_reset_fn reset;
  int (*set_device)(int);
  int (*get_device)(int*);
} fakes[kKinds];

static bool look_up(void* handle, void* function, const char* name) {
  void* symbol = dlsym(handle, name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

/* New books, three devices, and no order left from the test before. */
static bool set_up(void) {
  static bool loaded;
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return false;
  self[length] = '\0';
  const char* folder = dirname(self);
  for (int i = 0; i < kKinds && !loaded; i++) {
    snprintf(paths[i], sizeof paths[i], "%s/libfake_gpu_%s.so", folder, names[i]);
    void* handle = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
    bool fine = handle != NULL && look_up(handle, &fakes[i].books, FAKE_GPU_BOOKS) &&
                look_up(handle, &fakes[i].reset, FAKE_GPU_RESET);
    if (i != kDriver)
      fine = fine && look_up(handle, &fakes[i].set_device, i ? "hipSetDevice" : "cudaSetDevice") &&
             look_up(handle, &fakes[i].get_device, i ? "hipGetDevice" : "cudaGetDevice");
    CHECK(fine, "%s", dlerror());
    if (!fine) return false;
  }
  loaded = true;
  unsetenv("FAKE_GPU_FAIL");
  unsetenv("FAKE_GPU_MAX");
  unsetenv("LMSHM_GPU_DEVICE");
  unsetenv("LMSHM_GPU_LIBRARY");
  setenv("FAKE_GPU_DEVICES", "3", 1);
  for (int i = 0; i < kKinds; i++) {
    if (i != kDriver) fakes[i].set_device(0);
    fakes[i].reset();
  }
  return true;
}

static struct fake_gpu_books books(int kind) {
  struct fake_gpu_books now;
  fakes[kind].books(&now);
  return now;
}

static lmshm_options with_gpu(int kind, uint32_t gpu_device) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("device"), MIB);
  options.pin = LMSHM_PIN_REQUIRE;
  options.gpu_library = paths[kind];
  options.gpu_device = gpu_device;
  return options;
}

/* Opens and closes in one of four ways: each by itself or by a job. */
static void open_and_close(const lmshm_options* options, int way) {
  lmshm_info info = check_info();
  intptr_t result = (way & 1) == 0 ? lmshm_open(options, &info)
                                   : lmshm_job_finish((lmshm_job*)lmshm_open_start(options), &info);
  CHECK(result > 0, "%ld: %s", (long)result, info.message);
  if (result <= 0) return;
  lmshm_segment* segment = (lmshm_segment*)result;
  intptr_t rc = (way & 2) == 0 ? lmshm_close(segment, 0)
                               : lmshm_job_finish((lmshm_job*)lmshm_close_start(segment, 0), NULL);
  CHECK_EQUAL(rc, 0);
}

static void check_clean(int kind, int contexts) {
  struct fake_gpu_books now = books(kind);
  CHECK_EQUAL(now.context_mask, contexts);
  CHECK(now.registered == 0 && now.contexts == 0 && now.pushed == 0 && now.last_error == 0 &&
            now.violations == 0,
        "%s: registered %d, contexts %d, pushed %d, error %d, violations %d", names[kind],
        now.registered, now.contexts, now.pushed, now.last_error, now.violations);
}

static void only_the_chosen_device_gets_a_context(void) {
  for (int kind = 0; kind < kKinds; kind++)
    for (int device = 0; device < 3; device++)
      for (int way = 0; way < 4; way++)
        for (int by_environment = 0; by_environment < 2; by_environment++) {
          if (!set_up()) return;
          char text[] = {(char)('0' + device), '\0'};
          if (by_environment) setenv("LMSHM_GPU_DEVICE", text, 1);
          const lmshm_options options = with_gpu(kind, by_environment ? 0 : (uint32_t)device + 1);
          open_and_close(&options, way);
          check_clean(kind, 1 << device);
          int current = -1;
          if (kind != kDriver) {
            fakes[kind].get_device(&current);
            CHECK_EQUAL(current, 0); /* of this thread: as it was */
          }
        }
}

static void the_option_comes_before_the_environment(void) {
  if (!set_up()) return;
  setenv("LMSHM_GPU_DEVICE", "1", 1);
  const lmshm_options options = with_gpu(kCudart, 3);
  open_and_close(&options, 0);
  check_clean(kCudart, 1 << 2);
}

/* A job's thread begins with device 0; the one that opened must be meant. */
static void the_current_device_of_who_opens_is_used_for_closing_elsewhere_too(void) {
  for (int kind = 0; kind < kKinds; kind += 2) {
    if (!set_up()) return;
    fakes[kind].set_device(2);
    fakes[kind].reset();
    const lmshm_options options = with_gpu(kind, 0);
    open_and_close(&options, 2);
    check_clean(kind, 1 << 2);
    int current = -1;
    fakes[kind].get_device(&current);
    CHECK_EQUAL(current, 2);
  }
}

static void the_simple_interface_goes_by_the_environment(void) {
  for (int kind = 0; kind < kKinds; kind++) {
    if (!set_up()) return;
    setenv("LMSHM_GPU_DEVICE", "1", 1);
    setenv("LMSHM_GPU_LIBRARY", paths[kind], 1);
    const char* name = check_name("simple-device");
    intptr_t address = alloc_shm_pinned_ptr(MIB, name);
    CHECK(address > 0, "%ld", (long)address);
    CHECK_EQUAL(books(kind).registered, 1);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
    CHECK_EQUAL(books(kind).registered, 0);
    CHECK_EQUAL(books(kind).context_mask, 1 << 1);
    CHECK_EQUAL(books(kind).violations, 0);
  }
}

static void a_device_that_is_not_there_is_named_in_the_error(void) {
  static const struct {
    uint32_t option;
    const char *environment, *words;
  } wrong[] = {{4, NULL, "no GPU 3"},
               {UINT32_MAX, NULL, "no GPU"},
               {0, "3", "no GPU 3"},
               {0, "-1", "LMSHM_GPU_DEVICE is \"-1\""},
               {0, "first", "is \"first\""},
               {0, "1x", "is \"1x\""},
               {0, "99999999999", "LMSHM_GPU_DEVICE"}};
  for (int kind = 0; kind < kKinds; kind++)
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
      if (!set_up()) return;
      if (wrong[i].environment != NULL) setenv("LMSHM_GPU_DEVICE", wrong[i].environment, 1);
      lmshm_options options = with_gpu(kind, wrong[i].option);
      lmshm_info info = check_info();
      CHECK_EQUAL(lmshm_open(&options, &info), -ENODEV);
      CHECK_CONTAINS(info.message, wrong[i].words);
      options.pin = LMSHM_PIN_AUTO;
      intptr_t segment = lmshm_open(&options, &info);
      CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
      CHECK_CONTAINS(info.message, wrong[i].words);
      CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
      check_clean(kind, 0);
    }
}

/* Whatever fails on the way to the device: an error or none, nothing left. */
static void failing_to_reach_the_device_leaves_nothing(void) {
  static const char* const fails[] = {"set:1:999", "register:1:999", "set:1:999,register:1:2"};
  for (int kind = 0; kind < kKinds; kind += 2)
    for (size_t i = 0; i < sizeof fails / sizeof *fails; i++) {
      if (!set_up()) return;
      setenv("FAKE_GPU_FAIL", fails[i], 1);
      const lmshm_options options = with_gpu(kind, 2);
      lmshm_info info = check_info();
      CHECK_EQUAL(lmshm_open(&options, &info), -EIO);
      CHECK_EQUAL(info.gpu_error, 999);
      CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
      CHECK((books(kind).context_mask & ~2) == 0, "%d", books(kind).context_mask);
      CHECK_EQUAL(books(kind).registered, 0);
      CHECK_EQUAL(books(kind).violations, 0);
    }
}

/* ------------------------------------------------------------- other processes */

/* Starts a child that runs `work` with its end of a socket; see talk(). */
static pid_t start_child(int (*work)(int), int* link) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    alarm(30);
    _exit(work(ends[1]));
  }
  close(ends[1]);
  *link = ends[0];
  return child;
}

static bool said(int link, char what) {
  char got = 0;
  return read(link, &got, 1) == 1 && got == what;
}

static void say(int link, char what) { CHECK_EQUAL(write(link, &what, 1), 1); }

static const char* shared_name;
static int attached_kind;

/* A process of its own, which has used no GPU when it starts. */
static int attach_and_register(int link) {
  if (!said(link, 'g')) return 2;
  lmshm_options options = check_options(LMSHM_ATTACH, shared_name, 0);
  options.pin = LMSHM_PIN_REQUIRE;
  options.gpu_library = paths[attached_kind];
  options.gpu_device = 2;
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  if (segment <= 0) {
    printf("%s\n", info.message);
    return 3;
  }
  struct fake_gpu_books now = books(attached_kind);
  if (now.registered != 1 || now.violations != 0 || now.context_mask != 2) return 4;
  *(volatile char*)(uintptr_t)info.address = 'x';
  say(link, 'r');
  if (!said(link, 'c')) return 5; /* the owner has freed it */
  if (*(volatile char*)(uintptr_t)info.address != 'y') return 6;
  if (lmshm_close((lmshm_segment*)segment, 0) != 0) return 7;
  now = books(attached_kind);
  return now.registered == 0 && now.violations == 0 ? 0 : 8;
}

static void owner_and_attacher_each_register_the_segment(void) {
  for (attached_kind = 0; attached_kind < kKinds; attached_kind++) {
    if (!set_up()) return;
    const lmshm_options options = with_gpu(attached_kind, 1);
    shared_name = options.name;
    int link = -1;
    /* Forked before this process has used the GPU, in a child that does. */
    fflush(stdout);
    pid_t owner = fork();
    if (owner == 0) {
      alarm(60);
      pid_t other = start_child(attach_and_register, &link);
      lmshm_info info = check_info();
      intptr_t segment = lmshm_open(&options, &info);
      if (segment <= 0) _exit(2);
      say(link, 'g');
      if (!said(link, 'r')) _exit(3);
      volatile char* first = (char*)(uintptr_t)info.address;
      if (*first != 'x') _exit(4);
      *first = 'y';
      if (lmshm_close((lmshm_segment*)segment, 0) != 0) _exit(5);
      say(link, 'c');
      int status = -1;
      waitpid(other, &status, 0);
      struct fake_gpu_books now = books(attached_kind);
      if (status != 0) printf("attacher: %x\n", (unsigned)status);
      fflush(stdout);
      _exit(status == 0 && now.registered == 0 && now.violations == 0 && now.context_mask == 1 ? 0
                                                                                               : 6);
    }
    int status = -1;
    waitpid(owner, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %x", names[attached_kind],
          (unsigned)status);
  }
}

static intptr_t inherited;
static int forked_kind;

/* A child of a process that has used the GPU. */
static int open_without_the_gpu(int link) {
  lmshm_options options = with_gpu(forked_kind, 0);
  lmshm_info info = check_info();
  if (lmshm_open(&options, &info) != -ENODEV || info.gpu_error != 3) return 2;
  options.pin = LMSHM_PIN_AUTO;
  intptr_t own = lmshm_open(&options, &info);
  if (own <= 0 || info.message[0] == '\0') return 3;
  if (info.pinned_by != LMSHM_PINNED_BY_MLOCK && info.pinned_by != LMSHM_PINNED_BY_NONE) return 4;
  if (lmshm_close((lmshm_segment*)own, 0) != 0) return 5;
  /* The parent's: unmapped here, and nothing asked of the GPU. */
  int calls = books(forked_kind).calls;
  if (lmshm_close((lmshm_segment*)inherited, 0) != 0) return 6;
  if (books(forked_kind).calls != calls || books(forked_kind).violations != 0) return 7;
  say(link, 'd');
  return 0;
}

static void a_forked_child_does_not_touch_the_gpu_of_its_parent(void) {
  for (forked_kind = 0; forked_kind < kKinds; forked_kind++) {
    if (!set_up()) return;
    const lmshm_options options = with_gpu(forked_kind, 0);
    lmshm_info info = check_info();
    inherited = lmshm_open(&options, &info);
    CHECK(inherited > 0, "%s", info.message);
    if (inherited <= 0) return;
    int link = -1, status = -1;
    pid_t child = start_child(open_without_the_gpu, &link);
    CHECK(said(link, 'd'), "%s", names[forked_kind]);
    waitpid(child, &status, 0);
    close(link);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %x", names[forked_kind],
          (unsigned)status);
    CHECK_EQUAL(books(forked_kind).registered, 1);
    *(volatile char*)(uintptr_t)info.address = 'z'; /* still mapped here */
    CHECK_EQUAL(lmshm_close((lmshm_segment*)inherited, 0), 0);
    check_clean(forked_kind, 1);
  }
}

CHECK_MAIN(CASE(only_the_chosen_device_gets_a_context),
           CASE(owner_and_attacher_each_register_the_segment),
           CASE(the_option_comes_before_the_environment),
           CASE(the_current_device_of_who_opens_is_used_for_closing_elsewhere_too),
           CASE(the_simple_interface_goes_by_the_environment),
           CASE(a_device_that_is_not_there_is_named_in_the_error),
           CASE(failing_to_reach_the_device_leaves_nothing),
           CASE(a_forked_child_does_not_touch_the_gpu_of_its_parent))
