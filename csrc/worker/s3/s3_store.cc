// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "worker/base/crc32c.h"
#include "worker/base/log.h"
#include "worker/base/text.h"
#include "worker/base/words.h"
#include "worker/s3/s3_listing.h"
#include "worker/s3/s3_names.h"
#include "worker/s3/s3_record.h"
#include "worker/storage/object_record.h"

namespace lmshm {

namespace {

// What S3 takes in one PUT. More would have to come in parts.
constexpr uint64_t kMostObjectBytes = uint64_t{5} << 30;
// Between two looks at whether it is still wanted.
constexpr uint64_t kChecksumBytes = 8 << 20;
// For how long a bucket that was there is taken to be there.
constexpr int64_t kBucketSeconds = 10;

int64_t SteadySeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Status On(std::string_view verb, std::string_view key, const Status& status) {
  // Its text must begin with the length; or it has the key (ThereAlready()).
  if (status.ok() || status.number() == EMSGSIZE || status.number() == EEXIST) return status;
  std::string text(verb);
  text.append(" \"");
  AppendPrintable(key, 300, &text);
  return Status::Error(status.number(), text.append("\": ").append(status.text()));
}

StoreFacts FactsOf(const S3Options&) {
  StoreFacts facts;
  facts.engine = "s3";
  facts.attributes = true;
  facts.max_object_bytes = kMostObjectBytes;
  facts.remote = true;
  // Requests take turns on a connection: what is asked for together goes over several.
  facts.part_objects = 1;
  return facts;
}

Status Checksum(SharedBytes data, const CancelCheck* cancel, uint32_t* crc) {
  *crc = 0;
  auto* at = static_cast<char*>(data.address);
  for (uint64_t left = data.size; left > 0;) {
    if (cancel != nullptr && cancel->Cancelled()) {
      return Status::System(ECANCELED, "checksum", cancel->Reason());
    }
    const uint64_t now = std::min(left, kChecksumBytes);
    if (SharedCrc32c({at, now}, crc) != 0) return Status::System(EFAULT, "checksum");
    at += now;
    left -= now;
  }
  return Status::OK();
}

// The four bytes, in network order, in base64.
std::string Base64Of(uint32_t value) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (int shift = 26; shift >= 2; shift -= 6) text.push_back(kDigits[value >> shift & 63]);
  text.push_back(kDigits[value << 4 & 63]);
  return text.append("==");
}

bool IsWord(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

S3Store::S3Store(S3Options options, StoreSecrets secrets)
    : client_(std::move(options), std::move(secrets)), facts_(FactsOf(client_.options())) {}

Status S3Store::Open(const StoreUrl& url, const StoreSecrets& secrets,
                     std::unique_ptr<S3Store>* store) {
  S3Options options;
  const Status status = ParseS3Options(url, &options);
  if (!status.ok()) return status;
  if (secrets.user.empty() != secrets.password.empty()) {
    return Status::Error(EACCES, std::string("s3://: there is ") +
                                     (secrets.user.empty() ? "no AWS_ACCESS_KEY_ID with "
                                                             "AWS_SECRET_ACCESS_KEY"
                                                           : "no AWS_SECRET_ACCESS_KEY with "
                                                             "AWS_ACCESS_KEY_ID") +
                                     "; without both, requests are not signed");
  }
  // They go into headers.
  if (!IsWord(secrets.user) || !IsWord(secrets.session_token)) {
    return Status::Error(EACCES,
                         "s3://: the access key id or the session token has spaces or bytes that "
                         "are not ASCII; was it cut out with something around it?");
  }
  store->reset(new S3Store(std::move(options), secrets));
  return Status::OK();
}

void S3Store::SawBucket() { saw_bucket_.store(SteadySeconds(), std::memory_order_relaxed); }

Status S3Store::CheckBucket(const CancelCheck* cancel) {
  S3Request request;
  request.method = "GET";
  request.query = "list-type=2&max-keys=1";
  S3Answer answer;
  const Status status = client_.Perform(request, cancel, nullptr, &answer);
  if (status.ok()) SawBucket();
  return status;
}

Status S3Store::ExplainHead(const S3Answer& answer, const Status& status,
                            const CancelCheck* cancel) {
  if (answer.head.status < 400 || answer.head.status >= 500) return status;
  const bool miss = answer.head.status == 404;
  const Status missing = Status::Error(ENOENT, "there is no such object");
  const int64_t saw = saw_bucket_.load(std::memory_order_relaxed);
  if (miss && saw != 0 && SteadySeconds() - saw <= kBucketSeconds) return missing;
  const Status bucket = CheckBucket(cancel);
  if (!bucket.ok()) return bucket;
  return miss ? missing : status;
}

Status S3Store::PutOne(PutItem* item) {
  const S3Options& options = client_.options();
  if (options.chunk_bytes.has_value() && item->data.size != *options.chunk_bytes) {
    return Status::Error(
        EINVAL, std::to_string(item->data.size) + " bytes; the store's URL says chunk_bytes=" +
                    std::to_string(*options.chunk_bytes) + ", and other lengths are not stored");
  }
  if (item->data.size > facts_.max_object_bytes) {
    return Status::Error(EFBIG, std::to_string(item->data.size) + " bytes; S3 takes at most " +
                                    std::to_string(facts_.max_object_bytes) + " at once");
  }
  S3Request request;
  request.method = "PUT";
  Status status = ObjectNameOf(options, item->key, &request.name);
  if (!status.ok()) return status;

  ObjectRecord record;
  record.length = item->data.size;
  record.key_check = KeyCheck(item->key);
  record.attributes = item->attributes;
  if (item->options.checksum) {
    status = Checksum(item->data, item->options.cancel, &item->crc32c);
    if (!status.ok()) return status;
    record.crc32c = item->crc32c;
    request.headers.emplace_back("x-amz-checksum-crc32c", Base64Of(item->crc32c));
  }
  std::string value;
  status = RecordHeader(record, &value);
  if (!status.ok()) return status;
  request.headers.emplace_back(kRecordHeader, std::move(value));
  request.body = item->data;
  if (options.sign_payload && item->data.size > 0) {
    Sha256Digest digest;
    if (SharedSha256(item->data, &digest) != 0) return Status::System(EFAULT, "sign the object");
    request.payload_hash = HexOf(digest);
  }
  S3Answer answer;
  request.if_absent = item->options.if_absent && !lacks_conditions_.load(std::memory_order_relaxed);
  status = client_.Perform(request, item->options.cancel, nullptr, &answer);
  if (request.if_absent && status.number() == EOPNOTSUPP) {
    // Is it the condition that it does not have?
    request.if_absent = false;
    status = client_.Perform(request, item->options.cancel, nullptr, &answer);
    if (status.ok() && !lacks_conditions_.exchange(true, std::memory_order_relaxed)) {
      Log(LogLevel::kWarn, "the server at " + options.host +
                               " does not know If-None-Match: with if=absent, what comes between "
                               "the look and the put is replaced");
    }
  }
  if (item->options.if_absent && answer.head.status == 412) return ThereAlready(item->key);
  if (status.ok()) SawBucket();
  return status;
}

Status S3Store::GetOne(GetItem* item) {
  S3Request request;
  request.method = "GET";
  Status status = ObjectNameOf(client_.options(), item->key, &request.name);
  if (!status.ok()) return status;
  S3Incoming incoming;
  incoming.space = item->space;
  incoming.checksum = item->options.checksum;
  S3Answer answer;
  status = client_.Perform(request, item->options.cancel, &incoming, &answer);
  if (status.number() == EMSGSIZE) {
    return Status::Error(EMSGSIZE, std::to_string(incoming.length) +
                                       " bytes are stored; there is "
                                       "room for " +
                                       std::to_string(item->space.size));
  }
  if (!status.ok()) return status;
  if (!incoming.begun) {
    return Status::Error(EPROTO, "the server answers " + std::to_string(answer.head.status) +
                                     " to a request for an object");
  }
  SawBucket();
  status = InfoOf(answer.head, item->key, &item->info);
  if (!status.ok()) return status;
  if (item->options.checksum && item->info.crc32c.has_value() &&
      *item->info.crc32c != incoming.crc32c) {
    return Status::Error(EBADMSG, "the checksum of what was received is " +
                                      Crc32cHex(incoming.crc32c) + ", that of what was stored " +
                                      Crc32cHex(*item->info.crc32c));
  }
  return status;
}

void S3Store::LookBeforePut(PutItem* items, size_t count) {
  std::vector<PutItem*> asking;
  std::vector<std::string> keys;
  for (PutItem* item = items; item != items + count; item++) {
    if (item->done || !item->options.if_absent) continue;
    asking.push_back(item);
    keys.emplace_back(item->key);
  }
  if (asking.empty()) return;
  std::vector<Status> outcomes;
  LookForAll(keys, asking.front()->options.cancel, &outcomes);
  for (size_t i = 0; i < asking.size(); i++) {
    if (outcomes[i].number() == ENOENT) continue;
    asking[i]->status = outcomes[i].ok() ? ThereAlready(keys[i]) : On("put", keys[i], outcomes[i]);
    asking[i]->done = true;
  }
}

void S3Store::Put(PutItem* items, size_t count, Turn* turn) {
  LookBeforePut(items, count);
  for (size_t i = 0; i < count; i++) {
    if (items[i].done) continue;
    items[i].status = On("put", items[i].key, PutOne(&items[i]));
    items[i].done = true;
    if (turn != nullptr) turn->Spend(items[i].data.size);
  }
}

void S3Store::Get(GetItem* items, size_t count, Turn* turn) {
  for (size_t i = 0; i < count; i++) {
    if (items[i].done) continue;
    items[i].status = On("get", items[i].key, GetOne(&items[i]));
    items[i].done = true;
    if (turn != nullptr) turn->Spend(items[i].info.length);
  }
}

Status S3Store::Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) {
  std::vector<S3Answer> answers;
  std::vector<Status> outcomes;
  Status status = AskForAll("HEAD", {std::string(key)}, cancel, &answers, &outcomes);
  if (!status.ok()) return status;
  if (!outcomes[0].ok()) {
    return On("stat", key, ExplainHead(answers[0], outcomes[0], cancel));
  }
  SawBucket();
  return On("stat", key, InfoOf(answers[0].head, key, info));
}

Status S3Store::AskForAll(std::string_view method, const std::vector<std::string>& keys,
                          const CancelCheck* cancel, std::vector<S3Answer>* answers,
                          std::vector<Status>* outcomes) {
  std::vector<S3Request> requests(keys.size());
  for (size_t i = 0; i < keys.size(); i++) {
    requests[i].method = method;
    requests[i].may_be_repeated = method != "DELETE";
    const Status status = ObjectNameOf(client_.options(), keys[i], &requests[i].name);
    if (!status.ok()) return On(method == "DELETE" ? "remove" : "look for", keys[i], status);
  }
  client_.PerformAll(requests, cancel, answers, outcomes);
  return Status::OK();
}

void S3Store::LookForAll(const std::vector<std::string>& keys, const CancelCheck* cancel,
                         std::vector<Status>* outcomes) {
  // What can have no name in the bucket is not there.
  outcomes->assign(keys.size(), Status::Error(ENOENT, "there is no such object"));
  std::vector<std::string> asked;
  std::vector<size_t> places;
  std::string name;
  for (size_t i = 0; i < keys.size(); i++) {
    if (!ObjectNameOf(client_.options(), keys[i], &name).ok()) continue;
    asked.push_back(keys[i]);
    places.push_back(i);
  }
  std::vector<S3Answer> answers;
  std::vector<Status> said;
  const Status status = AskForAll("HEAD", asked, cancel, &answers, &said);
  if (!status.ok()) return outcomes->assign(keys.size(), status);
  Status refusal;  // that is no miss: of the others that are refused nobody asks for the reason
  for (size_t i = 0; i < asked.size(); i++) {
    Status& outcome = (*outcomes)[places[i]];
    if (said[i].ok()) {
      outcome = said[i];
      SawBucket();
      continue;
    }
    const bool refused = answers[i].head.status / 100 == 4;
    outcome = refused && !refusal.ok() ? refusal : ExplainHead(answers[i], said[i], cancel);
    if (refused && outcome.number() != ENOENT) refusal = outcome;
  }
}

Status S3Store::Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                       std::vector<bool>* yes) {
  std::vector<Status> outcomes;
  LookForAll(keys, cancel, &outcomes);
  yes->assign(keys.size(), false);
  for (size_t i = 0; i < keys.size(); i++) {
    (*yes)[i] = outcomes[i].ok();
    const bool known = outcomes[i].ok() || outcomes[i].number() == ENOENT;
    if (!known) return On("look for", keys[i], outcomes[i]);
  }
  return Status::OK();
}

