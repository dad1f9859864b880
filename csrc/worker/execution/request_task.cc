// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/request_task.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <utility>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/base/log.h"
#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/protocol/answer.h"
#include "worker/storage/object_transfer.h"

namespace lmshm {

namespace {

// What opening, describing and closing a file costs, as bytes that could be moved in the same time;
// what making one does; a disk's flush; reading a page of a directory.
constexpr uint64_t kObjectCost = 16 * 1024;
constexpr uint64_t kNewObjectCost = 128 * 1024;
constexpr uint64_t kSyncCost = 16 << 20;
constexpr uint64_t kListCost = 4 << 20;
// From here on a task goes to the engine by itself.
constexpr uint64_t kSmallCost = 256 * 1024;
// What the allocator and the pipeline's map take for one request.
constexpr size_t kMapBytes = 128;
// Of a batch: an object's text before percent-coding, and what a later object needs at least
// (" ;" and the longest errno name).
constexpr size_t kMaxItemTextBytes = 512;
constexpr size_t kLeastItemBytes = 24;
constexpr char kOverflow[] = " -EOVERFLOW";
// A part of a batch for one thread: it must be worth the while of waking one.
constexpr uint64_t kPartBytes = 256 * 1024;
constexpr size_t kPartObjects = 8;
constexpr size_t kMaxCursorBytes = 42;  // a space, two numbers and a point

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

uint64_t ObjectCost(Verb verb) { return verb == Verb::kPut ? kNewObjectCost : kObjectCost; }

uint64_t Sum(uint64_t a, uint64_t b) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  return a <= kMax - b ? a + b : kMax;
}

// What does not lie in the segment is refused without being moved.
uint64_t BytesOf(const RequestV2& request, const RequestContext& context) {
  if (context.memory == nullptr) return 0;
  uint64_t bytes = 0;
  for (const TransferItem& item : request.items) {
    if (item.size <= context.memory->size()) bytes = Sum(bytes, item.size);
  }
  return bytes;
}

uint64_t CostOf(const RequestV2& request, const RequestContext& context) {
  if (request.verb == Verb::kList) return kListCost;
  const uint64_t objects = request.items.size() + request.key_count;
  uint64_t cost = Sum(ObjectCost(request.verb) * objects, BytesOf(request, context));
  if (request.verb != Verb::kPut) return cost;
  for (const TransferItem& item : request.items) {
    if (item.sync.value_or(context.sync) != Durability::kNone) cost = Sum(cost, kSyncCost);
  }
  return cost;
}

// Bytes of shared memory that one turn moves, if somebody waits for the next.
uint64_t TurnBytes(const RequestV2& request, const RequestContext& context) {
  if (context.memory == nullptr) return 0;
  const uint64_t objects = std::min<uint64_t>(request.items.size(), context.open_objects);
  const uint64_t most = kTurnBytes * std::max<uint64_t>(objects, 1);
  uint64_t bytes = 0;
  for (const TransferItem& item : request.items) {
    // What does not lie in the segment is refused without being moved.
    if (item.size <= context.memory->size()) bytes += std::min(item.size, most);
    if (bytes >= most) return most;
  }
  return bytes;
}

}  // namespace

// One object of a PUT or a GET.
struct RequestTask::Item {
  bool done = false;
  // While it is under way; neither: it has not been begun.
  std::unique_ptr<ObjectPut> put;
  std::unique_ptr<ObjectGet> get;
  // When it is done.
  Status status;
  std::string result;
};

struct RequestTask::Batch {
  std::vector<Item> items;
  std::vector<size_t> begins;         // of the parts
  std::vector<size_t> left;           // parts that are not done
  std::atomic<size_t> item_bytes{0};  // of all results of items, told or not
  size_t told = 0;                    // items that are in `result`
  std::string result;
};

RequestTask::RequestTask(RequestV2 request, RequestContext context, const std::string& peer,
                         Metrics::Clock::time_point read)
    : Task(request.priority, CostOf(request, context) <= kSmallCost),
      request_(std::move(request)),
      context_(std::move(context)),
      held_bytes_(sizeof(RequestTask) + kMapBytes + request_.held_bytes()),
      cost_(CostOf(request_, context_)),
      peer_(peer),
      read_(read),
      metrics_(context_.store->share().metrics),
      keys_left_(request_.keys) {
  set_bytes(TurnBytes(request_, context_));
}

