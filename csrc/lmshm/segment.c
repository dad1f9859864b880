/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c - opening a segment step by step, each undone when a later one
 * fails, and closing it in the reverse order.
 *
 * The order: take the name, check that the size can fit, map, set the policies
 * that must come before pages exist, look for a GPU, populate, register; and
 * only then take the name from a stranger, if that is what was asked for. The
 * pages are reserved while they are populated, by system calls that return an
 * error where a store would raise SIGBUS.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backing.h"
#include "identity.h"
#include "limits.h"
#include "maps.h"
#include "numa.h"
#include "pin.h"
#include "populate.h"
#include "thread.h"

/* What callers in other languages rely on. */
_Static_assert(sizeof(lmshm_options) == 72, "lmshm_options is part of the ABI");
_Static_assert(sizeof(lmshm_info) == 640, "lmshm_info is part of the ABI");

/* Where transparent huge pages begin, on every system with 4 KiB pages. */
#define HUGE_BYTES ((size_t)2 << 20)

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define WORD_BYTES 16

/* What is unmapped at a time: 2048 pages take the kernel well below 1 ms. */
#define UNMAP_BYTES ((size_t)8 << 20)

/* Of a window, what is worth mapping before it is touched: 4 ms of work, a
 * fifth of what it takes page by page. */
#define WINDOW_AT_ONCE_BYTES ((size_t)64 << 20)

/* How many windows there are. To take back one that is not there only makes it
 * too small. */
static atomic_int windows;

struct lmshm_segment {
  lmshm_info info; /* as it was when it was ready */
  struct lmshm_backing backing;
  struct lmshm_name name; /* when backing.owner: what it should be called */
  struct lmshm_pinning pin;
  char* address;
  size_t mapped; /* bytes */
  pid_t pid;     /* who opened it: a forked child must not free it */
  bool strict;   /* the system counts memory that is only reserved */
};

/* ------------------------------------------------------------------- arguments */

static int check_create(const lmshm_options* o, lmshm_task* task) {
  if (o->size == 0) return lmshm_task_fail(task, -EINVAL, "the size is 0");
  if (o->size > (uint64_t)INT64_MAX - ((uint64_t)1 << 31))
    return lmshm_task_fail(task, -EINVAL, "the size %" PRIu64 " overflows", o->size);
  bool huge = o->pages == LMSHM_PAGES_HUGE_2M || o->pages == LMSHM_PAGES_HUGE_1G;
  if (o->kind == LMSHM_CREATE && huge)
    return lmshm_task_fail(task, -EINVAL,
                           "explicit huge pages are for anonymous segments: /dev/shm has none");
  if (o->kind == LMSHM_ANONYMOUS && o->name != NULL)
    return lmshm_task_fail(task, -EINVAL, "an anonymous segment has no name");
  if ((o->numa == LMSHM_NUMA_DEFAULT) != (o->numa_nodes == 0))
    return lmshm_task_fail(task, -EINVAL, "a NUMA policy needs nodes, and nodes a policy");
  return 0;
}

static int check_attach(const lmshm_options* o, lmshm_task* task) {
  if (o->pages != LMSHM_PAGES_DEFAULT || o->numa != LMSHM_NUMA_DEFAULT || o->numa_nodes != 0)
    return lmshm_task_fail(task, -EINVAL,
                           "pages and NUMA policy are chosen by who creates a segment");
  if (o->size > (uint64_t)INT64_MAX)
    return lmshm_task_fail(task, -EINVAL, "the size %" PRIu64 " overflows", o->size);
  return 0;
}

