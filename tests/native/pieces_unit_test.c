/* SPDX-License-Identifier: Apache-2.0
 *
 * pieces_unit_test.c - registering in pieces, which starts at 64 GiB and is
 * tested here with pieces of 1 MiB. Built with the library's own sources.
 */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>

#include "check.h"
#include "fake_gpu.h"
#include "pin.h"

#define PIECE MIB

static fake_gpu_books_fn keep_books;
static fake_gpu_reset_fn reset;
static char library[PATH_MAX + 40];

static bool find_fake(const char* kind) {
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return false;
  self[length] = '\0';
  snprintf(library, sizeof library, "%s/libfake_gpu_%s.so", dirname(self), kind);
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* books = handle != NULL ? dlsym(handle, FAKE_GPU_BOOKS) : NULL;
  void* again = handle != NULL ? dlsym(handle, FAKE_GPU_RESET) : NULL;
  CHECK(books != NULL && again != NULL, "%s: %s", library, dlerror());
  if (books == NULL || again == NULL) return false;
  memcpy(&keep_books, &books, sizeof books);
  memcpy(&reset, &again, sizeof again);
  reset();
  unsetenv("FAKE_GPU_FAIL");
  unsetenv("FAKE_GPU_MAX");
  return true;
}

static struct fake_gpu_books books(void) {
  struct fake_gpu_books now;
  keep_books(&now);
  return now;
}

static char* memory(size_t size) {
  char* address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(address != MAP_FAILED, "%d", errno);
  return address;
}

static void nothing_left(const char* when) {
  struct fake_gpu_books now = books();
  CHECK(now.registered == 0 && now.contexts == 0 && now.pushed == 0 && now.last_error == 0 &&
            now.violations == 0,
        "%s: registered %d, contexts %d, pushed %d, error %d, violations %d", when, now.registered,
        now.contexts, now.pushed, now.last_error, now.violations);
}

static const char* const kinds[] = {"cudart", "driver", "hip"};

static void what_is_refused_at_once_is_registered_in_pieces(void) {
  const size_t sizes[] = {PIECE + 4096, 2 * PIECE, 5 * PIECE, 5 * PIECE + 8192};
  const int pieces[] = {2, 2, 5, 6};
  for (int kind = 0; kind < 3; kind++) {
    if (!find_fake(kinds[kind])) return;
    setenv("FAKE_GPU_MAX", "1048576", 1);
    for (int i = 0; i < 4; i++) {
      char* address = memory(sizes[i]);
      lmshm_task task;
      struct lmshm_pinning pin;
      lmshm_task_init(&task);
      CHECK_EQUAL(lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_REQUIRE, 0, library},
                                    address, sizes[i], true, &task),
                  0);
      CHECK_EQUAL(lmshm_pin_apply(&pin, LMSHM_PIN_REQUIRE, address, sizes[i], PIECE, &task), 0);
      CHECK_EQUAL(books().registered, pieces[i]);
      CHECK_CONTAINS(task.info.message, "pieces");
      CHECK_EQUAL(task.info.pin_piece_mib, PIECE / MIB);
      CHECK_EQUAL(lmshm_pin_release(&pin, address, sizes[i], &task), 0);
      nothing_left("released");
      CHECK_EQUAL(lmshm_pin_release(&pin, address, sizes[i], &task), 0); /* once is enough */
      nothing_left("released again");
      munmap(address, sizes[i]);
    }
  }
}

static void a_piece_that_is_refused_undoes_those_before(void) {
  const size_t size = 5 * PIECE;
  for (int kind = 0; kind < 3; kind++) {
    for (int nth = 1; nth <= 6; nth++) { /* the first is all at once */
      if (!find_fake(kinds[kind])) return;
      char fail[32];
      snprintf(fail, sizeof fail, "register:%d:2", nth);
      setenv("FAKE_GPU_MAX", "1048576", 1);
      setenv("FAKE_GPU_FAIL", fail, 1);
      char* address = memory(size);
      lmshm_task task;
      struct lmshm_pinning pin;
      lmshm_task_init(&task);
      lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_REQUIRE, 0, library}, address,
                        size, true, &task);
      int rc = lmshm_pin_apply(&pin, LMSHM_PIN_REQUIRE, address, size, PIECE, &task);
      CHECK(rc == (nth == 1 ? 0 : -EIO), "piece %d: %d", nth - 1, rc);
      if (rc == 0) CHECK_EQUAL(lmshm_pin_release(&pin, address, size, &task), 0);
      nothing_left(fail);
      munmap(address, size);
    }
  }
}

