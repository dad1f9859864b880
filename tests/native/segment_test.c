/* SPDX-License-Identifier: Apache-2.0
 *
 * segment_test.c - what a segment is: its arguments, its bytes, how it is
 * attached, and how it ends.
 */
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "check.h"

static lmshm_segment* open_or_fail(const lmshm_options* options, lmshm_info* info) {
  intptr_t result = lmshm_open(options, info);
  CHECK(result > 0, "%ld: %s", (long)result, info->message);
  return result > 0 ? (lmshm_segment*)result : NULL;
}

/* ------------------------------------------------------------------------ names */

static char* repeat(size_t length) {
  static char name[512];
  memset(name, 'n', length);
  snprintf(name, 40, "lmshm-test-%d-", (int)getpid());
  name[strlen(name)] = 'n';
  name[length] = '\0';
  return name;
}

static void refuses_what_is_not_one_path_component(void) {
  static const char* const wrong[] = {NULL,     "",     "/",   "//",        ".",   "..",
                                      "/.",     "/..",  "a/",  "/a/b",      "a/b", "//ab",
                                      "../abc", "/../", "a//", "/dev/shm/a"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    CHECK_EQUAL(alloc_shm_pinned_ptr(4096, wrong[i]), -EINVAL);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)4096, 4096, wrong[i]), -EINVAL);
    CHECK_EQUAL(lmshm_name_state(wrong[i]), -EINVAL);
    CHECK_EQUAL(lmshm_reclaim(wrong[i]), -EINVAL);
  }
  CHECK_EQUAL(alloc_shm_pinned_ptr(4096, repeat(255)), -ENAMETOOLONG);
  CHECK_EQUAL(alloc_shm_pinned_ptr(4096, repeat(400)), -ENAMETOOLONG);
}

static void accepts_every_other_name(void) {
  char odd[6][64];
  int pid = (int)getpid();
  snprintf(odd[0], sizeof odd[0], "...lmshm-test-%d-", pid);
  snprintf(odd[1], sizeof odd[1], "/lmshm-test-%d- with spaces ", pid);
  snprintf(odd[2], sizeof odd[2], "lmshm-test-%d-new\nline\\012", pid);
  snprintf(odd[3], sizeof odd[3], "/lmshm-test-%d-\xc3\xa4\xff\x01", pid);
  snprintf(odd[4], sizeof odd[4], "lmshm-test-%d- (deleted)", pid);
  snprintf(odd[5], sizeof odd[5], "lmshm-test-%d-\n(deleted)", pid);
  for (size_t i = 0; i < 6; i++) {
    intptr_t address = alloc_shm_pinned_ptr(4096, odd[i]);
    CHECK(address > 0, "%s: %ld", odd[i], (long)address);
    CHECK_EQUAL(access(check_path(odd[i]), F_OK), 0);
    if (i % 2 == 0) unlink(check_path(odd[i])); /* then the kernel's list alone has the name */
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4096, odd[i]), 0);
  }
  for (size_t length = 253; length <= 254; length++) {
    intptr_t address = alloc_shm_pinned_ptr(1, repeat(length));
    CHECK(address > 0, "%ld", (long)address);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 1, repeat(length)), 0);
  }
}

static void a_leading_slash_makes_no_difference(void) {
  const char* name = check_name("slash");
  intptr_t address = alloc_shm_pinned_ptr(4096, name);
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(lmshm_name_state(name + 1), LMSHM_NAME_LIVE);
  CHECK_EQUAL(alloc_shm_pinned_ptr(4096, name + 1), -EEXIST);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4096, name + 1), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

/* ------------------------------------------------------------------------ sizes */

