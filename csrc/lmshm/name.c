/* SPDX-License-Identifier: Apache-2.0
 *
 * name.c - the ownership of names in /dev/shm. See name.h for the protocol.
 */
#include "name.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "file_status.h"
#include "identity.h"

#define MARK (S_ISVTX | S_IRUSR | S_IWUSR)
#define GIVEN_BACK S_IXUSR

/* How often a claim starts over because the name changed under it. */
#define CLAIM_ROUNDS 100

/* How often a lock is tried that no owner holds: a second in all, since each pause
 * is twice the one before. Who only looks has it for a moment, but may have to
 * wait for a CPU meanwhile. */
#define LOCK_TRIES 12
#define LOCK_PAUSE_NS 500000

/* From Linux 3.15; older headers lack them. */
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

enum verdict {
  FREE,        /* no such name */
  CHANGED,     /* another file has the name by now: look again */
  EVICTED,     /* a dead owner's segment is unlinked */
  REPLACEABLE, /* a stranger's, not locked, and may be replaced; it is still there */
  LIVE,        /* locked */
  STRANGERS,   /* not marked */
  IRREGULAR    /* not even a regular file */
};

int lmshm_name_parse(const char* name, struct lmshm_name* out) {
  if (name == NULL) return -EINVAL;
  if (*name == '/') name++;
  size_t length = strlen(name);
  if (length == 0 || strchr(name, '/') != NULL) return -EINVAL;
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return -EINVAL;
  if (length > LMSHM_NAME_MAX) return -ENAMETOOLONG;
  memcpy(out->path, LMSHM_SHM_DIR "/", sizeof LMSHM_SHM_DIR);
  memcpy(out->path + sizeof LMSHM_SHM_DIR, name, length + 1);
  return 0;
}

/* The one under which a segment is made that is to replace what has `name`. */
static struct lmshm_name temporary_of(const struct lmshm_name* name) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a: a name may be too long to be added to */
  for (const char* at = lmshm_name_file(name); *at != '\0'; at++)
    hash = (hash ^ (unsigned char)*at) * 1099511628211u;
  struct lmshm_name temporary;
  snprintf(temporary.path, sizeof temporary.path, LMSHM_SHM_DIR "/.lmshm-new-%016" PRIx64, hash);
  return temporary;
}

static bool is_still(const char* path, dev_t device, ino_t inode) {
  struct stat now;
  return lmshm_lstat(path, &now) == 0 && now.st_dev == device && now.st_ino == inode;
}

/* Owners hold a second lock, of fcntl: unlike flock, it can be asked for without
 * being taken. Of the first byte alone: the next ones are for the marks of
 * pinning, which others hold as well. */
static void mark_owned(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
  fcntl(fd, F_OFD_SETLK, &lock);
}

static bool is_marked_owned(int fd) {
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* flock() that waits for those who only look, or are about to unlink, but not
 * for an owner. Returns 0 or -errno; -EWOULDBLOCK: it has an owner. */
static int try_lock(int fd) {
  struct timespec pause = {0, LOCK_PAUSE_NS};
  for (int tries = 1;; tries++) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno != EWOULDBLOCK && errno != EINTR) return -errno;
    if (tries >= LOCK_TRIES || is_marked_owned(fd)) return -EWOULDBLOCK;
    nanosleep(&pause, NULL);
    pause.tv_nsec *= 2;
  }
}

/* Opens whatever has the name. Returns a descriptor, -ENOENT, -EACCES for
 * another user's, -EMEDIUMTYPE for what is no regular file, or -errno. */
