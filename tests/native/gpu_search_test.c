/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_search_test.c - in which order GPU runtimes are looked for, with copies
 * of the fakes under the real names, and a real libcudart where there is one.
 *
 * The dynamic loader reads LD_LIBRARY_PATH when a program starts, so each case
 * starts this program again, with the folder of copies in it.
 */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>

#include "check.h"

static const char* const order[] = {
    "libcudart.so.13",  "libcudart.so.12",  "libcudart.so.11.0", "libcudart.so",   "libcuda.so.1",
    "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5",  "libamdhip64.so",
};
enum { kLibraries = sizeof order / sizeof *order };

static char self[PATH_MAX], folder[] = "/tmp/lmshm-test-gpu-XXXXXX", log_path[PATH_MAX];

/* -------------------------------------------------- the program that is started */

/* Opens a segment and prints what was told of the GPU, then frees it. */
static int child(const char* pin) {
  char name[64];
  snprintf(name, sizeof name, "/lmshm-test-%d-search", (int)getpid());
  if (strcmp(pin, "simple") == 0) {
    intptr_t address = alloc_shm_pinned_ptr(MIB, name);
    int rc = address < 0 ? (int)address : free_shm_pinned_ptr((void*)address, MIB, name);
    printf("%d %d 0 - -\n", rc, 0);
    return 0;
  }
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  options.pin = strcmp(pin, "require") == 0 ? LMSHM_PIN_REQUIRE : LMSHM_PIN_AUTO;
  lmshm_info info = check_info();
  intptr_t result = lmshm_open(&options, &info);
  const char* slash = strrchr(info.gpu_library, '/');
  printf("%d %u %d %s %s\n", result < 0 ? (int)result : 0, info.pinned_by, info.gpu_error,
         info.gpu_library[0] ? (slash ? slash + 1 : info.gpu_library) : "-", info.message);
  return result > 0 ? lmshm_close((lmshm_segment*)result, 0) : 0;
}

/* ---------------------------------------------------------------------- the tests */

struct answer {
  int result;
  unsigned pinned_by;
  int gpu_error;
  char library[64];
  char message[256];
};

static struct answer ask(const char* pin, const char* library_path) {
  struct answer answer = {.result = -9999};
  char command[2 * PATH_MAX + 100];
  snprintf(command, sizeof command, "LD_LIBRARY_PATH='%s' '%s' child %s", library_path, self, pin);
  FILE* output = popen(command, "re");
  char line[512] = "";
  if (output == NULL) return answer;
  if (fgets(line, sizeof line, output) != NULL)
    sscanf(line, "%d %u %d %63s %255[^\n]", &answer.result, &answer.pinned_by, &answer.gpu_error,
           answer.library, answer.message);
  CHECK_EQUAL(pclose(output), 0);
  return answer;
}

static bool copy(const char* from, const char* to) {
  char buffer[65536];
  int in = open(from, O_RDONLY | O_CLOEXEC);
  int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
  ssize_t got = -1;
  while (in >= 0 && out >= 0 && (got = read(in, buffer, sizeof buffer)) > 0)
    if (write(out, buffer, (size_t)got) != got) got = -1;
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  return got == 0;
}

static bool set_up(void) {
  static bool done;
  if (done) return true;
  char beside[PATH_MAX], from[PATH_MAX + 64], to[PATH_MAX + 64];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0 || mkdtemp(folder) == NULL) return false;
  self[length] = '\0';
  snprintf(beside, sizeof beside, "%s", self);
  dirname(beside);
  for (int i = 0; i < kLibraries; i++) {
    const char* kind = strstr(order[i], "cudart") ? "cudart" : i == 4 ? "driver" : "hip";
    snprintf(from, sizeof from, "%s/libfake_gpu_%s.so", beside, kind);
    snprintf(to, sizeof to, "%s/%s", folder, order[i]);
    CHECK(copy(from, to), "%s to %s", from, to);
  }
  snprintf(log_path, sizeof log_path, "%s/log", folder);
  setenv("FAKE_GPU_LOG", log_path, 1);
  unsetenv("LMSHM_GPU_LIBRARY");
  return done = true;
}

static void clean_up(void) {
  char path[PATH_MAX + 64];
  for (int i = 0; i < kLibraries; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, order[i]);
    unlink(path);
  }
  unlink(log_path);
  rmdir(folder);
}

/* The libraries that counted devices, in the order in which they were asked. */
static int counted(char names[kLibraries][64]) {
  char line[256];
  int count = 0;
  FILE* log = fopen(log_path, "re");
  while (log != NULL && fgets(line, sizeof line, log) != NULL) {
    CHECK(strstr(line, "VIOLATION") == NULL, "%s", line);
    char what[32];
    if (count < kLibraries && sscanf(line, "%63s %31s", names[count], what) == 2 &&
        strcmp(what, "count") == 0)
      count++;
  }
  if (log != NULL) fclose(log);
  unlink(log_path);
  return count;
}

