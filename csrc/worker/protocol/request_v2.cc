// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol/request_v2.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/storage/object_key.h"

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
    {"ATTACH", Verb::kAttach, 3, 3, "<id> ATTACH <shm_name> <size> <identity|->"},
    {"PUT", Verb::kPut, 3, kAny,
     "<id> PUT <key> <offset> <length> [crc=0] [io=<mode>] [sync=<s>] [if=absent] "
     "[prio=<p>] [<name>=<value>]... [; <key> <offset> <length> ...]..."},
    {"GET", Verb::kGet, 3, kAny,
     "<id> GET <key> <offset> <capacity> [verify=0] [io=<mode>] [prio=<p>] "
     "[; <key> <offset> <capacity> ...]..."},
    {"STAT", Verb::kStat, 1, 2, "<id> STAT <key> [prio=<p>]"},
    {"EXISTS", Verb::kExists, 1, kAny, "<id> EXISTS <key>..."},
    {"CONTAINS", Verb::kContains, 1, kAny, "<id> CONTAINS <key>..."},
    {"REMOVE", Verb::kRemove, 1, kAny, "<id> REMOVE <key>..."},
    {"LIST", Verb::kList, 2, 4, "<id> LIST <limit> <cursor|-> [<prefix>] [prio=<p>]"},
    {"CANCEL", Verb::kCancel, 1, 1, "<id> CANCEL <id>"},
    {"INFO", Verb::kInfo, 0, 0, "<id> INFO"},
    {"PING", Verb::kPing, 0, 0, "<id> PING"},
    {"QUIT", Verb::kQuit, 0, 0, "<id> QUIT"},
};
constexpr std::string_view kVerbs =
    "ATTACH, PUT, GET, STAT, EXISTS, CONTAINS, REMOVE, LIST, CANCEL, INFO, PING, QUIT";

constexpr std::string_view kSeparator = ";";
constexpr std::string_view kCrc = "crc";
constexpr std::string_view kIo = "io";
constexpr std::string_view kSync = "sync";
constexpr std::string_view kPrio = "prio";
constexpr std::string_view kHead = "head";
constexpr std::string_view kPad = "pad";
constexpr std::string_view kIf = "if";
constexpr uint64_t kMostPadBytes = 1 << 20;
// In the order of the enumerators.
constexpr std::string_view kPriorityNames[kPriorities] = {"high", "normal", "low"};

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

Status DecodeKey(std::string_view word, const Form& form, std::string* key) {
  Status status = Decode(word, "key", form, key);
  return status.ok() ? CheckKey(*key) : status;
}

// The same for a word of the request's own line: decoded where it is.
Status ParseKeyInPlace(std::string_view word, const Form& form, RequestV2* request,
                       std::string_view* key) {
  std::string decoded;
  Status status = DecodeKey(word, form, &decoded);
  if (!status.ok()) return status;
  char* const at = request->line.get() + (word.data() - request->line.get());
  std::memcpy(at, decoded.data(), decoded.size());
  *key = {at, decoded.size()};
  return status;
}

Status ParseKeys(const Words& words, const Form& form, RequestV2* request) {
  std::string key;
  for (const std::string_view word : words) {
    Status status = DecodeKey(word, form, &key);
    if (!status.ok()) return status;
  }
  const char* const begin = words.front().data();
  const char* const end = words.back().data() + words.back().size();
  request->keys = {begin, static_cast<size_t>(end - begin)};
  request->key_count = words.size();
  return Status::OK();
}

std::string Quoted(std::string_view word) { return "\"" + Printable(word.substr(0, 200)) + "\""; }

// "0" and "1" as a switch.
Status ParseSwitch(std::string_view word, std::string_view value, const Form& form, bool* on) {
  if (value != "0" && value != "1") {
    return Expected(form, Quoted(word) + " is neither 0 nor 1");
  }
  *on = value == "1";
  return Status::OK();
}

