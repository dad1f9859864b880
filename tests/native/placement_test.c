/* SPDX-License-Identifier: Apache-2.0
 *
 * placement_test.c - on which nodes, and in pages of which size, a segment
 * lies, as far as this machine has them.
 */
#include <sys/syscall.h>

#include "check.h"
#include "sandbox.h"

#define ALLOWED 4 /* MPOL_F_MEMS_ALLOWED */
#define NODE_OF 3 /* MPOL_F_NODE | MPOL_F_ADDR */
#define MODE_OF 2 /* MPOL_F_ADDR */

static uint64_t allowed_nodes(void) {
  uint64_t mask[16] = {0};
  if (syscall(SYS_get_mempolicy, NULL, mask, 1024UL, NULL, ALLOWED) != 0) return 0;
  return mask[0];
}

static void a_segment_lies_on_the_nodes_it_is_bound_to(void) {
  uint64_t nodes = allowed_nodes();
  if (nodes == 0) {
    check_skip("this kernel has no NUMA policies");
    return;
  }
  for (int i = 0; i < 4; i++) {
    lmshm_options options = check_options(i < 2 ? LMSHM_CREATE : LMSHM_ANONYMOUS,
                                          i < 2 ? check_name("numa") : NULL, 32 * MIB);
    options.numa = i % 2 == 0 ? LMSHM_NUMA_BIND : LMSHM_NUMA_INTERLEAVE;
    options.numa_nodes = nodes & (~nodes + 1); /* the first of them */
    lmshm_info info = check_info();
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    if (segment < 0) return;
    int mode = -1, node = -1;
    char* middle = (char*)(uintptr_t)info.address + 16 * MIB;
    CHECK_EQUAL(syscall(SYS_get_mempolicy, &mode, NULL, 0UL, middle, MODE_OF), 0);
    CHECK_EQUAL(mode, i % 2 == 0 ? 2 : 3); /* MPOL_BIND, MPOL_INTERLEAVE */
    CHECK_EQUAL(syscall(SYS_get_mempolicy, &node, NULL, 0UL, middle, NODE_OF), 0);
    CHECK_EQUAL((uint64_t)1 << node, options.numa_nodes);
    CHECK_EQUAL(info.populated, 32 * MIB);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
}

static void interleaving_uses_every_node(void) {
  uint64_t nodes = allowed_nodes();
  if (__builtin_popcountll(nodes) < 2) {
    check_skip("one node");
    return;
  }
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 4 * MIB);
  options.numa = LMSHM_NUMA_INTERLEAVE;
  options.numa_nodes = nodes;
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  uint64_t seen = 0;
  for (size_t at = 0; at < 4 * MIB; at += 4096) {
    int node = 0;
    syscall(SYS_get_mempolicy, &node, NULL, 0UL, (char*)(uintptr_t)info.address + at, NODE_OF);
    seen |= (uint64_t)1 << node;
  }
  CHECK_EQUAL(seen, nodes);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
}

static void a_node_that_is_not_there_is_an_error(void) {
  uint64_t nodes = allowed_nodes();
  if (nodes == 0) {
    check_skip("this kernel has no NUMA policies");
    return;
  }
  const uint64_t wrong[] = {~nodes, (uint64_t)1 << 63, nodes | (uint64_t)1 << 63};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("node"), MIB);
    options.numa = i == 1 ? LMSHM_NUMA_INTERLEAVE : LMSHM_NUMA_BIND;
    options.numa_nodes = wrong[i];
    lmshm_info info = check_info();
    CHECK_EQUAL(lmshm_open(&options, &info), -EINVAL);
    CHECK_EQUAL(info.step, LMSHM_STEP_PLACE);
    CHECK_CONTAINS(info.message, "NUMA");
    CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
  }
}