static void refuses_sizes_that_cannot_be(void) {
  const char* name = check_name("size");
  CHECK_EQUAL(alloc_shm_pinned_ptr(0, name), -EINVAL);
  const uint64_t overflowing[] = {SIZE_MAX, SIZE_MAX - 4095, (uint64_t)INT64_MAX + 1, INT64_MAX,
                                  INT64_MAX - 4096};
  for (size_t i = 0; i < sizeof overflowing / sizeof *overflowing; i++)
    CHECK_EQUAL(alloc_shm_pinned_ptr(overflowing[i], name), -EINVAL);
}

static void maps_exactly_the_size_and_whole_pages(void) {
  const size_t sizes[] = {1, 4095, 4096, 4097, 3 * MIB + 5, 16 * MIB + 1, 64 * MIB};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("exact"), sizes[i]);
    lmshm_info info = check_info();
    lmshm_segment* segment = open_or_fail(&options, &info);
    if (segment == NULL) return;
    struct stat status;
    CHECK_EQUAL(stat(check_path(options.name), &status), 0);
    CHECK_EQUAL(status.st_size, sizes[i]);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t rounded = (sizes[i] + page - 1) / page * page;
    CHECK_EQUAL(status.st_blocks * 512, rounded);
    CHECK_EQUAL(info.size, sizes[i]);
    CHECK_EQUAL(info.mapped_size, rounded);
    CHECK_EQUAL(info.page_size, page);
    CHECK_EQUAL(info.populated, rounded);
    CHECK_EQUAL(info.address % page, 0);
    CHECK_EQUAL(info.flags, LMSHM_INFO_OWNER);
    CHECK_EQUAL(info.step, LMSHM_STEP_READY);

    unsigned char* bytes = (unsigned char*)(uintptr_t)info.address;
    size_t wrong = 0;
    for (size_t at = 0; at < rounded; at += 511) wrong += bytes[at] != 0;
    CHECK_EQUAL(wrong, 0);
    memset(bytes, 0xa5, rounded);
    unsigned char resident[16384 + 1];
    CHECK_EQUAL(mincore(bytes, rounded, resident), 0);
    for (size_t at = 0; at < rounded / page; at++) wrong += (resident[at] & 1) == 0;
    CHECK_EQUAL(wrong, 0);
    CHECK_EQUAL(lmshm_close(segment, 0), 0);
  }
}

static void every_number_of_threads_populates_everything(void) {
  const uint32_t threads[] = {0, 1, 2, 3, 7, 64};
  for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
    lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 50 * MIB + 123);
    options.populate_threads = threads[i];
    lmshm_info info = check_info();
    lmshm_segment* segment = open_or_fail(&options, &info);
    if (segment == NULL) return;
    struct stat status;
    CHECK_EQUAL(fstat(info.fd, &status), 0);
    CHECK((uint64_t)status.st_blocks * 512 >= info.size, "%ld blocks", (long)status.st_blocks);
    CHECK_EQUAL(info.populated, info.mapped_size);
    CHECK(info.populate_threads >= 1, "%u", info.populate_threads);
    CHECK(threads[i] == 0 || info.populate_threads <= threads[i], "%u", info.populate_threads);
    CHECK_EQUAL(lmshm_close(segment, 0), 0);
  }
}

/* ---------------------------------------------------------------------- options */

