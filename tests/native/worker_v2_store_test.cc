// SPDX-License-Identifier: Apache-2.0
//
// Requests on a store that is no directory: how it is asked, what it is never asked, and what is
// counted. The store here keeps objects in memory and remembers its calls.
#include <algorithm>
#include <cstring>
#include <map>

#include "worker/base/crc32c.h"
#include "worker/base/mutex.h"
#include "worker/storage/stores.h"
#include "worker_v2_fixture.hh"

using lmshm::GetItem;
using lmshm::ObjectInfo;
using lmshm::PutItem;
using lmshm::Status;
using lmshm::StoreFacts;

namespace {

struct Object {
  std::string bytes;
  ObjectInfo info;
};

class MemoryStore : public lmshm::ObjectStore {
 public:
  class Listing : public lmshm::ObjectListing {
   public:
    Listing(MemoryStore* store, std::string prefix)
        : store_(store), prefix_(std::move(prefix)), next_(prefix_) {}

    // Two keys at a time, whatever is wanted.
    Status Read(const lmshm::PageLimits&, const lmshm::CancelCheck*, std::vector<std::string>* keys,
                bool* ended) override {
      if (store_->fails != 0) return Status::Error(store_->fails, "list: told to fail");
      auto at = store_->objects.lower_bound(next_);
      for (int i = 0; i < 2 && at != store_->objects.end(); i++, ++at) {
        if (at->first.substr(0, prefix_.size()) != prefix_) at = store_->objects.end();
        if (at == store_->objects.end()) break;
        keys->push_back(at->first);
        next_ = at->first + '\0';
      }
      *ended = at == store_->objects.end() || at->first.substr(0, prefix_.size()) != prefix_;
      return Status::OK();
    }

   private:
    MemoryStore* const store_;
    const std::string prefix_;
    std::string next_;
  };

  MemoryStore() {
    facts_.engine = "memory";
    facts_.remote = true;
    facts_.attributes = true;
    facts_.max_object_bytes = 1000;
    facts_.part_bytes = 100;
    facts_.part_objects = 4;
  }

  StoreFacts& mutable_facts() { return facts_; }
  const StoreFacts& facts() const override { return facts_; }

  void Put(PutItem* items, size_t count, lmshm::Turn*) override {
    calls.push_back("put " + std::to_string(count));
    for (PutItem* item = items; item != items + count; item++) {
      if (item->done) continue;
      item->done = true;
      if (fails != 0) {
        item->status = Status::Error(fails, "told to fail");
        continue;
      }
      Object& object = objects[std::string(item->key)];
      object.bytes.assign(static_cast<const char*>(item->data.address), item->data.size);
      object.info.length = item->data.size;
      object.info.attributes = item->attributes;
      item->crc32c = lmshm::Crc32c(0, object.bytes.data(), object.bytes.size());
      object.info.crc32c.reset();
      if (item->options.checksum) object.info.crc32c = item->crc32c;
    }
  }

  void Get(GetItem* items, size_t count, lmshm::Turn*) override {
    calls.push_back("get " + std::to_string(count));
    for (GetItem* item = items; item != items + count; item++) {
      if (item->done) continue;
      item->done = true;
      const auto found = objects.find(std::string(item->key));
      if (fails != 0) {
        item->status = Status::Error(fails, "told to fail");
      } else if (found == objects.end()) {
        item->status = Status::Error(ENOENT, "no such object");
      } else {
        item->info = found->second.info;
        memcpy(item->space.address, found->second.bytes.data(), found->second.bytes.size());
      }
    }
  }

  Status Stat(std::string_view key, const lmshm::CancelCheck*, ObjectInfo* info) override {
    const auto found = objects.find(std::string(key));
    if (found == objects.end()) return Status::Error(ENOENT, "no such object");
    *info = found->second.info;
    return Status::OK();
  }

