// SPDX-License-Identifier: Apache-2.0
//
// A store of the Redis engine in tests: opened by its URL, and puts and gets of one object from and
// into a segment.
#ifndef LMSHM_TESTS_NATIVE_REDIS_FIXTURE_H_
#define LMSHM_TESTS_NATIVE_REDIS_FIXTURE_H_

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/redis/redis_store.h"
#include "worker_fixture.hh"

class Cancel : public lmshm::CancelCheck {
 public:
  bool Cancelled() const override { return cancelled_; }
  const char* Reason() const override { return "the test says so"; }
  void Say() { cancelled_ = true; }

 private:
  std::atomic<bool> cancelled_{false};
};

inline lmshm::Status OpenRedis(const std::string& url, std::unique_ptr<lmshm::RedisStore>* store,
                               const std::string& password = "") {
  lmshm::StoreUrl parsed;
  const lmshm::Status status = lmshm::ParseStoreUrl(url, &parsed);
  if (!status.ok()) return status;
  lmshm::StoreSecrets secrets;
  secrets.password = password;
  return lmshm::RedisStore::Open(parsed, secrets, nullptr, store);
}

inline std::unique_ptr<lmshm::RedisStore> Redis(const std::string& url,
                                                const std::string& password = "") {
  std::unique_ptr<lmshm::RedisStore> store;
  const lmshm::Status status = OpenRedis(url, &store, password);
  if (!status.ok()) check::Fail(__FILE__, __LINE__, url + ": " + status.ToString());
  REQUIRE(store != nullptr);
  return store;
}

inline lmshm::SharedBytes Part(TestSegment& segment, size_t offset, size_t size) {
  REQUIRE(offset + size <= segment.size());
  return {segment.data() + offset, size};
}

inline lmshm::PutItem Putting(std::string_view key, lmshm::SharedBytes data) {
  lmshm::PutItem item;
  item.key = key;
  item.data = data;
  return item;
}

inline lmshm::GetItem Getting(std::string_view key, lmshm::SharedBytes space) {
  lmshm::GetItem item;
  item.key = key;
  item.space = space;
  return item;
}

inline lmshm::Status Put(lmshm::ObjectStore& store, std::string_view key, lmshm::SharedBytes data,
                         std::vector<lmshm::Attribute> attributes = {}) {
  lmshm::PutItem item = Putting(key, data);
  item.attributes = std::move(attributes);
  store.Put(&item, 1, nullptr);
  CHECK(item.done);
  return item.status;
}

inline lmshm::Status PutIfAbsent(lmshm::ObjectStore& store, std::string_view key,
                                 lmshm::SharedBytes data) {
  lmshm::PutItem item = Putting(key, data);
  item.options.if_absent = true;
  store.Put(&item, 1, nullptr);
  CHECK(item.done);
  return item.status;
}

inline lmshm::Status Get(lmshm::ObjectStore& store, std::string_view key, lmshm::SharedBytes space,
                         lmshm::ObjectInfo* info = nullptr) {
  lmshm::GetItem item = Getting(key, space);
  store.Get(&item, 1, nullptr);
  CHECK(item.done);
  if (info != nullptr) *info = item.info;
  return item.status;
}

inline uint32_t CrcOf(const char* data, size_t size) { return lmshm::Crc32c(0, data, size); }

// All keys, page by page of `page` keys.
inline std::vector<std::string> ListAll(lmshm::ObjectStore& store, const std::string& prefix,
                                        size_t page = 100) {
  std::unique_ptr<lmshm::ObjectListing> listing;
  CHECK_OK(store.BeginListing(prefix, &listing));
  REQUIRE(listing != nullptr);
  std::vector<std::string> keys;
  for (bool ended = false; !ended;) {
    lmshm::PageLimits limits;
    limits.keys = page;
    limits.bytes = 60 * 1024;
    const size_t before = keys.size();
    const lmshm::Status status = listing->Read(limits, nullptr, &keys, &ended);
    CHECK_OK(status);
    if (!status.ok()) break;
    CHECK(keys.size() - before <= page);
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

#endif  // LMSHM_TESTS_NATIVE_REDIS_FIXTURE_H_
