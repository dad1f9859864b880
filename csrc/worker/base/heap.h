// SPDX-License-Identifier: Apache-2.0
//
// What the C library's allocator does with memory that was freed. glibc has up to eight heaps for
// each CPU, of which each keeps what it once needed; musl gives back by itself.
#ifndef LMSHM_WORKER_BASE_HEAP_H_
#define LMSHM_WORKER_BASE_HEAP_H_

namespace lmshm {

// At the start, before there are threads: few heaps.
void BoundHeaps();

// What is free goes back to the system. Takes milliseconds where there is much.
void GiveBackMemory();

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_HEAP_H_