RequestTask::~RequestTask() = default;

bool RequestTask::Cancelled() const {
  return cancelled_.load(std::memory_order_relaxed) ||
         (context_.cancel != nullptr && context_.cancel->Cancelled());
}

const char* RequestTask::Reason() const {
  return cancelled_.load(std::memory_order_relaxed) ? "the client cancelled it"
                                                    : context_.cancel->Reason();
}

Status RequestTask::CancelledAt(std::string_view verb, std::string_view key) const {
  return Status::System(ECANCELED, key.empty() ? std::string(verb) : ActionOn(verb, key), Reason());
}

Status RequestTask::Failed(Status status, std::string_view verb, std::string_view key) const {
  if (status.number() == ENOENT) return status;  // a miss is none
  Metrics::Add(&metrics_.errors, 1);
  metrics_.CountError(static_cast<size_t>(request_.verb));
  if (status.number() == ECANCELED) Metrics::Add(&metrics_.cancelled, 1);
  return status.number() == ECANCELED ? CancelledAt(verb, key) : status;
}

Status RequestTask::Resolve(const TransferItem& object, SharedBytes* bytes) const {
  if (context_.memory == nullptr) {
    return Status::Error(ENOTCONN, "no segment is attached: send ATTACH first");
  }
  return context_.memory->Resolve(object.offset, object.size, bytes);
}

TransferOptions RequestTask::Options(const TransferItem& object) {
  TransferOptions options;
  options.io = object.io.value_or(context_.io);
  options.durability = object.sync.value_or(context_.sync);
  options.checksum = object.checksum;
  options.lmcache_header = object.lmcache_header;
  options.pad_bytes = uint64_t{1} << object.pad_log2;
  options.cancel = this;
  options.parallel = context_.parallel;
  return options;
}

void RequestTask::CountAnswered(Metrics::Clock::time_point now) const {
  if (answered_) metrics_.CountRequest(static_cast<size_t>(request_.verb), now - read_);
}

bool RequestTask::Go(std::string* answers) {
  Status status;
  std::string result;
  if (!Carry(&status, &result)) {
    set_begun();
    return false;
  }
  answered_ = true;
  AppendAnswer(id(), status, result, answers);
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + std::to_string(id()) + " " +
                              std::string(VerbName(request_.verb)) + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
  return true;
}

// On success `*result` follows "OK" in the answer, each word with a space before it.
bool RequestTask::Carry(Status* status, std::string* result) {
  const std::string_view verb = VerbName(request_.verb);
  if (!begun() && Cancelled()) {
    const std::string_view key =
        request_.items.empty() ? std::string_view() : request_.items.front().key;
    *status = Failed(CancelledAt(verb, key), verb, key);
    return true;
  }
  Turn turn(context_.parallel);
  if (request_.items.size() > 1) return GoBatch(&turn, result);
  if (request_.items.size() == 1) {
    Item fresh;
    Item* const item = item_ != nullptr ? item_.get() : &fresh;
    if (!GoObject(0, item, &turn)) {
      if (item_ == nullptr) item_ = std::make_unique<Item>(std::move(fresh));
      return false;
    }
    *status = std::move(item->status);
    *result = std::move(item->result);
    item_.reset();
    return true;
  }
  if (request_.verb == Verb::kStat) {
    *status = Stat(result);
  } else if (request_.verb == Verb::kList) {
    *status = List(result);
  } else if (!GoKeys(&turn, status, result)) {
    return false;
  }
  if (!status->ok()) *status = Failed(std::move(*status), verb, "");
  return true;
}

