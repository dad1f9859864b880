// SPDX-License-Identifier: Apache-2.0
//
// What a failed system call on an object's file means, in words for whoever asked for it.
#ifndef LMSHM_WORKER_STORAGE_STORAGE_ERROR_H_
#define LMSHM_WORKER_STORAGE_STORAGE_ERROR_H_

#include <sys/types.h>

#include <string>

#include "worker/base/status.h"

namespace lmshm {

// The errno value `error` with what usually is behind it. `action`: what was tried, on what.
Status ExplainStorage(int error, const std::string& action);

// Nothing but a regular file is an object: EISDIR, ELOOP or EINVAL for all else. `mode` is its
// st_mode.
Status CheckObjectType(mode_t mode, const std::string& action);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_STORAGE_ERROR_H_