Status ParsePriority(std::string_view value, const Form& form, Priority* priority) {
  for (size_t i = 0; i < kPriorities; i++) {
    if (kPriorityNames[i] != value) continue;
    *priority = static_cast<Priority>(i);
    return Status::OK();
  }
  return Expected(form, "prio=" + Printable(value.substr(0, 200)) +
                            " is none of prio=high, prio=normal, prio=low");
}

// What of one object was given already.
struct Given {
  bool checksum = false;
  bool head = false;
  bool pad = false;
  bool condition = false;
  bool priority = false;
  std::array<std::string_view, kMaxAttributes + 1> names;  // of attributes
  size_t attributes = 0;
  size_t attribute_bytes = 0;
};

Status ParseAttribute(std::string_view name, std::string_view value, const Form& form,
                      Given* given) {
  if (!IsAttributeName(name)) {
    return Expected(form, "attribute name " + Quoted(name) + " is not 1 to 32 of a-z 0-9 _");
  }
  if (IsReservedAttribute(name)) {
    return Status::Error(
        EINVAL, "attribute name " + std::string(name) + " is the worker's own; choose another");
  }
  const auto end = given->names.begin() + static_cast<ptrdiff_t>(given->attributes);
  if (std::find(given->names.begin(), end, name) != end) {
    return Status::Error(EINVAL, "attribute " + std::string(name) + " is given twice");
  }
  std::string decoded;
  Status status = Decode(value, "attribute value", form, &decoded);
  if (!status.ok()) return status;
  given->names[given->attributes++] = name;
  given->attribute_bytes += name.size() + decoded.size();
  if (given->attributes <= kMaxAttributes && given->attribute_bytes <= kMaxAttributeBytes) {
    return status;
  }
  return Status::Error(
      E2BIG, "more than " + std::to_string(kMaxAttributes) + " attributes, or more than " +
                 std::to_string(kMaxAttributeBytes) + " bytes of them, with one object");
}

// One name=value: an option, or an attribute.
Status ParseOption(std::string_view word, const Form& form, bool first, Given* given,
                   TransferItem* item, Priority* priority) {
  const size_t equals = word.find('=');
  if (equals == std::string_view::npos) return Expected(form, Quoted(word) + " is not name=value");
  const std::string_view name = word.substr(0, equals);
  const std::string_view value = word.substr(equals + 1);
  const bool put = form.verb == Verb::kPut;
  bool twice = false;
  if (name == (put ? kCrc : "verify")) {
    twice = std::exchange(given->checksum, true);
    if (!twice) return ParseSwitch(word, value, form, &item->checksum);
  } else if (name == kIo) {
    IoMode mode;
    twice = item->io.has_value();
    if (!ParseIoMode(value, &mode)) {
      return Expected(form, Quoted(word) + " is none of io=auto, io=direct, io=cached");
    }
    item->io = mode;
  } else if (name == kSync && put) {
    Durability sync;
    twice = item->sync.has_value();
    if (!ParseDurability(value, &sync)) {
      return Expected(form, Quoted(word) + " is none of sync=none, sync=data, sync=full");
    }
    item->sync = sync;
  } else if (name == kHead && put) {
    twice = std::exchange(given->head, true);
    if (value != "none" && value != "lmcache") {
      return Expected(form, Quoted(word) + " is none of head=none, head=lmcache");
    }
    item->lmcache_header = value == "lmcache";
  } else if (name == kIf && put) {
    twice = std::exchange(given->condition, true);
    if (value != "any" && value != "absent") {
      return Expected(form, Quoted(word) + " is none of if=any, if=absent");
    }
    item->if_absent = value == "absent";
  } else if (name == kPad) {
    uint64_t pad;
    twice = std::exchange(given->pad, true);
    if (ParseU64(value, &pad) != NumberError::kNone || pad == 0 || pad > kMostPadBytes ||
        (pad & (pad - 1)) != 0) {
      return Expected(form, Quoted(word) + " is not a power of two from pad=1 to pad=1048576");
    }
    while (pad >> (item->pad_log2 + 1) != 0) item->pad_log2++;
  } else if (name == kPrio) {
    if (!first) {
      return Expected(form, "prio= counts for the whole line and is given with its first object");
    }
    twice = std::exchange(given->priority, true);
    if (!twice) return ParsePriority(value, form, priority);
  } else if (put) {
    return ParseAttribute(name, value, form, given);
  } else {
    return Expected(form, Quoted(word) + " is no option of GET");
  }
  return twice ? Expected(form, std::string(name) + "= is given twice") : Status::OK();
}

