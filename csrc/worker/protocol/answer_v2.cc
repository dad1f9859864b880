// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/answer_v2.h"

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxErrorBytes = 8 * 1024;

}  // namespace

void AppendOk(uint64_t id, std::string_view result, std::string* answers) {
  answers->append(std::to_string(id));
  answers->append(" OK");
  answers->append(result);
  answers->push_back('\n');
}

void AppendError(uint64_t id, const Status& status, std::string* answers) {
  answers->append(std::to_string(id));
  answers->append(" ERROR ");
  AppendPrintable(status.ToString(), kMaxErrorBytes, answers);
  answers->push_back('\n');
}

}  // namespace lmshm
