// SPDX-License-Identifier: Apache-2.0
//
// The Redis engine with real servers, alone, through ObjectStore: what is stored comes back, in
// each layout, and what servers refuse or lose is told clearly.
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "golden.hh"
#include "redis_fixture.hh"
#include "redis_server.hh"

using lmshm::ObjectInfo;
using lmshm::RedisStore;
using lmshm::Status;

namespace {

constexpr size_t kMiB = 1 << 20;

std::string Url(const RedisServer& server, const std::string& parameters = "") {
  return "redis://" + server.address() + parameters;
}

// A server of the kind that is here first.
RedisServer::Setup With(std::vector<std::string> arguments) {
  RedisServer::Setup setup;
  setup.arguments = std::move(arguments);
  return setup;
}

RedisKind Any() { return RedisKinds().back(); }

}  // namespace

TEST(objects_of_every_size_come_back_with_checksum_and_attributes) {
  TestSegment segment(24 * kMiB);
  segment.FillPattern(1);
  for (const RedisKind kind : RedisKinds()) {
    const RedisServer server(kind);
    for (const std::string& url : {Url(server), "redis+unix://" + server.socket_path(),
                                   "redis://[::1]:" + std::to_string(server.port())}) {
      const auto store = Redis(url);
      for (const size_t size : {size_t{0}, size_t{1}, size_t{100}, size_t{4096}, size_t{65536},
                                size_t{1000003}, 9 * kMiB + 5}) {
        const std::string key = "model/1@" + std::to_string(size) + "@\xc3\xa9{x}";
        const std::vector<lmshm::Attribute> attributes = {{"dtype", "half"},
                                                          {"note", "a b%\r\n\x01"}};
        CHECK_OK(Put(*store, key, Part(segment, 7, size), attributes));
        const uint32_t crc = CrcOf(segment.data() + 7, size);
        const size_t at = 12 * kMiB;
        memset(segment.data() + at, 0x5a, size + 100);
        ObjectInfo info;
        CHECK_OK(Get(*store, key, Part(segment, at, size + 100), &info));
        CHECK_EQ(info.length, size);
        CHECK(info.crc32c == crc);
        REQUIRE_EQ(info.attributes.size(), 2u);
        CHECK_EQ(info.attributes[1].value, "a b%\r\n\x01");
        CHECK(memcmp(segment.data() + 7, segment.data() + at, size) == 0);
        CHECK(segment.Bytes(at + size, 100) == std::string(100, 0x5a));
        ObjectInfo stat;
        CHECK_OK(store->Stat(key, nullptr, &stat));
        CHECK_EQ(stat.length, size);
        CHECK(stat.crc32c == crc);
        CHECK_EQ(stat.attributes.size(), 2u);
        CHECK(stat.mtime_ms > 1'500'000'000'000 && stat.disk_bytes > size);
      }
    }
  }
}

