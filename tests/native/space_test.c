/* SPDX-License-Identifier: Apache-2.0
 *
 * space_test.c - more than there is: an error at once, with the numbers, and
 * never SIGBUS.
 */
#include <sys/statvfs.h>

#include "check.h"
#include "sandbox.h"

static void far_more_than_free_is_refused_before_a_page_is_touched(void) {
  struct statvfs shm;
  CHECK_EQUAL(statvfs("/dev/shm", &shm), 0);
  if (shm.f_blocks == 0) {
    check_skip("/dev/shm has no limit");
    return;
  }
  uint64_t free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
  const char* name = check_name("far");
  const uint64_t sizes[] = {free_bytes + (uint64_t)64 * MIB, (uint64_t)1 << 40, (uint64_t)1 << 50,
                            (uint64_t)INT64_MAX / 4};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    lmshm_options options = check_options(LMSHM_CREATE, name, sizes[i]);
    lmshm_info info = check_info();
    CHECK_EQUAL(lmshm_open(&options, &info), -ENOSPC);
    CHECK_EQUAL(info.error, -ENOSPC);
    CHECK_EQUAL(info.step, LMSHM_STEP_RESERVE);
    CHECK_EQUAL(info.populated, 0);
    CHECK(info.available > 0 && info.available < sizes[i], "%" PRIu64, info.available);
    char number[32];
    snprintf(number, sizeof number, "%" PRIu64, sizes[i]);
    CHECK_CONTAINS(info.message, number);
    snprintf(number, sizeof number, "%" PRIu64, info.available);
    CHECK_CONTAINS(info.message, number);
    CHECK_CONTAINS(info.message, "--shm-size");
    CHECK_EQUAL(alloc_shm_pinned_ptr(sizes[i], name), -ENOSPC);
    CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
  }
}

/* No file system limits an anonymous segment; without a check of its own, it
 * would be the out-of-memory killer who says no. */
static void more_than_the_memory_is_refused_before_a_page_is_touched(void) {
  const uint64_t sizes[] = {(uint64_t)1 << 44, (uint64_t)1 << 50, (uint64_t)INT64_MAX / 4};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, sizes[i]);
    lmshm_info info = check_info();
    CHECK_EQUAL(lmshm_open(&options, &info), -ENOMEM);
    CHECK_EQUAL(info.populated, 0);
    CHECK(info.available > 0 && info.available < sizes[i], "%" PRIu64, info.available);
  }
}

/* ------------------------------------------------------ a /dev/shm of 16 MiB */

static void fill_16m(void) {
  if (sandbox_tmpfs("/dev/shm", "size=16m") != 0) _exit(SANDBOX_REFUSED);
  const char *first = check_name("first"), *second = check_name("second");
  lmshm_options options = check_options(LMSHM_CREATE, first, 17 * MIB);
  lmshm_info info = check_info();
  CHECK_EQUAL(lmshm_open(&options, &info), -ENOSPC);
  CHECK_EQUAL(info.available, 16 * MIB);
  CHECK_EQUAL(lmshm_name_state(first), LMSHM_NAME_FREE);

  intptr_t address = alloc_shm_pinned_ptr(16 * MIB, first); /* to the last page */
  CHECK(address > 0, "%ld", (long)address);
  memset((void*)address, 1, 16 * MIB);
  CHECK_EQUAL(alloc_shm_pinned_ptr(1, second), -ENOSPC);
  CHECK_EQUAL(lmshm_name_state(second), LMSHM_NAME_FREE);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 16 * MIB, first), 0);
  address = alloc_shm_pinned_ptr(16 * MIB, second);
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 16 * MIB, second), 0);
}

static void a_full_dev_shm_is_enospc_to_the_page(void) {
  int status = check_in_child(fill_16m);
  if (status == SANDBOX_REFUSED)
    check_skip("no mount namespace of its own");
  else
    CHECK_EQUAL(status, 0);
}

/* A dead owner's pages count as free: they go before the check. */
static void reclaim_16m(void) {
  if (sandbox_tmpfs("/dev/shm", "size=16m") != 0) _exit(SANDBOX_REFUSED);
  const char* name = check_name("dead");
  intptr_t address = alloc_shm_pinned_ptr(12 * MIB, name);
  munmap((void*)address, 12 * MIB);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_DEAD);
  address = alloc_shm_pinned_ptr(14 * MIB, name);
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 14 * MIB, name), 0);
}

static void a_dead_owners_space_is_counted_as_free(void) {
  int status = check_in_child(reclaim_16m);
  if (status == SANDBOX_REFUSED)
    check_skip("no mount namespace of its own");
  else
    CHECK_EQUAL(status, 0);
}

