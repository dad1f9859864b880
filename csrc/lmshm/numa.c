/* SPDX-License-Identifier: Apache-2.0
 *
 * numa.c - memory policy by the system calls themselves, without libnuma.
 */
#include "numa.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/mempolicy.h, which not every system has. */
#define POLICY_BIND 2
#define POLICY_INTERLEAVE 3
#define POLICY_ALLOWED 4 /* MPOL_F_MEMS_ALLOWED */

/* The kernel demands room for all nodes it was configured for: up to 1024. */
#define MASK_BITS 1024
#define MASK_WORDS (MASK_BITS / 64)

static int refuse(int error, lmshm_task* task) {
  if (error == -ENOSYS)
    return lmshm_task_fail(task, error, "this kernel has no NUMA policies; use the default");
  if (error == -EPERM)
    return lmshm_task_fail(task, error,
                           "NUMA policies are forbidden here; in Docker add --cap-add SYS_NICE");
  return lmshm_task_fail(task, error, "the NUMA policy cannot be set: %m");
}

int lmshm_numa_place(void* address, size_t size, enum lmshm_numa numa, uint64_t nodes,
                     lmshm_task* task) {
  uint64_t allowed[MASK_WORDS] = {0};
  if (syscall(SYS_get_mempolicy, NULL, allowed, (unsigned long)MASK_BITS, NULL, POLICY_ALLOWED))
    return refuse(-errno, task);
  if ((nodes & ~allowed[0]) != 0)
    return lmshm_task_fail(task, -EINVAL,
                           "NUMA nodes 0x%" PRIx64
                           " are wanted (bit n: node n), and this process "
                           "may use 0x%" PRIx64,
                           nodes, allowed[0]);

  uint64_t mask[MASK_WORDS] = {nodes};
  int policy = numa == LMSHM_NUMA_BIND ? POLICY_BIND : POLICY_INTERLEAVE;
  if (syscall(SYS_mbind, address, size, policy, mask, (unsigned long)MASK_BITS, 0))
    return refuse(-errno, task);
  return 0;
}