  Status Exists(const std::vector<std::string>& keys, const lmshm::CancelCheck*,
                std::vector<bool>* yes) override {
    calls.push_back("exists " + std::to_string(keys.size()));
    if (fails != 0) return Status::Error(fails, "told to fail");
    for (size_t i = 0; i < keys.size(); i++) (*yes)[i] = objects.count(keys[i]) != 0;
    return Status::OK();
  }

  Status Remove(const std::vector<std::string>& keys, const lmshm::CancelCheck*,
                std::vector<bool>* removed) override {
    calls.push_back("remove " + std::to_string(keys.size()));
    for (size_t i = 0; i < keys.size(); i++) (*removed)[i] = objects.erase(keys[i]) != 0;
    return Status::OK();
  }

  Status BeginListing(const std::string& prefix,
                      std::unique_ptr<lmshm::ObjectListing>* listing) override {
    *listing = std::make_unique<Listing>(this, prefix);
    return Status::OK();
  }

  std::string Describe() const override { return " server=here%20and%20now"; }

  std::vector<std::string> calls;
  std::map<std::string, Object> objects;
  int fails = 0;  // with this, from now on

 private:
  StoreFacts facts_;
};

// A client of a worker in front of it.
class Talk {
 public:
  Talk() {
    auto made = std::make_unique<MemoryStore>();
    store = made.get();
    stores_ = std::make_unique<lmshm::OneStore>(std::move(made), 8);
    service_.stores = stores_.get();
    service_.boot_id = "0123456789abcdef";
    session_ = std::make_unique<lmshm::Session>(service_, "test");
  }

  std::string Say(const std::string& line) {
    std::string answer;
    session_->Handle(line, &answer);
    REQUIRE(!answer.empty() && answer.back() == '\n');
    answer.pop_back();
    return answer;
  }

  void Begin() {
    CHECK_EQ(Say("HELLO 2").substr(0, 27), "OK 2 boot=0123456789abcdef ");
    segment.FillPattern(1);
    CHECK_EQ(Say("1 ATTACH /" + segment.name() + " 65536 -"), "1 OK");
    store->calls.clear();
  }

  std::string Calls() {
    std::string all;
    for (const std::string& call : std::exchange(store->calls, {})) all += call + ";";
    return all;
  }

  int64_t Info(const std::string& name) {
    const std::string info = Say("99 INFO") + " ";
    const size_t at = info.find(" " + name + "=");
    return at == std::string::npos ? -1 : atoll(info.c_str() + at + name.size() + 2);
  }

  MemoryStore* store = nullptr;
  TestSegment segment{65536};

 private:
  std::unique_ptr<lmshm::OneStore> stores_;
  lmshm::Service service_;
  std::unique_ptr<lmshm::Session> session_;
};

// `count` objects "<name><i>", of `size` bytes, one behind the other.
std::string Batch(const std::string& verb, size_t count, size_t size) {
  std::string line = "2 " + verb;
  for (size_t i = 0; i < count; i++) {
    line += (i == 0 ? " k" : " ; k") + std::to_string(i) + " " + std::to_string(i * size) + " " +
            std::to_string(size);
  }
  return line;
}

}  // namespace

TEST(hello_names_no_directory_and_version_1_is_refused) {
  Talk talk;
  CHECK_EQ(talk.Say("ATTACH /" + talk.segment.name() + " 65536 0"), "OK");
  for (const char* line : {"WRITE /x 0 1", "READ /x 0 1"}) {
    CHECK_CONTAINS(talk.Say(line), "ERROR ENOTSUP version 1");
  }
  const std::string refused = talk.Say("HELLO 2 dir=models/a");
  CHECK_STARTS(refused, "ERROR ENOTSUP HELLO 2: dir=models/a: ");
  CHECK_CONTAINS(refused, "prefix=");
  CHECK_STARTS(talk.Say("HELLO 2 dir=."), "OK 2 ");
  Talk another;
  CHECK_STARTS(another.Say("HELLO 2 dir="), "OK 2 ");
}