static int check(const lmshm_options* o, struct lmshm_name* name, lmshm_task* task) {
  if (o == NULL || o->struct_size != sizeof *o)
    return lmshm_task_fail(task, -EINVAL, "struct_size of the options must be %zu", sizeof *o);
  if (o->kind > LMSHM_ANONYMOUS || o->if_exists > LMSHM_EXISTS_REPLACE || o->pin > LMSHM_PIN_NONE ||
      o->pages > LMSHM_PAGES_HUGE_1G || o->numa > LMSHM_NUMA_INTERLEAVE ||
      (o->flags & ~LMSHM_OPTION_UNLINK_AT_EXIT) != 0)
    return lmshm_task_fail(task, -EINVAL,
                           "no such option: kind %u, if_exists %u, pin %u, pages %u, numa %u, "
                           "flags %u",
                           o->kind, o->if_exists, o->pin, o->pages, o->numa, o->flags);
  if (o->populate_threads > LMSHM_POPULATE_THREADS_MAX)
    return lmshm_task_fail(task, -EINVAL, "%u populating threads, of at most %d",
                           o->populate_threads, LMSHM_POPULATE_THREADS_MAX);
  int rc = o->kind == LMSHM_ATTACH ? check_attach(o, task) : check_create(o, task);
  if (rc != 0 || (o->name == NULL && o->kind != LMSHM_CREATE)) return rc;

  rc = lmshm_name_parse(o->name, name);
  if (rc == -ENAMETOOLONG)
    return lmshm_task_fail(task, rc, "the name has more than %d bytes", LMSHM_NAME_MAX);
  if (rc != 0)
    return lmshm_task_fail(task, rc,
                           "\"%.100s\" is no name: one path component, with or without a leading "
                           "slash, is",
                           o->name != NULL ? o->name : "");
  return 0;
}

/* ----------------------------------------------------------------------- steps */

static int map_failed(const struct lmshm_backing* backing, lmshm_task* task) {
  int rc = -errno;
  uint64_t page = backing->page_size;
  if (page <= (uint64_t)sysconf(_SC_PAGESIZE))
    return lmshm_task_fail(task, rc, "%" PRIu64 " bytes cannot be mapped: %m", backing->size);
  uint64_t room = rc == -ENOMEM ? lmshm_limits_huge(page) : UINT64_MAX;
  if (room == UINT64_MAX) return lmshm_task_fail(task, rc, "huge pages cannot be mapped: %m");
  task->info.available = room;
  return lmshm_task_fail(task, rc,
                         "needs %" PRIu64 " huge pages of %" PRIu64 " MiB, %" PRIu64
                         " are free; reserve more in /sys/kernel/mm/hugepages, or use "
                         "transparent ones",
                         backing->size / page, page >> 20, room / page);
}

/* An address where huge pages can be mapped as such: those that begin the
 * file begin at a multiple of their size. NULL: anywhere. */
