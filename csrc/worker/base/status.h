// SPDX-License-Identifier: Apache-2.0
//
// Status: the outcome of an operation, success or an errno value with a text.
//
// Everything in the worker that can fail returns one. It is not an exception and carries no stack:
// the text is written for the person who sent the request or started the worker, and says what
// failed, on what, with which values, and what to do about it.
#ifndef LMSHM_WORKER_BASE_STATUS_H_
#define LMSHM_WORKER_BASE_STATUS_H_

#include <string>
#include <string_view>
#include <utility>

namespace lmshm {

// The name of an errno value: "ENOENT" for 2. Unknown values give "E<number>".
std::string ErrnoName(int number);

// Copyable value; as thread safe as std::string.
class [[nodiscard]] Status {
 public:
  // Success.
  Status() = default;
  static Status OK() { return Status(); }

  // A failure in the worker's own words. `number` is a positive errno value.
  static Status Error(int number, std::string text) { return Status(number, std::move(text)); }

  // A system call's failure: "<action>: <the system's text for number>".
  static Status System(int number, std::string_view action);

  // The same with a sentence on the likely cause or cure: "<action>: <text> (<hint>)".
  static Status System(int number, std::string_view action, std::string_view hint);

  bool ok() const { return number_ == 0; }

  // The errno value; 0 for success.
  int number() const { return number_; }

  // The text without the errno name; empty for success.
  const std::string& text() const { return text_; }

  // "OK", or "ENOENT open /a/b: No such file or directory".
  std::string ToString() const;

 private:
  Status(int number, std::string text) : number_(number), text_(std::move(text)) {}

  int number_ = 0;
  std::string text_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_STATUS_H_
