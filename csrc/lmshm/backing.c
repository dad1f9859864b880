/* SPDX-License-Identifier: Apache-2.0
 *
 * backing.c - the file behind a segment. See backing.h.
 */
#include "backing.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "file_status.h"
#include "limits.h"

/* From linux/memfd.h, linux/fcntl.h and linux/magic.h, which old systems lack
 * in part. */
#define CLOSE_ON_EXEC 0x1u  /* MFD_CLOEXEC */
#define MAY_SEAL 0x2u       /* MFD_ALLOW_SEALING */
#define HUGE_PAGES 0x4u     /* MFD_HUGETLB */
#define NEVER_EXEC 0x8u     /* MFD_NOEXEC_SEAL, Linux 6.3; some systems demand it */
#define HUGE_2M (21u << 26) /* MFD_HUGE_2MB */
#define HUGE_1G (30u << 26) /* MFD_HUGE_1GB */
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SEAL 0x1
#define F_SEAL_SHRINK 0x2
#define F_SEAL_GROW 0x4
#endif
#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#endif
#define HUGETLBFS 0x958458f6

static int create_anonymous(uint32_t flags) {
  int fd = (int)syscall(SYS_memfd_create, "lmshm", flags | NEVER_EXEC);
  if (fd < 0 && errno == EINVAL) fd = (int)syscall(SYS_memfd_create, "lmshm", flags);
  return fd < 0 ? -errno : fd;
}

static int open_anonymous(const lmshm_options* options, struct stat* status, lmshm_task* task) {
  uint32_t flags = CLOSE_ON_EXEC | MAY_SEAL;
  if (options->pages == LMSHM_PAGES_HUGE_2M) flags |= HUGE_PAGES | HUGE_2M;
  if (options->pages == LMSHM_PAGES_HUGE_1G) flags |= HUGE_PAGES | HUGE_1G;
  int fd = create_anonymous(flags), rc = fd;
  if (fd >= 0) {
    rc = fchmod(fd, S_IRUSR | S_IWUSR) == 0 ? lmshm_fstat(fd, status) : -errno;
    if (rc == 0) return fd;
    close(fd);
  }
  if ((flags & HUGE_PAGES) != 0)
    return lmshm_task_fail(task, rc, "this system has no huge pages of that size: %m");
  return lmshm_task_fail(task, rc, "memfd_create: %m");
}

/* Checks a segment that exists, and takes its size. */
static int check_existing(const lmshm_options* options, struct lmshm_backing* backing,
                          const struct stat* status, lmshm_task* task) {
  uint64_t length = status->st_size < 0 ? 0 : (uint64_t)status->st_size;
  uint64_t reserved = (uint64_t)status->st_blocks * 512;
  if ((status->st_mode & S_ISVTX) != 0 && (length == 0 || reserved < length))
    return lmshm_task_fail(task, -EAGAIN,
                           "its owner is still populating it (%" PRIu64 " of %" PRIu64
                           " bytes so far), or died doing so",
                           reserved, length);
  if (length == 0) return lmshm_task_fail(task, -ERANGE, "it is empty");
  if (options->size > length)
    return lmshm_task_fail(task, -ERANGE, "it has %" PRIu64 " bytes, and %" PRIu64 " are wanted",
                           length, options->size);
  backing->size = options->size == 0 ? length : options->size;
  return 0;
}

static int open_descriptor(int given, struct stat* status, lmshm_task* task) {
  int fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) return lmshm_task_fail(task, -errno, "descriptor %d: %m", given);
  int seals = fcntl(fd, F_GET_SEALS);
  int rc = lmshm_fstat(fd, status);
  if (rc != 0)
    rc = lmshm_task_fail(task, rc, "descriptor %d: %m", given);
  else if (!S_ISREG(status->st_mode))
    rc = lmshm_task_fail(task, -EINVAL, "descriptor %d is not of a segment (and no name is given)",
                         given);
  /* What another user could shorten is a SIGBUS in waiting. */
  else if (status->st_uid != geteuid() && (seals < 0 || (seals & F_SEAL_SHRINK) == 0))
    rc = lmshm_task_fail(task, -EACCES,
                         "descriptor %d is of another user's file, not sealed against shrinking",
                         given);
  if (rc == 0) return fd;
  close(fd);
  return rc;
}

/* What is told by the file system that it is on: hugetlbfs has pages of its
 * own size. */
static int look_up_page_size(struct lmshm_backing* backing, lmshm_task* task) {
  struct statfs system;
  if (fstatfs(backing->fd, &system) != 0)
    return lmshm_task_fail(task, -errno, "the segment's file system: %m");
  backing->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
  if ((uint32_t)system.f_type == HUGETLBFS) backing->page_size = (uint64_t)system.f_bsize;
  return 0;
}