static int open_taken(const struct lmshm_name* name, int mode, struct stat* status) {
  int fd = open(name->path, mode | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno == ELOOP || errno == ENXIO || errno == EISDIR ? -EMEDIUMTYPE : -errno;
  int rc = lmshm_fstat(fd, status);
  if (rc == 0 && !S_ISREG(status->st_mode)) rc = -EMEDIUMTYPE;
  if (rc == 0 && status->st_uid != geteuid()) rc = -EACCES;
  if (rc == 0) return fd;
  close(fd);
  return rc;
}

/* Unlinks the name if it is a dead owner's: returns a verdict, or -errno. */
static int evict(const struct lmshm_name* name, bool may_replace) {
  struct stat status;
  int fd = open_taken(name, O_RDONLY, &status);
  if (fd == -ENOENT) return FREE;
  if (fd == -EMEDIUMTYPE) return IRREGULAR;
  if (fd < 0) return fd;

  bool marked = (status.st_mode & S_ISVTX) != 0;
  int rc;
  if (!marked && !may_replace) {
    rc = STRANGERS;
  } else if ((rc = try_lock(fd)) != 0) {
    if (rc == -EWOULDBLOCK) rc = LIVE;
  } else if (!is_still(name->path, status.st_dev, status.st_ino)) {
    rc = CHANGED;
  } else if (!marked) {
    rc = REPLACEABLE;
  } else if (unlink(name->path) != 0) {
    rc = errno == ENOENT ? FREE : -errno;
  } else {
    rc = EVICTED;
  }
  close(fd);
  return rc;
}

/* Creates the file, marked, and locks it. Between the two it looks like a dead
 * owner's, and may be taken for one: then -EAGAIN. Returns a descriptor or
 * -errno. */
static int create(const struct lmshm_name* name, struct stat* status) {
  int fd = open(name->path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, MARK);
  if (fd < 0) return -errno;
  int rc = lmshm_fstat(fd, status);
  if (rc == 0) rc = try_lock(fd);
  if (rc == 0 && !is_still(name->path, status->st_dev, status->st_ino)) rc = -EWOULDBLOCK;
  if (rc == 0 && fchmod(fd, MARK) != 0) rc = -errno; /* whatever the umask took */
  if (rc == 0) mark_owned(fd);                       /* without it, others wait in vain */
  if (rc == 0) return fd;
  if (rc != -EWOULDBLOCK) lmshm_name_unlink(name, status->st_dev, status->st_ino);
  close(fd);
  return rc == -EWOULDBLOCK ? -EAGAIN : rc;
}

/* Says why the name cannot be had. */
static int refuse(const struct lmshm_name* name, int verdict, lmshm_task* task) {
  switch (verdict) {
    case LIVE:
      return lmshm_task_fail(task, -EEXIST, "%s is in use: a live process owns it", name->path);
    case STRANGERS:
      return lmshm_task_fail(task, -EEXIST,
                             "%s exists and was not made by lmshm; remove it, or choose to "
                             "replace a stranger's segment",
                             name->path);
    case IRREGULAR:
      return lmshm_task_fail(task, -EEXIST, "%s exists and is not a regular file", name->path);
    case -EACCES:
      return lmshm_task_fail(task, -EACCES, "%s belongs to another user", name->path);
    default:
      return lmshm_task_fail(task, verdict, "%s cannot be taken over: %m", name->path);
  }
}

/* Why no file could be made at `path`. */
static int cannot_create(const char* path, int error, lmshm_task* task) {
  struct stat directory;
  if (error == -ENOENT && stat(LMSHM_SHM_DIR, &directory) != 0)
    return lmshm_task_fail(task, error, LMSHM_SHM_DIR " does not exist");
  return lmshm_task_fail(task, error, "%s cannot be created: %m", path);
}

int lmshm_name_claim(const struct lmshm_name* name, enum lmshm_if_exists if_exists,
                     struct lmshm_name* temporary, struct stat* status, lmshm_task* task) {
  const struct lmshm_name* wanted = name;
  temporary->path[0] = '\0';
  for (int round = 0; round < CLAIM_ROUNDS; round++) {
    int fd = create(wanted, status);
    if (fd >= 0) return fd;
    if (fd == -EAGAIN) continue;
    if (fd != -EEXIST) return cannot_create(wanted->path, fd, task);
    if (if_exists == LMSHM_EXISTS_FAIL) return lmshm_task_fail(task, fd, "%s exists", name->path);

    int verdict = evict(wanted, if_exists == LMSHM_EXISTS_REPLACE && wanted == name);
    if (verdict == REPLACEABLE) {
      *temporary = temporary_of(name);
      wanted = temporary;
      continue;
    }
    if (verdict == LIVE && wanted == temporary)
      return lmshm_task_fail(task, -EEXIST, "%s is being replaced by another process", name->path);
    if (verdict < FREE || verdict > EVICTED) return refuse(wanted, verdict, task);
    if (verdict == EVICTED && wanted == name) task->info.flags |= LMSHM_INFO_RECLAIMED;
  }
  return lmshm_task_fail(task, -EEXIST, "%s is being fought over by other processes", name->path);
}

int lmshm_name_replace(const struct lmshm_name* temporary, const struct lmshm_name* name,
                       lmshm_task* task) {
  for (int round = 0; round < CLAIM_ROUNDS; round++) {
    struct stat status;
    int fd = open_taken(name, O_RDONLY, &status);
    if (fd == -ENOENT) { /* gone by itself; link() takes the name from nobody */
      if (link(temporary->path, name->path) == 0) {
        unlink(temporary->path);
        return 0;
      }
      if (errno != EEXIST) return cannot_create(name->path, -errno, task);
      continue;
    }
    if (fd < 0) return refuse(name, fd == -EMEDIUMTYPE ? IRREGULAR : fd, task);

    int rc = try_lock(fd);
    bool changed = rc == 0 && !is_still(name->path, status.st_dev, status.st_ino);
    if (rc == 0 && !changed && rename(temporary->path, name->path) != 0) rc = -errno;
    close(fd);
    if (changed) continue;
    if (rc != 0) return refuse(name, rc == -EWOULDBLOCK ? LIVE : rc, task);
    bool marked = (status.st_mode & S_ISVTX) != 0;
    task->info.flags |= marked ? LMSHM_INFO_RECLAIMED : LMSHM_INFO_REPLACED;
    return 0;
  }
  return lmshm_task_fail(task, -EEXIST, "%s is being fought over by other processes", name->path);
}

int lmshm_name_open(const struct lmshm_name* name, struct stat* status, lmshm_task* task) {
  int fd = open_taken(name, O_RDWR, status);
  if (fd >= 0) return fd;
  if (fd == -EACCES) return refuse(name, fd, task);
  if (fd == -EMEDIUMTYPE)
    return lmshm_task_fail(task, -EINVAL, "%s is not a regular file", name->path);
  struct stat directory;
  if (fd == -ENOENT && stat(LMSHM_SHM_DIR, &directory) != 0)
    return lmshm_task_fail(task, fd, LMSHM_SHM_DIR " does not exist");
  return lmshm_task_fail(task, fd, "%s cannot be attached: %m", name->path);
}

int lmshm_name_unlink(const struct lmshm_name* name, dev_t device, ino_t inode) {
  if (!is_still(name->path, device, inode)) return 0;
  return unlink(name->path) == 0 || errno == ENOENT ? 0 : -errno;
}

int lmshm_name_give_back(const struct lmshm_name* name, dev_t device, ino_t inode, int fd) {
  const mode_t mode = MARK | GIVEN_BACK;
  if (fd >= 0)
    (void)fchmod(fd, mode); /* without it, it is said to have died */
  else if (is_still(name->path, device, inode))
    (void)chmod(name->path, mode);
  return lmshm_name_unlink(name, device, inode);
}

int lmshm_name_is_given_back(int fd) {
  struct stat status;
  int rc = lmshm_fstat(fd, &status);
  return rc == 0 ? (status.st_mode & GIVEN_BACK) != 0 : rc;
}

int lmshm_name_owner(int fd) {
  if (is_marked_owned(fd)) return LMSHM_OWNER;
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) return errno == EWOULDBLOCK ? LMSHM_LOCKED : -errno;
  flock(fd, LOCK_UN);
  return LMSHM_NO_OWNER;
}

