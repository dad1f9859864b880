/* SPDX-License-Identifier: Apache-2.0
 *
 * job_test.c - opening and closing on the library's own threads.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "check.h"

#define LARGE (256 * MIB)

static void sleep_ms(long ms) {
  const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&pause, NULL);
}

/* Polls to the end, checking that what it tells only ever grows. */
static void poll_to_the_end(lmshm_job* job, lmshm_info* last) {
  uint64_t populated = 0;
  for (;;) {
    *last = check_info();
    int ended = lmshm_job_poll(job, last);
    if (ended != 0) {
      CHECK_EQUAL(ended, 1);
      return;
    }
    CHECK(last->populated >= populated, "%" PRIu64 " after %" PRIu64, last->populated, populated);
    CHECK_EQUAL(last->fd, -1);
    populated = last->populated;
    sleep_ms(1);
  }
}

/* Polls how often it takes; how often is up to the scheduler, so this tries a few
 * times to see a job that has not ended when the call has. */
static void opening_does_not_wait_for_the_job(void) {
  bool seen = false;
  for (int i = 0; i < 20 && !seen; i++) {
    lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, LARGE);
    lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
    seen = lmshm_job_poll(job, NULL) == 0;
    intptr_t segment = lmshm_job_finish(job, NULL);
    CHECK(segment > 0, "%ld", (long)segment);
    CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  }
  CHECK(seen, "whenever the call came back, all was populated");
}

static void opens_and_closes_by_jobs(void) {
  lmshm_options options = check_options(LMSHM_CREATE, check_name("job"), LARGE);
  char name[100];
  snprintf(name, sizeof name, "%s", options.name);
  options.name = name;
  lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
  CHECK((intptr_t)job > 0, "%ld", (long)(intptr_t)job);
  memset(name, 'x', sizeof name); /* it was copied */
  memset(&options, 0xff, sizeof options);
  lmshm_info info, final = check_info();
  poll_to_the_end(job, &info);
  intptr_t segment = lmshm_job_finish(job, &final);
  CHECK(segment > 0, "%ld: %s", (long)segment, final.message);
  CHECK_EQUAL(memcmp(&info, &final, sizeof info), 0);
  CHECK_EQUAL(final.populated, LARGE);
  CHECK_EQUAL(final.step, LMSHM_STEP_READY);
  ((char*)(uintptr_t) final.address)[LARGE - 1] = 1;

  job = (lmshm_job*)lmshm_close_start((lmshm_segment*)segment, 0);
  CHECK((intptr_t)job > 0, "%ld", (long)(intptr_t)job);
  poll_to_the_end(job, &info);
  CHECK_EQUAL(info.step, LMSHM_STEP_RELEASE);
  CHECK_EQUAL(lmshm_job_finish(job, NULL), 0);
}

static void finishing_waits_when_nobody_polled(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, LARGE);
  lmshm_info info = check_info();
  intptr_t segment = lmshm_job_finish((lmshm_job*)lmshm_open_start(&options), &info);
  CHECK(segment > 0, "%ld: %s", (long)segment, info.message);
  CHECK_EQUAL(info.populated, LARGE);
  intptr_t job = lmshm_close_start((lmshm_segment*)segment, LMSHM_CLOSE_KEEP_RANGE);
  lmshm_job_cancel((lmshm_job*)job); /* a closing one ignores it */
  CHECK_EQUAL(lmshm_job_finish((lmshm_job*)job, NULL), 0);
  CHECK_EQUAL(*(char*)(uintptr_t)info.address, 0);
  munmap((void*)(uintptr_t)info.address, LARGE);
}

static void cancelling_leaves_nothing(void) {
  int cancelled = 0;
  for (long ms = 0; ms < 60; ms += 6) {
    lmshm_options options = check_options(LMSHM_CREATE, check_name("cancel"), 2 * LARGE);
    lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
    sleep_ms(ms);
    lmshm_job_cancel(job);
    lmshm_job_cancel(job);
    lmshm_info info = check_info();
    intptr_t result = lmshm_job_finish(job, &info);
    if (result > 0) {
      CHECK_EQUAL(lmshm_close((lmshm_segment*)result, 0), 0);
    } else {
      cancelled++;
      CHECK_EQUAL(result, -ECANCELED);
      CHECK_EQUAL(info.error, -ECANCELED);
      CHECK(info.populated < 2 * LARGE || info.step == LMSHM_STEP_PIN, "%" PRIu64, info.populated);
      CHECK_EQUAL(info.address, 0);
    }
    CHECK_EQUAL(lmshm_name_state(options.name), LMSHM_NAME_FREE);
  }
  CHECK(cancelled > 0, "no job was slow enough to be cancelled");
}

static void a_failing_job_reports_as_the_blocking_call_does(void) {
  lmshm_options options = check_options(LMSHM_CREATE, "a/b", LARGE);
  lmshm_info job_info = check_info(), call_info = check_info();
  CHECK_EQUAL(lmshm_open(&options, &call_info), -EINVAL);
  CHECK_EQUAL(lmshm_job_finish((lmshm_job*)lmshm_open_start(&options), &job_info), -EINVAL);
  CHECK_EQUAL(memcmp(&job_info, &call_info, sizeof job_info), 0);
  CHECK_CONTAINS(job_info.message, "a/b");
}