TEST(hello_says_whether_there_are_attributes) {
  for (const bool attributes : {true, false}) {
    Talk talk;
    talk.store->mutable_facts().attributes = attributes;
    CHECK_CONTAINS(talk.Say("HELLO 2"), attributes ? " xattr=1 " : " xattr=0 ");
  }
}

TEST(an_object_goes_in_and_out) {
  Talk talk;
  talk.Begin();
  const std::string bytes = talk.segment.Bytes(0, 100);
  const std::string put = talk.Say("2 PUT a/1 0 100 shape=2,3");
  CHECK_STARTS(put, "2 OK 100 crc32c=");
  CHECK_EQ(talk.Say("3 GET a/1 5000 200"), "3" + put.substr(1) + " shape=2,3");
  CHECK(talk.segment.Bytes(5000, 100) == bytes);
  CHECK_CONTAINS(talk.Say("4 STAT a/1"), "4 OK 100 mtime_ms=0 disk=0 crc32c=");
  CHECK_STARTS(talk.Say("5 GET a/2 5000 200"), "5 ERROR ENOENT ");
  CHECK_STARTS(talk.Say("6 STAT a/2"), "6 ERROR ENOENT ");
  CHECK_EQ(talk.Say("7 REMOVE a/1 a/1"), "7 OK 10");
  CHECK_EQ(talk.Info("puts"), 1);
  CHECK_EQ(talk.Info("put_bytes"), 100);
  CHECK_EQ(talk.Info("gets"), 1);
  CHECK_EQ(talk.Info("get_bytes"), 100);
  CHECK_EQ(talk.Info("hits"), 1);
  CHECK_EQ(talk.Info("misses"), 1);
  CHECK_EQ(talk.Info("errors"), 0);
}

TEST(a_batch_is_divided_as_the_store_wants_it) {
  Talk talk;
  talk.Begin();
  CHECK_STARTS(talk.Say(Batch("PUT", 10, 10)), "2 OK 10 ");
  CHECK_EQ(talk.Calls(), "put 4;put 4;put 2;");
  CHECK_STARTS(talk.Say(Batch("GET", 5, 60)), "2 OK 10 ");
  CHECK_EQ(talk.Calls(), "get 2;get 2;get 1;");
  CHECK_STARTS(talk.Say(Batch("GET", 3, 500)), "2 OK 10 ");
  CHECK_EQ(talk.Calls(), "get 1;get 1;get 1;");
  talk.store->mutable_facts().part_objects = 1000;
  talk.store->mutable_facts().part_bytes = 1 << 20;
  CHECK_STARTS(talk.Say(Batch("GET", 10, 10)), "2 OK 10 ");
  CHECK_EQ(talk.Calls(), "get 10;");
  CHECK_EQ(talk.Info("hits"), 18);
  CHECK_EQ(talk.Info("puts"), 10);
}

TEST(keys_are_asked_for_in_lots_and_contains_stops_at_a_miss) {
  Talk talk;
  talk.Begin();
  std::string keys, yes;
  for (int i = 0; i < 600; i++) {
    if (i != 300) talk.store->objects["k" + std::to_string(i)];
    keys += " k" + std::to_string(i);
    yes += i == 300 ? '0' : '1';
  }
  CHECK_EQ(talk.Say("2 EXISTS" + keys), "2 OK " + yes);
  CHECK_EQ(talk.Calls(), "exists 256;exists 256;exists 88;");
  CHECK_EQ(talk.Say("3 CONTAINS" + keys), "3 OK 300");
  CHECK_EQ(talk.Calls(), "exists 256;exists 256;");
  CHECK_EQ(talk.Say("4 REMOVE" + keys), "4 OK " + yes);
  CHECK_EQ(talk.Calls(), "remove 256;remove 256;remove 88;");
  talk.store->fails = ETIMEDOUT;
  CHECK_STARTS(talk.Say("5 EXISTS a b"), "5 ERROR ETIMEDOUT told to fail");
  CHECK_EQ(talk.Info("exists_errors"), 1);
}

