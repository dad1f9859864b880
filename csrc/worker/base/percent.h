// SPDX-License-Identifier: Apache-2.0
//
// Percent-coding: any bytes as one word of a request or an answer of protocol version 2. Pure
// functions.
//
// Letters, digits and - . _ ~ @ / : + = , stand for themselves; every other byte is written as %
// and two hexadecimal digits. What is written here uses capital digits. What is read may use
// either, and may leave any printable ASCII character but % as it is: that is convenient by hand.
#ifndef LMSHM_WORKER_BASE_PERCENT_H_
#define LMSHM_WORKER_BASE_PERCENT_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace lmshm {

// Appends the coded form of `bytes`.
void AppendPercent(std::string_view bytes, std::string* out);

std::string PercentEncode(std::string_view bytes);

// The size of the coded form, in bytes.
size_t PercentSize(std::string_view bytes);

// False if `word` has a % without two hexadecimal digits behind it, or a byte that must have been
// coded (space, control characters, all above 0x7e). `*bytes` is replaced on success only.
[[nodiscard]] bool PercentDecode(std::string_view word, std::string* bytes);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_PERCENT_H_