static void refuses_options_that_do_not_exist(void) {
  const char* name = check_name("options");
  lmshm_options good = check_options(LMSHM_CREATE, name, 4096), bad;
  lmshm_info info = check_info();
#define REFUSED(change)                          \
  bad = good;                                    \
  bad.change;                                    \
  CHECK_EQUAL(lmshm_open(&bad, &info), -EINVAL); \
  CHECK_EQUAL(info.error, -EINVAL);              \
  CHECK_EQUAL(info.step, LMSHM_STEP_CHECK);      \
  CHECK(info.message[0] != '\0', "no message for " #change)
  REFUSED(struct_size = 0);
  REFUSED(struct_size = sizeof bad + 8);
  REFUSED(kind = 3);
  REFUSED(if_exists = 3);
  REFUSED(pin = 3);
  REFUSED(pages = 4);
  REFUSED(numa = 3);
  REFUSED(numa = LMSHM_NUMA_BIND);
  REFUSED(numa_nodes = 1);
  REFUSED(flags = 2);
  REFUSED(populate_threads = 65);
  REFUSED(pages = LMSHM_PAGES_HUGE_2M);
  REFUSED(pages = LMSHM_PAGES_HUGE_1G);
  REFUSED(kind = LMSHM_ANONYMOUS);
  good = check_options(LMSHM_ATTACH, name, 0);
  REFUSED(pages = LMSHM_PAGES_TRANSPARENT);
  REFUSED(numa = LMSHM_NUMA_BIND);
  REFUSED(size = (uint64_t)INT64_MAX + 1);
#undef REFUSED
  CHECK_EQUAL(lmshm_open(NULL, &info), -EINVAL);
  info.struct_size = sizeof info - 8;
  CHECK_EQUAL(lmshm_open(&good, &info), -EINVAL);
  CHECK_EQUAL(lmshm_open_start(NULL), -EINVAL);
  CHECK_EQUAL(lmshm_close(NULL, 0), -EINVAL);
  CHECK_EQUAL(lmshm_close_start(NULL, 0), -EINVAL);
  CHECK_EQUAL(lmshm_segment_info(NULL, &info), -EINVAL);
}

static void says_its_version(void) { CHECK_EQUAL(strcmp(lmshm_version(), LMSHM_VERSION), 0); }

static void info_is_told_again(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 12345);
  lmshm_info info = check_info(), again = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment == NULL) return;
  CHECK_EQUAL(lmshm_segment_info(segment, &again), 0);
  CHECK_EQUAL(memcmp(&info, &again, sizeof info), 0);
  again.struct_size = 1;
  CHECK_EQUAL(lmshm_segment_info(segment, &again), -EINVAL);
  CHECK_EQUAL(lmshm_segment_info(segment, NULL), -EINVAL);
  CHECK_EQUAL(lmshm_close(segment, 2), -EINVAL); /* no such flag: nothing happens */
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void the_mode_is_0600_with_the_mark_whatever_the_umask(void) {
  const mode_t masks[] = {0, 077, 0777};
  for (size_t i = 0; i < 3; i++) {
    mode_t before = umask(masks[i]);
    const char* name = check_name("mode");
    intptr_t address = alloc_shm_pinned_ptr(4096, name);
    umask(before);
    struct stat status;
    CHECK_EQUAL(stat(check_path(name), &status), 0);
    CHECK_EQUAL(status.st_mode & 07777, 01600);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4096, name), 0);
  }
}

/* -------------------------------------------------------------------- attaching */

static void attaching_shares_the_memory_and_owns_nothing(void) {
  const char* name = check_name("attach");
  lmshm_options options = check_options(LMSHM_CREATE, name, 5 * MIB);
  lmshm_info owner = check_info(), guest = check_info();
  lmshm_segment* segment = open_or_fail(&options, &owner);
  options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_segment* attached = open_or_fail(&options, &guest);
  if (segment == NULL || attached == NULL) return;
  CHECK_EQUAL(guest.size, 5 * MIB);
  CHECK_EQUAL(guest.flags, 0);
  CHECK_EQUAL(guest.populated, 0);
  char *here = (char*)(uintptr_t)owner.address, *there = (char*)(uintptr_t)guest.address;
  CHECK(here != there, "%p", (void*)here);
  here[5 * MIB - 1] = 42;
  CHECK_EQUAL(there[5 * MIB - 1], 42);
  there[7] = 43;
  CHECK_EQUAL(here[7], 43);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(here[7], 43);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void attaching_takes_a_part_but_never_more_than_there_is(void) {
  const char* name = check_name("part");
  intptr_t address = alloc_shm_pinned_ptr(10000, name);
  lmshm_options options = check_options(LMSHM_ATTACH, name, 5000);
  lmshm_info info = check_info();
  lmshm_segment* attached = open_or_fail(&options, &info);
  CHECK_EQUAL(info.size, 5000);
  CHECK_EQUAL(info.mapped_size, 8192);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  const uint64_t larger[] = {10001, 12288, 20000, (uint64_t)1 << 40, INT64_MAX};
  for (size_t i = 0; i < sizeof larger / sizeof *larger; i++) {
    options.size = larger[i];
    CHECK_EQUAL(lmshm_open(&options, &info), -ERANGE);
    CHECK_CONTAINS(info.message, "10000");
  }
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 10000, name), 0);
  options.size = 0;
  CHECK_EQUAL(lmshm_open(&options, &info), -ENOENT);
}