TEST(a_store_is_not_asked_for_what_it_cannot_do) {
  Talk talk;
  talk.Begin();
  CHECK_STARTS(talk.Say("2 PUT k 0 1001"), "2 ERROR EFBIG put k: it has 1001 bytes");
  CHECK_STARTS(talk.Say("3 PUT k 0 10 io=direct"), "3 ERROR ENOTSUP io=direct ");
  CHECK_STARTS(talk.Say("4 PUT k 0 10 sync=full"), "4 ERROR ENOTSUP sync=full ");
  CHECK_STARTS(talk.Say("5 GET k 0 10 io=cached"), "5 ERROR ENOTSUP io=cached ");
  CHECK_EQ(talk.Calls(), "");
  CHECK_STARTS(talk.Say("6 PUT k 0 1000 io=auto sync=none"), "6 OK 1000 ");
  // One of a batch is refused, the others are not.
  CHECK_CONTAINS(talk.Say("7 PUT a 0 10 ; b 0 10 sync=data ; c 0 2000 ; d 0 10 crc=0"),
                 " ; -ENOTSUP ");
  CHECK(talk.store->objects.count("a") == 1 && talk.store->objects.count("d") == 1);
  CHECK(talk.store->objects.count("b") == 0 && talk.store->objects.count("c") == 0);
  CHECK_EQ(talk.Info("put_errors"), 5);
  talk.store->mutable_facts().attributes = false;
  CHECK_STARTS(talk.Say("8 PUT e 0 10 shape=1"), "8 OK 10 crc32c=");
  CHECK(talk.store->objects["e"].info.attributes.empty());
}

TEST(failures_of_a_store_are_answers) {
  Talk talk;
  talk.Begin();
  talk.store->fails = ENOSPC;
  CHECK_EQ(talk.Say("2 PUT k 0 10"), "2 ERROR ENOSPC told to fail");
  CHECK_EQ(talk.Say("3 PUT k 0 10 ; l 0 10"),
           "3 OK -ENOSPC told%20to%20fail ; -ENOSPC told%20to%20fail");
  CHECK_EQ(talk.Say("4 GET k 0 10"), "4 ERROR ENOSPC told to fail");
  CHECK_EQ(talk.Say("5 LIST 10 -"), "5 ERROR ENOSPC list: told to fail");
  CHECK_EQ(talk.Info("put_errors"), 3);
  CHECK_EQ(talk.Info("misses"), 0);
}

TEST(a_listing_of_a_store_that_gives_few_keys_at_a_time) {
  Talk talk;
  talk.Begin();
  for (const char* key : {"a1", "b1", "b2", "b3", "b4", "b5", "c1"}) talk.store->objects[key];
  std::string cursor = "-", keys;
  for (int pages = 0; pages < 10; pages++) {
    const std::vector<std::string> words = SplitWords(talk.Say("2 LIST 3 " + cursor + " b"));
    REQUIRE(words.size() >= 3 && words[1] == "OK");
    for (size_t i = 3; i < words.size(); i++) keys += words[i] + " ";
    cursor = words[2];
    if (cursor == "-") break;
    talk.store->fails = EAGAIN;  // the same page can be asked for again
    CHECK_STARTS(talk.Say("3 LIST 3 " + cursor + " b"), "3 ERROR EAGAIN ");
    talk.store->fails = 0;
  }
  CHECK_EQ(keys, "b1 b2 b3 b4 b5 ");
  CHECK_EQ(cursor, "-");
}

TEST(info_tells_of_the_engine) {
  Talk talk;
  talk.Begin();
  const std::string info = talk.Say("2 INFO");
  CHECK_CONTAINS(info,
                 " engine=memory attributes=1 io_modes=0 durability=0 max_object_bytes=1000 ");
  CHECK_CONTAINS(info, " server=here%20and%20now ");
  for (const char* word : {" io=", " sync=", " direct=", " fs=", " directories=", "puts_direct="}) {
    CHECK(info.find(word) == std::string::npos);
  }
}

CHECK_MAIN
