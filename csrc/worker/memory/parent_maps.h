// SPDX-License-Identifier: Apache-2.0
//
// ParentMaps: what the parent process has mapped where, for clients of version 1 that cannot say
// which file their memory is (LMCache's). They say at which address they have mapped the segment,
// and the kernel's list of the parent's mappings says which file that is. It has to be opened
// before the fence, which forbids it.
//
// Best effort: the client need not be the parent, and the list need not be readable.
#ifndef LMSHM_WORKER_MEMORY_PARENT_MAPS_H_
#define LMSHM_WORKER_MEMORY_PARENT_MAPS_H_

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"

namespace lmshm {

// One line of /proc/PID/maps, if it is shared memory at `address`: fills `*device` and `*inode`.
// Pure.
bool FindSharedMapping(std::string_view line, uint64_t address, uint64_t* device, uint64_t* inode);

class ParentMaps {
 public:
  // Null where it cannot be read.
  static std::unique_ptr<ParentMaps> Open();

  // ESTALE if the parent has shared memory at `address` that is another file than `fd`, of which
  // `st` is; OK if it is that file, if there is none, and if there is no telling. Not thread safe.
  Status Check(uint64_t address, std::string_view name, int fd, const struct stat& st) const;

 private:
  explicit ParentMaps(UniqueFd fd) : fd_(std::move(fd)) {}

  const UniqueFd fd_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_PARENT_MAPS_H_
