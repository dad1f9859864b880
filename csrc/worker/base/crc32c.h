// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C (Castagnoli, RFC 3720), by the processor's instruction where there is one, and faster
// still where it can multiply polynomials in wide registers (crc32c_folding.h).
//
// The instruction takes 8 bytes and has a latency of three cycles, so three parts of the data are
// computed at a time and joined: appending n zero bytes is a linear map, kept as a table.
#ifndef LMSHM_WORKER_BASE_CRC32C_H_
#define LMSHM_WORKER_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lmshm {

// The checksum of what `crc` is the checksum of (0: nothing), followed by `data`. Reads `data`, so
// it must be memory that stays: see shared_bytes.h for memory that may not.
uint32_t Crc32c(uint32_t crc, const void* data, size_t size);

// The same, and copies `data` to `to`, which does not overlap with it. Where CopiesCrc32c() says so
// that takes little longer than either, and `to` is not in the processor's cache afterwards.
uint32_t Crc32cCopy(uint32_t crc, void* to, const void* data, size_t size);
bool CopiesCrc32c();

// Crc32c() without wide registers, and without the instruction either: for machines without and for
// tests.
uint32_t Crc32cByInstruction(uint32_t crc, const void* data, size_t size);
uint32_t Crc32cPortable(uint32_t crc, const void* data, size_t size);

// The checksum of what `first` is the checksum of, followed by the `size` bytes that `second` is
// the checksum of. Takes about a microsecond.
uint32_t Crc32cCombine(uint32_t first, uint32_t second, uint64_t size);

// What Crc32c() uses for long data here: "vpclmulqdq", "sse4.2", "armv8" or "portable".
const char* Crc32cMethod();

// 8 lower-case hexadecimal digits and back; false for anything else.
std::string Crc32cHex(uint32_t crc);
[[nodiscard]] bool ParseCrc32cHex(std::string_view text, uint32_t* crc);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_CRC32C_H_