// The words of one object.
Status ParseItem(const std::string_view* words, size_t count, const Form& form,
                 RequestV2* request) {
  if (count < form.min_words) return Expected(form, "words are missing");
  const bool first = request->items.empty();
  TransferItem& item = request->items.emplace_back();
  Status status = ParseKeyInPlace(words[0], form, request, &item.key);
  if (status.ok()) status = ParseNumber(words[1], "offset", form, &item.offset);
  const char* const what = form.verb == Verb::kPut ? "length" : "capacity";
  if (status.ok()) status = ParseNumber(words[2], what, form, &item.size);
  Given given;
  for (size_t i = 3; status.ok() && i < count; i++) {
    status = ParseOption(words[i], form, first, &given, &item, &request->priority);
  }
  if (count > 3 && form.verb == Verb::kPut) {
    const std::string_view last = words[count - 1];
    item.options = {words[3].data(),
                    static_cast<size_t>(last.data() + last.size() - words[3].data())};
  }
  return status;
}

Status ParseItems(const Words& words, const Form& form, RequestV2* request) {
  const auto separators = std::count(words.begin(), words.end(), kSeparator);
  request->items.reserve(std::min(static_cast<size_t>(separators) + 1, kMaxBatchObjects));
  for (size_t begin = 0; begin <= words.size();) {
    size_t end = begin;
    while (end < words.size() && words[end] != kSeparator) end++;
    if (request->items.size() == kMaxBatchObjects) {
      return Status::Error(
          E2BIG, "more than " + std::to_string(kMaxBatchObjects) + " objects in one line");
    }
    Status status = ParseItem(words.data() + begin, end - begin, form, request);
    if (!status.ok()) return status;
    begin = end + 1;
  }
  return Status::OK();
}

// Takes a last word prio= off `words`.
Status TakePriority(const Form& form, Words* words, Priority* priority) {
  const std::string_view last = words->back();
  const bool is_one = last.size() > kPrio.size() && last[kPrio.size()] == '=' &&
                      last.substr(0, kPrio.size()) == kPrio;
  if (!is_one) return Status::OK();
  words->pop_back();
  return ParsePriority(last.substr(kPrio.size() + 1), form, priority);
}

Status ParseStat(Words words, const Form& form, RequestV2* request) {
  // With one word it is the key, whatever it looks like.
  Status status;
  if (words.size() > 1) status = TakePriority(form, &words, &request->priority);
  if (status.ok() && words.size() > 1) {
    return Expected(form, Quoted(words[1]) + " is no option of STAT");
  }
  return status.ok() ? ParseKeys(words, form, request) : status;
}

Status ParseList(Words words, const Form& form, RequestV2* request) {
  Status status;
  if (words.size() > 2) status = TakePriority(form, &words, &request->priority);
  if (status.ok() && words.size() > 3) return Expected(form, "there are more words than expected");
  if (status.ok()) status = ParseNumber(words[0], "limit", form, &request->number);
  if (!status.ok()) return status;
  const uint64_t least = words[1] == "-" ? 1 : 0;  // 0 ends a listing
  if (request->number < least || request->number > kMaxListKeys) {
    return Status::Error(ERANGE, "limit " + std::to_string(request->number) + " is not from " +
                                     std::to_string(least) + " to " + std::to_string(kMaxListKeys));
  }
  if (words[1] != "-") status = Decode(words[1], "cursor", form, &request->text);
  if (status.ok() && words.size() > 2) status = Decode(words[2], "prefix", form, &request->prefix);
  return status;
}

