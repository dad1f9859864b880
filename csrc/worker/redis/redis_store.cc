// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/redis_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "worker/base/log.h"
#include "worker/base/percent.h"
#include "worker/base/random.h"
#include "worker/base/text.h"
#include "worker/redis/errors.h"
#include "worker/redis/redis_lane.h"
#include "worker/redis/redis_listing.h"
#include "worker/storage/lmcache_header.h"

namespace lmshm {

namespace {

constexpr std::string_view kPayloadSuffix = "kv_bytes";
constexpr std::string_view kMetadataSuffix = "metadata";
// What servers take in one string unless they are told otherwise.
constexpr uint64_t kUsualMaxValue = 512ULL << 20;
// One server is one thread: more connections for a batch cost CPU and gain nothing.
constexpr uint64_t kPartBytes = 16 << 20;
constexpr size_t kPartObjects = 256;
// Of a value, for STAT: its head, unless it has many attributes.
constexpr size_t kHeadAsked = 512;
constexpr int kStatTries = 3;
// A round trip costs less than to send so much.
constexpr uint64_t kLookFirstBytes = 256 * 1024;
// Odd, so that all tags have their turn; large, so that two workers' do not run side by side.
constexpr uint32_t kTagStep = 0x9e3779b9;

uint64_t NowMs() {
  using std::chrono::milliseconds;
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

std::string Word(std::string_view name, std::string_view value) {
  return " " + std::string(name) + "=" + PercentEncode(value);
}

// What LMCache keeps in "<key>metadata" is its header, and nothing else. False: it is not.
bool ParseMetadata(std::string_view text, uint64_t* length, std::vector<Attribute>* attributes) {
  LmcacheHeader header;
  if (!ParseLmcacheHeader(text, &header) || header.bytes != text.size()) return false;
  *length = header.length;
  *attributes = std::move(header.attributes);
  return true;
}

// CLUSTER NODES, a line each: <id> <address>:<port>@<port of the bus>[,<name>] <flags> ...
std::vector<uint16_t> PortsOfMembers(std::string_view text) {
  std::vector<uint16_t> ports;
  for (size_t at = text.find(' '); at != std::string_view::npos; at = text.find(' ')) {
    text.remove_prefix(at + 1);
    std::string_view address = text.substr(0, text.find_first_of("@ \n"));
    address.remove_prefix(std::min(address.size(), address.rfind(':') + 1));
    uint64_t port = 0;
    if (ParseU64(address, &port) == NumberError::kNone && port > 0 && port <= UINT16_MAX) {
      ports.push_back(static_cast<uint16_t>(port));
    }
    text.remove_prefix(std::min(text.size(), text.find('\n')));
  }
  return ports;
}

// "valkey_version:9.1.0" in what INFO says; empty: not there.
std::string InfoField(std::string_view info, std::string_view name) {
  for (size_t at = 0; at < info.size();) {
    const size_t end = std::min(info.find("\r\n", at), info.size());
    const std::string_view line = info.substr(at, end - at);
    if (line.size() > name.size() && line.substr(0, name.size()) == name &&
        line[name.size()] == ':') {
      return std::string(line.substr(name.size() + 1));
    }
    at = end + 2;
  }
  return "";
}

// One after the other, those with the same CancelCheck together.
template <typename Item, typename Do>
void ByCancel(Item* items, size_t count, const Do& run) {
  for (size_t begin = 0; begin < count;) {
    size_t end = begin + 1;
    while (end < count && items[end].options.cancel == items[begin].options.cancel) end++;
    run(items + begin, end - begin);
    begin = end;
  }
}

Status TooLarge(uint64_t length, uint64_t space) {
  return Status::Error(EMSGSIZE, std::to_string(length) + " bytes in the object, space for " +
                                     std::to_string(space));
}

}  // namespace

Status RedisStore::Open(const StoreUrl& url, const StoreSecrets& secrets, const CancelCheck* cancel,
                        std::unique_ptr<RedisStore>* store) {
  RedisOptions options;
  Status status = ParseRedisOptions(url, secrets, &options);
  if (!status.ok()) return status;
  std::unique_ptr<RedisStore> opened(new RedisStore(std::move(options)));
  uint32_t tag = 0;
  const int error = FillRandom(&tag, sizeof tag);
  if (error != 0) return Status::System(error, "choose a tag");
  opened->next_tag_ = tag;
  status = opened->client_.Start(cancel);
  if (status.ok()) status = opened->LookAtServer(cancel);
  switch (status.number()) {
    case EACCES:
    case EINVAL:
    case EOPNOTSUPP:
    case ECANCELED:
      return status;
    case 0:
      break;
    default:
      Log(LogLevel::kWarn, "the store does not answer yet: " + status.ToString());
  }
  *store = std::move(opened);
  return Status::OK();
}

RedisStore::RedisStore(RedisOptions options)
    : options_(std::move(options)), client_(options_.client) {
  facts_.engine = "redis";
  facts_.remote = true;
  facts_.attributes = options_.layout == RedisLayout::kLmshm;
  facts_.tensor_layout = options_.layout == RedisLayout::kLmcacheRedis;
  facts_.part_bytes = kPartBytes;
  facts_.part_objects = kPartObjects;
  SetMaxValue(options_.max_value_bytes != 0 ? options_.max_value_bytes : kUsualMaxValue);
}

Status RedisStore::LookAtServer(const CancelCheck* cancel) {
  Command info;
  AppendCommand({"INFO"}, &info.head);
  Command largest;
  AppendCommand({"CONFIG", "GET", "proto-max-bulk-len"}, &largest.head);
  const Topology::Node node = client_.topology().Any();
  client_.RunAt(node, &info, cancel);
  if (info.status.ok()) client_.RunAt(node, &largest, cancel);
  if (info.status.ok() && options_.client.cluster) {
    Command members;
    AppendCommand({"CLUSTER", "NODES"}, &members.head);
    client_.RunAt(node, &members, cancel);
    if (members.status.ok()) member_ports_ = PortsOfMembers(members.reply.text);
  }
  if (info.status.ok()) {
    const std::string valkey = InfoField(info.reply.text, "valkey_version");
    server_ = valkey.empty() ? "redis-" + InfoField(info.reply.text, "redis_version")
                             : "valkey-" + valkey;
    const bool in_cluster = InfoField(info.reply.text, "cluster_enabled") == "1";
    if (in_cluster && !options_.client.cluster) {
      return Status::Error(EOPNOTSUPP, node->name() +
                                           " belongs to a cluster: say redis+cluster:// instead "
                                           "of redis://");
    }
  } else if (!info.reply.IsError() || info.reply.ErrorWord() == "NOAUTH") {
    return info.status;  // a user who may not ask may store nevertheless
  }
  uint64_t limit = 0;
  if (options_.max_value_bytes == 0 && largest.status.ok() && largest.reply.items.size() == 2 &&
      ParseU64(largest.reply.items[1].text, &limit) == NumberError::kNone && limit > 0) {
    SetMaxValue(limit);
  }
  return Status::OK();
}

void RedisStore::SetMaxValue(uint64_t bytes) {
  max_value_bytes_ = bytes;
  facts_.max_object_bytes = max_value_bytes_;
  if (options_.layout == RedisLayout::kLmshm) {
    facts_.max_object_bytes -= std::min<uint64_t>(bytes, kLeastHeadBytes + kTailBytes);
  }
}

std::string RedisStore::NameOf(std::string_view key, std::string_view suffix) const {
  std::string name;
  name.reserve(options_.prefix.size() + key.size() + suffix.size());
  return name.append(options_.prefix).append(key).append(suffix);
}

// What says that an object is there.
std::string_view RedisStore::MainSuffix() const {
  return options_.layout == RedisLayout::kLmcacheRedis ? kMetadataSuffix : std::string_view();
}

Status RedisStore::Failed(const char* verb, std::string_view key, const Status& status) const {
  std::string text = std::string(verb) + " ";
  AppendPrintable(key, 200, &text);
  if (status.number() == EMSGSIZE) {  // begins with the length
    return Status::Error(EMSGSIZE, status.text() + ": " + text);
  }
  return Status::Error(status.number(), text + ": " + status.text());
}

// ------------------------------------------------------------------------------------- put

Status RedisStore::CheckPut(const PutItem& item) const {
  const uint64_t bytes = item.data.size;
  if (options_.chunk_bytes != 0 && bytes != options_.chunk_bytes) {
    return Status::Error(
        EINVAL, std::to_string(bytes) +
                    " bytes, and with chunk_bytes=" + std::to_string(options_.chunk_bytes) +
                    " every object has as many: whoever reads it takes it for a full chunk");
  }
  if (bytes <= max_value_bytes_) return Status::OK();
  return Status::Error(EFBIG, std::to_string(bytes) + " bytes, and the server takes " +
                                  std::to_string(max_value_bytes_) +
                                  " in one value (its setting proto-max-bulk-len)");
}

// "SET name <value>", with the time to live and the condition, but for the value.
void RedisStore::FillSet(std::string name, bool if_absent, Command* command) const {
  AppendCount(3 + (options_.ttl_seconds != 0 ? 2 : 0) + (if_absent ? 1 : 0), &command->head);
  AppendWord("SET", &command->head);
  AppendWord(name, &command->head);
  command->rest = "\r\n";
  if (options_.ttl_seconds != 0) {
    AppendWord("EX", &command->rest);
    AppendWord(std::to_string(options_.ttl_seconds), &command->rest);
  }
  command->if_absent = if_absent;
  if (if_absent) command->rest.append(kIfAbsent);
  command->key = std::move(name);
}

void RedisStore::Put(PutItem* items, size_t count, Turn*) {
  ByCancel(items, count, [this](PutItem* some, size_t n) { PutAll(some, n); });
}

bool RedisStore::FillPut(PutItem* item, Command* command, Command* metadata) {
  const bool lmcache = options_.layout == RedisLayout::kLmcacheRedis;
  Status status = CheckPut(*item);
  const bool if_absent = item->options.if_absent;
  FillSet(NameOf(item->key, lmcache ? kPayloadSuffix : ""), if_absent && !lmcache, command);
  command->body = item->data;
  command->checksum = item->options.checksum;
  uint64_t bytes = item->data.size;
  std::string head;
  if (options_.layout == RedisLayout::kLmshm) {
    ValueHead value;
    value.payload_bytes = bytes;
    value.mtime_ms = NowMs();
    value.record.length = bytes;
    value.record.key_check = KeyCheck(item->key);
    value.record.attributes = item->attributes;
    value.tag = next_tag_.fetch_add(kTagStep, std::memory_order_relaxed);
    head = FormatHead(&value);
    if (head.size() > kMaxHeadBytes) {
      status = Status::Error(E2BIG, "its attributes take " + std::to_string(head.size()) +
                                        " bytes, and " + std::to_string(kMaxHeadBytes) +
                                        " are the most");
    }
    command->tailed = true;
    command->tag = value.tag;
    bytes += head.size() + kTailBytes;
    if (status.ok() && bytes > max_value_bytes_) {
      status = Status::Error(EFBIG, std::to_string(bytes) +
                                        " bytes with its record, and the server takes " +
                                        std::to_string(max_value_bytes_) +
                                        " in one value (its setting proto-max-bulk-len)");
    }
  }
  AppendSize(bytes, &command->head);
  command->head.append(head);
  if (lmcache && status.ok()) {
    std::string text;
    status = MakeLmcacheHeader(item->data.size, item->attributes, &text);
    FillSet(NameOf(item->key, kMetadataSuffix), if_absent, metadata);
    AppendSize(text.size(), &metadata->head);
    metadata->head.append(text);
  }
  if (status.ok()) return true;
  item->status = Failed("put", item->key, status);
  item->done = true;
  return false;
}

void RedisStore::FinishPut(const Command& command, const Command& decisive, PutItem* item) const {
  item->done = true;
  const Status& status = command.status.ok() ? decisive.status : command.status;
  if (!status.ok()) {
    item->status = Failed("put", item->key, status);
  } else if (item->options.if_absent && decisive.reply.type == '_') {
    item->status = ThereAlready(item->key);
  } else {
    item->crc32c = command.crc32c;
  }
}

// What would be sent in vain if there is an object. Two values are not stored at once, so there the
// question comes first whatever the size.
bool RedisStore::LooksFirst(const PutItem& item) const {
  return !item.done && item.options.if_absent &&
         (item.data.size > kLookFirstBytes || options_.layout == RedisLayout::kLmcacheRedis);
}

// Ends those of which there is an object.
void RedisStore::LookFirst(PutItem* items, size_t count) {
  std::deque<Command> commands;
  std::vector<Command*> all;
  std::vector<PutItem*> asked;
  for (size_t i = 0; i < count; i++) {
    if (!LooksFirst(items[i])) continue;
    FillDigit("EXISTS", std::string(items[i].key), &commands.emplace_back());
    all.push_back(&commands.back());
    asked.push_back(&items[i]);
  }
  if (all.empty()) return;
  client_.Run(all, items[0].options.cancel);
  for (size_t i = 0; i < all.size(); i++) {
    const bool absent = all[i]->status.ok() && all[i]->reply.number == 0;
    if (absent) continue;
    asked[i]->status = all[i]->status.ok() ? ThereAlready(asked[i]->key)
                                           : Failed("put", asked[i]->key, all[i]->status);
    asked[i]->done = true;
  }
}

void RedisStore::PutAll(PutItem* items, size_t count) {
  LookFirst(items, count);
  std::deque<Command> commands(count);
  std::deque<Command> metadata(count);  // of layout lmcache-redis
  std::vector<Command*> first;
  const bool lmcache = options_.layout == RedisLayout::kLmcacheRedis;
  for (size_t i = 0; i < count; i++) {
    if (items[i].done || !FillPut(&items[i], &commands[i], &metadata[i])) continue;
    first.push_back(&commands[i]);
  }
  if (first.empty()) return;
  const CancelCheck* const cancel = items[0].options.cancel;
  client_.Run(first, cancel);
  // Who reads LMCache's layout looks for the metadata first, so it comes last.
  std::vector<Command*> second;
  for (size_t i = 0; lmcache && i < count; i++) {
    if (!items[i].done && commands[i].status.ok()) second.push_back(&metadata[i]);
  }
  if (!second.empty()) client_.Run(second, cancel);
  for (size_t i = 0; i < count; i++) {
    if (!items[i].done) FinishPut(commands[i], lmcache ? metadata[i] : commands[i], &items[i]);
  }
}

// ------------------------------------------------------------------------------------- get

void RedisStore::Get(GetItem* items, size_t count, Turn*) {
  const bool lmcache = options_.layout == RedisLayout::kLmcacheRedis;
  ByCancel(items, count, [&](GetItem* some, size_t n) {
    if (lmcache) {
      GetAllLmcache(some, n);
    } else {
      GetAll(some, n);
    }
  });
}

void RedisStore::FinishGet(Command* command, GetItem* item) const {
  item->done = true;
  Status status = std::move(command->status);
  if (status.number() == EMSGSIZE) {
    status = TooLarge(command->length, item->space.size);
  } else if (status.number() == EINVAL && status.text().empty()) {
    status = Status::Error(EINVAL,
                           "the value was not stored by lmshm: it has no record (a layout of the "
                           "store's URL may fit: payload, lmcache-redis)");
  } else if (status.ok() && command->reply.type == '_') {
    status = Status::Error(ENOENT, "no such object");
  } else if (status.ok() && command->want == Command::Want::kValue &&
             command->value.record.key_check != KeyCheck(item->key)) {
    status = Status::Error(EBADMSG, "the value was stored for another key");
  }
  if (!status.ok()) {
    item->status = Failed("get", item->key, status);
    return;
  }
  item->info.length = command->length;
  if (command->want != Command::Want::kValue) return;
  item->info.mtime_ms = command->value.mtime_ms;
  item->info.crc32c = command->value.record.crc32c;
  item->info.attributes = std::move(command->value.record.attributes);
}

void RedisStore::FillGet(const GetItem& item, Command* command) const {
  command->key = NameOf(item.key);
  AppendCommand({"GET", command->key}, &command->head);
  command->want =
      options_.layout == RedisLayout::kLmshm ? Command::Want::kValue : Command::Want::kPayload;
  command->space = item.space;
  command->verify = item.options.checksum;
}

void RedisStore::GetAll(GetItem* items, size_t count) {
  std::deque<Command> commands(count);
  std::vector<Command*> all;
  for (size_t i = 0; i < count; i++) {
    if (items[i].done) continue;
    FillGet(items[i], &commands[i]);
    all.push_back(&commands[i]);
  }
  if (all.empty()) return;
  client_.Run(all, items[0].options.cancel);
  for (size_t i = 0; i < count; i++) {
    if (!items[i].done) FinishGet(&commands[i], &items[i]);
  }
}

void RedisStore::GetAllLmcache(GetItem* items, size_t count) {
  std::deque<Command> metadata(count);
  std::deque<Command> commands(count);
  std::vector<Command*> all;
  for (size_t i = 0; i < count; i++) {
    if (items[i].done) continue;
    metadata[i].key = NameOf(items[i].key, kMetadataSuffix);
    AppendCommand({"GET", metadata[i].key}, &metadata[i].head);
    all.push_back(&metadata[i]);
  }
  if (all.empty()) return;
  const CancelCheck* const cancel = items[0].options.cancel;
  client_.Run(all, cancel);
  all.clear();
  std::vector<uint64_t> lengths(count);
  for (size_t i = 0; i < count; i++) {
    GetItem& item = items[i];
    if (item.done) continue;
    Status status = metadata[i].status;
    if (status.ok() && metadata[i].reply.type == '_') {
      status = Status::Error(ENOENT, "no such object");
    } else if (status.ok() &&
               !ParseMetadata(metadata[i].reply.text, &lengths[i], &item.info.attributes)) {
      status = Status::Error(EINVAL, "its metadata is not what LMCache writes");
    }
    if (!status.ok()) {
      item.status = Failed("get", item.key, status);
      item.done = true;
      continue;
    }
    Command& command = commands[i];
    command.key = NameOf(item.key, kPayloadSuffix);
    AppendCommand({"GET", command.key}, &command.head);
    command.want = Command::Want::kPayload;
    command.space = item.space;
    all.push_back(&command);
  }
  if (!all.empty()) client_.Run(all, cancel);
  for (size_t i = 0; i < count; i++) {
    GetItem& item = items[i];
    if (item.done) continue;
    FinishGet(&commands[i], &item);
    if (item.status.ok() && item.info.length != lengths[i]) {
      item.status = Failed("get", item.key,
                           Status::Error(EBADMSG, std::to_string(item.info.length) +
                                                      " bytes, and its metadata says " +
                                                      std::to_string(lengths[i])));
    }
    if (!item.status.ok()) item.info = ObjectInfo();
  }
}

// ------------------------------------------------------------------------------------ stat

Status RedisStore::Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) {
  *info = ObjectInfo();
  switch (options_.layout) {
    case RedisLayout::kPayload:
      return StatPayload(key, cancel, info);
    case RedisLayout::kLmcacheRedis:
      return StatLmcache(key, cancel, info);
    default:
      return StatLmshm(key, cancel, info);
  }
}

// Head and tail are two commands; the tag shows whether a put came between them.
Status RedisStore::StatLmshm(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) {
  size_t asked = kHeadAsked;
  for (int i = 0; i < kStatTries; i++) {
    const std::string name = NameOf(key);
    Command head, tail, size;
    AppendCommand({"GETRANGE", name, "0", std::to_string(asked - 1)}, &head.head);
    AppendCommand({"GETRANGE", name, std::to_string(-static_cast<int>(kTailBytes)), "-1"},
                  &tail.head);
    AppendCommand({"STRLEN", name}, &size.head);
    head.key = tail.key = size.key = name;
    client_.Run({&head, &tail, &size}, cancel);
    for (const Command* const one : {&head, &tail, &size}) {
      if (!one->status.ok()) return Failed("stat", key, one->status);
    }
    const auto bytes = static_cast<uint64_t>(size.reply.number);
    if (head.reply.text.empty()) {
      return Failed("stat", key, Status::Error(ENOENT, "no such object"));
    }
    ValueHead value;
    if (!ParseHeadFixed(head.reply.text, &value)) {
      return Failed("stat", key,
                    Status::Error(EINVAL, "the value was not stored by lmshm: it has no record"));
    }
    if (value.head_bytes > asked) {
      asked = kMaxHeadBytes;
      continue;
    }
    std::optional<uint32_t> crc32c;
    const bool whole = ParseHead(head.reply.text, &value) &&
                       ParseTail(tail.reply.text, value.tag, &crc32c) &&
                       bytes == value.head_bytes + value.payload_bytes + kTailBytes;
    if (!whole) continue;
    if (value.record.key_check != KeyCheck(key)) {
      return Failed("stat", key, Status::Error(EBADMSG, "the value was stored for another key"));
    }
    info->length = value.payload_bytes;
    info->mtime_ms = value.mtime_ms;
    info->disk_bytes = bytes;
    info->crc32c = crc32c;
    info->attributes = std::move(value.record.attributes);
    return Status::OK();
  }
  return Failed("stat", key, Status::Error(EBADMSG, "head and tail of the value do not fit"));
}

Status RedisStore::StatPayload(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) {
  const std::string name = NameOf(key);
  Command exists, size;
  AppendCommand({"EXISTS", name}, &exists.head);
  AppendCommand({"STRLEN", name}, &size.head);
  exists.key = size.key = name;
  client_.Run({&exists, &size}, cancel);
  if (!size.status.ok()) return Failed("stat", key, size.status);
  if (!exists.status.ok()) return Failed("stat", key, exists.status);
  if (exists.reply.number == 0) {
    return Failed("stat", key, Status::Error(ENOENT, "no such object"));
  }
  info->length = info->disk_bytes = static_cast<uint64_t>(size.reply.number);
  return Status::OK();
}

Status RedisStore::StatLmcache(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) {
  Command metadata;
  metadata.key = NameOf(key, kMetadataSuffix);
  AppendCommand({"GET", metadata.key}, &metadata.head);
  client_.Run({&metadata}, cancel);
  if (!metadata.status.ok()) return Failed("stat", key, metadata.status);
  if (metadata.reply.type == '_') {
    return Failed("stat", key, Status::Error(ENOENT, "no such object"));
  }
  if (!ParseMetadata(metadata.reply.text, &info->length, &info->attributes)) {
    return Failed("stat", key, Status::Error(EINVAL, "its metadata is not what LMCache writes"));
  }
  info->disk_bytes = info->length + metadata.reply.text.size();
  return Status::OK();
}

// ------------------------------------------------------------------------- exists, remove

void RedisStore::FillDigit(const char* verb, const std::string& key, Command* command) const {
  command->key = NameOf(key, MainSuffix());
  AppendCommand({verb, command->key}, &command->head);
}

Status RedisStore::FinishDigits(const char* verb, const std::vector<std::string>& keys,
                                const std::deque<Command>& commands, std::vector<bool>* yes) const {
  const char* const action = std::string_view(verb) == "UNLINK" ? "remove" : "exists";
  yes->assign(keys.size(), false);
  Status status;
  for (size_t i = 0; i < keys.size(); i++) {
    const Command& command = commands[i];
    if (!command.status.ok()) {
      if (status.ok()) status = Failed(action, keys[i], command.status);
    } else if (command.reply.type != ':') {
      return Failed(action, keys[i],
                    Status::Error(EPROTO, "the server answers with something else than a number"));
    } else {
      (*yes)[i] = command.reply.number > 0;
    }
  }
  return status;
}

// `verb` for each key: 1 or 0.
Status RedisStore::Digits(const char* verb, const std::vector<std::string>& keys,
                          const CancelCheck* cancel, std::vector<bool>* yes) {
  const bool remove = std::string_view(verb) == "UNLINK";
  std::deque<Command> commands(keys.size());
  std::vector<Command*> all;
  for (size_t i = 0; i < keys.size(); i++) {
    FillDigit(verb, keys[i], &commands[i]);
    commands[i].once = remove;
    all.push_back(&commands[i]);
  }
  client_.Run(all, cancel);
  if (remove && options_.layout == RedisLayout::kLmcacheRedis) {
    // What is left without metadata nobody finds, so it may be removed as often as one likes.
    std::deque<Command> payloads(keys.size());
    std::vector<Command*> rest;
    for (size_t i = 0; i < keys.size(); i++) {
      if (!commands[i].status.ok()) continue;
      payloads[i].key = NameOf(keys[i], kPayloadSuffix);
      AppendCommand({verb, payloads[i].key}, &payloads[i].head);
      rest.push_back(&payloads[i]);
    }
    if (!rest.empty()) client_.Run(rest, cancel);
  }
  return FinishDigits(verb, keys, commands, yes);
}

Status RedisStore::Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                          std::vector<bool>* yes) {
  return Digits("EXISTS", keys, cancel, yes);
}