int lmshm_name_state(const char* text) {
  struct lmshm_name name;
  int rc = lmshm_name_parse(text, &name);
  if (rc != 0) return rc;
  struct stat status;
  int fd = open_taken(&name, O_RDONLY, &status);
  if (fd == -ENOENT) return LMSHM_NAME_FREE;
  if (fd == -EMEDIUMTYPE) return LMSHM_NAME_FOREIGN;
  if (fd < 0) return fd;
  if ((status.st_mode & S_ISVTX) == 0) {
    rc = LMSHM_NAME_FOREIGN;
  } else {
    rc = lmshm_name_owner(fd);
    if (rc >= 0) rc = rc == LMSHM_NO_OWNER ? LMSHM_NAME_DEAD : LMSHM_NAME_LIVE;
  }
  close(fd);
  return rc;
}

int lmshm_name_identity(const char* text, char* identity, size_t size) {
  struct lmshm_name name;
  struct stat status;
  if (identity == NULL || size < LMSHM_IDENTITY_BYTES) return -EINVAL;
  int rc = lmshm_name_parse(text, &name);
  if (rc != 0) return rc;
  rc = lmshm_lstat(name.path, &status);
  if (rc != 0) return rc;
  lmshm_identity(status.st_dev, status.st_ino, identity);
  return 0;
}

int lmshm_reclaim(const char* text) {
  struct lmshm_name name;
  int rc = lmshm_name_parse(text, &name);
  if (rc != 0) return rc;
  for (int round = 0; round < CLAIM_ROUNDS; round++) {
    rc = evict(&name, false);
    if (rc != CHANGED) break;
  }
  switch (rc) {
    case EVICTED:
      return 1;
    case FREE:
      return 0;
    case CHANGED:
    case LIVE:
      return -EBUSY;
    case STRANGERS:
    case IRREGULAR:
      return -EPERM;
    default:
      return rc;
  }
}
