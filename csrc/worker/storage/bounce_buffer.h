// SPDX-License-Identifier: Apache-2.0
//
// BounceBuffer: memory of this process alone that bytes pass through on their way from the page
// cache to a client's memory, where they are copied and their checksum is computed in one go
// (SharedCopyCrc32c).
//
// It is so small that what the kernel puts into it stays in the processor's cache, so memory is
// only read where the bytes come from and only written where they go to. Reading into the client's
// memory and computing the checksum there took a quarter more of a CPU (docs/io_engines.md).
#ifndef LMSHM_WORKER_STORAGE_BOUNCE_BUFFER_H_
#define LMSHM_WORKER_STORAGE_BOUNCE_BUFFER_H_

#include <cstddef>

namespace lmshm {

// Takes one of the process's, and gives it back. There are as many as threads use at a time, and
// they stay; beyond kMost, or where there is no memory, there is none to be had.
class BounceBuffer {
 public:
  static constexpr size_t kBytes = 256 * 1024;
  static constexpr size_t kMost = 64;

  // `wanted` false: takes none.
  explicit BounceBuffer(bool wanted);
  ~BounceBuffer();
  BounceBuffer(const BounceBuffer&) = delete;
  BounceBuffer& operator=(const BounceBuffer&) = delete;

  // kBytes; null: it has none.
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_BOUNCE_BUFFER_H_