TEST(a_batch_of_hits_and_misses_and_errors_stays_in_step) {
  TestSegment segment(16 * kMiB);
  segment.FillPattern(2);
  for (const RedisKind kind : RedisKinds()) {
    const RedisServer server(kind);
    const auto store = Redis(Url(server));
    constexpr size_t kCount = 200;
    std::vector<std::string> keys;
    std::vector<lmshm::PutItem> puts;
    const auto size_of = [](size_t i) {
      return i % 10 == 0 ? i : i % 7 == 0 ? 40000 + i : 1000 + i;
    };
    for (size_t i = 0; i < kCount; i++) keys.push_back("key-" + std::to_string(i));
    for (size_t i = 0; i < kCount; i++) {
      if (i % 5 == 3) continue;  // misses
      puts.push_back(Putting(keys[i], Part(segment, i * 40960, size_of(i))));
      puts.back().options.checksum = i % 2 == 0;
    }
    store->Put(puts.data(), puts.size(), nullptr);
    for (const lmshm::PutItem& put : puts) CHECK_OK(put.status);
    server.Ask({"DEL", "key-22", "key-21", "key-20"});
    server.Ask({"LPUSH", "key-22", "x"});
    server.Ask({"SET", "key-21",
                "a string of others that is longer than the head of a value, "
                "or this would not be a test of it"});
    server.Ask({"SET", "key-20", "short"});
    memset(segment.data() + 8 * kMiB, 0, 8 * kMiB);
    std::vector<lmshm::GetItem> gets;
    for (size_t i = 0; i < kCount; i++) {
      const size_t space = i == 30 ? 10 : 40960;
      gets.push_back(Getting(keys[i], Part(segment, 8 * kMiB + i % 180 * 40960, space)));
    }
    store->Get(gets.data(), kCount, nullptr);
    for (size_t i = 0; i < kCount; i++) {
      const Status& status = gets[i].status;
      CHECK(gets[i].done);
      if (i % 5 == 3) {
        CHECK_EQ(status.number(), ENOENT);
      } else if (i == 20 || i == 21) {
        CHECK_EQ(status.number(), EINVAL);
        CHECK_CONTAINS(status.text(), "was not stored by lmshm");
      } else if (i == 22) {
        CHECK_EQ(status.number(), EINVAL);
        CHECK_CONTAINS(status.text(), "WRONGTYPE");
      } else if (i == 30) {
        CHECK_EQ(status.number(), EMSGSIZE);
        CHECK_STARTS(status.text(), "30 bytes");
      } else {
        CHECK_OK(status);
        CHECK_EQ(gets[i].info.length, size_of(i));
        CHECK_EQ(gets[i].info.crc32c.has_value(), i % 2 == 0);
        if (i >= 180 || i < 20) continue;  // two share a place
        CHECK(memcmp(segment.data() + i * 40960, segment.data() + 8 * kMiB + i * 40960,
                     size_of(i)) == 0);
      }
    }
    CHECK_CONTAINS(store->Describe(), " connects=1 ");
  }
}

TEST(a_value_that_the_space_cannot_hold_costs_nothing_else) {
  TestSegment segment(24 * kMiB);
  segment.FillPattern(3);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  CHECK_OK(Put(*store, "large", Part(segment, 0, 9 * kMiB)));
  CHECK_OK(Put(*store, "small", Part(segment, 5, 1000)));
  lmshm::GetItem items[] = {Getting("large", Part(segment, 10 * kMiB, 100)),
                            Getting("small", Part(segment, 12 * kMiB, 1000)),
                            Getting("large", Part(segment, 14 * kMiB, 9 * kMiB))};
  store->Get(items, 3, nullptr);
  CHECK_EQ(items[0].status.number(), EMSGSIZE);
  CHECK_STARTS(items[0].status.text(), "9437184 bytes");
  CHECK_OK(items[1].status);
  CHECK(memcmp(segment.data() + 5, segment.data() + 12 * kMiB, 1000) == 0);
  CHECK_OK(items[2].status);
  CHECK(memcmp(segment.data(), segment.data() + 14 * kMiB, 9 * kMiB) == 0);
}

TEST(exists_and_remove_answer_for_each_key) {
  TestSegment segment(4096);
  const RedisServer server(Any());
  for (const std::string layout : {"lmshm", "payload", "lmcache-redis"}) {
    const auto store = Redis(Url(server, "?prefix=" + layout + "/&layout=" + layout));
    for (const char* const key : {"a", "c"}) CHECK_OK(Put(*store, key, Part(segment, 0, 100)));
    std::vector<bool> yes;
    CHECK_OK(store->Exists({"a", "b", "c"}, nullptr, &yes));
    CHECK(yes == std::vector<bool>({true, false, true}));
    CHECK_OK(store->Remove({"b", "c", "c"}, nullptr, &yes));
    CHECK(yes == std::vector<bool>({false, true, false}));
    CHECK_OK(store->Exists({"a", "c"}, nullptr, &yes));
    CHECK(yes == std::vector<bool>({true, false}));
    ObjectInfo info;
    CHECK_EQ(store->Stat("c", nullptr, &info).number(), ENOENT);
    CHECK_EQ(Get(*store, "c", Part(segment, 0, 100)).number(), ENOENT);
    CHECK_OK(store->Remove({"a"}, nullptr, &yes));
    CHECK_EQ(server.Ask({"DBSIZE"}).number, 0);
  }
}

