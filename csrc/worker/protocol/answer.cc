// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/answer.h"

#include <string_view>

#include "worker/base/text.h"

namespace lmshm {

void AppendError(const Status& status, std::string* answer) {
  constexpr std::string_view kWord = "ERROR ";
  answer->append(kWord);
  AppendPrintable(status.ToString(), kMaxAnswerBytes - kWord.size() - 1, answer);
  answer->push_back('\n');
}

}  // namespace lmshm
