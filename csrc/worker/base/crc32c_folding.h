// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C by carry-less multiplication, for long data on x86-64 processors that multiply four pairs
// of 64 bits at a time (AVX-512 with VPCLMULQDQ: Intel since 2019, AMD since 2022). About twice as
// fast as the processor's CRC instruction, in the cache and out of it; with registers half as wide
// it would be no faster.
//
// The method is Intel's ("Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", 2009): 16 bytes in front of the rest of the data stand for a polynomial, and
// multiplying its two halves by suitable powers of x moves it over the bytes that follow.
#ifndef LMSHM_WORKER_BASE_CRC32C_FOLDING_H_
#define LMSHM_WORKER_BASE_CRC32C_FOLDING_H_

#include <cstddef>
#include <cstdint>

namespace lmshm {

// What one call of Crc32cFold() takes at least, and of what it takes multiples.
inline constexpr size_t kCrc32cFoldMinBytes = 256;
inline constexpr size_t kCrc32cFoldUnitBytes = 64;

// Whether this processor, and the system on it, can.
bool CanFoldCrc32c();

// The state (a checksum, inverted) after `data`. Only where CanFoldCrc32c().
uint32_t Crc32cFold(uint32_t state, const unsigned char* data, size_t size);

// The same, and copies `data` to `to`, a multiple of 64, without having that in the cache.
uint32_t Crc32cFoldCopy(uint32_t state, const unsigned char* data, size_t size, unsigned char* to);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_CRC32C_FOLDING_H_
