/* SPDX-License-Identifier: Apache-2.0
 *
 * numa.h - on which nodes of memory the pages of a segment may lie.
 */
#ifndef LMSHM_NUMA_H_
#define LMSHM_NUMA_H_

#include <stddef.h>

#include "task.h"

/* Sets the policy of a shared mapping, and with it of the file behind it; must
 * come before its pages exist. `nodes` is a bit a node. Returns 0, -EINVAL
 * when a node is not there for this process, or -errno, with words. */
int lmshm_numa_place(void* address, size_t size, enum lmshm_numa numa, uint64_t nodes,
                     lmshm_task* task);

#endif /* LMSHM_NUMA_H_ */