/* Space that vanishes between the check and the reservation: the check is made
 * to fail, and then lets everything through. */
static uint32_t threads_of_child;
static uint32_t pages_of_child;
static bool old_kernel;

static void overfill_16m(void) {
  if (sandbox_tmpfs("/dev/shm", "size=16m") != 0) _exit(SANDBOX_REFUSED);
  if (sandbox_fail(SYS_statfs, EACCES, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  if (old_kernel && sandbox_fail(SYS_madvise, EINVAL, 2, 23) != 0) _exit(SANDBOX_REFUSED);
  lmshm_options options = check_options(LMSHM_CREATE, check_name("over"), 40 * MIB);
  options.populate_threads = threads_of_child;
  options.pages = pages_of_child;
  lmshm_info info = check_info();
  CHECK_EQUAL(lmshm_open(&options, &info), -ENOSPC);
  CHECK_EQUAL(info.step, LMSHM_STEP_POPULATE);
  CHECK(info.populated < 40 * MIB, "%" PRIu64, info.populated);
  CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
  intptr_t address = alloc_shm_pinned_ptr(16 * MIB, options.name); /* all was given back */
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 16 * MIB, options.name), 0);
}

static void space_that_vanishes_half_way_is_enospc_and_all_is_undone(void) {
  for (int i = 0; i < 12; i++) {
    threads_of_child = (uint32_t[]){1, 2, 5}[i % 3];
    pages_of_child = i / 3 % 2 == 0 ? LMSHM_PAGES_DEFAULT : LMSHM_PAGES_TRANSPARENT;
    old_kernel = i >= 6;
    int status = check_in_child(overfill_16m);
    if (status == SANDBOX_REFUSED) {
      check_skip("no mount namespace or no seccomp");
      return;
    }
    CHECK_EQUAL(status, 0);
  }
}

/* ----------------------------------------------------------- a container's limit */

static void put(const char* path, const char* text) {
  CHECK(sandbox_write(path, text) == 0, "%s", path);
}

static void open_under_a_limit(void) {
  if (sandbox_tmpfs("/sys/fs/cgroup", "size=1m") != 0) _exit(SANDBOX_REFUSED);
  put("/sys/fs/cgroup/memory.max", "67108864\n");
  put("/sys/fs/cgroup/memory.stat", "anon 1048576\nfile 8192\nshmem 4096\nslab 77\n");
  const uint64_t room = 64 * MIB - MIB - 4096;
  const uint32_t kinds[] = {LMSHM_CREATE, LMSHM_ANONYMOUS};
  for (int i = 0; i < 2; i++) {
    lmshm_options options = check_options(kinds[i], i == 0 ? check_name("limit") : NULL, room + 1);
    lmshm_info info = check_info();
    CHECK_EQUAL(lmshm_open(&options, &info), -ENOMEM);
    CHECK_EQUAL(info.available, room);
    CHECK_EQUAL(info.populated, 0);
    CHECK_CONTAINS(info.message, "container");
    options.size = room;
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    if (segment > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
  static const char* const no_limits[] = {"max\n", "", "nonsense\n", "1 2 3\n",
                                          "99999999999999999999999999999999999999999999\n"};
  for (size_t i = 0; i < sizeof no_limits / sizeof *no_limits; i++) {
    put("/sys/fs/cgroup/memory.max", no_limits[i]);
    lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 65 * MIB);
    intptr_t segment = lmshm_open(&options, NULL);
    CHECK(segment > 0, "%s: %ld", no_limits[i], (long)segment);
    if (segment > 0) CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
}

static void the_memory_limit_of_a_container_counts(void) {
  FILE* file = fopen("/proc/self/cgroup", "re");
  char line[512] = "";
  bool in_root = false;
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "0::/", 4) == 0) in_root = true;
  if (file != NULL) fclose(file);
  int status = in_root ? check_in_child(open_under_a_limit) : SANDBOX_REFUSED;
  if (status == SANDBOX_REFUSED)
    check_skip("no control group of version 2, or no mount namespace of its own");
  else
    CHECK_EQUAL(status, 0);
}

CHECK_MAIN(CASE(far_more_than_free_is_refused_before_a_page_is_touched),
           CASE(more_than_the_memory_is_refused_before_a_page_is_touched),
           CASE(a_full_dev_shm_is_enospc_to_the_page), CASE(a_dead_owners_space_is_counted_as_free),
           CASE(space_that_vanishes_half_way_is_enospc_and_all_is_undone),
           CASE(the_memory_limit_of_a_container_counts))