TEST(a_listing_has_every_key_of_its_prefix_and_no_other) {
  TestSegment segment(4096);
  const RedisServer server(Any());
  const auto store = Redis(Url(server, "?prefix=own*:"));
  std::vector<std::string> wanted;
  std::vector<lmshm::PutItem> puts;
  for (int i = 0; i < 2500; i++) wanted.push_back("model/" + std::to_string(i) + "[?]");
  for (const std::string& key : wanted) puts.push_back(Putting(key, Part(segment, 0, 10)));
  store->Put(puts.data(), puts.size(), nullptr);
  for (const char* const other :
       {"ownx:model/1", "own*:other", "own*:", "other", "own*:model\x01"}) {
    server.Ask({"SET", other, "x"});
  }
  server.Ask({"LPUSH", "own*:model/list", "x"});
  std::sort(wanted.begin(), wanted.end());
  std::vector<std::string> all = ListAll(*store, "model/", 100);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  CHECK(all == wanted);
  CHECK(ListAll(*store, "model/2499") == std::vector<std::string>({"model/2499[?]"}));
  CHECK(ListAll(*store, "nothing").empty());
  CHECK(ListAll(*store, "other") == std::vector<std::string>({"other"}));
}

TEST(what_lmcache_reads_lies_as_lmcache_wants_it) {
  TestSegment segment(8192);
  segment.FillPattern(4);
  const RedisServer server(Any());
  const std::string key = "meta-llama/Llama-3@1@0@1f2e@half";
  const auto payload = Redis(Url(server, "?layout=payload&chunk_bytes=1000&prefix=p%40"));
  CHECK_OK(Put(*payload, key, Part(segment, 0, 1000), {{"shape", "1"}}));
  CHECK(server.Ask({"GET", "p@" + key}).text == segment.Bytes(0, 1000));
  const Status partial = Put(*payload, key, Part(segment, 0, 999));
  CHECK_EQ(partial.number(), EINVAL);
  CHECK_CONTAINS(partial.text(), "chunk_bytes=1000");
  ObjectInfo info;
  CHECK_OK(Get(*payload, key, Part(segment, 4000, 1000), &info));
  CHECK(segment.Bytes(0, 1000) == segment.Bytes(4000, 1000));
  CHECK(!info.crc32c.has_value() && info.attributes.empty());
  CHECK_OK(payload->Stat(key, nullptr, &info));
  CHECK_EQ(info.length, 1000u);
  CHECK(!payload->facts().attributes);
  CHECK(ListAll(*payload, "meta") == std::vector<std::string>({key}));

  const auto lmcache = Redis(Url(server, "?layout=lmcache-redis"));
  const std::vector<lmshm::Attribute> attributes = {
      {"dtype", "half"}, {"format", "KV_2LTD"}, {"shape", "2,1,8,32"}};
  CHECK_OK(Put(*lmcache, key, Part(segment, 100, 1024), attributes));
  CHECK(server.Ask({"GET", key + "kv_bytes"}).text == segment.Bytes(100, 1024));
  CHECK_EQ(server.Ask({"STRLEN", key + "metadata"}).number, 28);
  memset(segment.data() + 4000, 0, 1024);
  CHECK_OK(Get(*lmcache, key, Part(segment, 4000, 2000), &info));
  CHECK(segment.Bytes(100, 1024) == segment.Bytes(4000, 1024));
  REQUIRE_EQ(info.attributes.size(), 3u);
  CHECK_EQ(info.attributes[2].value, "2,1,8,32");
  CHECK(ListAll(*lmcache, "meta") == std::vector<std::string>({key}));
  // Cut short by another writer, or half of it removed: no partial object.
  server.Ask({"SET", key + "kv_bytes", "short"});
  CHECK_EQ(Get(*lmcache, key, Part(segment, 4000, 2000)).number(), EBADMSG);
  server.Ask({"DEL", key + "kv_bytes"});
  CHECK_EQ(Get(*lmcache, key, Part(segment, 4000, 2000)).number(), ENOENT);
  server.Ask({"SET", key + "metadata", "nonsense"});
  CHECK_EQ(Get(*lmcache, key, Part(segment, 4000, 2000)).number(), EINVAL);
  const Status other = Put(*lmcache, key, Part(segment, 0, 1000), attributes);
  CHECK_EQ(other.number(), EINVAL);
  CHECK_CONTAINS(other.text(), "shape and dtype say 1024 bytes");
}

