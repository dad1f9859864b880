// SPDX-License-Identifier: Apache-2.0
//
// A key as the name of an object in a bucket, and back. Behind the prefix of the URL stands
//
//     lmshm       the key, percent-coded, "/" too: one flat name. Some servers keep directories,
//     and
//                 have "a//b", "a/../b", or "a" and "a/b" at a time, not as S3 has them.
//     payload     the key as it is: LMCache's multiprocess mode names objects so
//     lmcache-s3  the key with "_" for "/": LMCache's in-process mode names objects so
//
// Pure functions.
#ifndef LMSHM_WORKER_S3_S3_NAMES_H_
#define LMSHM_WORKER_S3_S3_NAMES_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/s3/s3_options.h"

namespace lmshm {

// What S3 allows. Some servers allow less.
inline constexpr size_t kMaxObjectNameBytes = 1024;

// ENAMETOOLONG for a name that S3 does not allow; EINVAL for one that a server, or what is on the
// way to it, would take for another ("." or ".." between slashes).
Status ObjectNameOf(const S3Options& options, std::string_view key, std::string* name);

// What the names of all objects begin with whose keys begin with `key_prefix`.
std::string ObjectNamesOf(const S3Options& options, std::string_view key_prefix);

// False for the name of what cannot be one of our objects: of a directory, or no key.
[[nodiscard]] bool KeyOf(const S3Options& options, std::string_view name, std::string* key);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_NAMES_H_
