// SPDX-License-Identifier: Apache-2.0
//
// Priority: what is done first when not all can be done at once.
#ifndef LMSHM_WORKER_BASE_PRIORITY_H_
#define LMSHM_WORKER_BASE_PRIORITY_H_

#include <cstddef>

namespace lmshm {

enum class Priority { kHigh, kNormal, kLow };

inline constexpr size_t kPriorities = 3;

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_PRIORITY_H_
