/* SPDX-License-Identifier: Apache-2.0
 *
 * simple.c - the interface of two functions, over the full one.
 *
 * The second function gets no handle, and there is no global table: what it
 * frees is looked up in the kernel's own tables. A range is freed only when it
 * is one whole mapping of a file with that name in /dev/shm, of that size, and
 * when this process holds the lock on it, which its owner alone does.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "maps.h"
#include "name.h"
#include "pin.h"
#include "segment.h"

intptr_t alloc_shm_pinned_ptr(size_t size, const char* shm_name) {
  const lmshm_options options = {
      .struct_size = sizeof options, .kind = LMSHM_CREATE, .size = size, .name = shm_name};
  lmshm_task task;
  lmshm_task_init(&task);
  lmshm_segment* segment = NULL;
  int rc = lmshm_segment_open(&options, &task, &segment);
  return rc == 0 ? (intptr_t)lmshm_segment_forget(segment) : rc;
}

/* This process as /proc knows it, which may be of another PID namespace. */
static pid_t own_pid(void) {
  char text[32];
  ssize_t length = readlink("/proc/self", text, sizeof text - 1);
  if (length <= 0) return getpid();
  text[length] = '\0';
  return (pid_t)strtol(text, NULL, 10);
}

/* Whether this process holds the lock of the file. A system that does not
 * tell is believed to. */
static bool holds_lock(const struct lmshm_range* range) {
  struct lmshm_lock_search search = {
      .major = range->major, .minor = range->minor, .inode = range->inode, .pid = own_pid()};
  return lmshm_lines("/proc/locks", lmshm_lock_line, &search) != 0 || search.found;
}

/* Whether a file is shown by the kernel as a name would be. */
static bool shown_as(const char* shown, const char* name) {
  for (; *name != '\0'; name++) {
    const char* expected = *name == '\n' ? "\\012" : (char[]){*name, '\0'};
    size_t length = strlen(expected);
    if (strncmp(shown, expected, length) != 0) return false;
    shown += length;
  }
  return *shown == '\0';
}

/* Whether the range found is a segment of that name: the name is this file, of
 * that size, or it was, and the file has no name any more. */
static bool fits(const struct lmshm_range* range, const struct lmshm_name* name, size_t size) {
  struct stat directory, now;
  if (stat(LMSHM_SHM_DIR, &directory) != 0) return false;
  if (directory.st_dev != makedev(range->major, range->minor)) return false;
  if (lstat(name->path, &now) == 0 && now.st_dev == directory.st_dev && now.st_ino == range->inode)
    return now.st_size >= 0 && (size_t)now.st_size == size;
  return range->deleted && shown_as(range->file, lmshm_name_file(name));
}

int free_shm_pinned_ptr(void* ptr, size_t size, const char* shm_name) {
  struct lmshm_name name;
  int rc = lmshm_name_parse(shm_name, &name);
  if (rc != 0) return rc;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  struct lmshm_range range = {.begin = (uintptr_t)ptr};
  size_t mapped;
  if (ptr == NULL || (uintptr_t)ptr % page != 0 || size == 0) return -EINVAL;
  if (__builtin_add_overflow(size, page - 1, &mapped)) return -EINVAL;
  mapped -= mapped % page;
  if (__builtin_add_overflow(range.begin, mapped, &range.end)) return -EINVAL;

  rc = lmshm_lines("/proc/self/maps", lmshm_range_line, &range);
  if (rc != 0) return rc;
  if (!lmshm_range_found(&range) || !fits(&range, &name, size) || !holds_lock(&range))
    return -EINVAL;

  lmshm_gpu_unregister_unknown(ptr, mapped, LMSHM_PIN_PIECE_BYTES);
  rc = lmshm_name_give_back(&name, makedev(range.major, range.minor), range.inode, -1);
  int unmapped = lmshm_unmap(ptr, mapped);
  return rc != 0 ? rc : unmapped;
}
