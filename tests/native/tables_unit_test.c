/* SPDX-License-Identifier: Apache-2.0
 *
 * tables_unit_test.c - names, and the kernel's tables of text, read from good
 * and from nasty input. Built with the library's own sources.
 */
#include "check.h"
#include "limits.h"
#include "maps.h"
#include "name.h"

static void a_name_becomes_a_path(void) {
  struct lmshm_name name;
  CHECK_EQUAL(lmshm_name_parse("/kv", &name), 0);
  CHECK_EQUAL(strcmp(name.path, "/dev/shm/kv"), 0);
  CHECK_EQUAL(strcmp(lmshm_name_file(&name), "kv"), 0);
  CHECK_EQUAL(lmshm_name_parse("...", &name), 0);
  CHECK_EQUAL(strcmp(name.path, "/dev/shm/..."), 0);
  char longest[LMSHM_NAME_MAX + 3];
  memset(longest, 'x', sizeof longest);
  longest[0] = '/';
  longest[LMSHM_NAME_MAX + 1] = '\0';
  CHECK_EQUAL(lmshm_name_parse(longest, &name), 0);
  CHECK_EQUAL(strlen(lmshm_name_file(&name)), LMSHM_NAME_MAX);
  longest[LMSHM_NAME_MAX + 1] = 'x';
  longest[LMSHM_NAME_MAX + 2] = '\0';
  CHECK_EQUAL(lmshm_name_parse(longest, &name), -ENAMETOOLONG);
}

/* ----------------------------------------------------------------------- ranges */

static struct lmshm_range find(uint64_t begin, uint64_t end, const char* maps) {
  struct lmshm_range range = {.begin = begin, .end = end};
  while (*maps != '\0') {
    const char* newline = strchr(maps, '\n');
    size_t length = newline != NULL ? (size_t)(newline - maps) : strlen(maps);
    char* exact = malloc(length > 0 ? length : 1); /* so that reading past it is seen */
    memcpy(exact, maps, length);
    bool more = lmshm_range_line(&range, exact, length);
    free(exact);
    if (!more || newline == NULL) break;
    maps = newline + 1;
  }
  return range;
}

#define BEFORE "55d0-55d1 r-xp 00000000 fe:00 11                         /bin/x\n"
#define KV "rw-s 00000000 00:19 42 /dev/shm/kv\n"