TEST(the_metadata_that_lmcache_made_is_made_and_read) {
  TestSegment segment(32 * kMiB);
  const RedisServer server(Any());
  const auto lmcache = Redis(Url(server, "?layout=lmcache-redis"));
  for (const auto& row : ReadGolden("lmcache_headers.tsv", 12)) {
    const size_t length = std::stoull(row[0]);
    if (length > 9 * kMiB) continue;
    const std::vector<lmshm::Attribute> attributes = {
        {"dtype", row[2]}, {"format", row[1]}, {"shape", row[3]}};
    CHECK_OK(Put(*lmcache, "k", Part(segment, 0, length), attributes));
    std::string hex;
    for (const char c : server.Ask({"GET", "kmetadata"}).text) {
      char digits[3];
      snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(c));
      hex += digits;
    }
    CHECK_EQ(hex, row[4]);
    ObjectInfo info;
    CHECK_OK(lmcache->Stat("k", nullptr, &info));
    CHECK_EQ(info.length, length);
    REQUIRE_EQ(info.attributes.size(), 3u);
    for (size_t i = 0; i < 3; i++) CHECK_EQ(info.attributes[i].value, attributes[i].value);
    CHECK_OK(Get(*lmcache, "k", Part(segment, 0, length), &info));
    CHECK_EQ(info.attributes[0].value, row[2]);
  }
}

TEST(what_others_did_to_a_value_is_no_object) {
  TestSegment segment(400 * 1024);
  segment.FillPattern(5);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  const lmshm::SharedBytes space = Part(segment, 200 * 1024, 100 * 1024);
  const auto both = [&](int number, const char* part) {
    const Status got = Get(*store, "k", space);
    CHECK_EQ(got.number(), number);
    CHECK_CONTAINS(got.text(), part);
  };
  const auto fresh = [&] { CHECK_OK(Put(*store, "k", Part(segment, 0, 70000))); };
  fresh();
  server.Ask({"SETRANGE", "k", "50000", "x!x!x!"});
  both(EBADMSG, "checksum");
  fresh();
  server.Ask({"APPEND", "k", "more"});
  both(EBADMSG, "its head says otherwise");
  fresh();
  server.Ask({"SETRANGE", "k", "20", "1"});
  both(EBADMSG, "");
  fresh();
  // The same value under another key.
  CHECK_EQ(server.Ask({"RENAME", "k", "other"}).text, "OK");
  CHECK_EQ(Get(*store, "other", space).number(), EBADMSG);
  ObjectInfo info;
  CHECK_EQ(store->Stat("other", nullptr, &info).number(), EBADMSG);
  both(ENOENT, "");
}

TEST(objects_expire_where_the_url_says_so) {
  TestSegment segment(4096);
  const RedisServer server(Any());
  const auto store = Redis(Url(server, "?ttl=1000"));
  CHECK_OK(Put(*store, "k", Part(segment, 0, 100)));
  const int64_t left = server.Ask({"TTL", "k"}).number;
  CHECK(left > 900 && left <= 1000);
  CHECK_CONTAINS(store->Describe(), " ttl=1000");
}