static void attaching_waits_for_the_owner_to_have_populated(void) {
  const char* name = check_name("half");
  int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 01600);
  CHECK_EQUAL(flock(fd, LOCK_EX), 0);
  lmshm_options options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_info info = check_info();
  CHECK_EQUAL(lmshm_open(&options, &info), -EAGAIN);
  CHECK_EQUAL(ftruncate(fd, 8192), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EAGAIN);
  CHECK_EQUAL(posix_fallocate(fd, 0, 8192), 0);
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment != NULL) CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  close(fd);
}

static void attaching_needs_a_regular_file(void) {
  const char* name = check_name("fifo");
  lmshm_options options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_info info = check_info();
  CHECK_EQUAL(mkfifo(check_path(name), 0600), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EINVAL);
  unlink(check_path(name));
  CHECK_EQUAL(mkdir(check_path(name), 0700), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EINVAL);
  rmdir(check_path(name));
  CHECK_EQUAL(symlink("/etc/passwd", check_path(name)), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EINVAL);
  unlink(check_path(name));
  int fd = open(check_path(name), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  CHECK_EQUAL(lmshm_open(&options, &info), -ERANGE); /* a stranger's, and empty */
  unlink(check_path(name));
  close(fd);

  int ends[2];
  CHECK_EQUAL(pipe(ends), 0);
  options = check_options(LMSHM_ATTACH, NULL, 0);
  options.fd = ends[0];
  CHECK_EQUAL(lmshm_open(&options, &info), -EINVAL);
  close(ends[0]);
  close(ends[1]);
  CHECK_EQUAL(lmshm_open(&options, &info), -EBADF);
  options.fd = -1;
  CHECK_EQUAL(lmshm_open(&options, &info), -EBADF);
}

static void attaching_a_strangers_segment_works(void) {
  const char* name = check_name("stranger");
  int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
  CHECK_EQUAL(ftruncate(fd, 8192), 0); /* sparse, as Python makes them */
  CHECK_EQUAL(pwrite(fd, "hello", 5, 4096), 5);
  lmshm_options options = check_options(LMSHM_ATTACH, name, 8192);
  lmshm_info info = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment != NULL) {
    CHECK_EQUAL(memcmp((char*)(uintptr_t)info.address + 4096, "hello", 5), 0);
    CHECK_EQUAL(lmshm_close(segment, 0), 0);
  }
  CHECK_EQUAL(access(check_path(name), F_OK), 0);
  unlink(check_path(name));
  close(fd);
}

/* -------------------------------------------------------------------- anonymous */