Status ParseAttach(const Words& words, const Form& form, RequestV2* request) {
  Status status = Decode(words[0], "shm_name", form, &request->text);
  if (status.ok()) status = ParseNumber(words[1], "size", form, &request->number);
  if (!status.ok() || ParseIdentity(words[2], &request->identity)) return status;
  return Expected(form, "identity " + Quoted(words[2]) + " is not <boot>:<device>:<inode>, nor -");
}

Status ParseCancel(std::string_view word, const Form& form, RequestV2* request) {
  Status status = ParseNumber(word, "id", form, &request->number);
  if (status.ok() && request->number == 0) return Expected(form, "id 0 is no request's");
  return status;
}

Status ParseWords(const Words& words, const Form& form, RequestV2* request) {
  switch (request->verb) {
    case Verb::kAttach:
      return ParseAttach(words, form, request);
    case Verb::kPut:
    case Verb::kGet:
      return ParseItems(words, form, request);
    case Verb::kStat:
      return ParseStat(words, form, request);
    case Verb::kExists:
    case Verb::kContains:
    case Verb::kRemove:
      return ParseKeys(words, form, request);
    case Verb::kList:
      return ParseList(words, form, request);
    case Verb::kCancel:
      return ParseCancel(words[0], form, request);
    case Verb::kInfo:
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

  RequestV2 parsed;
  parsed.id = id;
  parsed.line_bytes = line.size();
  parsed.line.reset(new char[line.size()]);
  std::memcpy(parsed.line.get(), line.data(), line.size());
  line = {parsed.line.get(), line.size()};

  Words words;
  words.reserve(static_cast<size_t>(std::count(line.begin(), line.end(), ' ')));
  const bool split = Split(line.substr(space + 1), &words);
  const std::string_view verb = words.empty() ? std::string_view() : words.front();
  const auto* const form = std::find_if(std::begin(kForms), std::end(kForms),
                                        [&](const Form& f) { return f.word == verb; });
  if (form == std::end(kForms)) {
    return Status::Error(EINVAL, "unknown verb \"" + Printable(verb.substr(0, 64)) +
                                     "\"; this worker knows " + std::string(kVerbs));
  }
  if (!split) return Expected(*form, "words are separated by exactly one space");
  words.erase(words.begin());
  if (words.size() < form->min_words) return Expected(*form, "words are missing");
  if (words.size() > form->max_words) return Expected(*form, "there are more words than expected");

  parsed.verb = form->verb;
  Status status = ParseWords(words, *form, &parsed);
  if (status.ok()) *request = std::move(parsed);
  return status;
}

std::vector<Attribute> Attributes(const TransferItem& item) {
  std::vector<Attribute> attributes;
  for (std::string_view rest = item.options; !rest.empty();) {
    const size_t end = std::min(rest.find(' '), rest.size());
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    if (IsReservedAttribute(name)) continue;  // an option
    Attribute& attribute = attributes.emplace_back();
    attribute.name = std::string(name);
    const bool decoded = PercentDecode(word.substr(equals + 1), &attribute.value);
    (void)decoded;  // it was checked when the line was parsed
  }
  return attributes;
}

std::string TakeKey(std::string_view* keys) {
  const size_t end = std::min(keys->find(' '), keys->size());
  std::string key;
  const bool decoded = PercentDecode(keys->substr(0, end), &key);
  (void)decoded;  // as above
  keys->remove_prefix(std::min(end + 1, keys->size()));
  return key;
}

std::string_view VerbName(Verb verb) {
  for (const Form& form : kForms) {
    if (form.verb == verb) return form.word;
  }
  return "";
}

}  // namespace lmshm
