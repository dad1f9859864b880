/* SPDX-License-Identifier: Apache-2.0
 *
 * populate.c - populating by several threads, by writing and by faulting. See
 * populate.h for the idea.
 */
#include "populate.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "limits.h"
#include "thread.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What a thread does between two looks at its orders. Populating holds the
 * lock of the address space, so this is also for how long (1 ms) an mmap of
 * the host program may have to wait. */
#define SLICE_BYTES ((uint64_t)1 << 20)

/* No more than this unasked: they queue for the lock of the file's pages. */
#define THREADS_CHOSEN_MAX 8
#define THREAD_MIN_BYTES ((uint64_t)16 << 20)
#define THREAD_STACK_BYTES ((size_t)256 << 10)

/* What is written. Never changed, and not const, so that it takes no room in
 * the library's file. */
static char zeros[(size_t)64 << 10];

struct work {
  struct lmshm_populate what;
  lmshm_task* task;
  uint64_t end;          /* file_size rounded up to pages */
  uint64_t slice;        /* bytes, a multiple of page_size */
  bool faulting;         /* MADV_POPULATE_WRITE is to be had */
  atomic_bool writing;   /* some thread has taken up writing */
  _Atomic uint64_t next; /* the first slice that nobody has taken */
  _Atomic int error;     /* the first -errno */
};

static bool stopped(struct work* work) {
  if (lmshm_task_cancelled(work->task)) {
    int none = 0;
    atomic_compare_exchange_strong(&work->error, &none, -ECANCELED);
  }
  return atomic_load_explicit(&work->error, memory_order_relaxed) != 0;
}

static void stop(struct work* work, int error) {
  int none = 0;
  atomic_compare_exchange_strong(&work->error, &none, error);
}

/* Writes zeros to the file. Returns 0 or -errno: -ENOSPC when it is full. */
static int write_zeros(struct work* work, uint64_t offset, uint64_t length) {
  const struct lmshm_populate* what = &work->what;
  if (offset >= what->file_size) return 0;
  if (length > what->file_size - offset) length = what->file_size - offset;
  while (length > 0) {
    ssize_t written =
        pwrite(what->fd, zeros, length < sizeof zeros ? length : sizeof zeros, (off_t)offset);
    if (written < 0 && errno != EINTR) return -errno;
    if (written == 0) return -ENOSPC;
    if (written > 0) offset += (uint64_t)written, length -= (uint64_t)written;
    if (stopped(work)) return -ECANCELED;
  }
  return 0;
}

/* Maps pages that are there, by reading from each: the kernel maps its
 * neighbours with it, so that most reads do not fault. */
static void map_by_reading(const char* from, uint64_t length, uint64_t page_size) {
  for (uint64_t at = 0; at < length; at += page_size) (void)*(const volatile char*)(from + at);
}

/* For explicit huge pages, which were reserved by mapping them, and cannot be
 * written as a file. */
static void touch(char* from, uint64_t length, uint64_t page_size) {
  for (uint64_t at = 0; at < length; at += page_size)
    __atomic_fetch_or(from + at, 0, __ATOMIC_RELAXED);
}

static bool is_hugetlb(const struct work* work) {
  return work->what.page_size > (uint64_t)sysconf(_SC_PAGESIZE);
}

static int by_writing(struct work* work, uint64_t offset, uint64_t length) {
  char* from = work->what.address + offset;
  if (is_hugetlb(work)) {
    touch(from, length, work->what.page_size);
    return 0;
  }
  int rc = write_zeros(work, offset, length);
  if (rc == 0) map_by_reading(from, length, work->what.page_size);
  return rc;
}

static int by_faulting(struct work* work, uint64_t offset, uint64_t length) {
  for (int tries = 0;; tries++) {
    if (madvise(work->what.address + offset, length, MADV_POPULATE_WRITE) == 0) return 0;
    int rc = -errno;
    if (stopped(work)) return -ECANCELED;
    if (rc == -EINTR || (rc == -EAGAIN && tries < 100)) continue;
    if (rc != -EFAULT && rc != -ENOMEM) return rc;
    /* "A write would raise SIGBUS." Writing to the file tells why. */
    if (tries >= 3 || is_hugetlb(work)) return -ENOMEM;
    rc = write_zeros(work, offset, length);
    if (rc != 0) return rc;
  }
}

