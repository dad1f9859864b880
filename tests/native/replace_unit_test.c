/* SPDX-License-Identifier: Apache-2.0
 *
 * replace_unit_test.c - taking a stranger's name: the stranger's segment is as it
 * was until the new one is complete, whatever fails or is killed on the way, and
 * whoever takes the name meanwhile.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/file.h>

#include "check.h"
#include "name.h"
#include "sandbox.h"

#define THEIRS (MIB + 123)
#define TEMPORARY ".lmshm-new-"

/* What the C library makes of rename() and unlink(). */
#ifdef SYS_rename
#define RENAME SYS_rename
#define UNLINK SYS_unlink
#else
#define RENAME SYS_renameat
#define UNLINK SYS_unlinkat
#endif

/* A segment as Python would make it. */
static void make_strangers(const char* name) {
  struct lmshm_name parsed; /* check_path() is for short names */
  CHECK_EQUAL(lmshm_name_parse(name, &parsed), 0);
  int fd = open(parsed.path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  CHECK(fd >= 0, "%s: %m", name);
  char* bytes = malloc(THEIRS);
  memset(bytes, 0x5a, THEIRS);
  CHECK_EQUAL(write(fd, bytes, THEIRS), THEIRS);
  free(bytes);
  close(fd);
}

static bool is_whole(const char* name) {
  int fd = open(check_path(name), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char* bytes = malloc(THEIRS + 1);
  bool whole = read(fd, bytes, THEIRS + 1) == THEIRS;
  for (size_t at = 0; whole && at < THEIRS; at++) whole = bytes[at] == 0x5a;
  free(bytes);
  close(fd);
  return whole && lmshm_name_state(name) == LMSHM_NAME_FOREIGN;
}

/* The temporary names in /dev/shm: how many, and one of them. */
static int temporaries(char found[256]) {
  int count = 0;
  DIR* directory = opendir("/dev/shm");
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;) {
    if (strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)) != 0) continue;
    if (found != NULL) snprintf(found, 256, "%s", entry->d_name);
    count++;
  }
  closedir(directory);
  return count;
}

static intptr_t replace(const char* name, size_t size, lmshm_info* info) {
  lmshm_options options = check_options(LMSHM_CREATE, name, size);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  *info = check_info();
  return lmshm_open(&options, info);
}

