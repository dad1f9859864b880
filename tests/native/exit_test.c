/* SPDX-License-Identifier: Apache-2.0
 *
 * exit_test.c - what becomes of a name when its owner ends by exit() without
 * having closed the segment.
 */
#include <time.h>

#include "check.h"

static char name[96];
static intptr_t kept; /* what is not closed is no leak */

static lmshm_options own(uint32_t flags, uint64_t size) {
  lmshm_options options = check_options(LMSHM_CREATE, name, size);
  options.flags = flags;
  return options;
}

static void end(void) {
  fflush(stdout);
  exit(check_failures);
}

static void with_a_segment(void) {
  const lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, MIB);
  kept = lmshm_open(&options, NULL);
  CHECK(kept > 0, "not opened");
  end();
}

static void with_a_segment_and_no_wish(void) {
  const lmshm_options options = own(0, MIB);
  kept = lmshm_open(&options, NULL);
  CHECK(kept > 0, "not opened");
  end();
}

static void while_a_job_creates_it(void) {
  const lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, 1024 * MIB);
  lmshm_info info = check_info();
  kept = lmshm_open_start(&options);
  const struct timespec pause = {0, 100000};
  do nanosleep(&pause, NULL);
  while (lmshm_job_poll((lmshm_job*)kept, &info) == 0 && info.step < LMSHM_STEP_RESERVE);
  end();
}

/* A file that no process owns, of 4096 bytes. */
static void make_a_strangers(void) {
  const int fd = open(check_path(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 4096) == 0, "%m");
  close(fd);
}

static void while_a_job_replaces_a_strangers(void) {
  make_a_strangers();
  lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, 1024 * MIB);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  options.populate_threads = 1;
  lmshm_info info = check_info();
  kept = lmshm_open_start(&options);
  const struct timespec pause = {0, 100000};
  do nanosleep(&pause, NULL);
  while (lmshm_job_poll((lmshm_job*)kept, &info) == 0 && info.populated == 0);
  CHECK(info.step < LMSHM_STEP_READY, "it was populated too soon");
  end();
}

static void after_a_strangers_was_replaced(void) {
  make_a_strangers();
  lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, MIB);
  options.if_exists = LMSHM_EXISTS_REPLACE;
  lmshm_info info = check_info();
  kept = lmshm_open(&options, &info);
  CHECK_EQUAL(info.flags, LMSHM_INFO_OWNER | LMSHM_INFO_REPLACED);
  end();
}

static void after_a_child_of_it(void) {
  const lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, MIB);
  lmshm_segment* segment = (lmshm_segment*)lmshm_open(&options, NULL);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) exit(0);
  CHECK_EQUAL(waitpid(child, NULL, 0), child);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  end();
}

static void with_another_ones(void) {
  const lmshm_options options = own(LMSHM_OPTION_UNLINK_AT_EXIT, MIB);
  lmshm_segment* closed = (lmshm_segment*)lmshm_open(&options, NULL);
  CHECK_EQUAL(lmshm_close(closed, 0), 0);
  kept = lmshm_open(&options, NULL);
  CHECK(kept > 0, "not opened");
  CHECK_EQUAL(unlink(check_path(name)), 0);
  const int fd = open(check_path(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  CHECK(fd >= 0, "%m");
  end();
}

static int state_after(void (*body)(void)) {
  snprintf(name, sizeof name, "%s", check_name("exit"));
  CHECK_EQUAL(check_in_child(body), 0);
  return lmshm_name_state(name);
}

static void a_name_goes_at_exit_if_that_was_asked_for(void) {
  CHECK_EQUAL(state_after(with_a_segment), LMSHM_NAME_FREE);
#ifndef __SANITIZE_THREAD__ /* to which a thread that is not waited for is a fault */
  CHECK_EQUAL(state_after(while_a_job_creates_it), LMSHM_NAME_FREE);
#else
  (void)while_a_job_creates_it;
#endif
}

static void else_it_is_left_and_can_be_reclaimed(void) {
  CHECK_EQUAL(state_after(with_a_segment_and_no_wish), LMSHM_NAME_DEAD);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
}

static void a_child_that_ends_takes_nothing_along(void) {
  CHECK_EQUAL(state_after(after_a_child_of_it), LMSHM_NAME_FREE);
}

static void what_has_the_name_by_then_is_left_alone(void) {
  CHECK_EQUAL(state_after(with_another_ones), LMSHM_NAME_FOREIGN);
  CHECK_EQUAL(unlink(check_path(name)), 0);
}

/* What the segment that replaces the one of this name is called until it is complete. */
static const char* temporary_of(const char* of) {
  static char temporary[96];
  uint64_t hash = 14695981039346656037u; /* FNV-1a */
  for (const char* at = of + 1; *at != '\0'; at++)
    hash = (hash ^ (unsigned char)*at) * 1099511628211u;
  snprintf(temporary, sizeof temporary, "/.lmshm-new-%016" PRIx64, hash);
  return temporary;
}

static off_t length_of(const char* path) {
  struct stat status;
  return stat(path, &status) == 0 ? status.st_size : -1;
}

static void a_segment_that_was_to_replace_a_strangers_goes_and_the_strangers_stays(void) {
#ifndef __SANITIZE_THREAD__
  CHECK_EQUAL(state_after(while_a_job_replaces_a_strangers), LMSHM_NAME_FOREIGN);
  CHECK_EQUAL(lmshm_name_state(temporary_of(name)), LMSHM_NAME_FREE);
  CHECK_EQUAL(length_of(check_path(name)), 4096);
  CHECK_EQUAL(unlink(check_path(name)), 0);
#else
  (void)temporary_of, (void)length_of, (void)while_a_job_replaces_a_strangers;
#endif
  CHECK_EQUAL(state_after(after_a_strangers_was_replaced), LMSHM_NAME_FREE);
}

static void other_flags_are_refused(void) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("exit"), MIB);
  options.flags = 2;
  CHECK_EQUAL(lmshm_open(&options, NULL), -EINVAL);
}

CHECK_MAIN(CASE(a_name_goes_at_exit_if_that_was_asked_for),
           CASE(else_it_is_left_and_can_be_reclaimed), CASE(a_child_that_ends_takes_nothing_along),
           CASE(what_has_the_name_by_then_is_left_alone),
           CASE(a_segment_that_was_to_replace_a_strangers_goes_and_the_strangers_stays),
           CASE(other_flags_are_refused))
