/* SPDX-License-Identifier: Apache-2.0
 *
 * failing_calls_test.c - every system call on the way made to fail, one at a
 * time: the call says so, and everything before it is undone. And kernels that
 * lack what is only an improvement: the call succeeds without.
 */
#include <linux/memfd.h>
#include <sys/resource.h>

#include "check.h"
#include "sandbox.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

struct fault {
  const char* what;
  long number;
  int error;
  int index; /* argument that must have the value; -1: any */
  uint32_t value;
  uint32_t kind;
  int wanted; /* -errno of opening, 0 for success */
};

static const struct fault* fault;
static lmshm_options (*vary)(lmshm_options);

static lmshm_options as_it_is(lmshm_options options) { return options; }

static void open_with_fault(void) {
  lmshm_options options = check_options(
      fault->kind, fault->kind == LMSHM_CREATE ? check_name("fault") : NULL, 33 * MIB + 100);
  options = vary(options);
  struct check_resources before = check_resources();
  if (sandbox_fail(fault->number, fault->error, fault->index, fault->value) != 0)
    _exit(SANDBOX_REFUSED);
  lmshm_info info = check_info();
  intptr_t result = lmshm_open(&options, &info);
  if (result > 0) {
    CHECK(fault->wanted == 0, "%s: succeeded", fault->what);
    unsigned char* bytes = (unsigned char*)(uintptr_t)info.address;
    size_t wrong = 0;
    for (size_t at = 0; at < info.size; at += 4096) wrong += bytes[at]++ != 0;
    CHECK_EQUAL(wrong, 0);
    CHECK_EQUAL(info.populated, info.mapped_size);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)result, 0), 0);
  } else {
    CHECK(result == fault->wanted, "%s: %ld, not %d: %s", fault->what, (long)result, fault->wanted,
          info.message);
    CHECK_EQUAL(info.error, result);
    CHECK(info.message[0] != '\0', "%s: no words", fault->what);
  }
  struct check_resources after = check_resources();
  CHECK(after.descriptors == before.descriptors, "%s: descriptors", fault->what);
  CHECK(after.mappings == before.mappings, "%s: mappings", fault->what);
  CHECK(after.names == before.names, "%s: names", fault->what);
}

static void run_faults(const struct fault* faults, size_t count,
                       lmshm_options (*variation)(lmshm_options)) {
  vary = variation;
  for (size_t i = 0; i < count; i++) {
    fault = &faults[i];
    int status = check_in_child(open_with_fault);
    if (status == SANDBOX_REFUSED) {
      check_skip("no seccomp");
      return;
    }
    CHECK(status == 0, "%s: status %d", fault->what, status);
  }
}

#define COUNT(array) (sizeof array / sizeof *array)
#define NAMED LMSHM_CREATE
#define MEMFD LMSHM_ANONYMOUS

static void what_must_work_fails_cleanly(void) {
  static const struct fault faults[] = {
      {"flock", SYS_flock, ENOLCK, SANDBOX_ANY, NAMED, -ENOLCK},
      {"fchmod", SYS_fchmod, EPERM, SANDBOX_ANY, NAMED, -EPERM},
      {"fchmod", SYS_fchmod, EPERM, SANDBOX_ANY, MEMFD, -EPERM},
      {"ftruncate", SYS_ftruncate, EFBIG, SANDBOX_ANY, NAMED, -EFBIG},
      {"ftruncate", SYS_ftruncate, EFBIG, SANDBOX_ANY, MEMFD, -EFBIG},
      {"mmap, shared", SYS_mmap, ENOMEM, 3, MAP_SHARED, NAMED, -ENOMEM},
      {"mmap, shared", SYS_mmap, ENOMEM, 3, MAP_SHARED, MEMFD, -ENOMEM},
      {"memfd_create", SYS_memfd_create, ENOSYS, SANDBOX_ANY, MEMFD, -ENOSYS},
      {"seals", SYS_fcntl, EPERM, 1, F_ADD_SEALS, MEMFD, -EPERM},
      {"writing", SYS_pwrite64, ENOSPC, SANDBOX_ANY, NAMED, -ENOSPC},
      {"writing", SYS_pwrite64, ENOMEM, SANDBOX_ANY, NAMED, -ENOMEM},
      {"writing", SYS_pwrite64, EIO, SANDBOX_ANY, MEMFD, -EIO},
      {"looking", SYS_fstatfs, EIO, SANDBOX_ANY, NAMED, -EIO},
      {"looking", SYS_fstatfs, EIO, SANDBOX_ANY, MEMFD, -EIO},
  };
  run_faults(faults, COUNT(faults), as_it_is);
}