static void replace_and_close(const char* name, uint32_t flags) {
  lmshm_info info;
  intptr_t segment = replace(name, 2 * MIB, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  if (segment <= 0) return;
  CHECK_EQUAL(info.flags, LMSHM_INFO_OWNER | flags);
  CHECK_EQUAL(temporaries(NULL), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  struct stat status;
  CHECK_EQUAL(stat(check_path(name), &status), 0);
  CHECK_EQUAL(status.st_size, 2 * MIB);
  CHECK_EQUAL(status.st_nlink, 1);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

/* Runs a case in a child with a /dev/shm of its own. */
static void in_a_sandbox(void (*body)(void)) {
  int status = check_in_child(body);
  if (status == SANDBOX_REFUSED)
    check_skip("no mount namespaces, or no seccomp");
  else
    CHECK_EQUAL(status, 0);
}

static void enter(void) {
  if (sandbox_tmpfs("/dev/shm", "size=8m") != 0) _exit(SANDBOX_REFUSED);
}

/* ----------------------------------------------------------------------- failure */

static void run_out_of_space(void) {
  enter();
  const char* name = check_name("full");
  make_strangers(name);
  lmshm_info info;
  CHECK_EQUAL(replace(name, 16 * MIB, &info), -ENOSPC);
  CHECK(info.available > 0 && info.available < 8 * MIB, "%" PRIu64, info.available);
  CHECK(is_whole(name), "more than there is at all");
  /* Enough without the stranger's, and too much beside it. */
  CHECK_EQUAL(replace(name, 8 * MIB - 4096, &info), -ENOSPC);
  CHECK(is_whole(name), "more than there is beside it");
  CHECK_EQUAL(temporaries(NULL), 0);
  replace_and_close(name, LMSHM_INFO_REPLACED);
}

static void a_strangers_segment_survives_a_lack_of_space(void) { in_a_sandbox(run_out_of_space); }

struct step {
  const char* what;
  long number;
  int index;
  uint32_t value;
};

static const struct step steps[] = {
    {"locking", SYS_flock, SANDBOX_ANY},   {"marking", SYS_fchmod, SANDBOX_ANY},
    {"looking", SYS_fstatfs, SANDBOX_ANY}, {"sizing", SYS_ftruncate, SANDBOX_ANY},
    {"mapping", SYS_mmap, 3, MAP_SHARED},  {"writing", SYS_pwrite64, SANDBOX_ANY},
    {"renaming", RENAME, SANDBOX_ANY},
};
static const struct step* step;

static void fail_a_step(void) {
  enter();
  const char* name = check_name("fault");
  make_strangers(name);
  struct check_resources before = check_resources();
  if (sandbox_fail(step->number, EIO, step->index, step->value) != 0) _exit(SANDBOX_REFUSED);
  lmshm_info info;
  CHECK_EQUAL(replace(name, 2 * MIB, &info), -EIO);
  CHECK(info.message[0] != '\0', "no words");
  CHECK(is_whole(name), "%s", step->what);
  CHECK_EQUAL(temporaries(NULL), 0);
  struct check_resources after = check_resources();
  CHECK_EQUAL(after.descriptors, before.descriptors);
  CHECK_EQUAL(after.mappings, before.mappings);
}

static void a_strangers_segment_survives_the_failure_of_each_step(void) {
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    step = &steps[i];
    in_a_sandbox(fail_a_step);
    if (check_failures > 0) printf("  when %s fails\n", step->what);
  }
}

static const char* killed_name;

static void be_killed(void) {
  if (sandbox_kill(step->number, step->index, step->value) != 0) _exit(SANDBOX_REFUSED);
  lmshm_info info;
  replace(killed_name, 2 * MIB, &info);
}

static void kill_at_a_step(void) {
  enter();
  for (int reclaim = 0; reclaim < 2; reclaim++) {
    const char* name = killed_name = check_name("killed");
    make_strangers(name);
    int status = check_in_child(be_killed);
    if (status == SANDBOX_REFUSED) _exit(SANDBOX_REFUSED);
    CHECK(status == -SIGSYS, "%s: status %d", step->what, status);
    CHECK(is_whole(name), "%s", step->what);
    char temporary[256] = "";
    int left = temporaries(temporary);
    /* Locking comes first of all where a stranger's is looked at. */
    CHECK_EQUAL(left, step->number == SYS_flock ? 0 : 1);
    if (left == 1) CHECK_EQUAL(lmshm_name_state(temporary), LMSHM_NAME_DEAD);
    if (reclaim && left == 1) {
      CHECK_EQUAL(lmshm_reclaim(temporary), 1);
      CHECK_EQUAL(temporaries(NULL), 0);
    }
    replace_and_close(name, LMSHM_INFO_REPLACED); /* takes what was left along */
    CHECK_EQUAL(temporaries(NULL), 0);
  }
}

static void a_strangers_segment_survives_a_kill_at_each_step(void) {
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    step = &steps[i];
    in_a_sandbox(kill_at_a_step);
    if (check_failures > 0) printf("  killed when %s\n", step->what);
  }
}

/* ------------------------------------------------- others, between the two steps */

struct claimed {
  struct lmshm_name name, temporary;
  struct stat status;
  lmshm_task task;
  int fd;
};

static int claim(const char* text, struct claimed* claimed) {
  lmshm_task_init(&claimed->task);
  CHECK_EQUAL(lmshm_name_parse(text, &claimed->name), 0);
  claimed->fd = lmshm_name_claim(&claimed->name, LMSHM_EXISTS_REPLACE, &claimed->temporary,
                                 &claimed->status, &claimed->task);
  return claimed->fd;
}

/* Also closes what was claimed, after having given it back. */
static int publish(struct claimed* claimed) {
  int rc = lmshm_name_replace(&claimed->temporary, &claimed->name, &claimed->task);
  const dev_t device = claimed->status.st_dev;
  const ino_t inode = claimed->status.st_ino;
  struct stat now;
  if (rc == 0) {
    CHECK_EQUAL(lstat(claimed->name.path, &now), 0);
    CHECK(now.st_ino == inode && now.st_nlink == 1, "%s", claimed->name.path);
  }
  CHECK_EQUAL(lmshm_name_unlink(rc == 0 ? &claimed->name : &claimed->temporary, device, inode), 0);
  close(claimed->fd);
  CHECK_EQUAL(temporaries(NULL), 0);
  return rc;
}

static void meet_others(void) {
  enter();
  const char* name = check_name("others");
  struct claimed mine, second;

  make_strangers(name);
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_CONTAINS(mine.temporary.path, "/dev/shm/" TEMPORARY);
  CHECK(is_whole(name), "claimed");
  CHECK_EQUAL(claim(name, &second), -EEXIST); /* one at a time */
  CHECK_CONTAINS(second.task.info.message, "being replaced by another process");
  CHECK_EQUAL(publish(&mine), 0);
  CHECK_EQUAL(mine.task.info.flags, LMSHM_INFO_REPLACED);

  /* The stranger's goes away by itself. */
  make_strangers(name);
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  CHECK_EQUAL(publish(&mine), 0);
  CHECK_EQUAL(mine.task.info.flags, 0);

  /* A live owner takes the name. */
  make_strangers(name);
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  intptr_t live = alloc_shm_pinned_ptr(MIB, name);
  CHECK(live > 0, "%ld", (long)live);
  CHECK_EQUAL(publish(&mine), -EEXIST);
  CHECK_CONTAINS(mine.task.info.message, "a live process owns it");
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)live, MIB, name), 0);

  /* An owner takes it, and dies. */
  make_strangers(name);
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  int dead = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 01600);
  close(dead);
  CHECK_EQUAL(publish(&mine), 0);
  CHECK_EQUAL(mine.task.info.flags, LMSHM_INFO_RECLAIMED);

  /* The stranger locks it: it is in use. */
  make_strangers(name);
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  int theirs = open(check_path(name), O_RDWR | O_CLOEXEC);
  CHECK_EQUAL(flock(theirs, LOCK_EX), 0);
  CHECK_EQUAL(publish(&mine), -EEXIST);
  close(theirs);
  CHECK(is_whole(name), "locked");

  /* What has the name is no file any more. */
  CHECK(claim(name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  CHECK_EQUAL(mkfifo(check_path(name), 0600), 0);
  CHECK_EQUAL(publish(&mine), -EEXIST);
  CHECK_EQUAL(unlink(check_path(name)), 0);
}

static void who_takes_the_name_meanwhile_keeps_it(void) { in_a_sandbox(meet_others); }

static void be_killed_between_the_links(void) {
  struct claimed mine;
  CHECK(claim(killed_name, &mine) >= 0, "%s", mine.task.info.message);
  CHECK_EQUAL(rename(check_path(killed_name), "/dev/shm/moved"), 0);
  if (sandbox_kill(UNLINK, SANDBOX_ANY) != 0) _exit(SANDBOX_REFUSED);
  publish(&mine);
}

static void leave_two_names(void) {
  enter();
  const char* name = killed_name = check_name("links");
  make_strangers(name);
  int status = check_in_child(be_killed_between_the_links);
  if (status == SANDBOX_REFUSED) _exit(SANDBOX_REFUSED);
  CHECK(status == -SIGSYS, "status %d", status);
  char temporary[256] = "";
  CHECK_EQUAL(temporaries(temporary), 1);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_DEAD);
  CHECK_EQUAL(lmshm_name_state(temporary), LMSHM_NAME_DEAD);
  CHECK_EQUAL(lmshm_reclaim(temporary), 1);
  replace_and_close(name, LMSHM_INFO_RECLAIMED);
  CHECK_EQUAL(unlink("/dev/shm/moved"), 0);
}