static void anonymous_is_a_sealed_memfd_that_can_be_attached(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 3 * MIB);
  lmshm_info info = check_info(), guest = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment == NULL) return;
  CHECK(info.fd >= 0, "%d", info.fd);
  CHECK_EQUAL(info.flags, 0);
  CHECK_EQUAL(fcntl(info.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  CHECK_EQUAL(fcntl(info.fd, F_GET_SEALS) & seals, seals);
  CHECK_EQUAL(ftruncate(info.fd, 0), -1);
  CHECK_EQUAL(ftruncate(info.fd, 8 << 20), -1);

  options = check_options(LMSHM_ATTACH, NULL, 0);
  options.fd = info.fd;
  lmshm_segment* attached = open_or_fail(&options, &guest);
  if (attached != NULL) {
    CHECK_EQUAL(guest.size, 3 * MIB);
    CHECK(guest.fd >= 0 && guest.fd != info.fd, "%d", guest.fd);
    ((char*)(uintptr_t)info.address)[100] = 77;
    CHECK_EQUAL(((char*)(uintptr_t)guest.address)[100], 77);
    CHECK_EQUAL(lmshm_close(attached, 0), 0);
  }
  CHECK(fcntl(info.fd, F_GETFD) >= 0, "the caller's descriptor was closed");
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(fcntl(info.fd, F_GETFD), -1);
}

/* ------------------------------------------------------------------------ ending */

static void freeing_twice_is_an_error(void) {
  const char* name = check_name("twice");
  intptr_t address = alloc_shm_pinned_ptr(MIB, name);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), -EINVAL);
}

static void freeing_something_else_is_an_error_and_touches_nothing(void) {
  const char *name = check_name("mine"), *other = check_name("other");
  char* mine = (char*)alloc_shm_pinned_ptr(MIB, name);
  char* second = (char*)alloc_shm_pinned_ptr(MIB, other);
  char* heap = malloc(MIB);
  char* anonymous = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char stack[64] = {0};
  CHECK_EQUAL(free_shm_pinned_ptr(NULL, MIB, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(heap, MIB, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(stack, sizeof stack, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(anonymous, MIB, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)-4096, 4096, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)-4096, SIZE_MAX, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, MIB, other), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, MIB, check_name("none")), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, 0, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, 4096, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, MIB - 1, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, MIB + 1, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, 2 * MIB, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, SIZE_MAX, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine + 4096, MIB - 4096, name), -EINVAL);
  CHECK_EQUAL(free_shm_pinned_ptr(mine + 1, MIB, name), -EINVAL);
  mine[0] = second[0] = heap[0] = anonymous[0] = 1;
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(free_shm_pinned_ptr(mine, MIB, name), 0);
  CHECK_EQUAL(free_shm_pinned_ptr(second, MIB, other), 0);
  munmap(anonymous, MIB);
  free(heap);
}

static void freeing_by_address_finds_a_mapping_in_pieces(void) {
  const char* name = check_name("pieces");
  char* address = (char*)alloc_shm_pinned_ptr(MIB, name);
  CHECK_EQUAL(madvise(address + 65536, 65536, MADV_SEQUENTIAL), 0);
  CHECK_EQUAL(mprotect(address + 262144, 4096, PROT_READ), 0);
  CHECK_EQUAL(free_shm_pinned_ptr(address, MIB, name), 0);

  address = (char*)alloc_shm_pinned_ptr(MIB, name);
  munmap(address + 262144, 4096); /* a hole: not what was allocated */
  CHECK_EQUAL(free_shm_pinned_ptr(address, MIB, name), -EINVAL);
  munmap(address, MIB);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
}

static void a_name_replaced_by_somebody_is_not_unlinked(void) {
  const char* name = check_name("replaced");
  for (int simple = 0; simple < 2; simple++) {
    lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
    lmshm_info info = check_info();
    lmshm_segment* segment = NULL;
    intptr_t address = 0;
    if (simple)
      address = alloc_shm_pinned_ptr(MIB, name);
    else
      segment = open_or_fail(&options, &info);
    CHECK_EQUAL(unlink(check_path(name)), 0);
    int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (simple)
      CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
    else
      CHECK_EQUAL(lmshm_close(segment, 0), 0);
    CHECK_EQUAL(access(check_path(name), F_OK), 0);
    unlink(check_path(name));
    close(fd);
  }
}

