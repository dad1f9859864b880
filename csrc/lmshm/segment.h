/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.h - a segment from its options to its end, for use by the interfaces
 * (segment.c's own blocking one, jobs, and the simple one).
 */
#ifndef LMSHM_SEGMENT_H_
#define LMSHM_SEGMENT_H_

#include "lmshm.h"
#include "task.h"

/* Opens a segment. Returns 0 and fills `*segment`, or -errno with the reason
 * in the task. Blocks. */
int lmshm_segment_open(const lmshm_options* options, lmshm_task* task, lmshm_segment** segment);

/* Closes a segment and frees the handle. Returns 0, or the first -errno with
 * words in the task. Blocks. */
int lmshm_segment_close(lmshm_segment* segment, uint32_t flags, lmshm_task* task);

/* Unmaps a range in small steps, since each holds the lock of the address space
 * and the host program must not wait for it for long. Returns 0 or -errno. */
int lmshm_unmap(void* address, size_t size);

/* Frees the handle alone: the memory stays as it is, to be freed by its
 * address. Returns the address. */
void* lmshm_segment_forget(lmshm_segment* segment);

/* The word at an offset, NULL where there is none: not aligned, or beyond the
 * size. */
uint32_t* lmshm_segment_word(const lmshm_segment* segment, uint64_t offset);

/* Another descriptor of an attached segment's file, or -EINVAL for one that was
 * made here, or another -errno. */
int lmshm_segment_file(const lmshm_segment* segment);

#endif /* LMSHM_SEGMENT_H_ */
