// SPDX-License-Identifier: Apache-2.0
//
// Text without meaning: decimal numbers in, printable text out. Pure functions.
#ifndef LMSHM_WORKER_BASE_TEXT_H_
#define LMSHM_WORKER_BASE_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lmshm {

enum class NumberError { kNone, kMalformed, kOverflow };

// Reads an unsigned decimal number: one or more digits and nothing else (no sign, no space, no
// 0x). `*value` is set on success only; a number above 2^64-1 is kOverflow, never wrapped.
NumberError ParseU64(std::string_view text, uint64_t* value);

// Whether `text` is valid UTF-8 without control characters (C0, DEL, C1).
bool IsPrintable(std::string_view text);

// Appends `text` in a form that is one line of valid UTF-8 without control characters: those, and
// bytes that are no UTF-8, become \xHH. Printable text stays as it is, so doing it twice does no
// harm. Stops after `max_bytes` bytes have been appended, with "..." as the last three;
// `max_bytes` is at least 3.
void AppendPrintable(std::string_view text, size_t max_bytes, std::string* out);

// AppendPrintable() into a new string of at most 1,024 bytes: for names in messages.
std::string Printable(std::string_view text);

// "put <key>" and so on, for messages: printable, and cut where it is long.
std::string ActionOn(std::string_view verb, std::string_view what);

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_TEXT_H_