static void* run(void* argument) {
  struct work* work = argument;
  bool writing = !work->faulting;
  if (work->what.may_write && !atomic_exchange(&work->writing, true)) writing = true;
  while (!stopped(work)) {
    uint64_t offset = atomic_fetch_add(&work->next, work->slice);
    if (offset >= work->end) break;
    uint64_t length = work->end - offset < work->slice ? work->end - offset : work->slice;
    int rc = writing ? by_writing(work, offset, length) : by_faulting(work, offset, length);
    if (rc != 0)
      stop(work, rc);
    else
      atomic_fetch_add_explicit(&work->task->populated, length, memory_order_relaxed);
    if (!writing) lmshm_thread_pause();
  }
  return NULL;
}

/* ------------------------------------------------------------------- threads */

static uint32_t cpus_allowed(void) {
  unsigned char mask[1024]; /* the kernel takes up to 8192 CPUs */
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  uint32_t count = 0;
  for (long i = 0; i < bytes; i++) count += (uint32_t)__builtin_popcount(mask[i]);
  return count > 0 ? count : 1;
}

static uint32_t choose_threads(const struct work* work) {
  uint64_t useful = work->end / (work->slice > THREAD_MIN_BYTES ? work->slice : THREAD_MIN_BYTES);
  uint64_t threads = work->what.threads;
  if (threads == 0) {
    threads = cpus_allowed();
    if (threads > THREADS_CHOSEN_MAX) threads = THREADS_CHOSEN_MAX;
  }
  if (threads > useful) threads = useful;
  return threads > 0 ? (uint32_t)threads : 1;
}

/* Runs on `threads` threads, this one included, or on as many as there are to
 * be had. Returns how many there were. */
static uint32_t run_all(struct work* work, uint32_t threads) {
  pthread_t helpers[LMSHM_POPULATE_THREADS_MAX];
  uint32_t started = 0;
  while (started + 1 < threads &&
         lmshm_thread_start(&helpers[started], THREAD_STACK_BYTES, run, work) == 0)
    started++;
  run(work);
  for (uint32_t i = 0; i < started; i++) pthread_join(helpers[i], NULL);
  return started + 1;
}

/* ---------------------------------------------------------------------- whole */

/* A kernel before 5.14 does not know MADV_POPULATE_WRITE, and an emulator may
 * ignore it and say nothing: so the first page is looked at afterwards. */
static bool knows_populate(const struct work* work) {
  struct stat status;
  if (madvise(work->what.address, work->what.page_size, MADV_POPULATE_WRITE) != 0)
    return errno != EINVAL;
  return fstat(work->what.fd, &status) == 0 && status.st_blocks > 0;
}

int lmshm_populate(const struct lmshm_populate* what, lmshm_task* task) {
  struct work work = {.what = *what, .task = task};
  work.end = (what->file_size + what->page_size - 1) / what->page_size * what->page_size;
  work.slice = what->page_size > SLICE_BYTES ? what->page_size : SLICE_BYTES;
  work.faulting = knows_populate(&work);
  atomic_init(&work.writing, false);
  atomic_init(&work.next, 0);
  atomic_init(&work.error, 0);
  atomic_store(&task->populated, 0);

  task->info.populate_threads = run_all(&work, choose_threads(&work));
  task->info.populated = atomic_load(&task->populated);
  int rc = atomic_load(&work.error);
  switch (rc) {
    case 0:
      return 0;
    case -ECANCELED:
      return lmshm_task_fail(task, rc, "cancelled");
    case -ENOSPC:
      return lmshm_limits_no_space(what->named, what->file_size, task);
    case -ENOMEM:
      return lmshm_task_fail(task, rc, "the kernel has no memory for all pages");
    default:
      return lmshm_task_fail(task, rc, "the pages cannot be populated: %m");
  }
}