TEST(what_is_there_stays_where_a_put_says_so) {
  constexpr size_t kSizes[] = {1, 100, 70000, 300 * 1024, 2 * kMiB};
  TestSegment segment(8 * kMiB);
  segment.FillPattern(9);
  for (const RedisKind kind : RedisKinds()) {
    const RedisServer server(kind);
    for (const std::string layout : {"lmshm", "payload", "lmcache-redis"}) {
      for (const std::string more : {"", "&ttl=1000"}) {
        const auto store = Redis(Url(server, "?prefix=" + layout + "&layout=" + layout + more));
        for (const size_t size : kSizes) {
          const std::string key = "k" + std::to_string(size) + more;
          CHECK_OK(PutIfAbsent(*store, key, Part(segment, 0, size)));
          if (more != "" && layout != "lmcache-redis") {
            CHECK(server.Ask({"TTL", layout + key}).number > 900);
          }
          const Status again = PutIfAbsent(*store, key, Part(segment, 10, size + 7));
          CHECK_EQ(again.number(), EEXIST);
          CHECK_CONTAINS(again.text(), "put " + key);
          ObjectInfo info;
          CHECK_OK(Get(*store, key, Part(segment, 4 * kMiB, size + 100), &info));
          CHECK_EQ(info.length, size);
          CHECK(memcmp(segment.data(), segment.data() + 4 * kMiB, size) == 0);
          CHECK_OK(Put(*store, key, Part(segment, 10, size + 7)));
        }
      }
    }
  }
}

TEST(of_a_batch_those_that_are_there_stay_and_the_others_are_stored) {
  TestSegment segment(8 * kMiB);
  segment.FillPattern(10);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  constexpr size_t kSizes[] = {100, 400 * 1024, 100, 400 * 1024};
  std::vector<std::string> keys;
  for (size_t i = 0; i < 4; i++) keys.push_back("k" + std::to_string(i));
  CHECK_OK(Put(*store, keys[0], Part(segment, 7, 3)));
  CHECK_OK(Put(*store, keys[1], Part(segment, 7, 4)));
  std::vector<lmshm::PutItem> items;
  for (size_t i = 0; i < 4; i++) {
    items.push_back(Putting(keys[i], Part(segment, i * kMiB, kSizes[i])));
    items.back().options.if_absent = true;
  }
  // One that is not asked anything.
  items.push_back(Putting(keys[1], Part(segment, 0, 5)));
  store->Put(items.data(), items.size(), nullptr);
  CHECK_EQ(items[0].status.number(), EEXIST);
  CHECK_EQ(items[1].status.number(), EEXIST);
  for (size_t i = 2; i < items.size(); i++) CHECK_OK(items[i].status);
  constexpr uint64_t kLengths[] = {3, 5, 100, 400 * 1024};
  for (size_t i = 0; i < 4; i++) {
    ObjectInfo info;
    CHECK_OK(store->Stat(keys[i], nullptr, &info));
    CHECK_EQ(info.length, kLengths[i]);
  }
}

TEST(of_many_at_once_one_stores_and_the_others_are_told) {
  TestSegment segment(kMiB);
  const RedisServer server(Any());
  for (const std::string layout : {"lmshm", "payload", "lmcache-redis"}) {
    const auto store = Redis(Url(server, "?layout=" + layout));
    for (int round = 0; round < 20; round++) {
      std::atomic<int> stored{0}, told{0};
      std::vector<std::thread> threads;
      for (int t = 0; t < 4; t++) {
        threads.emplace_back([&] {
          const Status status =
              PutIfAbsent(*store, layout + std::to_string(round), Part(segment, 0, 1000));
          (status.ok() ? stored : told) += status.ok() || status.number() == EEXIST ? 1 : 100;
        });
      }
      for (std::thread& thread : threads) thread.join();
      CHECK_EQ(stored.load(), 1);
      CHECK_EQ(told.load(), 3);
    }
  }
}