Status RedisStore::Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                          std::vector<bool>* removed) {
  return Digits("UNLINK", keys, cancel, removed);
}

// -------------------------------------------------------------------------- list, describe

Status RedisStore::BeginListing(const std::string& prefix,
                                std::unique_ptr<ObjectListing>* listing) {
  *listing =
      std::make_unique<RedisListing>(&client_, options_.prefix, prefix, std::string(MainSuffix()));
  return Status::OK();
}

std::unique_ptr<Lane> RedisStore::OpenLane() {
  if (options_.layout == RedisLayout::kLmcacheRedis) return nullptr;
  return std::make_unique<RedisLane>(this);
}

std::string RedisStore::Describe() const {
  const RedisCounts& counts = client_.counts();
  const auto number = [](const std::atomic<uint64_t>& count) {
    return std::to_string(count.load(std::memory_order_relaxed));
  };
  std::string words = Word("layout", RedisLayoutName(options_.layout));
  if (!server_.empty()) words += Word("server", server_);
  if (options_.client.cluster) {
    words += Word("masters", std::to_string(client_.topology().Masters().size()));
    words += Word("redirections", number(counts.redirections));
    words += Word("refreshes", number(counts.refreshes));
  }
  if (options_.ttl_seconds != 0) words += Word("ttl", std::to_string(options_.ttl_seconds));
  words += Word("max_value_bytes", std::to_string(max_value_bytes_));
  words += Word("connections", number(counts.connections));
  words += Word("connects", number(counts.connects));
  words += Word("connection_failures", number(counts.failures));
  return words;
}

}  // namespace lmshm
