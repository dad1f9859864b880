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

namespace lmshm {

namespace {

// What a disk's flush costs, and reading a page of a directory: see kObjectCost.
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
// Keys that are asked for in one call where that is a round trip.
constexpr size_t kRemoteKeys = 256;
// What goes through a store's lane. Larger objects keep a thread busy, so they are for threads that
// nothing else waits for. What is got comes in pieces, and to wake for each of them costs more than
// a thread that sleeps while the server writes.
constexpr uint64_t kLanePutBytes = 1 << 20;
constexpr uint64_t kLaneGetBytes = 256 * 1024;
constexpr size_t kLaneObjects = 64;
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

// How a batch's answer says that one object failed. A miss needs no words, and neither does an
// object that a put was to leave: there may be one for each.
void AppendFailure(Verb verb, const Status& status, size_t room, std::string* result) {
  const std::string name = " -" + ErrnoName(status.number());
  result->append(name);
  if (status.number() == (verb == Verb::kGet ? ENOENT : EEXIST)) return;
  std::string text;
  AppendPrintable(status.text(), kMaxItemTextBytes, &text);
  if (text.empty() || name.size() + 1 + PercentSize(text) > room) return;
  result->push_back(' ');
  AppendPercent(text, result);
}

// What only some stores heed.
Status CheckOptions(const TransferItem& object, const StoreFacts& facts) {
  const auto refused = [&](std::string_view option) {
    return Status::Error(ENOTSUP, std::string(option) + " is for directories, and this worker's " +
                                      "engine is " + facts.engine + "; leave the option out");
  };
  if (!facts.io_modes && object.io.has_value() && *object.io != IoMode::kAuto) {
    return refused("io=" + std::string(IoModeName(*object.io)));
  }
  if (!facts.durability && object.sync.has_value() && *object.sync != Durability::kNone) {
    return refused("sync=" + std::string(DurabilityName(*object.sync)));
  }
  // A store of files heeds both.
  if (!facts.io_modes && object.lmcache_header) return refused("head=lmcache");
  if (!facts.io_modes && object.pad_log2 != 0) return refused("pad=");
  return Status::OK();
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

bool FitsLane(const RequestV2& request, const RequestContext& context) {
  if (!context.store->facts().remote) return false;
  if (request.verb == Verb::kExists) return request.key_count <= kLaneObjects;
  if (request.verb == Verb::kPut) {
    return request.items.size() <= kLaneObjects && BytesOf(request, context) <= kLanePutBytes;
  }
  return request.items.size() == 1 && request.items.front().size <= kLaneGetBytes;
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

// Of one object of a PUT or a GET, once it is done.
struct RequestTask::Outcome {
  Status status;
  std::string result;
};

// Objects of a batch for one thread in one go: it must be worth the while of waking one.
struct RequestTask::Part {
  size_t begin = 0;  // in the batch
  size_t end = 0;
  size_t told = 0;  // of its objects, from `begin` on
  bool begun = false;
  // While it is under way, one of the two.
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
};

struct RequestTask::Batch {
  // Divides `items` as the store wants them.
  Batch(const std::vector<TransferItem>& items, const StoreFacts& facts) : outcomes(items.size()) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < items.size(); i++) {
      const bool full = parts.empty() || bytes >= facts.part_bytes ||
                        i - parts.back().begin >= facts.part_objects ||
                        items[i].size >= facts.part_bytes;
      if (full) {
        parts.emplace_back().begin = i;
        left.push_back(parts.size() - 1);
        bytes = 0;
      }
      parts.back().end = i + 1;
      bytes += std::min(items[i].size, facts.part_bytes);
    }
  }

  std::vector<Part> parts;
  std::vector<size_t> left;  // parts that are not done
  std::vector<Outcome> outcomes;
  std::atomic<size_t> outcome_bytes{0};  // of all results, told or not
  size_t told = 0;                       // objects that are in `result`
  std::string result;
};

RequestTask::RequestTask(RequestV2 request, RequestContext context, const std::string& peer,
                         Metrics::Clock::time_point read)
    : Task(request.priority,
           !context.store->facts().remote && CostOf(request, context) <= kSmallCost),
      request_(std::move(request)),
      context_(std::move(context)),
      held_bytes_(sizeof(RequestTask) + kMapBytes + request_.held_bytes()),
      cost_(CostOf(request_, context_)),
      fits_lane_(FitsLane(request_, context_)),
      peer_(peer),
      read_(read),
      metrics_(*context_.metrics),
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
  options.if_absent = object.if_absent;
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
  Answer(status, result, answers);
  return true;
}

void RequestTask::Answer(const Status& status, const std::string& result, std::string* answers) {
  answered_ = true;
  AppendAnswer(id(), status, result, answers);
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + std::to_string(id()) + " " +
                              std::string(VerbName(request_.verb)) + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
}

bool RequestTask::BeginPuts(Lane* lane) {
  puts_.resize(request_.items.size());
  bool good = true;
  for (size_t i = 0; good && i < puts_.size(); i++) {
    Prepare(request_.items[i], &puts_[i]);
    good = !puts_[i].done;
  }
  if (good && lane->Put(puts_.data(), puts_.size(), this)) return true;
  std::vector<PutItem>().swap(puts_);
  return false;
}

bool RequestTask::BeginGet(Lane* lane) {
  get_ = std::make_unique<GetItem>();
  Prepare(request_.items.front(), get_.get());
  if (!get_->done && lane->Get(get_.get(), this)) return true;
  get_.reset();
  return false;
}

bool RequestTask::EnterLane(Lane* lane) {
  if (Cancelled()) return false;
  if (request_.verb == Verb::kPut) return BeginPuts(lane);
  if (request_.verb == Verb::kGet) return BeginGet(lane);
  exists_ = std::make_unique<ExistsItem>();
  for (std::string_view keys = request_.keys; !keys.empty();) {
    exists_->keys.push_back(TakeKey(&keys));
  }
  exists_->cancel = this;
  if (lane->Exists(exists_.get(), this)) return true;
  exists_.reset();
  return false;
}

void RequestTask::LeaveLane() {
  if (std::any_of(puts_.begin(), puts_.end(),
                  [](const PutItem& item) { return item.done || item.maybe_stored; })) {
    from_lane_ = std::move(puts_);
  }
  std::vector<PutItem>().swap(puts_);
  get_.reset();
  exists_.reset();
}

void RequestTask::TellPuts(Outcome* outcome) {
  const size_t count = puts_.size();
  if (count == 1) {
    Tell(request_.items.front(), puts_.data(), outcome);
    return;
  }
  batch_ = std::make_unique<Batch>(request_.items, context_.store->facts());
  for (size_t i = 0; i < count; i++) {
    Tell(request_.items[i], &puts_[i], &batch_->outcomes[i]);
    TellNext(count);
  }
  outcome->result = std::move(batch_->result);
  batch_.reset();
}

void RequestTask::FinishInLane(std::string* answers) {
  Outcome outcome;
  if (!puts_.empty()) {
    TellPuts(&outcome);
    puts_.clear();
  } else if (get_ != nullptr) {
    Tell(request_.items.front(), get_.get(), &outcome);
  } else if (!exists_->status.ok()) {
    outcome.status = Failed(std::move(exists_->status), VerbName(request_.verb), "");
  } else {
    outcome.result = " ";
    for (const bool yes : exists_->yes) outcome.result.push_back(yes ? '1' : '0');
  }
  LeaveLane();
  Answer(outcome.status, outcome.result, answers);
}

// On success `*result` follows "OK" in the answer, each word with a space before it.
bool RequestTask::Carry(Status* status, std::string* result) {
  const std::string_view verb = VerbName(request_.verb);
  if (!begun() && from_lane_.empty() && Cancelled()) {
    const std::string_view key =
        request_.items.empty() ? std::string_view() : request_.items.front().key;
    *status = Failed(CancelledAt(verb, key), verb, key);
    return true;
  }
  Turn turn(context_.parallel);
  if (request_.items.size() > 1) return GoBatch(&turn, result);
  if (request_.items.size() == 1) {
    return request_.verb == Verb::kPut ? GoLone(&put_, &turn, status, result)
                                       : GoLone(&get_, &turn, status, result);
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

// An item that is done after these was refused, or a lane has done it.

void RequestTask::Prepare(const TransferItem& object, PutItem* item) {
  const StoreFacts& facts = context_.store->facts();
  PutItem* const known =
      from_lane_.empty() ? nullptr : &from_lane_[static_cast<size_t>(&object - &request_.items[0])];
  if (known != nullptr && known->done) {
    *item = std::move(*known);
    return;
  }
  item->key = object.key;
  item->options = Options(object);
  // It would find itself.
  if (known != nullptr && known->maybe_stored) item->options.if_absent = false;
  item->status = Resolve(object, &item->data);
  if (item->status.ok()) item->status = CheckOptions(object, facts);
  if (item->status.ok() && object.size > facts.max_object_bytes) {
    item->status = Status::Error(
        EFBIG, ActionOn("put", object.key) + ": it has " + std::to_string(object.size) +
                   " bytes, and an object in " + facts.engine + " may have at most " +
                   std::to_string(facts.max_object_bytes));
  }
  item->done = !item->status.ok();
  // What is not stored may still be needed: for LMCache's header, or its string of metadata.
  const bool layout = facts.tensor_layout || object.lmcache_header;
  if (!item->done && (facts.attributes || layout)) {
    item->attributes = Attributes(object);
  }
}

void RequestTask::Prepare(const TransferItem& object, GetItem* item) {
  item->key = object.key;
  item->options = Options(object);
  item->status = Resolve(object, &item->space);
  if (item->status.ok()) item->status = CheckOptions(object, context_.store->facts());
  item->done = !item->status.ok();
}

void RequestTask::Tell(const TransferItem& object, PutItem* item, Outcome* outcome) const {
  if (!item->status.ok()) {
    // What was asked for in that case has been done.
    const bool kept = object.if_absent && item->status.number() == EEXIST;
    outcome->status =
        kept ? std::move(item->status) : Failed(std::move(item->status), "put", object.key);
    return;
  }
  metrics_.CountPut(object.size);
  outcome->result = " " + std::to_string(object.size);
  if (object.checksum) AppendNamed("crc32c", Crc32cHex(item->crc32c), &outcome->result);
}

void RequestTask::Tell(const TransferItem& object, GetItem* item, Outcome* outcome) const {
  if (!item->status.ok()) {
    if (item->status.number() == ENOENT) Metrics::Add(&metrics_.misses, 1);
    outcome->status = Failed(std::move(item->status), "get", object.key);
    return;
  }
  Metrics::Add(&metrics_.hits, 1);
  metrics_.CountGet(item->info.length);
  outcome->result = " " + std::to_string(item->info.length);
  AppendStored(item->info, &outcome->result);
}

// `*kept` is the object while it waits for its next turn. One that needs a single turn stays on the
// stack.
template <typename Item>
bool RequestTask::GoLone(std::unique_ptr<Item>* kept, Turn* turn, Status* status,
                         std::string* result) {
  const TransferItem& object = request_.items.front();
  Item fresh;
  Item* const item = *kept != nullptr ? kept->get() : &fresh;
  if (*kept == nullptr) Prepare(object, item);
  if (!item->done) Go(item, 1, turn);
  if (!item->done) {
    if (*kept == nullptr) *kept = std::make_unique<Item>(std::move(fresh));
    return false;
  }
  Outcome outcome;
  Tell(object, item, &outcome);
  *status = std::move(outcome.status);
  *result = std::move(outcome.result);
  kept->reset();
  return true;
}

// What there is time for of one part of a batch; `items` is its.
template <typename Item>
void RequestTask::GoItems(Part* part, std::vector<Item>* items, Turn* turn) {
  const size_t count = part->end - part->begin;
  if (!part->begun) {
    if (turn->Over()) return;
    part->begun = true;
    items->resize(count);
    for (size_t i = 0; i < count; i++) Prepare(request_.items[part->begin + i], &(*items)[i]);
  }
  Go(items->data(), count, turn);
  for (; part->told < count && (*items)[part->told].done; part->told++) {
    const size_t at = part->begin + part->told;
    Outcome& outcome = batch_->outcomes[at];
    Tell(request_.items[at], &(*items)[part->told], &outcome);
    // What cannot be told any more is not kept until it could be.
    const size_t bytes = outcome.result.size();
    if (batch_->outcome_bytes.fetch_add(bytes, std::memory_order_relaxed) + bytes >
        kMaxResultBytes) {
      outcome.result = kOverflow;
      outcome.result.shrink_to_fit();
    }
  }
  if (part->told == count) std::vector<Item>().swap(*items);
}

bool RequestTask::GoBatch(Turn* turn, std::string* result) {
  const size_t count = request_.items.size();
  const StoreFacts& facts = context_.store->facts();
  if (batch_ == nullptr) batch_ = std::make_unique<Batch>(request_.items, facts);
  std::vector<size_t>& left = batch_->left;
  const auto go = [&](size_t i) {
    Part& part = batch_->parts[left[i]];
    if (request_.verb == Verb::kPut) {
      GoItems(&part, &part.puts, turn);
    } else {
      GoItems(&part, &part.gets, turn);
    }
  };
  if (context_.parallel != nullptr) {
    const Parallel::Pace pace = facts.remote ? Parallel::Pace::kSlow : Parallel::Pace::kUnknown;
    context_.parallel->Run(left.size(), context_.open_objects, pace, go);
  } else {
    for (size_t i = 0; i < left.size(); i++) go(i);
  }

  const auto is_done = [&](size_t at) {
    const Part& part = batch_->parts[at];
    return part.told == part.end - part.begin;
  };
  for (const Part& part : batch_->parts) {
    // In the order of the request: not beyond one that is not done.
    while (batch_->told >= part.begin && batch_->told < part.begin + part.told) TellNext(count);
  }
  left.erase(std::remove_if(left.begin(), left.end(), is_done), left.end());
  if (!left.empty()) return false;
  *result = std::move(batch_->result);
  batch_.reset();
  return true;
}

// The next object of the batch, in the order of the request.
void RequestTask::TellNext(size_t count) {
  const size_t i = batch_->told++;
  Outcome& outcome = batch_->outcomes[i];
  if (i > 0) batch_->result.append(" ;");
  const size_t room = kMaxResultBytes - batch_->result.size() - kLeastItemBytes * (count - 1 - i);
  if (!outcome.status.ok()) {
    AppendFailure(request_.verb, outcome.status, room, &batch_->result);
  } else {
    batch_->result.append(outcome.result.size() <= room ? outcome.result : kOverflow);
  }
  outcome.status = Status::OK();
  std::string().swap(outcome.result);
}

// EXISTS and REMOVE: one digit a key. CONTAINS: how many there are before the first miss.
bool RequestTask::GoKeys(Turn* turn, Status* status, std::string* result) {
  const Verb verb = request_.verb;
  const size_t most = context_.store->facts().remote ? kRemoteKeys : 1;
  std::vector<std::string> keys;
  std::vector<bool> yes;
  while (!keys_left_.empty()) {
    if (turn->Over()) return false;
    keys.clear();
    while (!keys_left_.empty() && keys.size() < most) keys.push_back(TakeKey(&keys_left_));
    yes.assign(keys.size(), false);
    turn->Spend(kObjectCost * keys.size());
    if (Cancelled()) {
      *status = CancelledAt(VerbName(verb), keys.front());
    } else if (verb == Verb::kRemove) {
      *status = context_.store->Remove(keys, this, &yes);
    } else {
      *status = context_.store->Exists(keys, this, &yes);
    }
    if (!status->ok()) return true;
    for (size_t i = 0; i < yes.size(); i++) {
      if (!yes[i] && verb == Verb::kContains) {
        keys_left_ = {};
        break;
      }
      digits_.push_back(yes[i] ? '1' : '0');
    }
  }
  *result = " " + (verb == Verb::kContains ? std::to_string(digits_.size()) : digits_);
  return true;
}

Status RequestTask::Stat(std::string* result) {
  std::string_view keys = request_.keys;
  const std::string key = TakeKey(&keys);
  ObjectInfo info;
  Status status = context_.store->Stat(key, this, &info);
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