static void transparent_huge_pages_are_a_wish(void) {
  const size_t sizes[] = {4096, 2 * MIB - 1, 2 * MIB, 33 * MIB + 7};
  for (size_t i = 0; i < 2 * (sizeof sizes / sizeof *sizes); i++) {
    bool named = i % 2 == 0;
    lmshm_options options = check_options(named ? LMSHM_CREATE : LMSHM_ANONYMOUS,
                                          named ? check_name("thp") : NULL, sizes[i / 2]);
    options.pages = LMSHM_PAGES_TRANSPARENT;
    lmshm_info info = check_info();
    intptr_t segment = lmshm_open(&options, &info);
    CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
    if (segment < 0) return;
    CHECK(info.huge_bytes <= info.mapped_size, "%" PRIu64, info.huge_bytes);
    CHECK((info.huge_bytes == 0) == (strstr(info.message, "no huge pages: ") != NULL),
          "%" PRIu64 " bytes: %s", info.huge_bytes, info.message);
    if (info.mapped_size < 2 * MIB) CHECK_CONTAINS(info.message, "smaller than one");
    CHECK_EQUAL(info.populated, info.mapped_size);
    memset((void*)(uintptr_t)info.address, 1, info.size);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
}

static const char* mount_options;
static uint32_t pages_wanted;
static bool huge_expected;

static void open_on_such_a_mount(void) {
  if (sandbox_tmpfs("/dev/shm", mount_options) != 0) _exit(SANDBOX_REFUSED);
  lmshm_options options = check_options(LMSHM_CREATE, check_name("huge"), 20 * MIB + 4096);
  options.pages = pages_wanted;
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  if (segment < 0) return;
  CHECK((info.huge_bytes > 0) == huge_expected, "%s, pages %u: %" PRIu64 " bytes", mount_options,
        pages_wanted, info.huge_bytes);
  if (pages_wanted == LMSHM_PAGES_TRANSPARENT && !huge_expected)
    CHECK_CONTAINS(info.message, "no huge pages: /dev/shm is mounted without huge=advise");
  CHECK_EQUAL(info.populated, info.mapped_size);
  unsigned char* bytes = (unsigned char*)(uintptr_t)info.address;
  size_t wrong = 0;
  for (size_t at = 0; at < info.size; at += 4096) wrong += bytes[at]++ != 0;
  CHECK_EQUAL(wrong, 0);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
}

static void transparent_huge_pages_come_where_the_mount_allows_them(void) {
  static const struct {
    const char* options;
    uint32_t pages;
    bool huge;
  } cases[] = {
      {"size=64m,huge=advise", LMSHM_PAGES_TRANSPARENT, true},
      {"size=64m,huge=advise", LMSHM_PAGES_DEFAULT, false},
      {"size=64m,huge=never", LMSHM_PAGES_TRANSPARENT, false},
      {"size=64m,huge=always", LMSHM_PAGES_TRANSPARENT, true},
      {"size=22m,huge=advise", LMSHM_PAGES_TRANSPARENT, true}, /* just enough room */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mount_options = cases[i].options;
    pages_wanted = cases[i].pages;
    huge_expected = cases[i].huge;
    int status = check_in_child(open_on_such_a_mount);
    if (status == SANDBOX_REFUSED) {
      check_skip("no mount namespace, or no huge pages in tmpfs");
      return;
    }
    CHECK_EQUAL(status, 0);
  }
}

static void explicit_huge_pages_come_or_say_why_not(void) {
  const uint64_t page_sizes[] = {2 * MIB, 1024 * MIB};
  for (uint32_t i = 0; i < 2; i++) {
    lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, page_sizes[i] + 1);
    options.pages = LMSHM_PAGES_HUGE_2M + i;
    lmshm_info info = check_info();
    intptr_t segment = lmshm_open(&options, &info);
    if (segment > 0) {
      CHECK_EQUAL(info.page_size, page_sizes[i]);
      CHECK_EQUAL(info.size, 2 * page_sizes[i]); /* rounded up */
      CHECK_EQUAL(info.huge_bytes, info.mapped_size);
      CHECK_EQUAL(info.populated, info.mapped_size);
      lmshm_options guest = check_options(LMSHM_ATTACH, NULL, 0);
      guest.fd = info.fd;
      lmshm_info there = check_info();
      intptr_t attached = lmshm_open(&guest, &there);
      CHECK(attached > 0, "%ld: %s", (long)attached, there.message);
      CHECK_EQUAL(there.page_size, page_sizes[i]);
      CHECK_EQUAL(lmshm_close((lmshm_segment*)attached, 0), 0);
      CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, LMSHM_CLOSE_KEEP_RANGE), 0);
      CHECK_EQUAL(((char*)(uintptr_t)info.address)[info.size - 1], 0);
      CHECK_EQUAL(munmap((void*)(uintptr_t)info.address, info.mapped_size), 0);
    } else {
      CHECK(segment == -ENOMEM || segment == -ENOSPC || segment == -ENODEV || segment == -EINVAL ||
                segment == -ENOSYS,
            "%ld: %s", (long)segment, info.message);
      CHECK_CONTAINS(info.message, "huge pages");
    }
  }
}

CHECK_MAIN(CASE(a_segment_lies_on_the_nodes_it_is_bound_to), CASE(interleaving_uses_every_node),
           CASE(a_node_that_is_not_there_is_an_error), CASE(transparent_huge_pages_are_a_wish),
           CASE(transparent_huge_pages_come_where_the_mount_allows_them),
           CASE(explicit_huge_pages_come_or_say_why_not))