static void what_fits_is_registered_at_once(void) {
  if (!find_fake("cudart")) return;
  char* address = memory(3 * PIECE);
  lmshm_task task;
  struct lmshm_pinning pin;
  lmshm_task_init(&task);
  lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_AUTO, 0, library}, address, 3 * PIECE,
                    true, &task);
  CHECK_EQUAL(lmshm_pin_apply(&pin, LMSHM_PIN_AUTO, address, 3 * PIECE, PIECE, &task), 0);
  CHECK_EQUAL(books().registered, 1);
  CHECK_EQUAL(task.info.message[0], 0);
  CHECK_EQUAL(lmshm_pin_release(&pin, address, 3 * PIECE, &task), 0);
  nothing_left("released");
  munmap(address, 3 * PIECE);
}

static void one_piece_that_will_not_go_does_not_keep_the_others(void) {
  if (!find_fake("hip")) return;
  const size_t size = 4 * PIECE;
  setenv("FAKE_GPU_MAX", "1048576", 1);
  char* address = memory(size);
  lmshm_task task;
  struct lmshm_pinning pin;
  lmshm_task_init(&task);
  lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_REQUIRE, 0, library}, address, size,
                    true, &task);
  CHECK_EQUAL(lmshm_pin_apply(&pin, LMSHM_PIN_REQUIRE, address, size, PIECE, &task), 0);
  setenv("FAKE_GPU_FAIL", "unregister:2:4", 1);
  CHECK_EQUAL(lmshm_pin_release(&pin, address, size, &task), -EIO);
  CHECK_EQUAL(task.info.gpu_error, 4);
  CHECK_EQUAL(books().registered, 1); /* the second alone */
  munmap(address, size);
}

static void cancelling_between_pieces_undoes_them(void) {
  if (!find_fake("cudart")) return;
  char* address = memory(4 * PIECE);
  lmshm_task task;
  struct lmshm_pinning pin;
  lmshm_task_init(&task);
  lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_AUTO, 0, library}, address, 4 * PIECE,
                    true, &task);
  atomic_store(&task.cancelled, true);
  CHECK_EQUAL(lmshm_pin_apply(&pin, LMSHM_PIN_AUTO, address, 4 * PIECE, PIECE, &task), -ECANCELED);
  nothing_left("cancelled");
  munmap(address, 4 * PIECE);
}

/* What the stateless free does: it knows neither the library nor the pieces. */
static void pieces_of_an_unknown_registration_are_found(void) {
  for (int kind = 0; kind < 3; kind++) {
    if (!find_fake(kinds[kind])) return;
    setenv("LMSHM_GPU_LIBRARY", library, 1);
    for (int whole = 0; whole < 2; whole++) {
      if (whole == 0) setenv("FAKE_GPU_MAX", "1048576", 1);
      if (whole == 1) unsetenv("FAKE_GPU_MAX");
      const size_t size = 3 * PIECE + 4096;
      char* address = memory(size);
      lmshm_task task;
      struct lmshm_pinning pin;
      lmshm_task_init(&task);
      lmshm_pin_prepare(&pin, &(struct lmshm_pin_wish){LMSHM_PIN_REQUIRE, 0, NULL}, address, size,
                        true, &task);
      CHECK_EQUAL(lmshm_pin_apply(&pin, LMSHM_PIN_REQUIRE, address, size, PIECE, &task), 0);
      CHECK_EQUAL(books().registered, whole ? 1 : 4);
      lmshm_gpu_unregister_unknown(address, size, PIECE);
      nothing_left("unknown");
      lmshm_gpu_unregister_unknown(address, size, PIECE); /* nothing to find */
      nothing_left("unknown again");
      munmap(address, size);
    }
  }
  unsetenv("LMSHM_GPU_LIBRARY");
}

CHECK_MAIN(CASE(what_is_refused_at_once_is_registered_in_pieces),
           CASE(a_piece_that_is_refused_undoes_those_before), CASE(what_fits_is_registered_at_once),
           CASE(one_piece_that_will_not_go_does_not_keep_the_others),
           CASE(cancelling_between_pieces_undoes_them),
           CASE(pieces_of_an_unknown_registration_are_found))