static void a_range_is_found_only_when_it_is_one_whole_mapping(void) {
  static const struct {
    const char* maps;
    bool found;
  } cases[] = {
      {BEFORE "10000-20000 " KV, true},
      {"10000-20000 " KV "30000-40000 rw-p 00000000 00:00 0\n", true},
      {"10000-14000 " KV "14000-20000 r--s 00004000 00:19 42 /dev/shm/kv\n", true},
      {"10000-14000 " KV "14000-18000 r--s 00004000 00:19 42 /dev/shm/kv\n"
       "18000-20000 rw-s 00008000 00:19 42 /dev/shm/kv\n20000-21000 rw-p 00000000 00:00 0\n",
       true},
      {"10000-20000 " KV "20000-30000 " KV, true}, /* the same file from its start: another one */
      {"", false},
      {BEFORE, false},
      {"10000-18000 " KV, false},
      {"10000-30000 " KV, false},
      {"f000-20000 " KV, false},
      {"11000-20000 " KV, false},
      {"10000-20000 " KV "20000-30000 rw-s 00010000 00:19 42 /dev/shm/kv\n", false},
      {"10000-20000 rw-s 00001000 00:19 42 /dev/shm/kv\n", false},
      {"10000-20000 rw-p 00000000 00:00 0\n", false},
      {"10000-14000 " KV "14000-20000 rw-s 00005000 00:19 42 /dev/shm/kv\n", false},
      {"10000-14000 " KV "14000-20000 rw-s 00004000 00:19 43 /dev/shm/kv\n", false},
      {"10000-14000 " KV "14000-20000 rw-s 00004000 00:1a 42 /dev/shm/kv\n", false},
      {"10000-14000 " KV "15000-20000 rw-s 00005000 00:19 42 /dev/shm/kv\n", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct lmshm_range range = find(0x10000, 0x20000, cases[i].maps);
    CHECK(lmshm_range_found(&range) == cases[i].found, "case %zu", i);
  }
}

static void a_range_tells_its_file(void) {
  struct lmshm_range range =
      find(0x10000, 0x20000, "10000-20000 rw-s 00000000 00:1f 42   /dev/shm/kv\n");
  CHECK_EQUAL(range.major, 0);
  CHECK_EQUAL(range.minor, 0x1f);
  CHECK_EQUAL(range.inode, 42);
  CHECK_EQUAL(range.deleted, false);
  CHECK_EQUAL(strcmp(range.file, "kv"), 0);
  range =
      find(0x10000, 0x20000, "10000-20000 rw-s 00000000 103:1f 42 /dev/shm/a b\\012c (deleted)");
  CHECK_EQUAL(range.major, 0x103);
  CHECK_EQUAL(range.deleted, true);
  CHECK_EQUAL(strcmp(range.file, "a b\\012c"), 0);

  char longest[4096], path[3000];
  memset(path, 'p', sizeof path);
  path[sizeof path - 1] = '\0';
  snprintf(longest, sizeof longest, "10000-20000 rw-s 00000000 00:19 42 /dev/shm/%s", path);
  range = find(0x10000, 0x20000, longest);
  CHECK_EQUAL(lmshm_range_found(&range), true);
  CHECK_EQUAL(range.file[0], 0);
}

static void nonsense_is_no_mapping(void) {
  static const char* const lines[] = {
      "",
      " ",
      "-",
      "10000",
      "10000-",
      "10000-20000",
      "10000-20000 ",
      "10000-20000 rw-s",
      "10000-20000 rw-s 0",
      "10000-20000 rw-s 0 00",
      "10000-20000 rw-s 0 00:",
      "10000-20000 rw-s 0 :19 42",
      "10000-20000 rw-s 0 00:19",
      "10000-20000 rw-s 0 00:19 ",
      "10000-20000 rw-s 0 00:19 x",
      "10000-20000 rw-s 0 00:19 42x /dev/shm/kv",
      "10000-20000 rw-s x 00:19 42 /dev/shm/kv",
      "20000-10000 rw-s 0 00:19 42 /dev/shm/kv",
      "10000-10000 rw-s 0 00:19 42 /dev/shm/kv",
      "10000 20000 rw-s 0 00:19 42 /dev/shm/kv",
      "G0000-20000 rw-s 0 00:19 42 /dev/shm/kv",
      "1ffffffffffffffff-20000 rw-s 0 00:19 42 /dev/shm/kv",
      "10000-20000 rw-s 0 1ffffffff:19 42 /dev/shm/kv",
      "10000-20000 rw-s 0 00:19 99999999999999999999999 /dev/shm/kv",
      "\x01\x02\xff\xfe",
      "Size:              64 kB"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    struct lmshm_range range = find(0x10000, 0x20000, lines[i]);
    CHECK(!lmshm_range_found(&range), "\"%s\"", lines[i]);
  }
}

static void random_bytes_are_survived(void) {
  uint64_t state = 88172645463325252u;
  static const char alphabet[] = "0123456789abcdef-: \t/\\rws()deletedFLOCKWRITEkB\n\xff";
  for (int round = 0; round < 20000; round++) {
    char line[120];
    size_t length = 0;
    for (; length < sizeof line; length++) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      if (state % 97 == 0) break;
      line[length] = alphabet[state / 128 % (sizeof alphabet - 1)];
    }
    char* exact = malloc(length + 1);
    memcpy(exact, line, length);
    struct lmshm_range range = {.begin = 16, .end = 4096};
    struct lmshm_huge huge = {.begin = 0, .end = UINT64_MAX, .inside = true};
    struct lmshm_lock_search locks = {.pid = 1};
    uint64_t value;
    lmshm_range_line(&range, exact, length);
    lmshm_huge_line(&huge, exact, length);
    lmshm_lock_line(&locks, exact, length);
    lmshm_keyed_number(exact, length, "a", &value);
    free(exact);
  }
}