TEST(passwords_users_and_databases) {
  TestSegment segment(4096);
  RedisServer::Setup setup = With({"--requirepass", "sec ret"});
  setup.password = "sec ret";
  const RedisServer server(Any(), setup);
  server.Ask({"ACL", "SETUSER", "me", "on", ">mine", "~*", "+@all"});
  server.Ask({"ACL", "SETUSER", "reader", "on", ">his", "~*", "+get", "+select"});
  std::unique_ptr<RedisStore> store;
  Status status = OpenRedis(Url(server), &store);
  CHECK_EQ(status.number(), EACCES);
  CHECK_CONTAINS(status.text(), "LMSHM_STORE_SECRET");
  status = OpenRedis(Url(server), &store, "wrong-secret");
  CHECK_EQ(status.number(), EACCES);
  CHECK(status.text().find("wrong-secret") == std::string::npos);
  CHECK_OK(Put(*Redis(Url(server, "/3"), "sec ret"), "k", Part(segment, 0, 10)));
  const std::string user = "redis://me@" + server.address();
  CHECK_EQ(Get(*Redis(user, "mine"), "k", Part(segment, 0, 10)).number(), ENOENT);
  CHECK_OK(Get(*Redis(user + "/3", "mine"), "k", Part(segment, 0, 10)));
  // Who may not ask what kind of server it is may get objects nevertheless.
  const auto reader = Redis("redis://reader@" + server.address() + "/3", "his");
  CHECK_OK(Get(*reader, "k", Part(segment, 0, 10)));
  status = Put(*reader, "k", Part(segment, 0, 10));
  CHECK_EQ(status.number(), EACCES);
  CHECK_CONTAINS(status.text(), "NOPERM");
  // What docs/engines.md says that a user needs.
  server.Ask({"ACL", "SETUSER", "lmshm", "on", ">its", "~kv:*", "+get", "+set", "+getrange",
              "+strlen", "+exists", "+unlink", "+scan", "+select", "+info", "+cluster", "+asking"});
  const auto least = Redis("redis://lmshm@" + server.address() + "/2?prefix=kv:", "its");
  CHECK_OK(Put(*least, "k", Part(segment, 0, 10)));
  CHECK_OK(Get(*least, "k", Part(segment, 0, 10)));
  ObjectInfo info;
  CHECK_OK(least->Stat("k", nullptr, &info));
  std::vector<bool> yes;
  CHECK_OK(least->Exists({"k"}, nullptr, &yes));
  CHECK(ListAll(*least, "") == std::vector<std::string>({"k"}));
  CHECK_OK(least->Remove({"k"}, nullptr, &yes));
  CHECK(yes[0]);
  status = OpenRedis(Url(server, "/99999"), &store, "sec ret");
  CHECK_EQ(status.number(), EINVAL);
  // A server without a password does not repeat the one that it was given.
  const RedisServer open(Any());
  status = OpenRedis(Url(open), &store, "my-own-secret");
  CHECK_EQ(status.number(), EACCES);
  CHECK(status.text().find("my-own-secret") == std::string::npos);
}

TEST(a_server_alone_is_no_cluster) {
  const RedisServer server(Any());
  std::unique_ptr<RedisStore> store;
  const Status status = OpenRedis("redis+cluster://" + server.address(), &store);
  CHECK_EQ(status.number(), EOPNOTSUPP);
  CHECK_CONTAINS(status.text(), "say redis://");
}

TEST(a_full_server_is_enospc_and_recovers) {
  TestSegment segment(4 * kMiB);
  const RedisServer server(Any(), With({"--maxmemory", "6mb", "--maxmemory-policy", "noeviction"}));
  const auto store = Redis(Url(server));
  Status status;
  int stored = 0;
  for (; stored < 20 && status.ok(); stored++) {
    status = Put(*store, "k" + std::to_string(stored), Part(segment, 0, kMiB));
  }
  CHECK_EQ(status.number(), ENOSPC);
  CHECK_CONTAINS(status.text(), "maxmemory");
  CHECK_OK(Get(*store, "k0", Part(segment, 0, kMiB)));
  std::vector<bool> removed;
  CHECK_OK(store->Remove({"k0", "k1", "k2"}, nullptr, &removed));
  CHECK(Eventually([&] { return Put(*store, "again", Part(segment, 0, kMiB)).ok(); }));
}

