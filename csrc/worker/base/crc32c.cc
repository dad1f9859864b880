// SPDX-License-Identifier: Apache-2.0
#include "worker/base/crc32c.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "worker/base/crc32c_folding.h"
#include "worker/base/crc32c_polynomial.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#if defined(__clang__)
#define LMSHM_CRC_TARGET __attribute__((target("sse4.2,crc32")))
#else
#define LMSHM_CRC_TARGET __attribute__((target("sse4.2")))
#endif
#elif defined(__aarch64__)
#include <sys/auxv.h>
#if defined(__clang__)
#define LMSHM_CRC_TARGET __attribute__((target("crc")))
#else
#define LMSHM_CRC_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace lmshm {

namespace {

// Lengths of one of three parts: long for big data, short for the rest of it.
constexpr size_t kLongBytes = 8192;
constexpr size_t kShortBytes = 256;
// A line of the processor's cache, and how far ahead of the sum it is asked for: about 1.3 times as
// fast where the data is in memory and not in the cache.
constexpr size_t kLineBytes = 64;
constexpr size_t kPrefetchBytes = 2048;
static_assert(kLongBytes % kLineBytes == 0 && kShortBytes % kLineBytes == 0);

// sliced[k][b]: the state after byte b and k zero bytes.
using Sliced = std::array<std::array<uint32_t, 256>, 8>;

constexpr Sliced MakeSliced() {
  Sliced sliced = {};
  for (uint32_t b = 0; b < 256; b++) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kCrc32cPolynomial : 0);
    sliced[0][b] = crc;
  }
  for (size_t k = 1; k < 8; k++) {
    for (size_t b = 0; b < 256; b++) {
      const uint32_t before = sliced[k - 1][b];
      sliced[k][b] = (before >> 8) ^ sliced[0][before & 0xff];
    }
  }
  return sliced;
}

constexpr Sliced kSliced = MakeSliced();

uint64_t Load64(const unsigned char* from) {
  uint64_t value;
  std::memcpy(&value, from, sizeof value);
  return value;  // both processors that we build for are little-endian
}

uint32_t SlicedState(uint32_t state, const unsigned char* data, size_t size) {
  for (; size >= 8; size -= 8, data += 8) {
    const uint64_t mixed = Load64(data) ^ state;
    state = 0;
    for (size_t i = 0; i < 8; i++) state ^= kSliced[7 - i][(mixed >> (8 * i)) & 0xff];
  }
  for (; size > 0; size--, data++) state = (state >> 8) ^ kSliced[0][(state ^ *data) & 0xff];
  return state;
}

// [k]: x^(2^k), up to what 2^64 bytes need.
using Powers = std::array<uint32_t, 67>;

Powers MakePowers() {
  Powers powers;
  powers[0] = kCrc32cOne >> 1;
  for (size_t k = 1; k < powers.size(); k++) {
    powers[k] = Crc32cMultiply(powers[k - 1], powers[k - 1]);
  }
  return powers;
}

#ifdef LMSHM_CRC_TARGET

// The map "append n zero bytes": the sum of what it makes of each of a state's four bytes.
class ZeroBytes {
 public:
  explicit ZeroBytes(size_t n) {
    uint32_t basis[32];
    for (size_t bit = 0; bit < 32; bit++) {
      uint32_t state = uint32_t{1} << bit;
      for (size_t i = 0; i < n; i++) state = (state >> 8) ^ kSliced[0][state & 0xff];
      basis[bit] = state;
    }
    for (size_t byte = 0; byte < 4; byte++) {
      for (size_t value = 0; value < 256; value++) {
        uint32_t sum = 0;
        for (size_t bit = 0; bit < 8; bit++) {
          if ((value >> bit & 1) != 0) sum ^= basis[8 * byte + bit];
        }
        table_[byte][value] = sum;
      }
    }
  }

  uint32_t operator()(uint32_t state) const {
    return table_[0][state & 0xff] ^ table_[1][(state >> 8) & 0xff] ^
           table_[2][(state >> 16) & 0xff] ^ table_[3][state >> 24];
  }

 private:
  std::array<std::array<uint32_t, 256>, 4> table_;
};

#if defined(__x86_64__)

constexpr const char* kInstruction = "sse4.2";

LMSHM_CRC_TARGET inline uint64_t Step(uint64_t state, uint64_t data) {
  return _mm_crc32_u64(state, data);
}
LMSHM_CRC_TARGET inline uint64_t StepByte(uint64_t state, unsigned char data) {
  return _mm_crc32_u8(static_cast<uint32_t>(state), data);
}
bool HasInstruction() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSE4_2) != 0;
}

#else

constexpr const char* kInstruction = "armv8";

LMSHM_CRC_TARGET inline uint64_t Step(uint64_t state, uint64_t data) {
#if defined(__clang__)
  return __builtin_arm_crc32cd(static_cast<uint32_t>(state), data);
#else
  return __builtin_aarch64_crc32cx(static_cast<uint32_t>(state), data);
#endif
}
LMSHM_CRC_TARGET inline uint64_t StepByte(uint64_t state, unsigned char data) {
#if defined(__clang__)
  return __builtin_arm_crc32cb(static_cast<uint32_t>(state), data);
#else
  return __builtin_aarch64_crc32cb(static_cast<uint32_t>(state), data);
#endif
}
bool HasInstruction() {
  constexpr unsigned long kCrc32 = 1 << 7;  // HWCAP_CRC32
  return (getauxval(AT_HWCAP) & kCrc32) != 0;
}