static void a_kill_between_two_names_leaves_none_that_stays(void) { in_a_sandbox(leave_two_names); }

static void use_long_names(void) {
  enter();
  char one[256], two[256];
  memset(one, 'x', sizeof one);
  one[254] = '\0';
  memcpy(two, one, sizeof two);
  two[253] = 'y';
  struct claimed first, second;
  make_strangers(one);
  make_strangers(two);
  CHECK(claim(one, &first) >= 0, "%s", first.task.info.message);
  CHECK(claim(two, &second) >= 0, "%s", second.task.info.message); /* each has its own */
  CHECK_EQUAL(lmshm_name_replace(&second.temporary, &second.name, &second.task), 0);
  CHECK_EQUAL(publish(&first), 0);
  CHECK_EQUAL(unlink(second.name.path), 0);
  close(second.fd);
}

static void the_longest_names_can_be_replaced(void) { in_a_sandbox(use_long_names); }

CHECK_MAIN(CASE(a_strangers_segment_survives_a_lack_of_space),
           CASE(a_strangers_segment_survives_the_failure_of_each_step),
           CASE(a_strangers_segment_survives_a_kill_at_each_step),
           CASE(who_takes_the_name_meanwhile_keeps_it),
           CASE(a_kill_between_two_names_leaves_none_that_stays),
           CASE(the_longest_names_can_be_replaced))
