// SPDX-License-Identifier: Apache-2.0
//
// Words: ` name=value` after ` name=value`, as answers have them; values are percent-coded.
#ifndef LMSHM_WORKER_BASE_WORDS_H_
#define LMSHM_WORKER_BASE_WORDS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "worker/base/percent.h"

namespace lmshm {

class Words {
 public:
  void Add(std::string_view name, std::string_view value) {
    text_.append(" ").append(name).append("=");
    AppendPercent(value, &text_);
  }
  void Add(std::string_view name, uint64_t value) { Add(name, std::to_string(value)); }
  // That are words already.
  void Append(std::string_view words) { text_.append(words); }
  std::string Take() { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_WORDS_H_
