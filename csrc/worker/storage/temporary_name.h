// SPDX-License-Identifier: Apache-2.0
//
// The names of what is in a directory for a moment only: nobody lists it, and it is removed when
// whoever made it has died (leftovers.h). Without state but for a counter.
//
// - Temporaries, which become objects: .<up to 64 bytes of a name>.<process id>.<16 hex digits>.tmp
// - Probes, by which a client finds out whether its directory is the worker's: objects, but their
//   keys are .lmshm-probe.<process id>.<16 hex digits>.tmp. The same rule is in
//   src/keys/key_file.ts.
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

bool IsProbeKey(std::string_view key);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_TEMPORARY_NAME_H_
