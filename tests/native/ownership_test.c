/* SPDX-License-Identifier: Apache-2.0
 *
 * ownership_test.c - who may take, replace and unlink a name, with owners that
 * live, die by SIGKILL, or were never ours.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <time.h>

#include "check.h"

/* A process that owns a segment, and says so, until it is killed. */
struct owner {
  pid_t pid;
  int said; /* read end of its pipe */
};

static struct owner start_owner(const char* name, size_t size) {
  int ends[2];
  struct owner owner = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) return owner;
  fflush(stdout);
  owner.pid = fork();
  if (owner.pid == 0) {
    intptr_t address = alloc_shm_pinned_ptr(size, name);
    if (address > 0) memset((void*)address, 0xee, size);
    ssize_t written = write(ends[1], &address, sizeof address);
    alarm(60);
    while (written > 0) pause();
    _exit(1);
  }
  close(ends[1]);
  owner.said = ends[0];
  intptr_t address = 0;
  CHECK_EQUAL(read(owner.said, &address, sizeof address), sizeof address);
  CHECK(address > 0, "the owner could not allocate: %ld", (long)address);
  return owner;
}

static void kill_owner(struct owner owner) {
  kill(owner.pid, SIGKILL);
  waitpid(owner.pid, NULL, 0);
  close(owner.said);
}

static void a_killed_owners_segment_is_reclaimed_by_the_next_create(void) {
  const char* name = check_name("killed");
  struct owner owner = start_owner(name, 2 * MIB);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  kill_owner(owner);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_DEAD);

  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_info info = check_info();
  options.if_exists = LMSHM_EXISTS_FAIL;
  CHECK_EQUAL(lmshm_open(&options, &info), -EEXIST);
  options.if_exists = LMSHM_EXISTS_RECLAIM;
  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  CHECK_EQUAL(info.flags, LMSHM_INFO_OWNER | LMSHM_INFO_RECLAIMED);
  CHECK_EQUAL(*(unsigned char*)(uintptr_t)info.address, 0); /* new memory, not the old */
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

static void a_killed_owners_segment_is_reclaimed_on_demand(void) {
  const char* name = check_name("demand");
  CHECK_EQUAL(lmshm_reclaim(name), 0);
  struct owner owner = start_owner(name, MIB);
  CHECK_EQUAL(lmshm_reclaim(name), -EBUSY);
  kill_owner(owner);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
  CHECK_EQUAL(lmshm_reclaim(name), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

static void a_live_segment_is_never_replaced_or_unlinked(void) {
  const char* name = check_name("live");
  struct owner owner = start_owner(name, MIB);
  struct stat before, after;
  CHECK_EQUAL(stat(check_path(name), &before), 0);
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  for (uint32_t if_exists = 0; if_exists <= LMSHM_EXISTS_REPLACE; if_exists++) {
    lmshm_info info = check_info();
    options.if_exists = if_exists;
    CHECK_EQUAL(lmshm_open(&options, &info), -EEXIST);
    CHECK_EQUAL(info.step, LMSHM_STEP_OPEN);
    CHECK_CONTAINS(info.message, name + 1);
  }
  CHECK_EQUAL(alloc_shm_pinned_ptr(MIB, name), -EEXIST);

  /* Neither by one who merely maps it: closing, or freeing by its address. */
  options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld", (long)segment);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)(uintptr_t)info.address, MIB, name), -EINVAL);
  CHECK_EQUAL(((unsigned char*)(uintptr_t)info.address)[5], 0xee);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);

  CHECK_EQUAL(stat(check_path(name), &after), 0);
  CHECK_EQUAL(after.st_ino, before.st_ino);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  kill_owner(owner);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
}

static void the_lock_outlives_every_descriptor(void) {
  const char* name = check_name("lock");
  intptr_t address = alloc_shm_pinned_ptr(MIB, name);
  int fd = open(check_path(name), O_RDWR | O_CLOEXEC);
  CHECK_EQUAL(flock(fd, LOCK_EX | LOCK_NB), -1);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
  CHECK_EQUAL(flock(fd, LOCK_EX | LOCK_NB), 0);
  close(fd);
}

static void a_momentary_lock_is_waited_for(void) {
  const char* name = check_name("moment");
  int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 01600);
  /* As one who looks at a dead owner's, and has no CPU for a while. */
  CHECK_EQUAL(flock(fd, LOCK_SH), 0);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    const struct timespec pause = {0, 150000000};
    nanosleep(&pause, NULL);
    flock(fd, LOCK_UN); /* the parent's lock too: they share the description */
    _exit(0);
  }
  intptr_t address = alloc_shm_pinned_ptr(4096, name);
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4096, name), 0);
  waitpid(child, NULL, 0);
  close(fd);
}

