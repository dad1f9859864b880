/* SPDX-License-Identifier: Apache-2.0
 *
 * futex.c - see futex.h.
 *
 * futex_waitv(2), from Linux 5.16, waits on two words at once: the shared one
 * and the private one that cancels. More than one shared word is never given to
 * it: of several that are woken together it names only one, and the other wakes
 * would be lost, though they were counted. Where the kernel does not have it, or
 * a container forbids it, plain FUTEX_WAIT waits in slices, and looks after each
 * whether it was cancelled.
 */
#include "futex.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/futex.h, which old systems lack in part. */
#define FUTEX_WAKE 1
#define FUTEX_WAIT_BITSET 9 /* its timeout is absolute, of CLOCK_MONOTONIC */
#define FUTEX_PRIVATE_FLAG 128
#define FUTEX_BITSET_MATCH_ANY 0xffffffffu
#define FUTEX2_SIZE_U32 0x02u
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* How long a cancelled wait may go on without futex_waitv. */
#define SLICE_NS 50000000L
#define SECOND_NS 1000000000L

struct waitv {
  uint64_t val;
  uint64_t uaddr;
  uint32_t flags;
  uint32_t reserved;
};

static bool is_cancelled(_Atomic uint32_t* cancel) {
  return atomic_load_explicit(cancel, memory_order_acquire) != 0;
}

/* -ENOSYS where there is no such system call. */
static int wait_both(uint32_t* word, uint32_t expected, _Atomic uint32_t* cancel,
                     const struct timespec* deadline) {
  /* The last of those that were woken is the one that is named. */
  const struct waitv words[2] = {
      {.val = 0, .uaddr = (uintptr_t)cancel, .flags = FUTEX2_SIZE_U32 | FUTEX_PRIVATE_FLAG},
      {.val = expected, .uaddr = (uintptr_t)word, .flags = FUTEX2_SIZE_U32},
  };
  long rc = syscall(SYS_futex_waitv, words, 2, 0, deadline, CLOCK_MONOTONIC);
  if (rc == 1) return 0;
  if (rc == 0) return -ECANCELED;
  return errno == EPERM ? -ENOSYS : -errno; /* some containers say EPERM */
}

static bool is_before(const struct timespec* a, const struct timespec* b) {
  return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static int wait_slice(uint32_t* word, uint32_t expected, const struct timespec* deadline) {
  struct timespec end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_nsec += SLICE_NS;
  end.tv_sec += end.tv_nsec / SECOND_NS;
  end.tv_nsec %= SECOND_NS;
  bool last = deadline != NULL && !is_before(&end, deadline);
  const struct timespec* until = last ? deadline : &end;
  if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, until, NULL, FUTEX_BITSET_MATCH_ANY) ==
      0)
    return 0;
  return errno == ETIMEDOUT && !last ? -EINTR : -errno;
}

int lmshm_futex_wait(uint32_t* word, uint32_t expected, _Atomic uint32_t* cancel,
                     const struct timespec* deadline) {
  bool both = true, began = false;
  for (;;) {
    if (is_cancelled(cancel)) return -ECANCELED;
    int rc =
        both ? wait_both(word, expected, cancel, deadline) : wait_slice(word, expected, deadline);
    if (rc == -ENOSYS && both) {
      both = false;
    } else if (rc == -EINTR) {
      began = true;
    } else if ((rc == -EAGAIN || rc == -EFAULT) && is_cancelled(cancel)) {
      return -ECANCELED; /* -EFAULT: and the segment is gone already */
    } else {
      /* It was as expected when the waiting began: so it was changed, and who
       * changed it may have woken while nobody waited. */
      return rc == -EAGAIN && began ? 0 : rc;
    }
  }
}

void lmshm_futex_cancel(_Atomic uint32_t* cancel) {
  atomic_store_explicit(cancel, 1, memory_order_release);
  syscall(SYS_futex, cancel, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

int lmshm_futex_wake(uint32_t* word, uint32_t count) {
  int most = count > INT_MAX ? INT_MAX : (int)count;
  if (most == 0) return 0; /* which to the kernel is one */
  long woken = syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
  return woken < 0 ? -errno : (int)woken;
}
