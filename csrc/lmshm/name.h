/* SPDX-License-Identifier: Apache-2.0
 *
 * name.h - names of segments, and who owns them.
 *
 * A name is a file in /dev/shm. Its owner holds flock(LOCK_EX) through the
 * descriptor that it mapped the segment with, so that the mapping keeps the
 * lock after the descriptor is closed, and the kernel drops it with the
 * process. The sticky bit tells a file made here from a stranger's.
 *
 * An owner that ends in order adds the execute bit before it unlinks the name.
 * That says to those who have the file still that its owner was not killed, and
 * for good, whoever else opens, closes or unlinks it, and whenever they look.
 *
 * It also holds a lock of fcntl (F_OFD_SETLK) of the first byte, which lives as
 * long. That one tells an owner from who holds the first for a moment, to look
 * or to unlink. Shared locks of later bytes say by what the segment is pinned
 * (backing.h).
 *
 * Two races are decided by looking again once the lock is held. A new file is
 * marked when it is created but locked a moment later; who finds that its new
 * file has lost the name by then starts over. And before a file is unlinked its
 * lock is taken, and the name checked again, so that two processes reclaiming
 * one name cannot unlink each other's new segment.
 *
 * A stranger's segment is not unlinked but renamed over, once the new one is
 * complete: that is made under a temporary name, by the same rules. Each name
 * has one temporary name, so that only one process at a time replaces it, and
 * finds what a killed one left.
 */
#ifndef LMSHM_NAME_H_
#define LMSHM_NAME_H_

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "task.h"

#define LMSHM_SHM_DIR "/dev/shm"
#define LMSHM_NAME_MAX 254

struct lmshm_name {
  char path[sizeof LMSHM_SHM_DIR "/" + LMSHM_NAME_MAX]; /* "/dev/shm/kv", "" for none */
};

/* The part after the directory: "kv". */
static inline const char* lmshm_name_file(const struct lmshm_name* name) {
  return name->path + sizeof LMSHM_SHM_DIR;
}

/* Checks a name and turns it into a path. Pure. Returns 0, -EINVAL or
 * -ENAMETOOLONG. */
int lmshm_name_parse(const char* name, struct lmshm_name* out);

/* Makes an empty file of mode 01600, locked by the returned descriptor, with
 * the name, which is taken from others as `if_exists` says; or, where it is a
 * stranger's and may be replaced, under the name that is put into `temporary`,
 * which else becomes "". Returns the descriptor and fills `status`, or -errno
 * with words in the task; sets LMSHM_INFO_ flags of what was replaced. */
int lmshm_name_claim(const struct lmshm_name* name, enum lmshm_if_exists if_exists,
                     struct lmshm_name* temporary, struct stat* status, lmshm_task* task);

/* Gives the file of a temporary name its true one, in the place of a stranger's
 * or a dead owner's. Returns 0 and sets LMSHM_INFO_ flags, or -errno with words
 * in the task, and everything is as it was. */
int lmshm_name_replace(const struct lmshm_name* temporary, const struct lmshm_name* name,
                       lmshm_task* task);

/* Opens an existing segment of this user for reading and writing. Returns the
 * descriptor and fills `status`, or -errno with words in the task. */
int lmshm_name_open(const struct lmshm_name* name, struct stat* status, lmshm_task* task);

/* Unlinks the name if it still is the file `device`:`inode`. Returns 0, also
 * when it is not, or -errno. */
int lmshm_name_unlink(const struct lmshm_name* name, dev_t device, ino_t inode);

/* lmshm_name_unlink() as the owner does it that ends in order: the file is
 * marked first. `fd` is the file, or -1: then it is found by its name. */
int lmshm_name_give_back(const struct lmshm_name* name, dev_t device, ino_t inode, int fd);

/* Whether the file has that mark: 1 or 0, or -errno. */
int lmshm_name_is_given_back(int fd);

/* Who has locked a file. */
enum lmshm_lock {
  LMSHM_NO_OWNER = 0,
  LMSHM_LOCKED =
      1, /* somebody who looks or unlinks; or an owner, on a kernel without F_OFD_SETLK */
  LMSHM_OWNER = 2
};

/* Returns an enum lmshm_lock, or -errno. Takes the lock for a moment where
 * nobody has it. */
int lmshm_name_owner(int fd);

#endif /* LMSHM_NAME_H_ */