/* ---------------------------------------------------------------- the other tables */

static bool feed(lmshm_line_fn each, void* context, const char* line) {
  return each(context, line, strlen(line));
}

static void huge_pages_of_one_mapping_are_summed(void) {
  struct lmshm_huge huge = {.begin = 0x10000, .end = 0x30000};
  CHECK(feed(lmshm_huge_line, &huge, "1000-2000 rw-s 0 00:19 41 /dev/shm/a"), "stopped");
  feed(lmshm_huge_line, &huge, "ShmemPmdMapped:     2048 kB");
  CHECK(feed(lmshm_huge_line, &huge, "10000-20000 rw-s 0 00:19 42 /dev/shm/kv"), "stopped");
  feed(lmshm_huge_line, &huge, "Size:               4096 kB");
  feed(lmshm_huge_line, &huge, "ShmemPmdMapped:     2048 kB");
  feed(lmshm_huge_line, &huge, "Shared_Hugetlb:        4 kB");
  feed(lmshm_huge_line, &huge, "VmFlags: rd wr sh");
  CHECK(feed(lmshm_huge_line, &huge, "20000-30000 rw-s 10000 00:19 42 /dev/shm/kv"), "stopped");
  feed(lmshm_huge_line, &huge, "FilePmdMapped:      1024 kB");
  CHECK_EQUAL(huge.bytes, 2048 * 1024 + 4096 + 1024 * 1024);
  CHECK(!feed(lmshm_huge_line, &huge, "30000-40000 rw-s 0 00:19 43 /dev/shm/b"), "went on");
}

