// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/answer.h"

#include <cerrno>

#include "worker/base/text.h"
#include "worker/protocol/line_reader.h"

namespace lmshm {

void AppendAnswer(const Status& status, std::string_view result, std::string* answers) {
  if (!status.ok()) {
    AppendError(status, answers);
    return;
  }
  answers->append("OK");
  answers->append(result);
  answers->push_back('\n');
}

void AppendAnswer(uint64_t id, const Status& status, std::string_view result,
                  std::string* answers) {
  answers->append(std::to_string(id));
  answers->push_back(' ');
  AppendAnswer(status, result, answers);
}

void AppendError(const Status& status, std::string* answers) {
  constexpr std::string_view kWord = "ERROR ";
  answers->append(kWord);
  AppendPrintable(status.ToString(), kMaxAnswerBytes - kWord.size() - 1, answers);
  answers->push_back('\n');
}

void AppendError(uint64_t id, const Status& status, std::string* answers) {
  AppendAnswer(id, status, std::string_view(), answers);
}

Status LineTooLong() {
  return Status::Error(E2BIG, "the line is longer than " + std::to_string(kMaxLineBytes) +
                                  " bytes; all of it was ignored");
}

}  // namespace lmshm