bool RequestTask::GoPut(const TransferItem& object, Item* item, Turn* turn) {
  SharedBytes bytes;
  if (item->put == nullptr) {
    item->status = Resolve(object, &bytes);
    if (!item->status.ok()) return true;
    item->put = std::make_unique<ObjectPut>(*context_.store, CheckedKey(object.key), bytes,
                                            Attributes(object), Options(object));
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

bool RequestTask::GoGet(const TransferItem& object, Item* item, Turn* turn) {
  ObjectInfo info;
  if (item->get != nullptr) {
    bool done;
    item->status = item->get->Go(turn, &done, &info);
    if (!done) return false;
    item->get.reset();
  } else {
    SharedBytes bytes;
    item->status = Resolve(object, &bytes);
    if (item->status.ok()) {
      item->status = context_.store->BeginGet(CheckedKey(object.key), bytes, Options(object), turn,
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

bool RequestTask::GoObject(size_t index, Item* item, Turn* turn) {
  const TransferItem& object = request_.items[index];
  const bool put = request_.verb == Verb::kPut;
  const bool begins = item->put == nullptr && item->get == nullptr;
  if (begins) turn->Spend(ObjectCost(request_.verb));
  if (begins && Cancelled()) {
    item->status = CancelledAt(put ? "put" : "get", object.key);
  } else if (!(put ? GoPut(object, item, turn) : GoGet(object, item, turn))) {
    return false;
  }
  if (!put && (item->status.ok() || item->status.number() == ENOENT)) {
    Metrics::Add(item->status.ok() ? &metrics_.hits : &metrics_.misses, 1);
  }
  if (!item->status.ok()) {
    item->status = Failed(std::move(item->status), put ? "put" : "get", object.key);
  }
  return item->done = true;
}

// What there is time for of one part of a batch.
void RequestTask::GoPart(size_t part, Turn* turn) {
  const std::vector<size_t>& begins = batch_->begins;
  const size_t end = part + 1 < begins.size() ? begins[part + 1] : request_.items.size();
  for (size_t i = begins[part]; i < end; i++) {
    if (batch_->items[i].done) continue;
    Item& item = batch_->items[i];
    if (turn->Over() || !GoObject(i, &item, turn)) return;
    // What cannot be told any more is not kept until it could be.
    const size_t bytes = item.result.size();
    if (batch_->item_bytes.fetch_add(bytes, std::memory_order_relaxed) + bytes > kMaxResultBytes) {
      item.result = kOverflow;
      item.result.shrink_to_fit();
    }
  }
}

bool RequestTask::GoBatch(Turn* turn, std::string* result) {
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
    const size_t room = kMaxResultBytes - batch_->result.size() - kLeastItemBytes * (count - 1 - i);
    if (!item.status.ok()) {
      AppendFailure(request_.verb, item.status, room, &batch_->result);
    } else {
      batch_->result.append(item.result.size() <= room ? item.result : kOverflow);
    }
    item.status = Status::OK();
    std::string().swap(item.result);
  }
  if (!left.empty()) return false;
  *result = std::move(batch_->result);
  batch_.reset();
  return true;
}

// EXISTS and REMOVE: one digit a key. CONTAINS: how many there are before the first miss.
bool RequestTask::GoKeys(Turn* turn, Status* status, std::string* result) {
  const Verb verb = request_.verb;
  while (!keys_left_.empty()) {
    if (turn->Over()) return false;
    const std::string key = TakeKey(&keys_left_);
    turn->Spend(kObjectCost);
    bool yes = false;
    if (Cancelled()) {
      *status = CancelledAt(VerbName(verb), key);
    } else if (verb == Verb::kRemove) {
      *status = context_.store->Remove(CheckedKey(key), &yes);
    } else {
      *status = context_.store->Exists(CheckedKey(key), &yes);
    }
    if (!status->ok()) return true;
    if (!yes && verb == Verb::kContains) break;
    digits_.push_back(yes ? '1' : '0');
  }
  *result = " " + (verb == Verb::kContains ? std::to_string(digits_.size()) : digits_);
  return true;
}

Status RequestTask::Stat(std::string* result) const {
  std::string_view keys = request_.keys;
  const std::string key = TakeKey(&keys);
  ObjectInfo info;
  Status status = context_.store->Stat(CheckedKey(key), &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendNamed("mtime_ms", std::to_string(info.mtime_ms), result);
  AppendNamed("disk", std::to_string(info.disk_bytes), result);
  AppendStored(info, result);
  return status;
}

Status RequestTask::List(std::string* result) {
  if (request_.number == 0) {
    context_.listings->End(request_.text);
    *result = " -";
    return Status::OK();
  }
  ListRequest list;
  list.limit = static_cast<size_t>(request_.number);
  list.max_bytes = kMaxResultBytes - kMaxCursorBytes;
  list.cursor = request_.text;
  list.prefix = request_.prefix;
  ListPage page;
  Status status = context_.listings->List(list, this, &page);
  if (!status.ok()) return status;
  *result = " " + (page.next.empty() ? std::string("-") : page.next);
  for (const std::string& key : page.keys) {
    result->push_back(' ');
    AppendPercent(key, result);
  }
  return status;
}

}  // namespace lmshm
