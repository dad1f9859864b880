/* SPDX-License-Identifier: Apache-2.0
 *
 * pin.c - page-locking a segment. See pin.h.
 */
#include "pin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The calls are made as such: mlock2 has no wrapper in an older libc, and the
 * sanitizers turn mlock into nothing. */
#define ON_FAULT 1u /* MLOCK_ONFAULT */

/* mlock holds the lock of the address space while it walks pages; in slices,
 * the host program's own mmap calls get their turn. */
#define LOCK_SLICE_BYTES ((size_t)64 << 20)

#define WHY_BYTES 200

static void copy_gpu_report(const struct lmshm_pinning* pin, lmshm_task* task) {
  task->info.gpu_devices = pin->gpu.devices;
  memcpy(task->info.gpu_library, pin->gpu.library, sizeof task->info.gpu_library);
}

/* ----------------------------------------------------------------------- mlock */

static int lock_now(char* address, size_t size) {
  for (size_t at = 0; at < size; at += LOCK_SLICE_BYTES) {
    size_t length = size - at < LOCK_SLICE_BYTES ? size - at : LOCK_SLICE_BYTES;
    if (syscall(SYS_mlock, address + at, length) == 0) continue;
    int rc = -errno;
    syscall(SYS_munlock, address, at + length);
    return rc;
  }
  return 0;
}

/* Locks by mlock, or says why the memory is left unlocked. `why` is why it is
 * not the GPU. */
static void lock_instead(struct lmshm_pinning* pin, void* address, size_t size, bool ahead,
                         const char* why, lmshm_task* task) {
  int rc = -ENOSYS;
  if (ahead) rc = syscall(SYS_mlock2, address, size, ON_FAULT) == 0 ? 0 : -errno;
  if (rc == -ENOSYS) rc = lock_now(address, size);
  if (rc == 0) {
    pin->by = LMSHM_PINNED_BY_MLOCK;
    lmshm_task_say(task, "%s; locked by mlock instead: resident, but not for DMA", why);
    return;
  }
  struct rlimit limit;
  errno = -rc;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    errno = -rc;
    lmshm_task_say(task, "%s; mlock: %m (ulimit -l allows %" PRIu64 " bytes); not page-locked", why,
                   (uint64_t)limit.rlim_cur);
  } else {
    errno = -rc;
    lmshm_task_say(task, "%s; mlock: %m; not page-locked", why);
  }
}

int lmshm_pin_prepare(struct lmshm_pinning* pin, const struct lmshm_pin_wish* wish, void* address,
                      size_t size, bool fresh, lmshm_task* task) {
  memset(pin, 0, sizeof *pin);
  if (wish->mode == LMSHM_PIN_NONE) return 0;
  char why[WHY_BYTES];
  int rc = lmshm_gpu_find(&pin->gpu, wish->library, wish->device, why, sizeof why,
                          &task->info.gpu_error);
  copy_gpu_report(pin, task);
  if (rc == 0) return 0;
  if (wish->mode == LMSHM_PIN_REQUIRE)
    return lmshm_task_fail(task, rc, "a GPU is required to pin, and there is none: %s", why);
  lock_instead(pin, address, size, fresh, why, task);
  return 0;
}

/* ------------------------------------------------------------------------- GPU */

/* Unregisters the pieces below `end`. Returns the first code. */
static int drop_pieces(const struct lmshm_pinning* pin, char* address, size_t end, char* why) {
  char ignored[8];
  int first = 0;
  for (size_t at = 0; at < end; at += pin->piece) {
    int code = lmshm_gpu_unregister(&pin->gpu, address + at, first == 0 ? why : ignored,
                                    first == 0 ? WHY_BYTES : sizeof ignored);
    if (first == 0) first = code;
  }
  return first;
}

/* Registers in pieces; upon failure none is left. Returns a code, or
 * -ECANCELED. */
static int add_pieces(struct lmshm_pinning* pin, char* address, size_t size, char* why,
                      const lmshm_task* task) {
  char ignored[WHY_BYTES];
  for (size_t at = 0; at < size; at += pin->piece) {
    size_t length = size - at < pin->piece ? size - at : pin->piece;
    int code = -ECANCELED;
    if (!lmshm_task_cancelled(task))
      code = lmshm_gpu_register(&pin->gpu, address + at, length, why, WHY_BYTES);
    if (code == 0) continue;
    drop_pieces(pin, address, at, ignored);
    return code;
  }
  return 0;
}

int lmshm_pin_apply(struct lmshm_pinning* pin, enum lmshm_pin mode, void* address, size_t size,
                    size_t piece_max, lmshm_task* task) {
  task->info.pin_piece_mib = 0;
  if (pin->gpu.kind == LMSHM_PINNED_BY_NONE) return 0;
  char why[WHY_BYTES];
  pin->piece = size;
  int code = add_pieces(pin, address, size, why, task);
  if (code != 0 && code != -ECANCELED && size > piece_max) {
    pin->piece = piece_max;
    code = add_pieces(pin, address, size, why, task);
    if (code == 0)
      lmshm_task_say(task,
                     "the GPU refused %zu bytes at once, and has them in %zu pieces of %zu bytes; "
                     "no copy may cross from one into the next",
                     size, (size - 1) / piece_max + 1, piece_max);
  }
  if (code == 0) {
    pin->by = pin->gpu.kind;
    if (pin->piece < size) task->info.pin_piece_mib = (uint32_t)(pin->piece >> 20);
    return 0;
  }
  if (code == -ECANCELED) return lmshm_task_fail(task, -ECANCELED, "cancelled");
  task->info.gpu_error = code;
  if (mode == LMSHM_PIN_REQUIRE)
    return lmshm_task_fail(task, -EIO, "the GPU is required to pin, and refused: %s", why);
  lock_instead(pin, address, size, false, why, task);
  return 0;
}

int lmshm_pin_release(struct lmshm_pinning* pin, void* address, size_t size, lmshm_task* task) {
  uint32_t by = pin->by;
  pin->by = LMSHM_PINNED_BY_NONE;
  if (by == LMSHM_PINNED_BY_NONE || by == LMSHM_PINNED_BY_MLOCK) return 0;
  char why[WHY_BYTES];
  int code = drop_pieces(pin, address, size, why);
  if (code == 0) return 0;
  task->info.gpu_error = code;
  return lmshm_task_fail(task, -EIO, "the GPU would not let go of the memory: %s", why);
}