static void a_kept_range_gives_the_lock_up(void) {
  const char* name = check_name("keptlock");
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_open(&options, &info);
  int fd = open(check_path(name), O_RDWR | O_CLOEXEC);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, LMSHM_CLOSE_KEEP_RANGE), 0);
  CHECK_EQUAL(flock(fd, LOCK_EX | LOCK_NB), 0);
  close(fd);
  munmap((void*)(uintptr_t)info.address, info.mapped_size);
}

static void a_strangers_segment_is_replaced_only_on_demand(void) {
  const char* name = check_name("stranger");
  int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  CHECK_EQUAL(write(fd, "theirs", 6), 6);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FOREIGN);
  CHECK_EQUAL(lmshm_reclaim(name), -EPERM);
  CHECK_EQUAL(alloc_shm_pinned_ptr(MIB, name), -EEXIST);

  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  lmshm_info info = check_info();
  CHECK_EQUAL(flock(fd, LOCK_SH), 0); /* locked, by whatever: in use */
  CHECK_EQUAL(lmshm_open(&options, &info), -EEXIST);
  CHECK_EQUAL(flock(fd, LOCK_UN), 0);
  char held[7] = "";
  CHECK_EQUAL(pread(fd, held, 6, 0), 6);
  CHECK_EQUAL(strcmp(held, "theirs"), 0);

  intptr_t segment = lmshm_open(&options, &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  CHECK_EQUAL(info.flags, LMSHM_INFO_OWNER | LMSHM_INFO_REPLACED);
  struct stat status;
  CHECK_EQUAL(fstat(fd, &status), 0);
  CHECK_EQUAL(status.st_nlink, 0);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  close(fd);
}

static void what_is_no_file_is_never_replaced(void) {
  const char* name = check_name("fifo");
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  lmshm_info info = check_info();
  CHECK_EQUAL(mkfifo(check_path(name), 01600), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EEXIST);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FOREIGN);
  CHECK_EQUAL(lmshm_reclaim(name), -EPERM);
  CHECK_EQUAL(unlink(check_path(name)), 0);
  CHECK_EQUAL(symlink("/dev/shm/nowhere", check_path(name)), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EEXIST);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FOREIGN);
  CHECK_EQUAL(unlink(check_path(name)), 0);
}

static const char* others_name;

static void be_another_user(void) {
  lmshm_options options = check_options(LMSHM_ATTACH, others_name, 0);
  lmshm_info info = check_info();
  CHECK_EQUAL(setgid(12345) | setuid(12345), 0);
  CHECK_EQUAL(lmshm_open(&options, &info), -EACCES);
  CHECK_CONTAINS(info.message, "another user");
  options = check_options(LMSHM_CREATE, others_name, MIB);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  CHECK_EQUAL(lmshm_open(&options, &info), -EACCES);
  CHECK_EQUAL(lmshm_name_state(others_name), -EACCES);
  CHECK_EQUAL(lmshm_reclaim(others_name), -EACCES);
}