static void a_kept_range_reads_as_zeros(void) {
  const size_t size = 130 * MIB + 100; /* more than is replaced at a time */
  for (int anonymous = 0; anonymous < 2; anonymous++) {
    lmshm_options options = check_options(anonymous ? LMSHM_ANONYMOUS : LMSHM_CREATE,
                                          anonymous ? NULL : check_name("kept"), size);
    lmshm_info info = check_info();
    lmshm_segment* segment = open_or_fail(&options, &info);
    if (segment == NULL) return;
    char* bytes = (char*)(uintptr_t)info.address;
    memset(bytes, 0x5a, size);
    CHECK_EQUAL(lmshm_close(segment, LMSHM_CLOSE_KEEP_RANGE), 0);
    if (!anonymous) CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
    size_t wrong = 0;
    for (size_t at = 0; at < info.mapped_size; at += 4096) wrong += bytes[at] != 0;
    CHECK_EQUAL(wrong, 0);
    bytes[size - 1] = 1; /* and it can be written */
    CHECK_EQUAL(munmap(bytes, info.mapped_size), 0);
  }
}

/* ---------------------------------------------------------------------- windows */

static void a_window_shows_the_segment_until_it_is_taken_back(void) {
  for (int kind = LMSHM_CREATE; kind <= LMSHM_ANONYMOUS; kind += LMSHM_ANONYMOUS) {
    const char* name = kind == LMSHM_CREATE ? check_name("window") : NULL;
    lmshm_options options = check_options((enum lmshm_kind)kind, name, 4 * MIB);
    lmshm_info info = check_info();
    lmshm_segment* segment = open_or_fail(&options, &info);
    if (segment == NULL) return;
    volatile unsigned char* bytes = (unsigned char*)(uintptr_t)info.address;
    intptr_t range = lmshm_window_reserve(segment, NULL, 16 * MIB);
    CHECK(range > 0, "%ld", (long)range);
    volatile unsigned char* at = (unsigned char*)range + MIB;
    CHECK_EQUAL(lmshm_window_map(segment, 4096, 2 * MIB, (void*)at), 0);
    bytes[4096] = 7;
    CHECK_EQUAL(at[0], 7);
    at[2 * MIB - 1] = 9;
    CHECK_EQUAL(bytes[4096 + 2 * MIB - 1], 9);
    CHECK_EQUAL(lmshm_window_unmap(segment, (void*)at, 2 * MIB), 0);
    CHECK_EQUAL(at[0], 0);
    CHECK_EQUAL(at[2 * MIB - 1], 0);
    CHECK_EQUAL(bytes[4096], 7);
    CHECK_EQUAL(lmshm_close(segment, 0), 0);
    if (name != NULL) CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
    CHECK_EQUAL(at[0], 0); /* the addresses stay reserved */
    CHECK_EQUAL(munmap((void*)range, 16 * MIB), 0);
  }
}

struct late_read {
  int fd;
  char* at;
  ssize_t count;
};

/* By a bare system call: that the memory is exchanged while the kernel waits to
 * write into it is what is tested, and ThreadSanitizer would take it for a fault. */
static void* read_late(void* context) {
  struct late_read* late = context;
  late->count = syscall(SYS_read, late->fd, late->at, 4);
  return NULL;
}

static void a_read_that_began_in_a_window_ends_in_private_memory(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, MIB);
  lmshm_info info = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment == NULL) return;
  char* bytes = (char*)(uintptr_t)info.address;
  char* at = (char*)lmshm_window_reserve(segment, NULL, MIB);
  CHECK_EQUAL(lmshm_window_map(segment, 0, MIB, at), 0);
  int ends[2];
  CHECK_EQUAL(pipe(ends), 0);
  pthread_t thread;
  struct late_read late = {.fd = ends[0], .at = at};
  CHECK_EQUAL(pthread_create(&thread, NULL, read_late, &late), 0);
  usleep(50000); /* it waits in read(2) */
  CHECK_EQUAL(lmshm_window_unmap(segment, at, MIB), 0);
  CHECK_EQUAL(write(ends[1], "late", 4), 4);
  CHECK_EQUAL(pthread_join(thread, NULL), 0);
  CHECK_EQUAL(late.count, 4);
  CHECK_EQUAL(bytes[0], 0);
  CHECK_EQUAL(memcmp(at, "late", 4), 0);
  CHECK_EQUAL(munmap(at, MIB), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  close(ends[0]);
  close(ends[1]);
}

