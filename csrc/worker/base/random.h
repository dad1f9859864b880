// SPDX-License-Identifier: Apache-2.0
//
// Random bytes from the kernel.
#ifndef LMSHM_WORKER_BASE_RANDOM_H_
#define LMSHM_WORKER_BASE_RANDOM_H_

#include <cstddef>
#include <string>

#include "worker/base/status.h"

namespace lmshm {

// Fills `size` bytes, at most 256, that nobody can guess. Returns 0 or an errno value.
[[nodiscard]] int FillRandom(void* bytes, size_t size);

// Sets `*text` to `digits` random hexadecimal digits, an even number and at most 512. `purpose` is
// for the message.
Status RandomDigits(size_t digits, const char* purpose, std::string* text);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_RANDOM_H_