static void a_segment_of_another_user_is_never_touched(void) {
  if (geteuid() != 0) {
    check_skip("needs root");
    return;
  }
  others_name = check_name("others");
  intptr_t address = alloc_shm_pinned_ptr(MIB, others_name);
  CHECK_EQUAL(check_in_child(be_another_user), 0);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, others_name), 0);

  /* Even root's own checks go by user, though the kernel would let it. */
  int fd = open(check_path(others_name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 01600);
  CHECK_EQUAL(fchown(fd, 12345, 12345), 0);
  CHECK_EQUAL(posix_fallocate(fd, 0, 4096), 0);
  CHECK_EQUAL(lmshm_name_state(others_name), -EACCES);
  CHECK_EQUAL(alloc_shm_pinned_ptr(MIB, others_name), -EACCES);
  lmshm_options options = check_options(LMSHM_ATTACH, NULL, 0);
  options.fd = fd; /* another's, and not sealed: it could be shortened */
  CHECK_EQUAL(lmshm_open(&options, NULL), -EACCES);
  unlink(check_path(others_name));
  close(fd);

  char path[] = "/tmp/lmshm-test-XXXXXX"; /* a file system without seals */
  fd = mkostemp(path, O_CLOEXEC);
  CHECK_EQUAL(ftruncate(fd, 4096) | fchown(fd, 12345, 12345), 0);
  options.fd = fd;
  CHECK_EQUAL(lmshm_open(&options, NULL), -EACCES);
  unlink(path);
  close(fd);
}

static lmshm_segment* parents_segment;
static lmshm_info parents_info;
static const char* parents_name;

static void act_on_a_segment_of_the_parent(void) {
  CHECK_EQUAL(free_shm_pinned_ptr((void*)(uintptr_t)parents_info.address, MIB, parents_name),
              -EINVAL);
  CHECK_EQUAL(lmshm_close(parents_segment, 0), 0);
  CHECK_EQUAL(lmshm_name_state(parents_name), LMSHM_NAME_LIVE);
}