static void runtimes_are_asked_in_the_documented_order(void) {
  if (!set_up()) return;
  char absent[512] = "";
  for (int first = 0; first <= kLibraries; first++) {
    setenv("FAKE_GPU_ABSENT", absent, 1); /* all before `first` count no device */
    struct answer answer = ask("auto", folder);
    char names[kLibraries][64];
    int asked = counted(names);
    CHECK_EQUAL(answer.result, 0);
    CHECK_EQUAL(asked, first < kLibraries ? first + 1 : kLibraries);
    for (int i = 0; i < asked; i++)
      CHECK(strcmp(names[i], order[i]) == 0, "%s, not %s", names[i], order[i]);
    if (first < kLibraries) {
      CHECK(strcmp(answer.library, order[first]) == 0, "%s", answer.library);
      CHECK_EQUAL(answer.pinned_by, first < 4    ? LMSHM_PINNED_BY_CUDA
                                    : first == 4 ? LMSHM_PINNED_BY_CUDA_DRIVER
                                                 : LMSHM_PINNED_BY_HIP);
      snprintf(absent + strlen(absent), sizeof absent - strlen(absent), "%s,", order[first]);
    } else {
      CHECK(answer.pinned_by == LMSHM_PINNED_BY_NONE || answer.pinned_by == LMSHM_PINNED_BY_MLOCK,
            "%u", answer.pinned_by);
      CHECK_CONTAINS(answer.message, order[0]); /* the first that was there says why */
    }
  }
  unsetenv("FAKE_GPU_ABSENT");
}

static void the_simple_interface_gives_back_to_the_runtime_that_it_found(void) {
  if (!set_up()) return;
  static const char* const absent[] = {"", "libcudart.so.13,",
                                       ("libcudart.so.13,libcudart.so.12,"
                                        "libcudart.so.11.0,libcudart.so,")};
  for (int i = 0; i < 3; i++) {
    setenv("FAKE_GPU_ABSENT", absent[i], 1);
    CHECK_EQUAL(ask("simple", folder).result, 0);
    char line[256];
    int registered = 0;
    FILE* log = fopen(log_path, "re");
    while (log != NULL && fgets(line, sizeof line, log) != NULL) {
      CHECK(strstr(line, "VIOLATION") == NULL, "%s", line);
      if (strstr(line, " register 0") != NULL) registered++;
      if (strstr(line, " unregister 0") != NULL) registered += 100;
    }
    if (log != NULL) fclose(log);
    unlink(log_path);
    CHECK_EQUAL(registered, 101); /* once each */
  }
  unsetenv("FAKE_GPU_ABSENT");
}

/* Without any library, unless this machine has one of its own. */
static void without_any_runtime_auto_degrades_and_require_is_an_error(void) {
  if (!set_up()) return;
  struct answer answer = ask("require", "/nowhere");
  if (answer.result == 0) {
    check_skip("this machine has a GPU");
    return;
  }
  CHECK_EQUAL(answer.result, -ENODEV);
  CHECK_CONTAINS(answer.message, "GPU");
  answer = ask("auto", "/nowhere");
  CHECK_EQUAL(answer.result, 0);
  CHECK(answer.pinned_by == LMSHM_PINNED_BY_NONE || answer.pinned_by == LMSHM_PINNED_BY_MLOCK, "%u",
        answer.pinned_by);
}

/* LMSHM_TEST_CUDART is the path of a real libcudart, on a machine without a
 * driver; without it, the loader's own is tried. */
static void a_real_libcudart_without_a_driver_degrades_and_says_why(void) {
  const char* path = getenv("LMSHM_TEST_CUDART");
  if (path == NULL || *path == '\0') {
    check_skip("LMSHM_TEST_CUDART names no libcudart");
    return;
  }
  lmshm_options options = check_options(LMSHM_CREATE, check_name("real"), 3 * MIB);
  options.gpu_library = path;
  options.pin = LMSHM_PIN_REQUIRE;
  lmshm_info info = check_info();
  intptr_t result = lmshm_open(&options, &info);
  if (result > 0) {
    lmshm_close((lmshm_segment*)result, 0);
    check_skip("there is a GPU");
    return;
  }
  CHECK_EQUAL(result, -ENODEV);
  CHECK_EQUAL(info.gpu_devices, 0);
  CHECK(info.gpu_error != 0, "%s", info.message);
  CHECK_CONTAINS(info.message, "libcudart");
  CHECK_CONTAINS(info.message, "CUDA");
  printf("  %s\n", info.message);
  options.pin = LMSHM_PIN_AUTO;
  for (int i = 0; i < 3; i++) {
    result = lmshm_open(&options, &info);
    CHECK(result > 0, "%ld: %s", (long)result, info.message);
    CHECK_CONTAINS(info.gpu_library, "libcudart");
    CHECK(info.gpu_error != 0, "%s", info.message);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)result, 0), 0);
  }
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "child") == 0) return child(argv[2]);
  static const struct check_case cases[] = {
      CASE(runtimes_are_asked_in_the_documented_order),
      CASE(the_simple_interface_gives_back_to_the_runtime_that_it_found),
      CASE(without_any_runtime_auto_degrades_and_require_is_an_error),
      CASE(a_real_libcudart_without_a_driver_degrades_and_says_why)};
  int status = check_run_all(cases, sizeof cases / sizeof *cases);
  clean_up();
  return status;
}