#endif

// Three parts of `part` bytes each; `zeros` appends as many.
LMSHM_CRC_TARGET uint32_t ThreeParts(uint32_t state, const unsigned char* data, size_t part,
                                     const ZeroBytes& zeros) {
  uint64_t first = state, second = 0, third = 0;
  for (const unsigned char* const end = data + part; data < end;) {
    // The processor does not look far enough ahead in three streams. This never faults.
    __builtin_prefetch(data + kPrefetchBytes);
    __builtin_prefetch(data + part + kPrefetchBytes);
    __builtin_prefetch(data + 2 * part + kPrefetchBytes);
    for (size_t i = 0; i < kLineBytes; i += 8, data += 8) {
      first = Step(first, Load64(data));
      second = Step(second, Load64(data + part));
      third = Step(third, Load64(data + 2 * part));
    }
  }
  const uint32_t joined = zeros(static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second);
  return zeros(joined) ^ static_cast<uint32_t>(third);
}

LMSHM_CRC_TARGET uint32_t InstructionState(uint32_t state, const unsigned char* data, size_t size) {
  static const ZeroBytes long_zeros(kLongBytes);
  static const ZeroBytes short_zeros(kShortBytes);
  for (; size >= 3 * kLongBytes; size -= 3 * kLongBytes, data += 3 * kLongBytes) {
    state = ThreeParts(state, data, kLongBytes, long_zeros);
  }
  for (; size >= 3 * kShortBytes; size -= 3 * kShortBytes, data += 3 * kShortBytes) {
    state = ThreeParts(state, data, kShortBytes, short_zeros);
  }
  uint64_t rest = state;
  for (; size >= 8; size -= 8, data += 8) rest = Step(rest, Load64(data));
  for (; size > 0; size--, data++) rest = StepByte(rest, *data);
  return static_cast<uint32_t>(rest);
}

bool UseInstruction() {
  static const bool has = HasInstruction();
  return has;
}

#endif  // LMSHM_CRC_TARGET

}  // namespace

uint32_t Crc32c(uint32_t crc, const void* data, size_t size) {
  if (size >= kCrc32cFoldMinBytes && CanFoldCrc32c()) {
    const auto* const bytes = static_cast<const unsigned char*>(data);
    const size_t folded = size - size % kCrc32cFoldUnitBytes;
    const uint32_t begun = ~Crc32cFold(~crc, bytes, folded);
    return Crc32cByInstruction(begun, bytes + folded, size - folded);
  }
  return Crc32cByInstruction(crc, data, size);
}

bool CopiesCrc32c() { return CanFoldCrc32c(); }

uint32_t Crc32cCopy(uint32_t crc, void* to, const void* data, size_t size) {
  const auto* from = static_cast<const unsigned char*>(data);
  auto* into = static_cast<unsigned char*>(to);
  const auto copy = [&](size_t bytes) {
    std::memcpy(into, from, bytes);
    crc = Crc32c(crc, from, bytes);
    from += bytes;
    into += bytes;
    size -= bytes;
  };
  if (CanFoldCrc32c()) {
    const auto place = reinterpret_cast<uintptr_t>(into);
    copy(std::min<size_t>(
        size, (kCrc32cFoldUnitBytes - place % kCrc32cFoldUnitBytes) % kCrc32cFoldUnitBytes));
    const size_t folded = size - size % kCrc32cFoldUnitBytes;
    if (folded > 0) crc = ~Crc32cFoldCopy(~crc, from, folded, into);
    from += folded;
    into += folded;
    size -= folded;
  }
  copy(size);
  return crc;
}

uint32_t Crc32cByInstruction(uint32_t crc, const void* data, size_t size) {
#ifdef LMSHM_CRC_TARGET
  if (UseInstruction()) {
    return ~InstructionState(~crc, static_cast<const unsigned char*>(data), size);
  }
#endif
  return Crc32cPortable(crc, data, size);
}

uint32_t Crc32cPortable(uint32_t crc, const void* data, size_t size) {
  return ~SlicedState(~crc, static_cast<const unsigned char*>(data), size);
}

uint32_t Crc32cCombine(uint32_t first, uint32_t second, uint64_t size) {
  if (first == 0) return second;  // of nothing, or of what counts as much
  static const Powers powers = MakePowers();
  uint32_t zeros = kCrc32cOne;  // x^(8 * size)
  for (size_t k = 3; size != 0; k++, size >>= 1) {
    if ((size & 1) != 0) zeros = Crc32cMultiply(zeros, powers[k]);
  }
  return Crc32cMultiply(zeros, first) ^ second;
}

const char* Crc32cMethod() {
  if (CanFoldCrc32c()) return "vpclmulqdq";
#ifdef LMSHM_CRC_TARGET
  if (UseInstruction()) return kInstruction;
#endif
  return "portable";
}

std::string Crc32cHex(uint32_t crc) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string result;
  for (int shift = 28; shift >= 0; shift -= 4) result.push_back(kHex[(crc >> shift) & 15]);
  return result;
}

bool ParseCrc32cHex(std::string_view text, uint32_t* crc) {
  if (text.size() != 8) return false;
  uint32_t value = 0;
  for (const char c : text) {
    uint32_t digit;
    if (c >= '0' && c <= '9') {
      digit = static_cast<uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<uint32_t>(c - 'a') + 10;
    } else {
      return false;
    }
    value = value << 4 | digit;
  }
  *crc = value;
  return true;
}

}  // namespace lmshm
