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
// Of the next loop, so that what it works on stays in registers.
#if defined(__clang__)
#define LMSHM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LMSHM_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

namespace lmshm {

#if defined(__x86_64__)

namespace {

// ThreadSanitizer does not see what these instructions read and write, and what it finds shall not
// depend on the processor.
#if defined(__SANITIZE_THREAD__)
constexpr bool kUnseen = true;
#else
constexpr bool kUnseen = false;
#endif

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

constexpr Multipliers kOver16 = MultipliersFor(16);
constexpr Multipliers kOver64 = MultipliersFor(64);
constexpr Multipliers kOver256 = MultipliersFor(256);

// Long data is taken from so many pages at a time, a line of each in turn. In memory of 4 KiB pages
// most of the time would otherwise go into waiting, at the beginning of each page, for where it is.
constexpr size_t kPageBytes = 4096;
constexpr size_t kPages = 8;
constexpr size_t kBlockBytes = kPages * kPageBytes;
constexpr size_t kLineBytes = 64;
constexpr size_t kRowBytes = 4 * kLineBytes;
constexpr Multipliers kOverPage = MultipliersFor(kPageBytes);

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

// Past the cache. `to` is a multiple of 64.
LMSHM_FOLD_TARGET inline void Store(__m512i line, unsigned char* to) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
}

// The 64 bytes at `at`. With kCopy they go to the same place of `to`.
template <bool kCopy>
LMSHM_FOLD_TARGET inline __m512i Take(const unsigned char* data, unsigned char* to, size_t at) {
  const __m512i line = Load(data + at);
  if constexpr (kCopy) Store(line, to + at);
  return line;
}

// Each of the next two takes `onto`, to be added to the first 64 bytes, and returns 64 bytes that
// stand for all until the end of what it has taken.

// kRowBytes or a multiple. Four lines at a time, because one multiplication takes as long as four
// begin.
template <bool kCopy>
LMSHM_FOLD_TARGET __m512i FoldRows(__m512i onto, const unsigned char* data, size_t size,
                                   unsigned char* to) {
  const __m512i over_256 = Wide(kOver256);
  __m512i a = _mm512_xor_si512(Take<kCopy>(data, to, 0), onto);
  __m512i b = Take<kCopy>(data, to, 64);
  __m512i c = Take<kCopy>(data, to, 128);
  __m512i d = Take<kCopy>(data, to, 192);
  for (size_t at = 256; at < size; at += 256) {
    a = Move(a, over_256, Take<kCopy>(data, to, at));
    b = Move(b, over_256, Take<kCopy>(data, to, at + 64));
    c = Move(c, over_256, Take<kCopy>(data, to, at + 128));
    d = Move(d, over_256, Take<kCopy>(data, to, at + 192));
  }
  const __m512i over_64 = Wide(kOver64);
  return Move(Move(Move(a, over_64, b), over_64, c), over_64, d);
}

// kBlockBytes.
template <bool kCopy>
LMSHM_FOLD_TARGET __m512i FoldBlock(__m512i onto, const unsigned char* data, unsigned char* to) {
  __m512i page[kPages];
  LMSHM_UNROLL
  for (size_t i = 0; i < kPages; i++) {
    page[i] = Take<kCopy>(data, to, i * kPageBytes);
  }
  page[0] = _mm512_xor_si512(page[0], onto);
  const __m512i over_64 = Wide(kOver64);
  for (size_t at = kLineBytes; at < kPageBytes; at += kLineBytes) {
    // Reading what has the last twelve bits of its address in common with what was just written
    // waits for that on some processors: so all of the reading comes first.
    __m512i line[kPages];
    LMSHM_UNROLL
    for (size_t i = 0; i < kPages; i++) line[i] = Load(data + i * kPageBytes + at);
    LMSHM_UNROLL
    for (size_t i = 0; i < kPages; i++) {
      if constexpr (kCopy) Store(line[i], to + i * kPageBytes + at);
      page[i] = Move(page[i], over_64, line[i]);
    }
  }
  const __m512i over_page = Wide(kOverPage);
  __m512i all = page[0];
  LMSHM_UNROLL
  for (size_t i = 1; i < kPages; i++) all = Move(all, over_page, page[i]);
  return all;
}

// The state after 64 bytes that stand for all data.
LMSHM_FOLD_TARGET uint32_t StateOf(__m512i all) {
  __m128i lanes[4];
  _mm512_storeu_si512(lanes, all);
  const __m128i over_16 = Narrow(kOver16);
  __m128i rest = lanes[0];
  for (size_t i = 1; i < 4; i++) rest = Move(rest, over_16, lanes[i]);
  const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(rest));
  const auto high = static_cast<uint64_t>(_mm_extract_epi64(rest, 1));
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, low), high));
}

template <bool kCopy>
LMSHM_FOLD_TARGET uint32_t Fold(uint32_t state, const unsigned char* data, size_t size,
                                unsigned char* to) {
  const __m512i over_64 = Wide(kOver64);
  const __m512i zero = _mm512_setzero_si512();
  __m512i onto = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state)));
  __m512i all = zero;
  for (size_t at = 0; at < size;) {
    const size_t left = size - at;
    size_t took = kLineBytes;
    unsigned char* const place = kCopy ? to + at : nullptr;
    if (left >= kBlockBytes) {
      took = kBlockBytes;
      all = FoldBlock<kCopy>(onto, data + at, place);
    } else if (left >= kRowBytes) {
      took = left - left % kRowBytes;
      all = FoldRows<kCopy>(onto, data + at, took, place);
    } else {
      all = _mm512_xor_si512(Take<kCopy>(data + at, place, 0), onto);
    }
    at += took;
    onto = Move(all, over_64, zero);
  }
  return StateOf(all);
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
  static const bool can = !kUnseen && HasInstructions();
  return can;
}

uint32_t Crc32cFold(uint32_t state, const unsigned char* data, size_t size) {
  return Fold<false>(state, data, size, nullptr);
}

uint32_t Crc32cFoldCopy(uint32_t state, const unsigned char* data, size_t size, unsigned char* to) {
  state = Fold<true>(state, data, size, to);
  _mm_sfence();  // whoever learns of it by an ordinary store finds it there
  return state;
}

#else

bool CanFoldCrc32c() { return false; }

uint32_t Crc32cFold(uint32_t state, const unsigned char*, size_t) { return state; }
uint32_t Crc32cFoldCopy(uint32_t state, const unsigned char*, size_t, unsigned char*) {
  return state;
}

#endif

}  // namespace lmshm