Status S3Store::Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                       std::vector<bool>* removed) {
  // A removal is answered in the same way whether there was something or not.
  Status status = Exists(keys, cancel, removed);
  if (!status.ok()) return status;
  std::vector<std::string> there;
  std::vector<size_t> places;
  for (size_t i = 0; i < keys.size(); i++) {
    if (!(*removed)[i] || std::find(there.begin(), there.end(), keys[i]) != there.end()) {
      (*removed)[i] = false;
      continue;
    }
    there.push_back(keys[i]);
    places.push_back(i);
  }
  std::vector<S3Answer> answers;
  std::vector<Status> outcomes;
  status = AskForAll("DELETE", there, cancel, &answers, &outcomes);
  if (!status.ok()) return status;
  for (size_t i = 0; i < there.size(); i++) {
    if (outcomes[i].ok()) continue;
    if (outcomes[i].number() != ENOENT) return On("remove", there[i], outcomes[i]);
    (*removed)[places[i]] = false;
  }
  return Status::OK();
}

Status S3Store::BeginListing(const std::string& prefix, std::unique_ptr<ObjectListing>* listing) {
  *listing = std::make_unique<S3Listing>(&client_, prefix);
  return Status::OK();
}

std::string S3Store::Describe() const {
  const S3Options& options = client_.options();
  const S3Counts& counts = client_.counts();
  Words words;
  words.Add("endpoint", (options.tls ? "https://" : "http://") + options.host);
  words.Add("bucket", options.bucket);
  words.Add("region", options.region);
  words.Add("layout", S3LayoutName(options.layout));
  words.Add("signed", client_.has_secrets() ? "yes" : "no");
  words.Add("store_requests", counts.requests.load(std::memory_order_relaxed));
  words.Add("store_retries", counts.retries.load(std::memory_order_relaxed));
  words.Add("connects", counts.connects.load(std::memory_order_relaxed));
  return words.Take();
}

}  // namespace lmshm