static void a_forked_child_cannot_free_for_its_parent(void) {
  parents_name = check_name("forked");
  lmshm_options options = check_options(LMSHM_CREATE, parents_name, MIB);
  parents_info = check_info();
  parents_segment = (lmshm_segment*)lmshm_open(&options, &parents_info);
  CHECK_EQUAL(check_in_child(act_on_a_segment_of_the_parent), 0);
  CHECK_EQUAL(lmshm_name_state(parents_name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(lmshm_close(parents_segment, 0), 0);
  CHECK_EQUAL(lmshm_name_state(parents_name), LMSHM_NAME_FREE);
}

/* ------------------------------------------------------------------------ races */

/* Names under which segments are made that are to replace others. */
static int check_temporaries(void) {
  int count = 0;
  DIR* directory = opendir("/dev/shm");
  for (struct dirent* entry; (entry = readdir(directory)) != NULL;)
    count += strncmp(entry->d_name, ".lmshm-new-", 11) == 0;
  closedir(directory);
  return count;
}

struct arena {
  atomic_int ready, go, done;
  atomic_int winners, refused, others;
};

/* `count` processes create one name at one moment. Whoever wins holds it until
 * all have tried. */
static void contend(struct arena* arena, const char* name, int count) {
  pid_t children[8];
  for (int i = 0; i < count; i++) {
    fflush(stdout);
    children[i] = fork();
    if (children[i] == 0) {
      alarm(30);
      atomic_fetch_add(&arena->ready, 1);
      while (atomic_load(&arena->go) == 0) sched_yield();
      lmshm_options options = check_options(LMSHM_CREATE, name, 4096);
      options.if_exists = i % 2 == 0 ? LMSHM_EXISTS_RECLAIM : LMSHM_EXISTS_REPLACE;
      intptr_t segment = lmshm_open(&options, NULL);
      if (segment > 0)
        atomic_fetch_add(&arena->winners, 1);
      else if (segment == -EEXIST)
        atomic_fetch_add(&arena->refused, 1);
      else
        atomic_fetch_add(&arena->others, 1);
      atomic_fetch_add(&arena->done, 1);
      while (atomic_load(&arena->done) < count) sched_yield();
      if (segment > 0) lmshm_close((lmshm_segment*)segment, 0);
      _exit(0);
    }
  }
  while (atomic_load(&arena->ready) < count) sched_yield();
  atomic_store(&arena->go, 1);
  for (int i = 0; i < count; i++) waitpid(children[i], NULL, 0);
}

static void exactly_one_of_many_creators_wins(void) {
  const char* name = check_name("race");
  struct arena* arena =
      mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int round = 0; round < 60 && check_failures == 0; round++) {
    memset(arena, 0, sizeof *arena);
    int count = 2 + round % 4;
    if (round % 3 == 1) { /* over a dead owner's */
      int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 01600);
      close(fd);
    } else if (round % 3 == 2) { /* over a stranger's, by those who may */
      int fd = open(check_path(name), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
      close(fd);
    }
    contend(arena, name, count);
    CHECK(arena->winners == 1 && arena->refused == count - 1 && arena->others == 0,
          "round %d: %d winners, %d refused, %d other results of %d", round, arena->winners,
          arena->refused, arena->others, count);
    CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
    CHECK_EQUAL(check_temporaries(), 0);
  }
  munmap(arena, sizeof *arena);
}

static void probing_does_not_disturb_creators(void) {
  const char* name = check_name("probe");
  pid_t prober = fork();
  if (prober == 0) {
    alarm(60);
    for (;;) lmshm_name_state(name);
  }
  int failed = 0;
  for (int round = 0; round < 300; round++) {
    intptr_t address = alloc_shm_pinned_ptr(4096, name);
    if (address < 0) {
      failed++;
      continue;
    }
    munmap((void*)address, 4096); /* as if its owner had died */
    intptr_t again = alloc_shm_pinned_ptr(4096, name);
    if (again < 0) failed++;
    CHECK_EQUAL(free_shm_pinned_ptr((void*)again, 4096, name), 0);
  }
  CHECK_EQUAL(failed, 0);
  kill(prober, SIGKILL);
  waitpid(prober, NULL, 0);
}

static void an_owner_killed_at_any_moment_leaves_a_name_that_can_be_taken(void) {
  const char* name = check_name("anytime");
  for (int round = 0; round < 40 && check_failures == 0; round++) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      for (;;) {
        intptr_t address = alloc_shm_pinned_ptr(8 * MIB, name);
        if (address > 0) free_shm_pinned_ptr((void*)address, 8 * MIB, name);
      }
    }
    const struct timespec pause = {0, 1000000L + round * 137000L};
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    int state = lmshm_name_state(name);
    CHECK(state == LMSHM_NAME_FREE || state == LMSHM_NAME_DEAD, "round %d: state %d", round, state);
    intptr_t address = alloc_shm_pinned_ptr(4096, name);
    CHECK(address > 0, "round %d: %ld", round, (long)address);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 4096, name), 0);
  }
}

CHECK_MAIN(CASE(a_killed_owners_segment_is_reclaimed_by_the_next_create),
           CASE(a_killed_owners_segment_is_reclaimed_on_demand),
           CASE(a_live_segment_is_never_replaced_or_unlinked),
           CASE(the_lock_outlives_every_descriptor), CASE(a_kept_range_gives_the_lock_up),
           CASE(a_momentary_lock_is_waited_for),
           CASE(a_strangers_segment_is_replaced_only_on_demand),
           CASE(what_is_no_file_is_never_replaced),
           CASE(a_segment_of_another_user_is_never_touched),
           CASE(a_forked_child_cannot_free_for_its_parent), CASE(exactly_one_of_many_creators_wins),
           CASE(probing_does_not_disturb_creators),
           CASE(an_owner_killed_at_any_moment_leaves_a_name_that_can_be_taken))
