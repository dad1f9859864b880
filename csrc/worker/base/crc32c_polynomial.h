// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic of CRC-32C: a checksum is a polynomial modulo kCrc32cPolynomial, bits reversed, so
// that the highest bit is x^0. Appending n zero bytes multiplies it by x^(8n).
#ifndef LMSHM_WORKER_BASE_CRC32C_POLYNOMIAL_H_
#define LMSHM_WORKER_BASE_CRC32C_POLYNOMIAL_H_

#include <cstdint>

namespace lmshm {

inline constexpr uint32_t kCrc32cPolynomial = 0x82f63b78;
inline constexpr uint32_t kCrc32cOne = 0x80000000;

constexpr uint32_t Crc32cMultiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kCrc32cOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kCrc32cPolynomial : 0);
  }
  return product;
}

// x^n.
constexpr uint32_t Crc32cPower(uint64_t n) {
  uint32_t power = kCrc32cOne;
  for (uint32_t square = kCrc32cOne >> 1; n != 0; n >>= 1) {
    if ((n & 1) != 0) power = Crc32cMultiply(power, square);
    square = Crc32cMultiply(square, square);
  }
  return power;
}

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_CRC32C_POLYNOMIAL_H_
