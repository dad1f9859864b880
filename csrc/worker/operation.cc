// SPDX-License-Identifier: Apache-2.0
#include "worker/operation.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "worker/crc32c.h"
#include "worker/percent.h"
#include "worker/text.h"

namespace lmshm {

namespace {

constexpr size_t kShownKeyBytes = 200;
// Of a batch: an object's text before percent-coding, and what a later object needs at least
// (" ;" and the longest errno name).
constexpr size_t kMaxItemTextBytes = 512;
constexpr size_t kLeastItemBytes = 24;
// A part of a batch for one thread: it must be worth the while of waking one.
constexpr uint64_t kPartBytes = 256 * 1024;
constexpr size_t kPartObjects = 8;

// As messages have it.
std::string_view TransferName(Verb verb) { return verb == Verb::kPut ? "put" : "get"; }

void AppendNamed(std::string_view name, std::string_view value, std::string* result) {
  result->push_back(' ');
  result->append(name);
  result->push_back('=');
  result->append(value);
}

void AppendStored(const ObjectInfo& info, std::string* result) {
  if (info.crc32c.has_value()) AppendNamed("crc32c", Crc32cHex(*info.crc32c), result);
  for (const Attribute& attribute : info.attributes) {
    AppendNamed(attribute.name, PercentEncode(attribute.value), result);
  }
}

// A failure in the operation's own words, and counted.
Status Failed(Status status, const OperationContext& context) {
  if (status.number() == ENOENT) return status;  // a miss is none
  if (context.figures != nullptr) {
    context.figures->errors.fetch_add(1, std::memory_order_relaxed);
    if (status.number() == ECANCELED) {
      context.figures->cancelled.fetch_add(1, std::memory_order_relaxed);
    }
  }
  return status;
}

bool IsCancelled(const OperationContext& context) {
  return context.cancel != nullptr && context.cancel->Cancelled();
}

Status CancelledAt(std::string_view verb, std::string_view key, const OperationContext& context) {
  std::string action(verb);
  if (!key.empty()) action.push_back(' ');
  AppendPrintable(key, kShownKeyBytes, &action);
  return Status::System(ECANCELED, action, context.cancel->Reason());
}

Status Resolve(const TransferItem& item, const OperationContext& context, SharedBytes* bytes) {
  if (context.memory == nullptr) {
    return Status::Error(ENOTCONN, "no segment is attached: send ATTACH first");
  }
  return context.memory->Resolve(item.offset, item.size, bytes);
}

TransferOptions Options(const TransferItem& item, const OperationContext& context) {
  TransferOptions options;
  options.io = item.io.value_or(context.io);
  options.durability = item.sync.value_or(context.sync);
  options.checksum = item.checksum;
  options.cancel = context.cancel;
  options.parallel = context.parallel;
  return options;
}

Status Put(const TransferItem& item, const OperationContext& context, std::string* result) {
  SharedBytes bytes;
  Status status = Resolve(item, context, &bytes);
  if (!status.ok()) return status;
  uint32_t crc = 0;
  status = context.store->Put(item.key, bytes, item.attributes, Options(item, context), &crc);
  if (!status.ok()) return status;
  *result = " " + std::to_string(bytes.size);
  if (item.checksum) AppendNamed("crc32c", Crc32cHex(crc), result);
  return status;
}

Status Get(const TransferItem& item, const OperationContext& context, std::string* result) {
  SharedBytes bytes;
  Status status = Resolve(item, context, &bytes);
  if (!status.ok()) return status;
  ObjectInfo info;
  status = context.store->Get(item.key, bytes, Options(item, context), &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendStored(info, result);
  return status;
}

// One object of a PUT or a GET.
Status Transfer(Verb verb, const TransferItem& item, const OperationContext& context,
                std::string* result) {
  if (IsCancelled(context))
    return Failed(CancelledAt(TransferName(verb), item.key, context), context);
  Status status = verb == Verb::kPut ? Put(item, context, result) : Get(item, context, result);
  if (status.ok()) return status;
  if (status.number() == ECANCELED) status = CancelledAt(TransferName(verb), item.key, context);
  return Failed(std::move(status), context);
}

// How a batch's answer says that one object failed. A miss needs no words.
void AppendFailure(Verb verb, const Status& status, size_t room, std::string* result) {
  const std::string name = " -" + ErrnoName(status.number());
  result->append(name);
  if (verb == Verb::kGet && status.number() == ENOENT) return;
  std::string text;
  AppendPrintable(status.text(), kMaxItemTextBytes, &text);
  if (text.empty() || name.size() + 1 + PercentSize(text) > room) return;
  result->push_back(' ');
  AppendPercent(text, result);
}

// Where parts of a batch begin: each is small enough to be done in one go by one thread.
std::vector<size_t> Parts(const std::vector<TransferItem>& items) {
  std::vector<size_t> begins;
  uint64_t bytes = 0;
  for (size_t i = 0; i < items.size(); i++) {
    const bool full = begins.empty() || bytes >= kPartBytes || i - begins.back() >= kPartObjects ||
                      items[i].size >= kPartBytes;
    if (full) {
      begins.push_back(i);
      bytes = 0;
    }
    bytes += std::min(items[i].size, kPartBytes);
  }
  return begins;
}

Status Batch(const RequestV2& request, const OperationContext& context, size_t max_bytes,
             std::string* result) {
  const std::vector<TransferItem>& items = request.items;
  std::vector<Status> statuses(items.size());
  std::vector<std::string> results(items.size());
  const std::vector<size_t> begins = Parts(items);
  const auto run_part = [&](size_t part) {
    const size_t end = part + 1 < begins.size() ? begins[part + 1] : items.size();
    for (size_t i = begins[part]; i < end; i++) {
      statuses[i] = Transfer(request.verb, items[i], context, &results[i]);
    }
  };
  if (context.parallel != nullptr) {
    context.parallel->Run(begins.size(), begins.size(), Parallel::Pace::kUnknown, run_part);
  } else {
    for (size_t part = 0; part < begins.size(); part++) run_part(part);
  }

  result->clear();
  for (size_t i = 0; i < items.size(); i++) {
    if (i > 0) result->append(" ;");
    const size_t room = max_bytes - result->size() - kLeastItemBytes * (items.size() - 1 - i);
    if (!statuses[i].ok()) {
      AppendFailure(request.verb, statuses[i], room, result);
    } else {
      result->append(results[i].size() <= room ? results[i] : " -EOVERFLOW");
    }
  }
  return Status::OK();
}

Status Stat(const RequestV2& request, const OperationContext& context, std::string* result) {
  ObjectInfo info;
  Status status = context.store->Stat(request.keys.front(), &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendNamed("mtime_ms", std::to_string(info.mtime_ms), result);
  AppendNamed("disk", std::to_string(info.disk_bytes), result);
  AppendStored(info, result);
  return status;
}

// EXISTS and REMOVE: one digit a key. CONTAINS: how many there are before the first miss.
Status ForEachKey(const RequestV2& request, const OperationContext& context, std::string* result) {
  std::string digits;
  for (const std::string& key : request.keys) {
    if (IsCancelled(context)) return CancelledAt(VerbName(request.verb), key, context);
    bool yes = false;
    Status status = request.verb == Verb::kRemove ? context.store->Remove(key, &yes)
                                                  : context.store->Exists(key, &yes);
    if (!status.ok()) return status;
    if (!yes && request.verb == Verb::kContains) break;
    digits.push_back(yes ? '1' : '0');
  }
  *result = " " + (request.verb == Verb::kContains ? std::to_string(digits.size()) : digits);
  return Status::OK();
}

Status List(const RequestV2& request, const OperationContext& context, size_t max_bytes,
            std::string* result) {
  constexpr size_t kMaxCursorBytes = 1 + 3 * 255;  // a file name, at worst all of it coded
  ListRequest list;
  list.limit = static_cast<size_t>(request.number);
  list.max_bytes = max_bytes - kMaxCursorBytes;
  list.after = request.text;
  list.prefix = request.prefix;
  ListPage page;
  Status status = context.listing->List(list, context.cancel, &page);
  if (!status.ok()) return status;
  *result = " " + (page.next.empty() ? std::string("-") : PercentEncode(page.next));
  for (const std::string& key : page.keys) {
    result->push_back(' ');
    AppendPercent(key, result);
  }
  return status;
}

// All but PUT and GET.
Status Other(const RequestV2& request, const OperationContext& context, size_t max_bytes,
             std::string* result) {
  switch (request.verb) {
    case Verb::kStat:
      return Stat(request, context, result);
    case Verb::kExists:
    case Verb::kContains:
    case Verb::kRemove:
      return ForEachKey(request, context, result);
    case Verb::kList:
      return List(request, context, max_bytes, result);
    default:
      return Status::Error(EINVAL, "not an operation on objects");
  }
}

}  // namespace

Status CancelledBefore(const RequestV2& request, const OperationContext& context) {
  const std::string_view key =
      request.items.empty() ? std::string_view() : std::string_view(request.items.front().key);
  return Failed(CancelledAt(VerbName(request.verb), key, context), context);
}

Status RunOperation(const RequestV2& request, const OperationContext& context, size_t max_bytes,
                    std::string* result) {
  if (request.items.size() > 1) return Batch(request, context, max_bytes, result);
  if (request.items.size() == 1) {
    return Transfer(request.verb, request.items.front(), context, result);
  }
  Status status = Other(request, context, max_bytes, result);
  if (status.ok()) return status;
  if (status.number() == ECANCELED) status = CancelledAt(VerbName(request.verb), "", context);
  return Failed(std::move(status), context);
}

}  // namespace lmshm
