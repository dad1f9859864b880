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

static void other_flags_are_refused(void) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("exit"), MIB);
  options.flags = 2;
  CHECK_EQUAL(lmshm_open(&options, NULL), -EINVAL);
}

CHECK_MAIN(CASE(a_name_goes_at_exit_if_that_was_asked_for),
           CASE(else_it_is_left_and_can_be_reclaimed), CASE(a_child_that_ends_takes_nothing_along),
           CASE(what_has_the_name_by_then_is_left_alone), CASE(other_flags_are_refused))
