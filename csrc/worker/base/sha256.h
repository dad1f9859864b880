// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 as FIPS 180-4 describes it, and HMAC-SHA256 as RFC 2104 does. What they do, and how long
// it takes, depends on the length of the data alone.
#ifndef LMSHM_WORKER_BASE_SHA256_H_
#define LMSHM_WORKER_BASE_SHA256_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace lmshm {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(std::string_view data);

// `key` of any length.
Sha256Digest HmacSha256(std::string_view key, std::string_view message);

// 64 lower-case hexadecimal digits.
std::string HexOf(const Sha256Digest& digest);
std::string Sha256Hex(std::string_view data);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_SHA256_H_
