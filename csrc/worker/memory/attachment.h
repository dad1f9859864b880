// SPDX-License-Identifier: Apache-2.0
//
// Attachment: one client's shared memory segment, mapped here, and the arithmetic between the
// client's addresses and ours.
//
// What is attached is checked (own user, regular file, real size), but its owner may shorten it at
// any time. Therefore nothing in this process touches the mapping: see shared_bytes.h.
#ifndef LMSHM_WORKER_MEMORY_ATTACHMENT_H_
#define LMSHM_WORKER_MEMORY_ATTACHMENT_H_

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/memory/shared_bytes.h"

namespace lmshm {

// Immutable, so thread safe. Unmaps when destroyed.
class Attachment {
 public:
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;
  ~Attachment();

  // Maps `size` bytes of the segment `name`: one component of /dev/shm with or without a leading
  // slash, or "fd:N" for a descriptor N among `granted_fds` (the worker's --segment-fd).
  // `base_address` is where the client has mapped the segment's first byte. `check`, if there is
  // one, is asked whether the opened file is the client's memory. On failure `*result` stays as it
  // was.
  //   EINVAL  size 0, a bad name, or not a regular file
  //   ERANGE  more than the segment's real size, or base_address + size is over 2^64
  //   EACCES  another user's segment, or a descriptor that was not granted
  //   others  of the system call that failed (ENOENT: no such segment), or of `check`
  using Check = std::function<Status(int fd, const struct stat& st)>;
  static Status Open(std::string_view name, uint64_t size, uint64_t base_address,
                     const std::vector<int>& granted_fds, std::unique_ptr<Attachment>* result,
                     const Check& check = nullptr);

  // Turns the client's address into ours. ERANGE unless all `length` bytes from `address` on are
  // inside the segment; length 0 is allowed anywhere in it and at its end.
  Status Resolve(uint64_t address, uint64_t length, SharedBytes* result) const;

  uint64_t size() const { return size_; }

 private:
  Attachment(void* memory, uint64_t size, uint64_t base_address)
      : memory_(memory), size_(size), base_address_(base_address) {}

  void* const memory_;
  const uint64_t size_;
  const uint64_t base_address_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_MEMORY_ATTACHMENT_H_
