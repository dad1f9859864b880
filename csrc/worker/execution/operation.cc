// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/operation.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/storage/object_transfer.h"

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

Metrics& MetricsOf(const OperationContext& context) { return context.store->share().metrics; }

// A failure in the operation's own words, and counted.
Status Failed(Status status, Verb verb, const OperationContext& context) {
  if (status.number() == ENOENT) return status;  // a miss is none
  Metrics& metrics = MetricsOf(context);
  Metrics::Add(&metrics.errors, 1);
  metrics.CountError(static_cast<size_t>(verb));
  if (status.number() == ECANCELED) Metrics::Add(&metrics.cancelled, 1);
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

Status Stat(const RequestV2& request, const OperationContext& context, std::string* result) {
  std::string_view keys = request.keys;
  const std::string key = TakeKey(&keys);
  ObjectInfo info;
  Status status = context.store->Stat(key, &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendNamed("mtime_ms", std::to_string(info.mtime_ms), result);
  AppendNamed("disk", std::to_string(info.disk_bytes), result);
  AppendStored(info, result);
  return status;
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

// What carrying out one object costs, as bytes that could be moved in the same time.
uint64_t ObjectCost(Verb verb) { return verb == Verb::kPut ? kNewObjectCost : kObjectCost; }

}  // namespace

// One object of a PUT or a GET.
struct Operation::Item {
  bool done = false;
  // While it is under way; neither: it has not been begun.
  std::unique_ptr<ObjectPut> put;
  std::unique_ptr<ObjectGet> get;
  // When it is done.
  Status status;
  std::string result;
};

struct Operation::Batch {
  std::vector<Item> items;
  std::vector<size_t> begins;  // of the parts
  std::vector<size_t> left;    // parts that are not done
  size_t told = 0;             // items that are in `result`
  std::string result;
};

Operation::Operation(RequestV2 request, OperationContext context)
    : request_(std::move(request)), context_(std::move(context)), keys_left_(request_.keys) {}

Operation::~Operation() = default;

// These return true when the object is done.
bool Operation::GoPut(const TransferItem& object, Item* item, Turn* turn) {
  SharedBytes bytes;
  if (item->put == nullptr) {
    item->status = Resolve(object, context_, &bytes);
    if (!item->status.ok()) return true;
    item->put = std::make_unique<ObjectPut>(*context_.store, object.key, bytes, Attributes(object),
                                            Options(object, context_));
  }
  bool done;
  item->status = item->put->Go(turn, &done);
  if (!done) return false;
  if (item->status.ok()) {
    item->result = " " + std::to_string(object.size);
    if (object.checksum) AppendNamed("crc32c", Crc32cHex(item->put->crc32c()), &item->result);
  }
  item->put.reset();
  return true;
}

bool Operation::GoGet(const TransferItem& object, Item* item, Turn* turn) {
  ObjectInfo info;
  if (item->get != nullptr) {
    bool done;
    item->status = item->get->Go(turn, &done, &info);
    if (!done) return false;
    item->get.reset();
  } else {
    SharedBytes bytes;
    item->status = Resolve(object, context_, &bytes);
    if (item->status.ok()) {
      item->status = context_.store->BeginGet(object.key, bytes, Options(object, context_), turn,
                                              &info, &item->get);
    }
    if (item->get != nullptr) return false;
  }
  if (item->status.ok()) {
    item->result = " " + std::to_string(info.length);
    AppendStored(info, &item->result);
  }
  return true;
}

bool Operation::GoTransfer(size_t index, Item* item, Turn* turn) {
  const Verb verb = request_.verb;
  const TransferItem& object = request_.items[index];
  if (item->put == nullptr && item->get == nullptr) {
    turn->Spend(ObjectCost(verb));
    if (IsCancelled(context_)) {
      item->status = Failed(CancelledAt(TransferName(verb), object.key, context_), verb, context_);
      return item->done = true;
    }
  }
  if (!(verb == Verb::kPut ? GoPut(object, item, turn) : GoGet(object, item, turn))) return false;
  if (verb == Verb::kGet && (item->status.ok() || item->status.number() == ENOENT)) {
    Metrics& metrics = MetricsOf(context_);
    Metrics::Add(item->status.ok() ? &metrics.hits : &metrics.misses, 1);
  }
  if (!item->status.ok()) {
    if (item->status.number() == ECANCELED) {
      item->status = CancelledAt(TransferName(verb), object.key, context_);
    }
    item->status = Failed(std::move(item->status), verb, context_);
  }
  return item->done = true;
}

// What there is time for of one part of a batch.
void Operation::GoPart(size_t part, Turn* turn) {
  const std::vector<size_t>& begins = batch_->begins;
  const size_t end = part + 1 < begins.size() ? begins[part + 1] : request_.items.size();
  for (size_t i = begins[part]; i < end; i++) {
    if (batch_->items[i].done) continue;
    if (turn->Over() || !GoTransfer(i, &batch_->items[i], turn)) return;
  }
}

bool Operation::GoBatch(size_t max_bytes, Turn* turn, std::string* result) {
  const size_t count = request_.items.size();
  if (batch_ == nullptr) {
    batch_ = std::make_unique<Batch>();
    batch_->items.resize(count);
    batch_->begins = Parts(request_.items);
    for (size_t part = 0; part < batch_->begins.size(); part++) batch_->left.push_back(part);
  }
  std::vector<size_t>& left = batch_->left;
  const auto go = [&](size_t i) { GoPart(left[i], turn); };
  if (context_.parallel != nullptr) {
    context_.parallel->Run(left.size(), context_.open_objects, Parallel::Pace::kUnknown, go);
  } else {
    for (size_t i = 0; i < left.size(); i++) go(i);
  }
  const auto is_done = [&](size_t part) {
    const size_t end = part + 1 < batch_->begins.size() ? batch_->begins[part + 1] : count;
    return batch_->items[end - 1].done;
  };
  left.erase(std::remove_if(left.begin(), left.end(), is_done), left.end());

  for (; batch_->told < count && batch_->items[batch_->told].done; batch_->told++) {
    const size_t i = batch_->told;
    Item& item = batch_->items[i];
    if (i > 0) batch_->result.append(" ;");
    const size_t room = max_bytes - batch_->result.size() - kLeastItemBytes * (count - 1 - i);
    if (!item.status.ok()) {
      AppendFailure(request_.verb, item.status, room, &batch_->result);
    } else {
      batch_->result.append(item.result.size() <= room ? item.result : " -EOVERFLOW");
    }
    item.status = Status::OK();
    std::string().swap(item.result);
  }
  if (!left.empty()) return false;
  *result = std::move(batch_->result);
  batch_.reset();
  return true;
}

bool Operation::Go(size_t max_bytes, Status* status, std::string* result) {
  if (!begun_ && IsCancelled(context_)) {
    const std::string_view key =
        request_.items.empty() ? std::string_view() : request_.items.front().key;
    *status = Failed(CancelledAt(VerbName(request_.verb), key, context_), request_.verb, context_);
    return true;
  }
  begun_ = true;
  Turn turn(context_.parallel);
  *status = Status::OK();
  if (request_.items.size() > 1) return GoBatch(max_bytes, &turn, result);
  if (request_.items.size() == 1) {
    Item fresh;
    Item* const item = item_ != nullptr ? item_.get() : &fresh;
    if (!GoTransfer(0, item, &turn)) {
      if (item_ == nullptr) item_ = std::make_unique<Item>(std::move(fresh));
      return false;
    }
    *status = std::move(item->status);
    *result = std::move(item->result);
    item_.reset();
    return true;
  }
  if (!GoOther(max_bytes, &turn, status, result)) return false;
  if (status->ok()) return true;
  if (status->number() == ECANCELED) *status = CancelledAt(VerbName(request_.verb), "", context_);
  *status = Failed(std::move(*status), request_.verb, context_);
  return true;
}

// All but PUT and GET.
bool Operation::GoOther(size_t max_bytes, Turn* turn, Status* status, std::string* result) {
  switch (request_.verb) {
    case Verb::kStat:
      *status = Stat(request_, context_, result);
      return true;
    case Verb::kExists:
    case Verb::kContains:
    case Verb::kRemove:
      return GoKeys(turn, status, result);
    case Verb::kList:
      *status = List(request_, context_, max_bytes, result);
      return true;
    default:
      *status = Status::Error(EINVAL, "not an operation on objects");
      return true;
  }
}

// EXISTS and REMOVE: one digit a key. CONTAINS: how many there are before the first miss.
bool Operation::GoKeys(Turn* turn, Status* status, std::string* result) {
  const Verb verb = request_.verb;
  while (!keys_left_.empty()) {
    if (turn->Over()) return false;
    const std::string key = TakeKey(&keys_left_);
    turn->Spend(kObjectCost);
    bool yes = false;
    if (IsCancelled(context_)) {
      *status = CancelledAt(VerbName(verb), key, context_);
    } else if (verb == Verb::kRemove) {
      *status = context_.store->Remove(key, &yes);
    } else {
      *status = context_.store->Exists(key, &yes);
    }
    if (!status->ok()) return true;
    if (!yes && verb == Verb::kContains) break;
    digits_.push_back(yes ? '1' : '0');
  }
  *result = " " + (verb == Verb::kContains ? std::to_string(digits_.size()) : digits_);
  return true;
}

uint64_t Operation::TurnBytes() const {
  if (context_.memory == nullptr) return 0;
  const uint64_t objects = std::min<uint64_t>(request_.items.size(), context_.open_objects);
  const uint64_t most = kTurnBytes * std::max<uint64_t>(objects, 1);
  uint64_t bytes = 0;
  for (const TransferItem& item : request_.items) {
    // What does not lie in the segment is refused without being moved.
    if (item.size <= context_.memory->size()) bytes += std::min(item.size, most);
    if (bytes >= most) return most;
  }
  return bytes;
}

}  // namespace lmshm
