/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h - what the C tests share: named checks, and a search for leaks.
 *
 * A test program has one function a behaviour, and a main() of
 *
 *     CHECK_MAIN(CASE(refuses_a_size_of_zero), CASE(...))
 *
 * Each case prints "ok NAME", "not ok NAME" or "skip NAME: why", and fails
 * when it leaves behind a descriptor, a mapping of shared memory or a name of
 * its own in /dev/shm. The last line counts: "# N passed, N failed, N skipped".
 * Exit status: 0, 1 when a case failed, 77 when every case was skipped. An
 * alarm ends a program with a case that hangs.
 */
#ifndef LMSHM_TESTS_NATIVE_CHECK_H_
#define LMSHM_TESTS_NATIVE_CHECK_H_

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lmshm.h"

#define CHECK_WATCHDOG_SECONDS 100

#define MIB ((size_t)1 << 20)

struct check_case {
  const char* name;
  void (*run)(void);
};

static int check_failures;     /* of the running case */
static char check_reason[200]; /* why it is skipped, "" if it is not */

#define CASE(function) \
  { #function, function }

#define CHECK_MAIN(...)                                          \
  int main(int argc, char** argv) {                              \
    (void)argc;                                                  \
    (void)argv;                                                  \
    static const struct check_case cases[] = {__VA_ARGS__};      \
    return check_run_all(cases, sizeof cases / sizeof cases[0]); \
  }

/* A condition with the values that tell why it does not hold. */
#define CHECK(condition, ...)                                                  \
  do {                                                                         \
    if (!(condition)) check_fail(__FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (0)

#define CHECK_EQUAL(got, wanted)                                                         \
  do {                                                                                   \
    const int64_t check_got = (int64_t)(got), check_wanted = (int64_t)(wanted);          \
    CHECK(check_got == check_wanted, "%s is %" PRId64 ", not %" PRId64, #got, check_got, \
          check_wanted);                                                                 \
  } while (0)

#define CHECK_CONTAINS(text, part) \
  CHECK(strstr(text, part) != NULL, "\"%s\" does not contain \"%s\"", text, part)

__attribute__((format(printf, 4, 5), unused)) static void check_fail(const char* file, int line,
                                                                     const char* condition,
                                                                     const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  printf("  %s:%d: %s: ", file, line, condition);
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
  check_failures++;
}

__attribute__((format(printf, 1, 2), unused)) static void check_skip(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(check_reason, sizeof check_reason, format, arguments);
  va_end(arguments);
}

/* "/lmshm-test-PID-what", of this process; good until the next call but 7. */
__attribute__((unused)) static const char* check_name(const char* what) {
  static char names[8][96];
  static unsigned turn;
  char* name = names[turn++ % 8];
  snprintf(name, sizeof names[0], "/lmshm-test-%d-%s", (int)getpid(), what);
  return name;
}

/* The file of a segment. */
__attribute__((unused)) static const char* check_path(const char* name) {
  static char paths[4][128];
  static unsigned turn;
  char* path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "/dev/shm/%s", *name == '/' ? name + 1 : name);
  return path;
}

__attribute__((unused)) static lmshm_options check_options(uint32_t kind, const char* name,
                                                           uint64_t size) {
  lmshm_options options = {.struct_size = sizeof options,
                           .kind = kind,
                           .name = name,
                           .size = size,
                           .pin = LMSHM_PIN_NONE,
                           .fd = -1};
  return options;
}

__attribute__((unused)) static lmshm_info check_info(void) {
  lmshm_info info = {.struct_size = sizeof info};
  return info;
}

/* Runs `body` in a child and returns its exit status, or -signal. The status
 * of a child that checks things is how many checks failed. */
__attribute__((unused)) static int check_in_child(void (*body)(void)) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    check_failures = 0;
    body();
    fflush(stdout);
    _exit(check_failures > 100 ? 100 : check_failures);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1000;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* ----------------------------------------------------------------------- leaks */

struct check_resources {
  int descriptors;
  int mappings; /* of shared memory, named or not */
  int names;    /* in /dev/shm, of this process */
};

static int check_count_entries(const char* folder, const char* part) {
  DIR* directory = opendir(folder);
  if (directory == NULL) return -1;
  int count = 0;
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;)
    if (strstr(entry->d_name, part) != NULL) count++;
  closedir(directory);
  return count;
}

static struct check_resources check_resources(void) {
  struct check_resources now;
  char own[32], line[4096];
  snprintf(own, sizeof own, "lmshm-test-%d-", (int)getpid());
  now.descriptors = check_count_entries("/proc/self/fd", "");
  now.names = check_count_entries("/dev/shm", own);
  now.mappings = 0;
  FILE* maps = fopen("/proc/self/maps", "re");
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
    if (strstr(line, "/dev/shm/") != NULL || strstr(line, "memfd:lmshm") != NULL) now.mappings++;
  if (maps != NULL) fclose(maps);
  return now;
}

static void check_run(const struct check_case* one, int counts[3]) {
  check_failures = 0;
  check_reason[0] = '\0';
  struct check_resources before = check_resources();
  one->run();
  struct check_resources after = check_resources();
  CHECK_EQUAL(after.descriptors, before.descriptors);
  CHECK_EQUAL(after.mappings, before.mappings);
  CHECK_EQUAL(after.names, before.names);
  if (check_failures > 0)
    printf("not ok %s\n", one->name), counts[1]++;
  else if (check_reason[0] != '\0')
    printf("skip %s: %s\n", one->name, check_reason), counts[2]++;
  else
    printf("ok %s\n", one->name), counts[0]++;
  fflush(stdout);
}

static int check_run_all(const struct check_case* cases, size_t count) {
  int counts[3] = {0, 0, 0};
  for (size_t i = 0; i < count; i++) {
    alarm(CHECK_WATCHDOG_SECONDS);
    check_run(&cases[i], counts);
  }
  printf("# %d passed, %d failed, %d skipped\n", counts[0], counts[1], counts[2]);
  if (counts[1] > 0) return 1;
  return counts[0] == 0 ? 77 : 0;
}

#endif /* LMSHM_TESTS_NATIVE_CHECK_H_ */