TEST(values_above_the_servers_limit_are_refused) {
  TestSegment segment(4 * kMiB);
  const RedisServer server(Any(), With({"--proto-max-bulk-len", "2mb"}));
  const auto store = Redis(Url(server));
  Status status = Put(*store, "k", Part(segment, 0, 3 * kMiB));
  CHECK_EQ(status.number(), EFBIG);
  CHECK_CONTAINS(status.text(), "2097152");
  CHECK_EQ(Put(*store, "k", Part(segment, 0, 2 * kMiB)).number(), EFBIG);  // and its record
  CHECK_OK(Put(*store, "k", Part(segment, 0, kMiB)));
  CHECK(store->facts().max_object_bytes < 2 * kMiB);
  // Where the limit is not known, the server says it.
  const auto guess = Redis(Url(server, "?max_value_bytes=100000000"));
  status = Put(*guess, "k", Part(segment, 0, 3 * kMiB));
  CHECK(!status.ok());
  CHECK_OK(Get(*guess, "k", Part(segment, 0, kMiB)));
}

TEST(a_read_only_server_is_eagain) {
  TestSegment segment(4096);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  CHECK_OK(Put(*store, "k", Part(segment, 0, 10)));
  server.Ask({"REPLICAOF", "127.0.0.1", "1"});
  Status status = Put(*store, "k", Part(segment, 0, 10));
  CHECK_EQ(status.number(), EAGAIN);
  CHECK_CONTAINS(status.text(), "replica");
  CHECK_OK(Get(*store, "k", Part(segment, 0, 10)));
  server.Ask({"REPLICAOF", "NO", "ONE"});
  CHECK_OK(Put(*store, "k", Part(segment, 0, 10)));
}

TEST(a_server_that_died_is_told_at_once_and_used_again_when_it_is_back) {
  TestSegment segment(4096);
  RedisServer server(Any());
  const auto store = Redis(Url(server));
  CHECK_OK(Put(*store, "k", Part(segment, 0, 10)));
  server.Kill();
  Status status = Put(*store, "k", Part(segment, 0, 10));
  CHECK_EQ(status.number(), ECONNREFUSED);
  CHECK_CONTAINS(status.text(), server.address());
  CHECK_EQ(Get(*store, "k", Part(segment, 0, 10)).number(), ECONNREFUSED);
  std::vector<bool> removed;
  CHECK_EQ(store->Remove({"k"}, nullptr, &removed).number(), ECONNREFUSED);
  server.Restart();
  CHECK(Eventually([&] { return Put(*store, "k", Part(segment, 0, 10)).ok(); }));
  CHECK_OK(Get(*store, "k", Part(segment, 0, 10)));
  // One that was restarted while nobody asked: the old connection is not used.
  server.Kill();
  server.Restart();
  CHECK_OK(Put(*store, "k", Part(segment, 0, 10)));
}

TEST(a_server_that_is_not_there_yet_does_not_keep_a_store_from_opening) {
  TestSegment segment(4096);
  RedisServer server(Any());
  server.Kill();
  const auto store = Redis(Url(server));
  CHECK_EQ(Get(*store, "k", Part(segment, 0, 10)).number(), ECONNREFUSED);
  server.Restart();
  CHECK(Eventually([&] { return Put(*store, "k", Part(segment, 0, 10)).ok(); }));
}

