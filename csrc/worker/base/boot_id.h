// SPDX-License-Identifier: Apache-2.0
//
// A worker process's name for itself: clients see by it that they talk to another one than before.
#ifndef LMSHM_WORKER_BASE_BOOT_ID_H_
#define LMSHM_WORKER_BASE_BOOT_ID_H_

#include <string>

#include "worker/base/status.h"

namespace lmshm {

// Sets `*id` to 16 random hexadecimal digits.
Status MakeBootId(std::string* id);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_BOOT_ID_H_
