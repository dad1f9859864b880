// SPDX-License-Identifier: Apache-2.0
#include "worker/base/crc32c_folding.h"

#include "worker/base/crc32c_polynomial.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#if defined(__clang__)
#define LMSHM_FOLD_TARGET __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2,crc32")))
#else
#define LMSHM_FOLD_TARGET __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))
#endif
#endif

namespace lmshm {

#if defined(__x86_64__)

namespace {

// What the two halves of 16 bytes are multiplied with to move them over `distance` bytes, counted
// from the beginning of one to the beginning of the other. The product of two reversed polynomials
// comes out one bit too low, which the shift makes good.
struct Multipliers {
  int64_t first;
  int64_t second;
};

constexpr Multipliers MultipliersFor(uint64_t distance) {
  return {static_cast<int64_t>(uint64_t{Crc32cPower(8 * distance + 32)} << 1),
          static_cast<int64_t>(uint64_t{Crc32cPower(8 * distance - 32)} << 1)};
}

constexpr Multipliers kOver256 = MultipliersFor(256);
constexpr Multipliers kOver64 = MultipliersFor(64);
constexpr Multipliers kOver16 = MultipliersFor(16);

LMSHM_FOLD_TARGET inline __m128i Narrow(const Multipliers& by) {
  return _mm_set_epi64x(by.second, by.first);
}

LMSHM_FOLD_TARGET inline __m512i Wide(const Multipliers& by) {
  return _mm512_set_epi64(by.second, by.first, by.second, by.first, by.second, by.first, by.second,
                          by.first);
}

LMSHM_FOLD_TARGET inline __m128i Move(__m128i bytes, __m128i by, __m128i onto) {
  const __m128i first = _mm_clmulepi64_si128(bytes, by, 0x00);
  const __m128i second = _mm_clmulepi64_si128(bytes, by, 0x11);
  return _mm_xor_si128(_mm_xor_si128(first, second), onto);
}

LMSHM_FOLD_TARGET inline __m512i Move(__m512i bytes, __m512i by, __m512i onto) {
  constexpr int kXorOfThree = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(bytes, by, 0x00),
                                   _mm512_clmulepi64_epi128(bytes, by, 0x11), onto, kXorOfThree);
}

LMSHM_FOLD_TARGET inline __m512i Load(const unsigned char* from) {
  return _mm512_loadu_si512(from);
}

bool HasInstructions() {
  constexpr unsigned kOsSavesRegisters = 1u << 27;  // leaf 1, ecx
  constexpr unsigned kSse42 = 1u << 20;
  constexpr unsigned kPclmulqdq = 1u << 1;
  constexpr unsigned kLeaf1 = kOsSavesRegisters | kSse42 | kPclmulqdq;
  constexpr unsigned kAvx512f = 1u << 16;     // leaf 7, ebx
  constexpr unsigned kVpclmulqdq = 1u << 10;  // leaf 7, ecx
  // Of XCR0: SSE, AVX, and the three parts of the AVX-512 registers.
  constexpr unsigned kSaved = 0xe6;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kLeaf1) != kLeaf1) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((b & kAvx512f) == 0 || (c & kVpclmulqdq) == 0) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kSaved) == kSaved;
}

}  // namespace

bool CanFoldCrc32c() {
  static const bool can = HasInstructions();
  return can;
}

LMSHM_FOLD_TARGET uint32_t Crc32cFold(uint32_t state, const unsigned char* data, size_t size) {
  // Four at a time, because one multiplication takes as long as four begin.
  __m512i a = _mm512_xor_si512(Load(data),
                               _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
  __m512i b = Load(data + 64), c = Load(data + 128), d = Load(data + 192);
  const unsigned char* const end = data + size;
  data += 256;
  const __m512i over_256 = Wide(kOver256);
  for (; end - data >= 256; data += 256) {
    a = Move(a, over_256, Load(data));
    b = Move(b, over_256, Load(data + 64));
    c = Move(c, over_256, Load(data + 128));
    d = Move(d, over_256, Load(data + 192));
  }
  const __m512i over_64 = Wide(kOver64);
  a = Move(Move(Move(a, over_64, b), over_64, c), over_64, d);
  for (; data < end; data += 64) a = Move(a, over_64, Load(data));
  __m128i lanes[4];
  _mm512_storeu_si512(lanes, a);
  const __m128i over_16 = Narrow(kOver16);
  __m128i rest = lanes[0];
  for (size_t i = 1; i < 4; i++) rest = Move(rest, over_16, lanes[i]);
  // These 16 bytes have the same checksum as all that they stand for.
  const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(rest));
  const auto high = static_cast<uint64_t>(_mm_extract_epi64(rest, 1));
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, low), high));
}

#else

bool CanFoldCrc32c() { return false; }

uint32_t Crc32cFold(uint32_t state, const unsigned char*, size_t) { return state; }

#endif

}  // namespace lmshm
