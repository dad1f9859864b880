// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 as FIPS 180-4 describes it, for naming the files of long keys. Not for secrets: it makes
// no effort to hide what it works on.
#ifndef LMSHM_WORKER_SHA256_H_
#define LMSHM_WORKER_SHA256_H_

#include <string>
#include <string_view>

namespace lmshm {

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(std::string_view data);

}  // namespace lmshm

#endif  // LMSHM_WORKER_SHA256_H_