static void what_older_kernels_lack_is_done_without(void) {
  static const struct fault faults[] = {
      {"no MADV_POPULATE_WRITE", SYS_madvise, EINVAL, 2, 23, NAMED, 0},
      {"no MADV_POPULATE_WRITE", SYS_madvise, EINVAL, 2, 23, MEMFD, 0},
      {"an ignored MADV_POPULATE_WRITE", SYS_madvise, 0, 2, 23, NAMED, 0},
      {"an ignored MADV_POPULATE_WRITE", SYS_madvise, 0, 2, 23, MEMFD, 0},
      {"no MFD_NOEXEC_SEAL", SYS_memfd_create, EINVAL, 1,
       MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL, MEMFD, 0},
      {"no statfs", SYS_statfs, EACCES, SANDBOX_ANY, NAMED, 0},
  };
  run_faults(faults, COUNT(faults), as_it_is);
}

static lmshm_options with_many_threads(lmshm_options options) {
  options.populate_threads = 4;
  options.size = 200 * MIB; /* so that more than the writing one get a slice */
  return options;
}

static void populating_fails_cleanly_on_any_thread(void) {
  static const struct fault faults[] = {
      {"populating", SYS_madvise, EHWPOISON, 2, 23, NAMED, -EHWPOISON},
      {"populating", SYS_madvise, EBUSY, 2, 23, MEMFD, -EBUSY},
      {"populating", SYS_madvise, ENOMEM, 2, 23, NAMED, -ENOMEM},
      {"populating", SYS_madvise, EFAULT, 2, 23, MEMFD, -ENOMEM},
      {"populating", SYS_madvise, EAGAIN, 2, 23, MEMFD, -EAGAIN},
  };
  run_faults(faults, COUNT(faults), with_many_threads);
}

static void populating_does_without_writing_or_without_faulting(void) {
  static const struct fault faults[] = {
      {"no MADV_POPULATE_WRITE", SYS_madvise, EINVAL, 2, 23, NAMED, 0},
      {"an ignored MADV_POPULATE_WRITE", SYS_madvise, 0, 2, 23, MEMFD, 0},
  };
  run_faults(faults, COUNT(faults), with_many_threads);
}

static lmshm_options with_threads(lmshm_options options) {
  options.populate_threads = 4;
  return options;
}

static void without_threads_it_populates_alone(void) {
  static const struct fault faults[] = {
      {"clone3 and clone", SYS_clone3, EAGAIN, SANDBOX_ANY, NAMED, 0},
      {"clone", SYS_clone, EAGAIN, SANDBOX_ANY, NAMED, 0},
  };
  run_faults(faults, COUNT(faults), with_threads);
}

