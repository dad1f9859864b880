// SPDX-License-Identifier: Apache-2.0
//
// The names of temporaries, which become objects: .<up to 64 bytes of a name>.<process id>.<16 hex
// digits>.tmp. Nobody lists them, and they are removed when whoever made them has died
// (leftovers.h). Without state but for a counter. The same rule is in src/keys/key_file.ts.
#ifndef LMSHM_WORKER_STORAGE_TEMPORARY_NAME_H_
#define LMSHM_WORKER_STORAGE_TEMPORARY_NAME_H_

#include <string>
#include <string_view>

namespace lmshm {

// A name for a temporary of `target`. Differs from all others of this process, and with near
// certainty from those of processes that have the same number in another container or had it
// before. Thread safe.
std::string TemporaryName(const std::string& target);

bool IsTemporaryName(std::string_view name);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_TEMPORARY_NAME_H_
