// SPDX-License-Identifier: Apache-2.0
//
// Which file a segment is. A name in /dev/shm tells nothing: it leads to another file once its
// owner has been replaced, and in every container with a /dev/shm of its own. So a client says
// which file it has mapped, "<boot>:<device>:<inode>" (IDENTITY in lmshm.h), and what is opened
// here is compared with it.
#ifndef LMSHM_WORKER_MEMORY_SEGMENT_IDENTITY_H_
#define LMSHM_WORKER_MEMORY_SEGMENT_IDENTITY_H_

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

struct SegmentIdentity {
  std::string boot;  // 32 hexadecimal digits, or "-": not known
  uint64_t device = 0;
  uint64_t inode = 0;

  std::string ToString() const;
};

// Parses an identity, or "-", which says nothing: then `*identity` is empty. False for anything
// else.
bool ParseIdentity(std::string_view text, std::optional<SegmentIdentity>* identity);

// The id of this boot of the kernel, "-" where it cannot be read. From /proc: before the fence.
std::string KernelBoot();

// ESTALE, with the likely reason and what to do, unless the file with `st` is `claimed`. Where one
// side does not know the kernel's boot, device and inode decide. `name` is what was opened: a name,
// or "fd:N".
Status CheckIdentity(const SegmentIdentity& claimed, std::string_view name, const struct stat& st,
                     const std::string& kernel_boot);

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_SEGMENT_IDENTITY_H_
