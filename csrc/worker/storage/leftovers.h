// SPDX-License-Identifier: Apache-2.0
//
// What writers that were killed have left in a directory, and its collection: temporaries that
// nobody will finish, and sidecars whose object was never stored, or was removed.
#ifndef LMSHM_WORKER_STORAGE_LEFTOVERS_H_
#define LMSHM_WORKER_STORAGE_LEFTOVERS_H_

#include <chrono>
#include <cstddef>
#include <string>

#include "worker/base/work.h"

namespace lmshm {

struct Leftovers {
  size_t temporaries = 0;
  size_t sidecars = 0;
};

// Removes those of the directory `dir_fd` (may be O_PATH) that nobody holds a lock on and nobody
// wrote to for `age`. The age is for the moment between a file's creation and its lock, and for
// clients that write sidecars without a lock. Returns how many were removed. What cannot be read or
// removed is left, and so is the rest once `cancel` (may be null) says so. Reads all of the
// directory, which may take seconds.
Leftovers RemoveLeftovers(int dir_fd, std::chrono::seconds age, const CancelCheck* cancel);

// The same for one file. A name that is none of these is left alone.
enum class Leftover { kNone, kTemporary, kSidecar };
Leftover RemoveIfLeftover(int dir_fd, const std::string& name, std::chrono::seconds age);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_LEFTOVERS_H_