int lmshm_backing_open(const lmshm_options* options, const struct lmshm_name* name,
                       struct lmshm_backing* backing, lmshm_task* task) {
  struct stat status;
  *backing = (struct lmshm_backing){.size = options->size,
                                    .fresh = options->kind != LMSHM_ATTACH,
                                    .owner = options->kind == LMSHM_CREATE,
                                    .locked = options->kind == LMSHM_CREATE};
  if (options->kind == LMSHM_CREATE)
    backing->fd = lmshm_name_claim(name, (enum lmshm_if_exists)options->if_exists,
                                   &backing->temporary, &status, task);
  else if (options->kind == LMSHM_ANONYMOUS)
    backing->fd = open_anonymous(options, &status, task);
  else if (name != NULL)
    backing->fd = lmshm_name_open(name, &status, task);
  else
    backing->fd = open_descriptor(options->fd, &status, task);
  backing->foreign = options->kind == LMSHM_ATTACH && name == NULL;
  if (backing->fd < 0) return backing->fd;

  backing->device = status.st_dev;
  backing->inode = status.st_ino;
  if (backing->owner && (options->flags & LMSHM_OPTION_UNLINK_AT_EXIT) != 0)
    backing->exit_note =
        lmshm_exit_note_make(name, &backing->temporary, status.st_dev, status.st_ino);
  int rc = look_up_page_size(backing, task);
  if (rc == 0 && !backing->fresh) rc = check_existing(options, backing, &status, task);
  if (rc != 0) lmshm_backing_undo(backing, name);
  return rc;
}

static int set_length(int fd, uint64_t length) {
  int rc;
  do rc = ftruncate(fd, (off_t)length);
  while (rc != 0 && errno == EINTR);
  return rc == 0 ? 0 : -errno;
}

int lmshm_backing_size(struct lmshm_backing* backing, lmshm_task* task) {
  int rc;
  bool huge = backing->page_size > (uint64_t)sysconf(_SC_PAGESIZE);
  if (huge) {
    backing->size =
        (backing->size + backing->page_size - 1) / backing->page_size * backing->page_size;
  } else {
    rc = lmshm_limits_check(backing->owner, backing->size, task);
    if (rc != 0) return rc;
  }
  rc = set_length(backing->fd, backing->size);
  if (rc != 0)
    return lmshm_task_fail(task, rc, "the segment cannot be made %" PRIu64 " bytes long: %m",
                           backing->size);
  if (!backing->owner &&
      fcntl(backing->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return lmshm_task_fail(task, -errno, "the memfd cannot be sealed: %m");
  return 0;
}

int lmshm_backing_publish(struct lmshm_backing* backing, const struct lmshm_name* name,
                          lmshm_task* task) {
  if (backing->temporary.path[0] == '\0') return 0;
  int rc = lmshm_name_replace(&backing->temporary, name, task);
  if (rc == 0) backing->temporary.path[0] = '\0';
  return rc;
}

void lmshm_backing_share(struct lmshm_backing* backing) {
  if (!backing->locked) return; /* attached, or a memfd, which has no name to lock */
  char path[64];
  struct stat status;
  snprintf(path, sizeof path, "/proc/self/fd/%d", backing->fd);
  int shared = open(path, O_RDWR | O_CLOEXEC);
  if (shared < 0) return;
  if (lmshm_fstat(shared, &status) != 0 || status.st_dev != backing->device ||
      status.st_ino != backing->inode) {
    close(shared);
    return;
  }
  close(backing->fd);
  backing->fd = shared;
  backing->locked = false;
}

void lmshm_backing_mark(const struct lmshm_backing* backing, uint32_t pinned_by) {
  if (pinned_by == LMSHM_PINNED_BY_NONE || backing->foreign) return;
  struct flock lock = {
      .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)pinned_by, .l_len = 1};
  fcntl(backing->fd, F_OFD_SETLK, &lock);
}

void lmshm_backing_unmark(const struct lmshm_backing* backing) {
  if (backing->fd < 0 || backing->foreign || backing->owner) return;
  struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  fcntl(backing->fd, F_OFD_SETLK, &lock);
}

int lmshm_backing_undo(struct lmshm_backing* backing, const struct lmshm_name* name) {
  int rc = 0;
  const bool renamed = backing->temporary.path[0] == '\0';
  if (backing->owner)
    rc = lmshm_name_give_back(renamed ? name : &backing->temporary, backing->device, backing->inode,
                              backing->fd);
  lmshm_exit_note_drop(backing->exit_note);
  if (backing->fd >= 0) close(backing->fd);
  backing->fd = -1;
  return rc;
}