static void windows_beyond_the_segment_are_refused(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, MIB + 1);
  lmshm_info info = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment == NULL) return;
  char* at = (char*)lmshm_window_reserve(segment, NULL, 4 * MIB);
  CHECK_EQUAL(lmshm_window_map(segment, 0, MIB + 4096, at), 0); /* with the last page */
  const struct {
    uint64_t offset;
    size_t size;
    char* at;
  } wrong[] = {{0, MIB + 8192, at},
               {MIB + 4096, 4096, at},
               {1, 4096, at},
               {0, 1, at},
               {0, 0, at},
               {0, 4096, at + 1},
               {0, 4096, NULL},
               {UINT64_MAX - 4095, 4096, at},
               {4096, SIZE_MAX - 4095, at}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    CHECK_EQUAL(lmshm_window_map(segment, wrong[i].offset, wrong[i].size, wrong[i].at), -EINVAL);
  CHECK_EQUAL(lmshm_window_map(NULL, 0, 4096, at), -EINVAL);
  CHECK_EQUAL(lmshm_window_unmap(NULL, at, 4096), -EINVAL);
  CHECK_EQUAL(lmshm_window_unmap(segment, NULL, 4096), -EINVAL);
  CHECK_EQUAL(lmshm_window_unmap(segment, at + 1, 4096), -EINVAL);
  CHECK_EQUAL(lmshm_window_reserve(NULL, NULL, 4096), -EINVAL);
  CHECK_EQUAL(lmshm_window_reserve(segment, NULL, 0), -EINVAL);
  CHECK_EQUAL(lmshm_window_reserve(segment, NULL, 4097), -EINVAL);
  CHECK_EQUAL(lmshm_window_reserve(segment, at + 1, 4096), -EINVAL);
  CHECK_EQUAL(lmshm_window_reserve(segment, NULL, SIZE_MAX - 4095), -ENOMEM);
  CHECK_EQUAL(lmshm_window_unmap(segment, at, MIB + 4096), 0);
  CHECK_EQUAL(munmap(at, 4 * MIB), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
}

static void with_one_descriptor(void) {
  const int only = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(only);
  const struct rlimit limit = {(rlim_t)only + 1, (rlim_t)only + 1};
  CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
  lmshm_options options = check_options(LMSHM_CREATE, check_name("window"), MIB);
  lmshm_info info = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  if (segment == NULL) return;
  CHECK_EQUAL(info.fd, -1);
  char* at = (char*)lmshm_window_reserve(segment, NULL, MIB);
  CHECK_EQUAL(lmshm_window_map(segment, 0, MIB, at), 0);
  *(char*)(uintptr_t)info.address = 7;
  CHECK_EQUAL(*at, 7);
  CHECK_EQUAL(lmshm_window_unmap(segment, at, MIB), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(open("/dev/null", O_RDONLY | O_CLOEXEC), only);
}

static void a_segment_without_a_descriptor_to_share_has_windows(void) {
  CHECK_EQUAL(check_in_child(with_one_descriptor), 0);
}

/* Each is a mapping, and the gap behind it another. */
static void a_process_has_so_many_windows_and_the_range_of_a_further_one_is_as_it_was(void) {
  FILE* file = fopen("/proc/sys/vm/max_map_count", "re");
  int most = 0;
  if (file == NULL || fscanf(file, "%d", &most) != 1 || most < 3 * LMSHM_WINDOWS_MAX)
    check_skip("this system allows a process %d mappings", most);
  if (file != NULL) fclose(file);
  if (check_reason[0] != '\0') return;
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, MIB);
  lmshm_info info = check_info();
  lmshm_segment* segments[] = {open_or_fail(&options, &info), open_or_fail(&options, &info)};
  if (segments[0] == NULL || segments[1] == NULL) return;
  const size_t size = (LMSHM_WINDOWS_MAX + 1) * (size_t)8192;
  char* range = (char*)lmshm_window_reserve(segments[0], NULL, size);
  int mapped = 0;
  for (size_t i = 0; i < LMSHM_WINDOWS_MAX; i++)
    mapped += lmshm_window_map(segments[i % 2], 0, 4096, range + i * 8192) == 0;
  CHECK_EQUAL(mapped, LMSHM_WINDOWS_MAX);
  char* last = range + LMSHM_WINDOWS_MAX * (size_t)8192;
  *last = 5;
  for (int i = 0; i < 2; i++) CHECK_EQUAL(lmshm_window_map(segments[i], 0, 4096, last), -ENOMEM);
  CHECK_EQUAL(*last, 5);
  CHECK_EQUAL(lmshm_window_unmap(segments[0], range + 8192, 4096), 0);
  CHECK_EQUAL(lmshm_window_map(segments[1], 0, 4096, last), 0);
  CHECK_EQUAL(*last, 0);
  CHECK_EQUAL(lmshm_window_map(segments[1], 0, 4096, range + 8192), -ENOMEM);
  CHECK_EQUAL(lmshm_close(segments[1], 0), 0); /* windows may outlive their segment */
  int unmapped = 0;
  for (size_t i = 0; i <= LMSHM_WINDOWS_MAX; i++)
    unmapped += i != 1 && lmshm_window_unmap(segments[0], range + i * 8192, 4096) == 0;
  CHECK_EQUAL(unmapped, LMSHM_WINDOWS_MAX);
  CHECK_EQUAL(lmshm_window_map(segments[0], 0, 4096, range), 0);
  CHECK_EQUAL(lmshm_window_unmap(segments[0], range, 4096), 0);
  CHECK_EQUAL(munmap(range, size), 0);
  CHECK_EQUAL(lmshm_close(segments[0], 0), 0);
}

CHECK_MAIN(CASE(refuses_what_is_not_one_path_component), CASE(accepts_every_other_name),
           CASE(a_leading_slash_makes_no_difference), CASE(refuses_sizes_that_cannot_be),
           CASE(maps_exactly_the_size_and_whole_pages),
           CASE(every_number_of_threads_populates_everything),
           CASE(refuses_options_that_do_not_exist), CASE(says_its_version),
           CASE(info_is_told_again), CASE(the_mode_is_0600_with_the_mark_whatever_the_umask),
           CASE(attaching_shares_the_memory_and_owns_nothing),
           CASE(attaching_takes_a_part_but_never_more_than_there_is),
           CASE(attaching_waits_for_the_owner_to_have_populated),
           CASE(attaching_needs_a_regular_file), CASE(attaching_a_strangers_segment_works),
           CASE(anonymous_is_a_sealed_memfd_that_can_be_attached), CASE(freeing_twice_is_an_error),
           CASE(freeing_something_else_is_an_error_and_touches_nothing),
           CASE(freeing_by_address_finds_a_mapping_in_pieces),
           CASE(a_name_replaced_by_somebody_is_not_unlinked), CASE(a_kept_range_reads_as_zeros),
           CASE(a_window_shows_the_segment_until_it_is_taken_back),
           CASE(a_read_that_began_in_a_window_ends_in_private_memory),
           CASE(windows_beyond_the_segment_are_refused),
           CASE(a_segment_without_a_descriptor_to_share_has_windows),
           CASE(a_process_has_so_many_windows_and_the_range_of_a_further_one_is_as_it_was))
