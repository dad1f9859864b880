// SPDX-License-Identifier: Apache-2.0
#include "worker/request_v2.h"

#include <algorithm>
#include <cerrno>

#include "worker/object_key.h"
#include "worker/percent.h"
#include "worker/text.h"

namespace lmshm {

namespace {

using Words = std::vector<std::string_view>;

struct Form {
  std::string_view word;
  Verb verb;
  size_t min_words;  // behind the verb
  size_t max_words;
  const char* usage;
};

constexpr size_t kAny = SIZE_MAX;
constexpr Form kForms[] = {
    {"ATTACH", Verb::kAttach, 2, 2, "<id> ATTACH <shm_name> <size>"},
    {"PUT", Verb::kPut, 3, kAny, "<id> PUT <key> <offset> <length> [crc=0] [<name>=<value>]..."},
    {"GET", Verb::kGet, 3, 4, "<id> GET <key> <offset> <capacity> [verify=0]"},
    {"STAT", Verb::kStat, 1, 1, "<id> STAT <key>"},
    {"EXISTS", Verb::kExists, 1, kAny, "<id> EXISTS <key>..."},
    {"REMOVE", Verb::kRemove, 1, kAny, "<id> REMOVE <key>..."},
    {"LIST", Verb::kList, 2, 3, "<id> LIST <limit> <cursor|-> [<prefix>]"},
    {"AUTH", Verb::kAuth, 1, 1, "<id> AUTH <secret>"},
    {"PING", Verb::kPing, 0, 0, "<id> PING"},
    {"QUIT", Verb::kQuit, 0, 0, "<id> QUIT"},
};

Status Expected(const Form& form, const std::string& why) {
  return Status::Error(EINVAL, why + "; expected: " + form.usage);
}

// False for an empty word: two spaces, or one at an end.
bool Split(std::string_view text, Words* words) {
  for (;;) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (word.empty()) return false;
    words->push_back(word);
    if (space == std::string_view::npos) return true;
    text.remove_prefix(space + 1);
  }
}

Status ParseNumber(std::string_view word, const char* what, const Form& form, uint64_t* value) {
  switch (ParseU64(word, value)) {
    case NumberError::kNone:
      return Status::OK();
    case NumberError::kOverflow:
      return Status::Error(ERANGE, std::string(what) + " " + Printable(word) +
                                       " is more than 64 bits hold (18446744073709551615)");
    case NumberError::kMalformed:
      break;
  }
  return Expected(form, std::string(what) + " \"" + Printable(word) + "\" is not a decimal number");
}

Status Decode(std::string_view word, const char* what, const Form& form, std::string* bytes) {
  if (PercentDecode(word, bytes)) return Status::OK();
  return Expected(form, std::string(what) + " \"" + Printable(word.substr(0, 200)) +
                            "\" is not percent-encoded: spaces, %, control characters and what is "
                            "not ASCII are written as %XX");
}

Status ParseKeys(const Words& words, size_t count, const Form& form, RequestV2* request) {
  for (size_t i = 0; i < count; i++) {
    std::string key;
    Status status = Decode(words[i], "key", form, &key);
    if (status.ok()) status = CheckKey(key);
    if (!status.ok()) return status;
    request->keys.push_back(std::move(key));
  }
  return Status::OK();
}

// "0" and "1" as a switch.
Status ParseSwitch(std::string_view word, std::string_view value, const Form& form, bool* on) {
  if (value != "0" && value != "1") {
    return Expected(form, "\"" + Printable(word) + "\" is neither 0 nor 1");
  }
  *on = value == "1";
  return Status::OK();
}

Status ParseAttribute(std::string_view name, std::string_view value, const Form& form,
                      RequestV2* request) {
  if (!IsAttributeName(name)) {
    return Expected(form, "attribute name \"" + Printable(name.substr(0, 200)) +
                              "\" is not 1 to 32 of a-z 0-9 _");
  }
  if (IsReservedAttribute(name)) {
    return Status::Error(
        EINVAL, "attribute name " + std::string(name) + " is the worker's own; choose another");
  }
  for (const Attribute& attribute : request->attributes) {
    if (attribute.name == name) {
      return Status::Error(EINVAL, "attribute " + std::string(name) + " is given twice");
    }
  }
  Attribute attribute;
  attribute.name = std::string(name);
  Status status = Decode(value, "attribute value", form, &attribute.value);
  if (status.ok()) request->attributes.push_back(std::move(attribute));
  return status;
}

// crc=, verify= and attributes.
Status ParseOptions(const Words& words, size_t from, const Form& form, RequestV2* request) {
  size_t bytes = 0;
  bool switched = false;
  const std::string_view name_of_switch = request->verb == Verb::kPut ? "crc" : "verify";
  for (size_t i = from; i < words.size(); i++) {
    const size_t equals = words[i].find('=');
    if (equals == std::string_view::npos) {
      return Expected(form, "\"" + Printable(words[i].substr(0, 200)) + "\" is not name=value");
    }
    const std::string_view name = words[i].substr(0, equals);
    const std::string_view value = words[i].substr(equals + 1);
    Status status;
    if (name == name_of_switch) {
      if (switched) return Expected(form, std::string(name) + "= is given twice");
      switched = true;
      status = ParseSwitch(words[i], value, form, &request->checksum);
    } else if (request->verb == Verb::kPut) {
      status = ParseAttribute(name, value, form, request);
      if (status.ok()) bytes += name.size() + request->attributes.back().value.size();
    } else {
      status = Expected(form, "\"" + Printable(words[i].substr(0, 200)) + "\" is no option of GET");
    }
    if (!status.ok()) return status;
    if (request->attributes.size() > kMaxAttributes || bytes > kMaxAttributeBytes) {
      return Status::Error(E2BIG, "more than " + std::to_string(kMaxAttributes) +
                                      " attributes, or more than " +
                                      std::to_string(kMaxAttributeBytes) + " bytes of them");
    }
  }
  return Status::OK();
}

Status ParseTransfer(const Words& words, const Form& form, RequestV2* request) {
  Status status = ParseKeys(words, 1, form, request);
  if (status.ok()) status = ParseNumber(words[1], "offset", form, &request->first);
  const char* const what = request->verb == Verb::kPut ? "length" : "capacity";
  if (status.ok()) status = ParseNumber(words[2], what, form, &request->second);
  return status.ok() ? ParseOptions(words, 3, form, request) : status;
}

Status ParseList(const Words& words, const Form& form, RequestV2* request) {
  Status status = ParseNumber(words[0], "limit", form, &request->first);
  if (!status.ok()) return status;
  if (request->first < 1 || request->first > kMaxListKeys) {
    return Status::Error(ERANGE, "limit " + std::to_string(request->first) + " is not from 1 to " +
                                     std::to_string(kMaxListKeys));
  }
  if (words[1] != "-") status = Decode(words[1], "cursor", form, &request->text);
  if (status.ok() && words.size() > 2) status = Decode(words[2], "prefix", form, &request->prefix);
  return status;
}

Status ParseWords(const Words& words, const Form& form, RequestV2* request) {
  switch (request->verb) {
    case Verb::kAttach: {
      Status status = Decode(words[0], "shm_name", form, &request->text);
      return status.ok() ? ParseNumber(words[1], "size", form, &request->first) : status;
    }
    case Verb::kPut:
    case Verb::kGet:
      return ParseTransfer(words, form, request);
    case Verb::kStat:
    case Verb::kExists:
    case Verb::kRemove:
      return ParseKeys(words, words.size(), form, request);
    case Verb::kList:
      return ParseList(words, form, request);
    case Verb::kAuth:
      request->text = std::string(words[0]);
      return Status::OK();
    case Verb::kPing:
    case Verb::kQuit:
      break;
  }
  return Status::OK();
}

}  // namespace