static void a_lock_is_its_holders_alone(void) {
  static const struct {
    const char* line;
    bool found;
  } cases[] = {
      {"1: FLOCK  ADVISORY  WRITE 1234 00:19:42 0 EOF", true},
      {"1: FLOCK  ADVISORY  READ  1234 00:19:42 0 EOF", false},
      {"1: POSIX  ADVISORY  WRITE 1234 00:19:42 0 EOF", false},
      {"1: -> FLOCK  ADVISORY  WRITE 1234 00:19:42 0 EOF", false}, /* it waits for it */
      {"1: FLOCK  ADVISORY  WRITE 1235 00:19:42 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE 1234 00:19:43 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE 1234 00:1a:42 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE 1234 01:19:42 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE 1234 00:19:42x 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE -1 00:19:42 0 EOF", false},
      {"1: FLOCK  ADVISORY  WRITE 1234", false},
      {"FLOCK", false},
      {"", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct lmshm_lock_search search = {.minor = 0x19, .inode = 42, .pid = 1234};
    bool more = feed(lmshm_lock_line, &search, cases[i].line);
    CHECK(search.found == cases[i].found, "%s", cases[i].line);
    CHECK_EQUAL(more, !cases[i].found);
  }
}

static void numbers_have_keys_and_units(void) {
  uint64_t value = 7;
  const char* line = "MemTotal:       24684092 kB";
  CHECK(lmshm_keyed_number(line, strlen(line), "MemTotal:", &value), "%s", line);
  CHECK_EQUAL(value, 24684092ull * 1024);
  CHECK(!lmshm_keyed_number(line, strlen(line), "MemTota:", &value), "%s", line);
  CHECK(!lmshm_keyed_number(line, strlen(line), "MemTotal", &value), "%s", line);
  line = "anon 4096";
  CHECK(lmshm_keyed_number(line, strlen(line), "anon", &value), "%s", line);
  CHECK_EQUAL(value, 4096);
  static const char* const wrong[] = {"anon",
                                      "anon ",
                                      "anon max",
                                      "anon -1",
                                      "anon 12 MB",
                                      "anon 99999999999999999999",
                                      "anon 18446744073709551615 kB"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    CHECK(!lmshm_keyed_number(wrong[i], strlen(wrong[i]), "anon", &value), "%s", wrong[i]);
    CHECK_EQUAL(value, 4096);
  }
}

/* ---------------------------------------------------------------------- the reader */

struct seen {
  int lines;
  size_t longest;
  uint64_t sum;
  int stop_after;
};

static bool see(void* context, const char* line, size_t length) {
  struct seen* seen = context;
  seen->lines++;
  if (length > seen->longest) seen->longest = length;
  for (size_t i = 0; i < length; i++) seen->sum += (unsigned char)line[i];
  return seen->lines != seen->stop_after;
}

static struct seen read_text(const char* text, size_t length, int stop_after) {
  char path[] = "/tmp/lmshm-test-XXXXXX";
  int fd = mkostemp(path, O_CLOEXEC);
  struct seen seen = {.stop_after = stop_after};
  CHECK_EQUAL(write(fd, text, length), length);
  CHECK_EQUAL(lmshm_lines(path, see, &seen), 0);
  unlink(path);
  close(fd);
  return seen;
}

static void lines_of_every_length_are_read_once(void) {
  CHECK_EQUAL(read_text("", 0, 0).lines, 0);
  CHECK_EQUAL(read_text("\n\n\n", 3, 0).lines, 3);
  CHECK_EQUAL(read_text("a\nb", 3, 0).lines, 2);
  CHECK_EQUAL(read_text("a\nb\n", 4, 0).lines, 2);
  CHECK_EQUAL(read_text("a\nb\nc\n", 6, 2).lines, 2);
  static char text[200000];
  for (size_t length = 16380; length <= 16390; length++) {
    memset(text, 'x', sizeof text);
    text[length] = '\n';
    text[length + 1] = 'y';
    struct seen seen = read_text(text, length + 2, 0);
    CHECK_EQUAL(seen.lines, 2);
    CHECK_EQUAL(seen.longest, length < 16384 ? length : 16384);
  }
  memset(text, 'x', sizeof text);
  struct seen seen = read_text(text, sizeof text, 0); /* one line, much too long */
  CHECK_EQUAL(seen.lines, 1);
  CHECK_EQUAL(seen.longest, 16384);
  for (size_t i = 99; i < sizeof text; i += 100) text[i] = '\n';
  seen = read_text(text, sizeof text, 0);
  CHECK_EQUAL(seen.lines, sizeof text / 100);
  CHECK_EQUAL(seen.sum, sizeof text / 100 * 99 * 'x');
  CHECK_EQUAL(lmshm_lines("/nowhere/at/all", see, &seen), -ENOENT);
}

static void the_systems_own_tables_can_be_read(void) {
  uint64_t room = lmshm_limits_memory();
  CHECK(room > MIB && room != 0, "%" PRIu64, room);
  CHECK(lmshm_limits_space() > 0, "no space at all");
  CHECK_EQUAL(lmshm_limits_huge(12345 * 1024), UINT64_MAX); /* no such size */
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  int fd = memfd_create("lmshm-tables", MFD_CLOEXEC);
  CHECK_EQUAL(ftruncate(fd, 4 * (off_t)page), 0);
  char* address = mmap(NULL, 4 * page, PROT_READ, MAP_SHARED, fd, 0);
  struct lmshm_range range = {.begin = (uintptr_t)address, .end = (uintptr_t)address + 4 * page};
  CHECK_EQUAL(lmshm_lines("/proc/self/maps", lmshm_range_line, &range), 0);
  CHECK_EQUAL(lmshm_range_found(&range), true);
  struct stat status;
  CHECK_EQUAL(fstat(fd, &status), 0);
  CHECK_EQUAL(range.inode, status.st_ino);
  munmap(address, 4 * page);
  close(fd);
}

CHECK_MAIN(CASE(a_name_becomes_a_path), CASE(a_range_is_found_only_when_it_is_one_whole_mapping),
           CASE(a_range_tells_its_file), CASE(nonsense_is_no_mapping),
           CASE(random_bytes_are_survived), CASE(huge_pages_of_one_mapping_are_summed),
           CASE(a_lock_is_its_holders_alone), CASE(numbers_have_keys_and_units),
           CASE(lines_of_every_length_are_read_once), CASE(the_systems_own_tables_can_be_read))
