/* SPDX-License-Identifier: Apache-2.0
 *
 * sandbox.h - worlds that a test cannot find ready-made: a small /dev/shm, a
 * kernel that lacks a system call, a system call that fails.
 *
 * All of them change the calling process for good: use them in a child.
 */
#ifndef LMSHM_TESTS_NATIVE_SANDBOX_H_
#define LMSHM_TESTS_NATIVE_SANDBOX_H_

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SANDBOX_REFUSED 99 /* exit status of a child that could not have it */

__attribute__((unused)) static int sandbox_write(const char* path, const char* text) {
  FILE* file = fopen(path, "we");
  if (file == NULL) return -1;
  int rc = fputs(text, file) < 0 ? -1 : 0;
  return fclose(file) != 0 ? -1 : rc;
}

/* Puts a tmpfs on `folder`, in a mount namespace of its own. `options` are those
 * of tmpfs ("size=8m"). Returns 0, or -1 where that is not allowed. */
__attribute__((unused)) static int sandbox_tmpfs(const char* folder, const char* options) {
  const uid_t user = geteuid();
  const gid_t group = getegid();
  if (unshare(CLONE_NEWNS) != 0) { /* not root: in a user namespace, it is one */
    char map[64];
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return -1;
    snprintf(map, sizeof map, "0 %u 1", (unsigned)user);
    if (sandbox_write("/proc/self/uid_map", map) != 0) return -1;
    if (sandbox_write("/proc/self/setgroups", "deny") != 0) return -1;
    snprintf(map, sizeof map, "0 %u 1", (unsigned)group);
    if (sandbox_write("/proc/self/gid_map", map) != 0) return -1;
  }
  if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return -1;
  return mount("lmshm-test", folder, "tmpfs", 0, options);
}

/* Does `action` of seccomp(2) at a system call, always, or only when its argument
 * `index` has the low 32 bits `value`. May be called several times. Returns 0, or
 * -1 where seccomp is not allowed. */
__attribute__((unused)) static int sandbox_filter(long number, uint32_t action, int index,
                                                  uint32_t value) {
  const uint32_t architecture =
#if defined(__x86_64__)
      AUDIT_ARCH_X86_64;
#else
      AUDIT_ARCH_AARCH64;
#endif
  const uint32_t argument =
      (uint32_t)(offsetof(struct seccomp_data, args) + (size_t)(index < 0 ? 0 : index) * 8);
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, architecture, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  if (index < 0) /* whatever the argument */
    program[5] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument);
  const struct sock_fprog filter = {sizeof program / sizeof *program, program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
}

/* The system call returns -`error` (0: it succeeds and does nothing). */
__attribute__((unused)) static int sandbox_fail(long number, int error, int index, uint32_t value) {
  const uint32_t action = SECCOMP_RET_ERRNO | ((uint32_t)error & SECCOMP_RET_DATA);
  return sandbox_filter(number, action, index, value);
}

/* The process that makes the system call dies of SIGSYS, without it. */
__attribute__((unused)) static int sandbox_kill(long number, int index, uint32_t value) {
  return sandbox_filter(number, SECCOMP_RET_KILL_PROCESS, index, value);
}

#define SANDBOX_ANY (-1), 0

#endif /* LMSHM_TESTS_NATIVE_SANDBOX_H_ */
