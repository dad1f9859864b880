// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/request.h"

#include <cerrno>
#include <string>

#include "worker/base/text.h"

namespace lmshm {

namespace {

struct Form {
  std::string_view word;
  Command command;
  int words;  // after the command: 0, or 3 of which two are numbers
  const char* usage;
  const char* first;  // names of the numbers, for messages
  const char* second;
};

constexpr Form kForms[] = {
    {"ATTACH", Command::kAttach, 3, "ATTACH <shm_name> <size> <base_addr>", "size", "base_addr"},
    {"WRITE", Command::kWrite, 3, "WRITE <path> <data_ptr> <length>", "data_ptr", "length"},
    {"READ", Command::kRead, 3, "READ <path> <data_ptr> <length>", "data_ptr", "length"},
    {"PING", Command::kPing, 0, "PING", "", ""},
    {"QUIT", Command::kQuit, 0, "QUIT", "", ""},
};

std::string Usage(const Form& form) { return std::string("expected: ") + form.usage; }

Status ParseNumber(std::string_view text, const char* what, const Form& form, uint64_t* value) {
  switch (ParseU64(text, value)) {
    case NumberError::kNone:
      return Status::OK();
    case NumberError::kOverflow:
      return Status::Error(ERANGE, std::string(what) + " " + Printable(text) +
                                       " is more than 64 bits hold (18446744073709551615)");
    case NumberError::kMalformed:
      break;
  }
  return Status::Error(EINVAL, std::string(what) + " \"" + Printable(text) +
                                   "\" is not a decimal number; " + Usage(form));
}

}  // namespace

Status ParseRequest(std::string_view line, Request* request) {
  if (line.empty()) return Status::Error(EINVAL, "empty line; expected a command");
  const size_t space = line.find(' ');
  const std::string_view word = line.substr(0, space);

  const Form* form = nullptr;
  for (const Form& candidate : kForms) {
    if (candidate.word == word) form = &candidate;
  }
  if (form == nullptr) {
    return Status::Error(EINVAL, "unknown command \"" + Printable(word.substr(0, 64)) +
                                     "\"; this worker knows ATTACH, WRITE, READ, PING, QUIT");
  }

  Request parsed;
  parsed.command = form->command;
  if (form->words == 0) {
    if (space != std::string_view::npos) {
      return Status::Error(EINVAL, std::string(form->usage) + " takes no words after it");
    }
    *request = parsed;
    return Status::OK();
  }

  if (space == std::string_view::npos) return Status::Error(EINVAL, Usage(*form));
  std::string_view rest = line.substr(space + 1);
  std::string_view numbers[2];
  for (int i = 1; i >= 0; i--) {
    const size_t at = rest.rfind(' ');
    if (at == std::string_view::npos) return Status::Error(EINVAL, Usage(*form));
    numbers[i] = rest.substr(at + 1);
    rest = rest.substr(0, at);
  }
  Status status = ParseNumber(numbers[0], form->first, *form, &parsed.first);
  if (!status.ok()) return status;
  status = ParseNumber(numbers[1], form->second, *form, &parsed.second);
  if (!status.ok()) return status;
  if (rest.empty()) return Status::Error(EINVAL, Usage(*form));
  parsed.name = rest;
  *request = parsed;
  return Status::OK();
}

}  // namespace lmshm