Status ParseRequestV2(std::string_view line, RequestV2* request) {
  request->id = 0;
  const size_t space = line.find(' ');
  uint64_t id;
  if (ParseU64(line.substr(0, space), &id) != NumberError::kNone || id == 0) {
    return Status::Error(EINVAL,
                         "the line does not begin with a request id (decimal, 1 to 2^64-1);"
                         " expected: <id> <VERB> ...");
  }
  request->id = id;
  if (space == std::string_view::npos) {
    return Status::Error(EINVAL, "no verb; expected: <id> <VERB> ...");
  }

  Words words;
  const bool split = Split(line.substr(space + 1), &words);
  const std::string_view verb = words.empty() ? std::string_view() : words.front();
  const auto* const form = std::find_if(std::begin(kForms), std::end(kForms),
                                        [&](const Form& f) { return f.word == verb; });
  if (form == std::end(kForms)) {
    return Status::Error(EINVAL, "unknown verb \"" + Printable(verb.substr(0, 64)) +
                                     "\"; this worker knows ATTACH, PUT, GET, STAT, EXISTS, "
                                     "REMOVE, LIST, AUTH, PING, QUIT");
  }
  if (!split) return Expected(*form, "words are separated by exactly one space");
  words.erase(words.begin());
  if (words.size() < form->min_words) return Expected(*form, "words are missing");
  if (words.size() > form->max_words) return Expected(*form, "there are more words than expected");

  RequestV2 parsed;
  parsed.id = id;
  parsed.verb = form->verb;
  Status status = ParseWords(words, *form, &parsed);
  if (status.ok()) *request = std::move(parsed);
  return status;
}

std::string_view VerbName(Verb verb) {
  for (const Form& form : kForms) {
    if (form.verb == verb) return form.word;
  }
  return "";
}

}  // namespace lmshm
