// SPDX-License-Identifier: Apache-2.0
//
// Files that hold a secret.
#ifndef LMSHM_WORKER_BASE_PRIVATE_FILE_H_
#define LMSHM_WORKER_BASE_PRIVATE_FILE_H_

#include <cstddef>
#include <string>

#include "worker/base/status.h"

namespace lmshm {

// Overwrites `text` and empties it.
void Wipe(std::string* text);

// Reads the file `path`, of which at most `max_bytes` + 1 bytes are taken. It must be regular,
// belong to this user or root, and be accessible to its owner alone. `source` names it in messages,
// which never contain anything of its content. `*content` is set on success only.
Status ReadPrivateFile(const std::string& path, const std::string& source, size_t max_bytes,
                       std::string* content);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_PRIVATE_FILE_H_
