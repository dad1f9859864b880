// SPDX-License-Identifier: Apache-2.0
#include "worker/base/heap.h"

#include <cstddef>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace lmshm {

#ifdef __GLIBC__

void BoundHeaps() {
  constexpr int kHeaps = 4;
  mallopt(M_ARENA_MAX, kHeaps);
}

void GiveBackMemory() { malloc_trim(0); }

#else

void BoundHeaps() {}
void GiveBackMemory() {}

#endif

}  // namespace lmshm