static void start_job_without_threads(void) {
  if (sandbox_fail(SYS_clone3, EAGAIN, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  if (sandbox_fail(SYS_clone, EAGAIN, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, MIB);
  CHECK_EQUAL(lmshm_open_start(&options), -EAGAIN);
  lmshm_info info = check_info();
  lmshm_segment* segment = (lmshm_segment*)lmshm_open(&options, &info);
  CHECK_EQUAL(lmshm_close_start(segment, 0), -EAGAIN);
  ((char*)(uintptr_t)info.address)[0] = 1; /* left as it was */
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void a_job_that_cannot_start_leaves_the_segment_alone(void) {
  int status = check_in_child(start_job_without_threads);
  if (status == SANDBOX_REFUSED)
    check_skip("no seccomp");
  else
    CHECK_EQUAL(status, 0);
}

static lmshm_options with_numa(lmshm_options options) {
  options.numa = LMSHM_NUMA_BIND;
  options.numa_nodes = 1;
  return options;
}

static void numa_policies_that_cannot_be_set_are_an_error(void) {
  static const struct fault faults[] = {
      {"no NUMA", SYS_get_mempolicy, ENOSYS, SANDBOX_ANY, NAMED, -ENOSYS},
      {"NUMA forbidden", SYS_get_mempolicy, EPERM, SANDBOX_ANY, MEMFD, -EPERM},
      {"mbind forbidden", SYS_mbind, EPERM, SANDBOX_ANY, NAMED, -EPERM},
      {"mbind fails", SYS_mbind, EIO, SANDBOX_ANY, MEMFD, -EIO},
  };
  run_faults(faults, COUNT(faults), with_numa);
}

static lmshm_options with_huge_wish(lmshm_options options) {
  options.pages = LMSHM_PAGES_TRANSPARENT;
  return options;
}

static void a_wish_for_huge_pages_is_only_a_wish(void) {
  static const struct fault faults[] = {
      {"no MADV_HUGEPAGE", SYS_madvise, EINVAL, 2, MADV_HUGEPAGE, NAMED, 0},
      {"no MADV_HUGEPAGE", SYS_madvise, EINVAL, 2, MADV_HUGEPAGE, MEMFD, 0},
  };
  run_faults(faults, COUNT(faults), with_huge_wish);
}

/* ----------------------------------------------------------------------- closing */

static void close_with_failing_calls(void) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("close"), MIB);
  lmshm_info info = check_info();
  lmshm_segment* segment = (lmshm_segment*)lmshm_open(&options, &info);
  if (sandbox_fail(SYS_unlink, EROFS, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  if (sandbox_fail(SYS_unlinkat, EROFS, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  struct check_resources before = check_resources();
  CHECK_EQUAL(lmshm_close(segment, 0), -EROFS);
  struct check_resources after = check_resources();
  CHECK_EQUAL(after.mappings, before.mappings - 1); /* unmapped all the same */
}

static void closing_goes_on_after_a_failure(void) {
  int status = check_in_child(close_with_failing_calls);
  if (status == SANDBOX_REFUSED) {
    check_skip("no seccomp");
    return;
  }
  CHECK_EQUAL(status, 0);
  DIR* directory = opendir("/dev/shm"); /* what the child could not unlink */
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;)
    if (strncmp(entry->d_name, "lmshm-test-", 11) == 0 && strstr(entry->d_name, "-close"))
      CHECK_EQUAL(lmshm_reclaim(entry->d_name), 1);
  closedir(directory);
}

#define ODD_BYTES ((size_t)0x123000) /* by which the filter knows the mapping */

static lmshm_segment* open_odd(const char* name, lmshm_info* info) {
  lmshm_options options = check_options(name ? NAMED : MEMFD, name, ODD_BYTES);
  *info = check_info();
  lmshm_segment* segment = (lmshm_segment*)lmshm_open(&options, info);
  memset((void*)(uintptr_t)info->address, 3, ODD_BYTES);
  return segment;
}

static void keep_range_without_writable_memory(void) {
  lmshm_info info;
  lmshm_segment* segment = open_odd(NULL, &info);
  if (sandbox_fail(SYS_mmap, ENOMEM, 2, PROT_READ | PROT_WRITE) != 0) _exit(SANDBOX_REFUSED);
  CHECK_EQUAL(lmshm_close(segment, LMSHM_CLOSE_KEEP_RANGE), 0);
  CHECK_EQUAL(((char*)(uintptr_t)info.address)[ODD_BYTES - 1], 0); /* to be read, at least */
}

static void keep_range_without_any_memory(void) {
  const char* name = check_name("keep");
  lmshm_info info;
  lmshm_segment* segment = open_odd(name, &info);
  if (sandbox_fail(SYS_mmap, ENOMEM, 1, (uint32_t)ODD_BYTES) != 0) _exit(SANDBOX_REFUSED);
  CHECK_EQUAL(lmshm_close(segment, LMSHM_CLOSE_KEEP_RANGE), -ENOMEM);
  unsigned char resident;
  CHECK_EQUAL(mincore((void*)(uintptr_t)info.address, 4096, &resident), -1);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

static void a_range_is_kept_for_reading_where_memory_is_counted(void) {
#ifdef __SANITIZE_THREAD__
  const bool mmap_is_needed = true;
#else
  const bool mmap_is_needed = false;
#endif
  int status = mmap_is_needed ? 0 : check_in_child(keep_range_without_writable_memory);
  if (mmap_is_needed)
    check_skip("ThreadSanitizer needs mmap for itself");
  else if (status == SANDBOX_REFUSED)
    check_skip("no seccomp");
  else
    CHECK_EQUAL(status, 0);
}

static void a_range_that_cannot_be_kept_is_unmapped(void) {
  int status = check_in_child(keep_range_without_any_memory);
  if (status == SANDBOX_REFUSED)
    check_skip("no seccomp");
  else
    CHECK_EQUAL(status, 0);
}

/* ------------------------------------------------------------------------- /proc */

static void free_without_a_list_of_locks(void) {
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    _exit(SANDBOX_REFUSED);
  const char* name = check_name("locks");
  intptr_t address = alloc_shm_pinned_ptr(MIB, name);
  CHECK_EQUAL(mount("/dev/null", "/proc/locks", NULL, MS_BIND, NULL), 0);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), -EINVAL); /* the list is empty */
  CHECK_EQUAL(umount("/proc/locks"), 0);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
}

static void freeing_by_address_asks_who_holds_the_lock(void) {
  int status = check_in_child(free_without_a_list_of_locks);
  if (status == SANDBOX_REFUSED)
    check_skip("needs root");
  else
    CHECK_EQUAL(status, 0);
}

CHECK_MAIN(CASE(what_must_work_fails_cleanly), CASE(what_older_kernels_lack_is_done_without),
           CASE(populating_fails_cleanly_on_any_thread),
           CASE(populating_does_without_writing_or_without_faulting),
           CASE(without_threads_it_populates_alone),
           CASE(a_job_that_cannot_start_leaves_the_segment_alone),
           CASE(numa_policies_that_cannot_be_set_are_an_error),
           CASE(a_wish_for_huge_pages_is_only_a_wish), CASE(closing_goes_on_after_a_failure),
           CASE(a_range_is_kept_for_reading_where_memory_is_counted),
           CASE(a_range_that_cannot_be_kept_is_unmapped),
           CASE(freeing_by_address_asks_who_holds_the_lock))
