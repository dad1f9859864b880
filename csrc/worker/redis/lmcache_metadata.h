// SPDX-License-Identifier: Apache-2.0
//
// What LMCache's in-process redis:// keeps in "<key>metadata" beside "<key>kv_bytes": little-endian
// 32-bit numbers, namely bytes of the payload, format, and for each of its groups of tensors the
// dtype and four dimensions, with zeros behind fewer. Here it is made of the attributes shape,
// dtype and format of an object, and turned back into them. Pure functions.
//
// An object without these attributes is bytes: format BINARY, dtype uint8, one dimension.
#ifndef LMSHM_WORKER_REDIS_LMCACHE_METADATA_H_
#define LMSHM_WORKER_REDIS_LMCACHE_METADATA_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/storage/attributes.h"

namespace lmshm {

// EINVAL: what LMCache has no number for, or no room.
Status FormatLmcacheMetadata(uint64_t length, const std::vector<Attribute>& attributes,
                             std::string* text);

// False: not what LMCache writes.
[[nodiscard]] bool ParseLmcacheMetadata(std::string_view text, uint64_t* length,
                                        std::vector<Attribute>* attributes);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_LMCACHE_METADATA_H_