static void wrong_arguments_are_refused_without_a_job(void) {
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, 4096);
  lmshm_info info = check_info();
  options.struct_size = 8;
  CHECK_EQUAL(lmshm_open_start(&options), -EINVAL);
  options.struct_size = sizeof options;
  lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
  info.struct_size = 1;
  CHECK_EQUAL(lmshm_job_poll(job, &info), -EINVAL);
  CHECK_EQUAL(lmshm_job_finish(job, &info), -EINVAL); /* and the job is still there */
  intptr_t segment = lmshm_job_finish(job, NULL);
  CHECK(segment > 0, "%ld", (long)segment);
  CHECK_EQUAL(lmshm_close_start((lmshm_segment*)segment, 8), -EINVAL);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  CHECK_EQUAL(lmshm_job_poll(NULL, NULL), -EINVAL);
  CHECK_EQUAL(lmshm_job_finish(NULL, NULL), -EINVAL);
  lmshm_job_cancel(NULL);
}

static void many_jobs_run_at_once(void) {
  enum { kJobs = 12 };
  lmshm_job* jobs[kJobs];
  for (int i = 0; i < kJobs; i++) {
    char what[16];
    snprintf(what, sizeof what, "many%d", i);
    lmshm_options options = check_options(i % 2 ? LMSHM_ANONYMOUS : LMSHM_CREATE,
                                          i % 2 ? NULL : check_name(what), 20 * MIB);
    jobs[i] = (lmshm_job*)lmshm_open_start(&options);
  }
  for (int i = 0; i < kJobs; i++) {
    lmshm_info info = check_info();
    intptr_t segment = lmshm_job_finish(jobs[i], &info);
    CHECK(segment > 0, "job %d: %ld: %s", i, (long)segment, info.message);
    jobs[i] = (lmshm_job*)lmshm_close_start((lmshm_segment*)segment, 0);
  }
  for (int i = 0; i < kJobs; i++) CHECK_EQUAL(lmshm_job_finish(jobs[i], NULL), 0);
}

/* ---------------------------------------------------------------------- signals */

static pthread_t main_thread;
static volatile sig_atomic_t handled, handled_elsewhere;

static void handle(int signal) {
  (void)signal;
  handled++;
  if (!pthread_equal(pthread_self(), main_thread)) handled_elsewhere++;
}

static void no_signal_is_handled_on_its_threads(void) {
  main_thread = pthread_self();
  struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART}, before;
  sigaction(SIGUSR1, &action, &before);
  lmshm_options options = check_options(LMSHM_ANONYMOUS, NULL, LARGE);
  lmshm_job* job = (lmshm_job*)lmshm_open_start(&options);
  sigset_t only, mask;
  sigemptyset(&only);
  sigaddset(&only, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &only, &mask);
  CHECK(!sigismember(&mask, SIGUSR1), "starting a job changed the caller's signal mask");
  while (lmshm_job_poll(job, NULL) == 0) {
    kill(getpid(), SIGUSR1); /* any thread that does not block it may get it */
    sleep_ms(1);
  }
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  intptr_t segment = lmshm_job_finish(job, NULL);
  CHECK(segment > 0, "%ld", (long)segment);
  CHECK(handled > 0, "no signal arrived");
  CHECK_EQUAL(handled_elsewhere, 0);
  CHECK_EQUAL(lmshm_close((lmshm_segment*)segment, 0), 0);
  sigaction(SIGUSR1, &before, NULL);
}

static atomic_bool interrupt_on;

static void* interrupt(void* argument) {
  while (interrupt_on) {
    pthread_kill(*(pthread_t*)argument, SIGUSR1);
    const struct timespec pause = {0, 200000};
    nanosleep(&pause, NULL);
  }
  return NULL;
}

static void a_blocking_call_survives_a_storm_of_signals(void) {
  struct sigaction action = {.sa_handler = handle}, before; /* no SA_RESTART */
  sigaction(SIGUSR1, &action, &before);
  main_thread = pthread_self();
  interrupt_on = true;
  pthread_t thread;
  CHECK_EQUAL(pthread_create(&thread, NULL, interrupt, &main_thread), 0);
  for (int i = 0; i < 3; i++) {
    const char* name = check_name("storm");
    intptr_t address = alloc_shm_pinned_ptr(64 * MIB, name);
    CHECK(address > 0, "%ld", (long)address);
    CHECK_EQUAL(free_shm_pinned_ptr((void*)address, 64 * MIB, name), 0);
  }
  interrupt_on = false;
  pthread_join(thread, NULL);
  sigaction(SIGUSR1, &before, NULL);
}

CHECK_MAIN(CASE(opening_does_not_wait_for_the_job), CASE(opens_and_closes_by_jobs),
           CASE(finishing_waits_when_nobody_polled), CASE(cancelling_leaves_nothing),
           CASE(a_failing_job_reports_as_the_blocking_call_does),
           CASE(wrong_arguments_are_refused_without_a_job), CASE(many_jobs_run_at_once),
           CASE(no_signal_is_handled_on_its_threads),
           CASE(a_blocking_call_survives_a_storm_of_signals))