static void* find_aligned(size_t size) {
  char* room = mmap(NULL, size + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return NULL;
  char* aligned = room + (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
  munmap(room, size + HUGE_BYTES);
  return aligned; /* a hint: whoever takes it first costs speed only */
}

static int map(lmshm_segment* segment, const lmshm_options* options, lmshm_task* task) {
  const struct lmshm_backing* backing = &segment->backing;
  uint64_t pages = (backing->size - 1) / backing->page_size + 1;
  segment->mapped = (size_t)(pages * backing->page_size);
  void* hint = NULL;
  if (options->pages == LMSHM_PAGES_TRANSPARENT && backing->size >= HUGE_BYTES)
    hint = find_aligned(segment->mapped);
  void* address = mmap(hint, segment->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, backing->fd, 0);
  if (address == MAP_FAILED) return map_failed(backing, task);
  segment->address = address;
  return 0;
}

static bool mapped_huge_line(void* bytes, const char* line, size_t length) {
  return !lmshm_keyed_number(line, length, "ShmemPmdMapped:", bytes);
}

/* What the kernel maps of the segment by huge pages. Asking for one mapping
 * makes it walk over every page, 20 ms a GiB where they are small, so the
 * whole system is asked first. */
static uint64_t huge_bytes(const lmshm_segment* segment) {
  if (segment->backing.page_size > (uint64_t)sysconf(_SC_PAGESIZE)) return segment->mapped;
  uint64_t anywhere = 0;
  if (lmshm_lines("/proc/meminfo", mapped_huge_line, &anywhere) == 0 && anywhere == 0) return 0;
  struct lmshm_huge huge = {.begin = (uintptr_t)segment->address};
  huge.end = huge.begin + segment->mapped;
  lmshm_lines("/proc/self/smaps", lmshm_huge_line, &huge);
  return huge.bytes;
}

/* Asks for transparent huge pages, and tries one. Returns whether they come. */
static bool wish_huge(const lmshm_segment* segment) {
  if (segment->mapped < HUGE_BYTES) return false;
  if (madvise(segment->address, segment->mapped, MADV_HUGEPAGE) != 0) return false;
  struct lmshm_task trial;
  lmshm_task_init(&trial);
  const struct lmshm_populate first = {.fd = segment->backing.fd,
                                       .address = segment->address,
                                       .file_size = HUGE_BYTES,
                                       .page_size = segment->backing.page_size,
                                       .threads = 1};
  return lmshm_populate(&first, &trial) == 0 && huge_bytes(segment) > 0;
}

static int populate(lmshm_segment* segment, const lmshm_options* options, lmshm_task* task) {
  bool huge = segment->backing.page_size > (uint64_t)sysconf(_SC_PAGESIZE);
  if (options->pages == LMSHM_PAGES_TRANSPARENT) huge = wish_huge(segment);
  int rc = lmshm_task_step(task, LMSHM_STEP_POPULATE);
  if (rc != 0) return rc;
  const struct lmshm_populate what = {.fd = segment->backing.fd,
                                      .address = segment->address,
                                      .file_size = segment->backing.size,
                                      .page_size = segment->backing.page_size,
                                      .threads = options->populate_threads,
                                      .named = segment->backing.owner,
                                      .may_write = !huge};
  return lmshm_populate(&what, task);
}

/* The word in brackets of "always within_size advise [never]". */
static bool chosen_word(void* context, const char* line, size_t length) {
  char* word = context;
  const char* begin = memchr(line, '[', length);
  const char* end = begin == NULL ? NULL : memchr(begin, ']', length - (size_t)(begin - line));
  if (end != NULL && end - begin <= WORD_BYTES) {
    memcpy(word, begin + 1, (size_t)(end - begin - 1));
    word[end - begin - 1] = '\0';
  }
  return false;
}

/* Of the last mount on /dev/shm, whether it has huge pages. */
static bool mount_line(void* context, const char* line, size_t length) {
  static const char place[] = " " LMSHM_SHM_DIR " ", huge[] = "huge=", never[] = "huge=never";
  if (memmem(line, length, place, sizeof place - 1) != NULL)
    *(bool*)context = memmem(line, length, huge, sizeof huge - 1) != NULL &&
                      memmem(line, length, never, sizeof never - 1) == NULL;
  return true;
}

/* Why no transparent huge page came. A name lies on a mount, which has a
 * setting of its own; what has none follows the system's. "deny" and "force"
 * are for both. */
static void say_no_huge(const lmshm_segment* segment, lmshm_task* task) {
  char word[WORD_BYTES] = "";
  bool mount = true, named = segment->backing.owner;
  lmshm_lines(SHMEM_ENABLED, chosen_word, word);
  bool forced = strcmp(word, "force") == 0;
  if (named && !forced) lmshm_lines("/proc/self/mounts", mount_line, &mount);
  const char* words = "no huge pages: the kernel had none to give";
  if (segment->mapped < HUGE_BYTES)
    words = "no huge pages: the segment is smaller than one, 2 MiB";
  else if (word[0] == '\0')
    words = "no huge pages: this kernel has none for shared memory";
  else if (strcmp(word, "deny") == 0)
    words = "no huge pages: " SHMEM_ENABLED " is \"deny\"";
  else if (!mount)
    words = "no huge pages: " LMSHM_SHM_DIR " is mounted without huge=advise";
  else if (!named && strcmp(word, "never") == 0)
    words = "no huge pages: " SHMEM_ENABLED " is \"never\"; set it to \"advise\"";
  lmshm_task_add(task, words);
}

static void report(lmshm_segment* segment, const lmshm_options* options, lmshm_task* task) {
  lmshm_info* info = &task->info;
  info->pinned_by = segment->pin.by;
  info->address = (uintptr_t)segment->address;
  info->size = segment->backing.size;
  info->mapped_size = segment->mapped;
  info->page_size = segment->backing.page_size;
  info->huge_bytes = huge_bytes(segment);
  if (options->pages == LMSHM_PAGES_TRANSPARENT && info->huge_bytes == 0)
    say_no_huge(segment, task);
  if (segment->backing.owner) info->flags |= LMSHM_INFO_OWNER;
  info->fd = segment->backing.locked ? -1 : segment->backing.fd;
  lmshm_identity(segment->backing.device, segment->backing.inode, info->identity);
  segment->info = *info;
}

/* --------------------------------------------------------------------- opening */

/* The task keeps the words of what failed before. */
static void undo_pin(lmshm_segment* segment) {
  lmshm_task ignored;
  lmshm_task_init(&ignored);
  lmshm_pin_release(&segment->pin, segment->address, segment->mapped, &ignored);
}

int lmshm_segment_open(const lmshm_options* options, lmshm_task* task, lmshm_segment** out) {
  struct lmshm_name name = {""};
  int rc = check(options, &name, task);
  if (rc != 0) return rc;
  lmshm_segment* segment = calloc(1, sizeof *segment);
  if (segment == NULL) return lmshm_task_fail(task, -ENOMEM, "no memory for the handle");
  struct lmshm_backing* backing = &segment->backing;
  bool named = options->name != NULL;
  const struct lmshm_pin_wish wish = {(enum lmshm_pin)options->pin, options->gpu_device,
                                      options->gpu_library};
  segment->name = name;
  segment->pid = getpid();

  rc = lmshm_task_step(task, LMSHM_STEP_OPEN);
  if (rc == 0) rc = lmshm_backing_open(options, named ? &segment->name : NULL, backing, task);
  if (rc != 0) goto free_handle;

  rc = lmshm_task_step(task, LMSHM_STEP_RESERVE);
  if (rc == 0 && backing->fresh) rc = lmshm_backing_size(backing, task);
  if (rc != 0) goto undo_backing;

  rc = lmshm_task_step(task, LMSHM_STEP_MAP);
  if (rc == 0) rc = map(segment, options, task);
  if (rc != 0) goto undo_backing;

  rc = lmshm_task_step(task, LMSHM_STEP_PLACE);
  if (rc == 0 && options->numa != LMSHM_NUMA_DEFAULT)
    rc = lmshm_numa_place(segment->address, segment->mapped, (enum lmshm_numa)options->numa,
                          options->numa_nodes, task);
  if (rc != 0) goto unmap;

  rc = lmshm_task_step(task, LMSHM_STEP_PIN);
  if (rc == 0)
    rc = lmshm_pin_prepare(&segment->pin, &wish, segment->address, segment->mapped, backing->fresh,
                           task);
  if (rc != 0) goto unmap;

  if (backing->fresh) rc = populate(segment, options, task);
  if (rc != 0) goto unmap;

  rc = lmshm_task_step(task, LMSHM_STEP_PIN);
  if (rc == 0)
    rc = lmshm_pin_apply(&segment->pin, wish.mode, segment->address, segment->mapped,
                         LMSHM_PIN_PIECE_BYTES, task);
  if (rc != 0) goto unmap;

  rc = lmshm_task_step(task, LMSHM_STEP_OPEN);
  if (rc == 0) rc = lmshm_backing_publish(backing, &segment->name, task);
  if (rc != 0) goto unpin;

  lmshm_backing_mark(backing, segment->pin.by);
  lmshm_backing_share(backing);
  segment->strict = lmshm_limits_strict();
  task->info.step = LMSHM_STEP_READY;
  atomic_store(&task->step, LMSHM_STEP_READY);
  report(segment, options, task);
  *out = segment;
  return 0;

unpin:
  undo_pin(segment);
unmap:
  lmshm_unmap(segment->address, segment->mapped);
undo_backing:
  lmshm_backing_undo(backing, &segment->name);
free_handle:
  free(segment);
  return rc;
}

/* --------------------------------------------------------------------- closing */

int lmshm_unmap(void* address, size_t size) {
  char* from = address;
  int rc = 0;
  /* Huge pages are unmapped whole: what is refused is tried all at once. */
  while (size > UNMAP_BYTES && munmap(from, UNMAP_BYTES) == 0) {
    from += UNMAP_BYTES;
    size -= UNMAP_BYTES;
    lmshm_thread_pause();
  }
  if (munmap(from, size) != 0) rc = -errno;
  return rc;
}

/* Puts private memory in the place of the range, which is never touched and so
 * costs nothing. Where the system counts even that, memory to be read only. */
static int replace(const lmshm_segment* segment) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  size_t page = segment->backing.page_size, step = page > UNMAP_BYTES ? page : UNMAP_BYTES;
  for (size_t at = 0; at < segment->mapped; at += step) {
    size_t length = segment->mapped - at < step ? segment->mapped - at : step;
    char* from = segment->address + at;
    if (at > 0) lmshm_thread_pause();
    if (mmap(from, length, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED) continue;
    if (mmap(from, length, PROT_READ, flags, -1, 0) != MAP_FAILED) continue;
    int rc = -errno;
    lmshm_unmap(segment->address, segment->mapped);
    return rc;
  }
  return 0;
}

int lmshm_segment_close(lmshm_segment* segment, uint32_t flags, lmshm_task* task) {
  task->info.step = LMSHM_STEP_RELEASE;
  atomic_store(&task->step, LMSHM_STEP_RELEASE);
  int first = 0, rc;
  if (segment->pid == getpid()) {
    lmshm_backing_unmark(&segment->backing);
    first = lmshm_pin_release(&segment->pin, segment->address, segment->mapped, task);
    /* Unlinking comes first: while it is mapped the name is locked. */
    if (segment->backing.owner)
      rc = lmshm_name_give_back(&segment->name, segment->backing.device, segment->backing.inode,
                                segment->backing.fd);
    else
      rc = 0;
    if (rc != 0 && first == 0)
      first = lmshm_task_fail(task, rc, "%s cannot be unlinked: %m", segment->name.path);
    lmshm_exit_note_drop(segment->backing.exit_note);
  }
  if ((flags & LMSHM_CLOSE_KEEP_RANGE) != 0)
    rc = replace(segment);
  else
    rc = lmshm_unmap(segment->address, segment->mapped);
  if (rc != 0 && first == 0) first = lmshm_task_fail(task, rc, "unmapping: %m");
  if (segment->backing.fd >= 0) close(segment->backing.fd);
  free(segment);
  return first;
}

void* lmshm_segment_forget(lmshm_segment* segment) {
  void* address = segment->address;
  if (segment->backing.fd >= 0) close(segment->backing.fd);
  free(segment);
  return address;
}

/* --------------------------------------------------------------------- waiting */

uint32_t* lmshm_segment_word(const lmshm_segment* segment, uint64_t offset) {
  if (segment == NULL || offset % sizeof(uint32_t) != 0) return NULL;
  uint64_t size = segment->backing.size;
  if (size < sizeof(uint32_t) || offset > size - sizeof(uint32_t)) return NULL;
  return (uint32_t*)(void*)(segment->address + offset);
}

int lmshm_segment_file(const lmshm_segment* segment) {
  if (segment->backing.fresh) return -EINVAL;
  int fd = fcntl(segment->backing.fd, F_DUPFD_CLOEXEC, 3);
  return fd < 0 ? -errno : fd;
}

/* --------------------------------------------------------------------- windows */

/* `*left`: whether what was at `at` is still there. */
static intptr_t reserve(const lmshm_segment* segment, void* at, size_t size, bool* left) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  *left = true;
  if (segment == NULL || size == 0 || ((uintptr_t)at | size) % page != 0) return -EINVAL;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at == NULL ? 0 : MAP_FIXED);
  const int access = segment->strict ? PROT_READ : PROT_READ | PROT_WRITE;
  void* reserved = mmap(at, size, access, flags, -1, 0);
  *left = reserved == MAP_FAILED;
  if (!*left) return (intptr_t)reserved;
  int rc = -errno;
  if (at == NULL) return rc;
  /* A fault is better than to go on seeing the memory. */
  *left = munmap(at, size) != 0;
  return *left ? -errno : rc;
}

