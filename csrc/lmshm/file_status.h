/* SPDX-License-Identifier: Apache-2.0
 *
 * file_status.h - fstat() and lstat() that say why they fail.
 *
 * glibc before 2.33 exports neither: each library carries a copy, and the one
 * that zig puts into the library that ships sets an errno of its own, which
 * nobody can read. So the system call is made here, whose structure is that of
 * the C libraries on the machines that are supported.
 */
#ifndef LMSHM_FILE_STATUS_H_
#define LMSHM_FILE_STATUS_H_

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
_Static_assert(sizeof(struct stat) == 144, "struct stat is not the kernel's");
#elif defined(__aarch64__)
_Static_assert(sizeof(struct stat) == 128, "struct stat is not the kernel's");
#else
#error "struct stat of this machine was not compared with the kernel's"
#endif

/* Both return 0 or -errno. */
static inline int lmshm_fstat(int fd, struct stat* status) {
  return syscall(SYS_fstat, fd, status) == 0 ? 0 : -errno;
}

static inline int lmshm_lstat(const char* path, struct stat* status) {
  return syscall(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

#endif /* LMSHM_FILE_STATUS_H_ */