TEST(a_stopped_server_is_given_up_after_its_limit_and_used_again) {
  TestSegment segment(4 * kMiB);
  const RedisServer server(Any());
  const auto store = Redis(Url(server, "?timeout=1"));
  CHECK_OK(Put(*store, "k", Part(segment, 0, kMiB)));
  server.Signal(SIGSTOP);
  Status status = Get(*store, "k", Part(segment, 0, kMiB));
  CHECK_EQ(status.number(), ETIMEDOUT);
  CHECK_CONTAINS(status.text(), "1000 ms");
  CHECK_EQ(Put(*store, "k", Part(segment, 0, 4 * kMiB)).number(), ETIMEDOUT);
  std::vector<bool> removed;
  status = store->Remove({"k"}, nullptr, &removed);
  CHECK_EQ(status.number(), ETIMEDOUT);
  CHECK_CONTAINS(status.text(), "not known");
  server.Signal(SIGCONT);
  CHECK(Eventually([&] { return Put(*store, "k2", Part(segment, 0, kMiB)).ok(); }));
  CHECK_OK(Get(*store, "k2", Part(segment, 0, kMiB)));
}

TEST(cancelling_ends_a_wait) {
  TestSegment segment(4096);
  const RedisServer server(Any());
  const auto store = Redis(Url(server, "?timeout=100"));
  server.Signal(SIGSTOP);
  Cancel cancel;
  lmshm::PutItem item = Putting("k", Part(segment, 0, 10));
  item.options.cancel = &cancel;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    cancel.Say();
  });
  store->Put(&item, 1, nullptr);
  other.join();
  CHECK_EQ(item.status.number(), ECANCELED);
  server.Signal(SIGCONT);
  CHECK_OK(Put(*store, "k", Part(segment, 0, 10)));
}

TEST(memory_that_is_gone_is_efault_and_other_objects_are_moved) {
  TestSegment segment(8 * kMiB);
  segment.FillPattern(6);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  CHECK_OK(Put(*store, "whole", Part(segment, 0, kMiB)));
  REQUIRE_EQ(ftruncate(segment.fd(), 4 * kMiB), 0);
  for (const bool checksum : {true, false}) {
    lmshm::PutItem puts[] = {Putting("a", Part(segment, 0, 1000)),
                             Putting("gone", Part(segment, 3 * kMiB, 2 * kMiB)),
                             Putting("b", Part(segment, 2000, 1000))};
    for (lmshm::PutItem& put : puts) put.options.checksum = checksum;
    store->Put(puts, 3, nullptr);
    CHECK_OK(puts[0].status);
    CHECK_EQ(puts[1].status.number(), EFAULT);
    CHECK_OK(puts[2].status);
    lmshm::GetItem gets[] = {Getting("a", Part(segment, 0, 1000)),
                             Getting("whole", Part(segment, 4 * kMiB - 5000, kMiB)),
                             Getting("b", Part(segment, 0, 1000))};
    for (lmshm::GetItem& get : gets) get.options.checksum = checksum;
    store->Get(gets, 3, nullptr);
    CHECK_OK(gets[0].status);
    CHECK_EQ(gets[1].status.number(), EFAULT);
    CHECK_OK(gets[2].status);
  }
  std::vector<bool> yes;
  CHECK_OK(store->Exists({"a", "gone", "b"}, nullptr, &yes));
  CHECK(yes == std::vector<bool>({true, false, true}));
}

TEST(many_threads_at_once_get_their_own_objects) {
  TestSegment segment(16 * kMiB);
  segment.FillPattern(7);
  const RedisServer server(Any());
  const auto store = Redis(Url(server));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (size_t t = 0; t < 8; t++) {
    threads.emplace_back([&, t] {
      const size_t mine = 100000 + t;
      for (int round = 0; round < 10; round++) {
        const std::string key = "t" + std::to_string(t) + "-" + std::to_string(round % 3);
        if (!Put(*store, key, Part(segment, t * kMiB + static_cast<size_t>(round), mine)).ok()) {
          wrong++;
        }
        ObjectInfo info;
        if (!Get(*store, key, Part(segment, 8 * kMiB + t * kMiB, mine), &info).ok() ||
            info.length != mine ||
            memcmp(segment.data() + t * kMiB + round, segment.data() + 8 * kMiB + t * kMiB, mine) !=
                0) {
          wrong++;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0);
}

CHECK_MAIN