intptr_t lmshm_window_reserve(const lmshm_segment* segment, void* at, size_t size) {
  bool left;
  return reserve(segment, at, size, &left);
}

int lmshm_window_map(const lmshm_segment* segment, uint64_t offset, size_t size, void* at) {
  uint64_t end;
  if (segment == NULL || at == NULL || size == 0) return -EINVAL;
  if (((uintptr_t)at | offset | size) % segment->backing.page_size != 0) return -EINVAL;
  if (__builtin_add_overflow(offset, size, &end) || end > segment->mapped) return -EINVAL;
  const int flags = MAP_SHARED | MAP_FIXED | (size <= WINDOW_AT_ONCE_BYTES ? MAP_POPULATE : 0);
  const int access = PROT_READ | PROT_WRITE;
  int rc = atomic_fetch_add(&windows, 1) < LMSHM_WINDOWS_MAX ? 0 : -ENOMEM;
  if (rc == 0 && mmap(at, size, access, flags, segment->backing.fd, (off_t)offset) == MAP_FAILED)
    rc = -errno;
  if (rc != 0) atomic_fetch_sub(&windows, 1);
  return rc;
}

int lmshm_window_unmap(const lmshm_segment* segment, void* at, size_t size) {
  if (at == NULL) return -EINVAL;
  bool left;
  intptr_t rc = reserve(segment, at, size, &left);
  if (!left) atomic_fetch_sub(&windows, 1);
  return rc > 0 ? 0 : (int)rc;
}

/* ---------------------------------------------------------- blocking interface */

static bool is_info(const lmshm_info* info) {
  return info == NULL || info->struct_size == sizeof *info;
}

const char* lmshm_version(void) { return LMSHM_VERSION; }

intptr_t lmshm_open(const lmshm_options* options, lmshm_info* info) {
  if (!is_info(info)) return -EINVAL;
  lmshm_task task;
  lmshm_task_init(&task);
  lmshm_segment* segment = NULL;
  int rc = lmshm_segment_open(options, &task, &segment);
  if (info != NULL) *info = task.info;
  return rc == 0 ? (intptr_t)segment : rc;
}

int lmshm_segment_info(const lmshm_segment* segment, lmshm_info* info) {
  if (segment == NULL || info == NULL || !is_info(info)) return -EINVAL;
  *info = segment->info;
  return 0;
}

int lmshm_close(lmshm_segment* segment, uint32_t flags) {
  if (segment == NULL || (flags & ~LMSHM_CLOSE_KEEP_RANGE) != 0) return -EINVAL;
  lmshm_task task;
  lmshm_task_init(&task);
  return lmshm_segment_close(segment, flags, &task);
}
