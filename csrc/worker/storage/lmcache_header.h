// SPDX-License-Identifier: Apache-2.0
//
// The header that LMCache's in-process connectors (fs:// with save_chunk_meta, redis://) store with
// a chunk: little-endian int32 numbers,
//
//     length, format, then for each group of tensors: dtype, and four dimensions
//
// so 4 x (2 + 5 x groups) bytes, 28 for one group. A shape of fewer than four dimensions has zeros
// behind. Here it is translated to and from the attributes that clients give with a chunk (shape,
// dtype, format: src/connector/chunk_metadata.ts), so that nobody else has to know it.
//
// A header says how many bytes its tensors take, twice: as a length and by shapes and dtypes. What
// begins with numbers that agree in this way is taken for a header; by chance they do in one file
// of 2^80. The number of groups is the one with which they agree. Pure functions.
#ifndef LMSHM_WORKER_STORAGE_LMCACHE_HEADER_H_
#define LMSHM_WORKER_STORAGE_LMCACHE_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/storage/attributes.h"

namespace lmshm {

inline constexpr size_t kMaxHeaderGroups = 32;
inline constexpr size_t kLeastHeaderBytes = 4 * (2 + 5);
inline constexpr size_t kMaxHeaderBytes = 4 * (2 + 5 * kMaxHeaderGroups);

struct LmcacheHeader {
  uint64_t bytes = 0;                 // of the header itself
  uint64_t length = 0;                // of what follows it
  std::vector<Attribute> attributes;  // dtype, format, shape
};

// Reads the header that `begin`, the first kMaxHeaderBytes of a file or all of it, starts with.
// False: it does not start with one.
[[nodiscard]] bool ParseLmcacheHeader(std::string_view begin, LmcacheHeader* header);

// Whether a file of `file_bytes` that begins so has a header nevertheless, though what it says of
// its tensors is not what it says of their length: formats and dtypes are some, and just as many
// bytes follow as it says. LMCache cannot read such a file, and its beginning is no payload.
[[nodiscard]] bool HasUnfitLmcacheHeader(std::string_view begin, uint64_t file_bytes);

// Makes the header of an object of `length` bytes that is described by `attributes`. Without a
// shape it is an object of plain bytes.
//   EINVAL  the attributes do not describe `length` bytes, or LMCache has no number for them
//   EFBIG   2^31 bytes or more
Status MakeLmcacheHeader(uint64_t length, const std::vector<Attribute>& attributes,
                         std::string* header);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_LMCACHE_HEADER_H_
