// SPDX-License-Identifier: Apache-2.0
//
// The Redis engine with a cluster of three masters and three replicas: keys find their nodes, also
// while slots move, and a master that is lost while requests are in flight costs time and nothing
// else.
#include <csignal>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "redis_fixture.hh"
#include "redis_server.hh"
#include "worker/redis/slots.h"

using lmshm::ObjectInfo;
using lmshm::Status;

namespace {

constexpr size_t kSize = 50000;

// Of all tests: to start one takes some seconds. Ended with the program.
RedisCluster& Cluster() {
  static std::unique_ptr<RedisCluster> cluster;
  if (cluster == nullptr) cluster = std::make_unique<RedisCluster>(RedisKinds().back());
  return *cluster;
}

// One that belongs to the master that had these slots at first.
std::string KeyOf(size_t master, int number) {
  for (int i = 0;; i++) {
    const std::string key = "k" + std::to_string(number) + "-" + std::to_string(i);
    if (RedisCluster::FirstOwner(lmshm::SlotOf(key)) == master) return key;
  }
}

}  // namespace

TEST(a_batch_goes_to_all_masters) {
  RedisCluster& cluster = Cluster();
  TestSegment segment(16 << 20);
  segment.FillPattern(1);
  const auto store = Redis(cluster.Url());
  std::vector<std::string> keys;
  std::vector<lmshm::PutItem> puts;
  std::vector<lmshm::GetItem> gets;
  for (int i = 0; i < 150; i++) keys.push_back("batch/" + std::to_string(i));
  for (size_t i = 0; i < keys.size(); i++) {
    puts.push_back(Putting(keys[i], Part(segment, i * 100, kSize)));
    gets.push_back(Getting(keys[i], Part(segment, (8 << 20) + i * kSize, kSize)));
  }
  store->Put(puts.data(), puts.size(), nullptr);
  for (const lmshm::PutItem& put : puts) CHECK_OK(put.status);
  store->Get(gets.data(), gets.size(), nullptr);
  for (size_t i = 0; i < keys.size(); i++) {
    CHECK_OK(gets[i].status);
    CHECK(memcmp(segment.data() + i * 100, gets[i].space.address, kSize) == 0);
  }
  for (size_t i = 0; i < 3; i++) CHECK(cluster.node(i).Ask({"DBSIZE"}).number > 10);
  std::sort(keys.begin(), keys.end());
  std::vector<std::string> listed = ListAll(*store, "batch/", 40);
  listed.erase(std::unique(listed.begin(), listed.end()), listed.end());
  CHECK(listed == keys);
  std::vector<std::string> asked = keys;
  asked.push_back("batch/none");
  std::vector<bool> yes;
  CHECK_OK(store->Exists(asked, nullptr, &yes));
  CHECK_EQ(std::count(yes.begin(), yes.end(), true), 150);
  CHECK(!yes.back());
  CHECK_OK(store->Remove(asked, nullptr, &yes));
  CHECK_EQ(std::count(yes.begin(), yes.end(), true), 150);
  CHECK_CONTAINS(store->Describe(), " masters=3 ");
  CHECK_CONTAINS(store->Describe(), " redirections=0 ");
  CHECK_EQ(store->endpoints().size(), 6u);
}

TEST(one_server_of_a_cluster_is_no_store) {
  std::unique_ptr<lmshm::RedisStore> store;
  const Status status = OpenRedis("redis://" + Cluster().node(1).address(), &store);
  CHECK_EQ(status.number(), EOPNOTSUPP);
  CHECK_CONTAINS(status.text(), "redis+cluster://");
}

// Slots move one key at a time; meanwhile the old node says ASK, and afterwards MOVED.
TEST(keys_are_found_while_their_slot_moves) {
  RedisCluster& cluster = Cluster();
  TestSegment segment(1 << 20);
  segment.FillPattern(2);
  const auto store = Redis(cluster.Url());
  const std::string tag = KeyOf(0, 1);
  const std::string slot = std::to_string(lmshm::SlotOf(tag));
  std::vector<std::string> keys;
  for (int i = 0; i < 10; i++) keys.push_back("{" + tag + "}" + std::to_string(i));
  for (size_t i = 0; i < keys.size(); i++) {
    CHECK_OK(Put(*store, keys[i], Part(segment, i * 100, kSize)));
  }
  RedisServer& from = cluster.node(0);
  RedisServer& to = cluster.node(1);
  CHECK_EQ(to.Ask({"CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(0)}).text, "OK");
  CHECK_EQ(from.Ask({"CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(1)}).text, "OK");
  const auto all_are_there = [&] {
    std::vector<lmshm::GetItem> gets;
    for (size_t i = 0; i < keys.size(); i++) {
      gets.push_back(Getting(keys[i], Part(segment, (i + 1) * kSize, kSize)));
    }
    store->Get(gets.data(), gets.size(), nullptr);
    for (size_t i = 0; i < keys.size(); i++) {
      CHECK_OK(gets[i].status);
      const uint32_t crc = CrcOf(segment.data() + (i + 1) * kSize, kSize);
      CHECK(gets[i].info.crc32c == crc);
    }
  };
  for (size_t i = 0; i < 5; i++) {
    CHECK_EQ(
        from.Ask({"MIGRATE", "127.0.0.1", std::to_string(to.port()), keys[i], "0", "5000"}).text,
        "OK");
  }
  all_are_there();
  const std::string fresh = "{" + tag + "}new";
  CHECK_OK(Put(*store, fresh, Part(segment, 0, kSize)));  // ASK: it goes to the new node
  CHECK_EQ(Get(*store, "{" + tag + "}none", Part(segment, 0, kSize)).number(), ENOENT);
  all_are_there();
  for (size_t i = 5; i < keys.size(); i++) {
    CHECK_EQ(
        from.Ask({"MIGRATE", "127.0.0.1", std::to_string(to.port()), keys[i], "0", "5000"}).text,
        "OK");
  }
  for (RedisServer* const node : {&to, &from, &cluster.node(2)}) {
    node->Ask({"CLUSTER", "SETSLOT", slot, "NODE", cluster.id(1)});
  }
  all_are_there();
  std::vector<bool> removed;
  CHECK_OK(store->Remove({keys[0], fresh}, nullptr, &removed));
  CHECK(removed == std::vector<bool>({true, true}));
  CHECK(store->Describe().find(" redirections=0 ") == std::string::npos);
  for (RedisServer* const node : {&from, &to, &cluster.node(2)}) {
    for (const std::string& key : keys) node->Ask({"DEL", key});
  }
}

TEST(a_master_is_lost_and_its_replica_promoted_while_requests_are_in_flight) {
  RedisCluster& cluster = Cluster();
  TestSegment segment(16 << 20);
  segment.FillPattern(3);
  const auto store = Redis(cluster.Url("?timeout=60"));
  constexpr int kKeys = 12;
  std::vector<std::string> keys;
  for (int i = 0; i < kKeys; i++) keys.push_back(KeyOf(static_cast<size_t>(i) % 3, 100 + i));
  // What is confirmed by the replica cannot be lost with the master.
  for (size_t i = 0; i < keys.size(); i++) {
    CHECK_OK(Put(*store, keys[i], Part(segment, i * 1000, kSize)));
  }
  for (size_t i = 0; i < 3; i++) {
    CHECK(Eventually([&] {
      return cluster.node(i + 3).Ask({"DBSIZE"}).number == cluster.node(i).Ask({"DBSIZE"}).number;
    }));
  }
  std::atomic<bool> ending{false};
  std::atomic<int> rounds{0};
  std::mutex mutex;
  std::set<std::string> failures;
  const auto fail = [&](const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex);
    failures.insert(what);
  };
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 3; t++) {
    threads.emplace_back([&, t] {
      const size_t base = (4 + 4 * t) << 20;
      while (!ending) {
        // Each thread puts keys of its own, and all read the first ones.
        std::vector<lmshm::GetItem> gets;
        for (size_t i = 0; i < keys.size(); i++) {
          gets.push_back(Getting(keys[i], Part(segment, base + i * kSize, kSize)));
        }
        store->Get(gets.data(), gets.size(), nullptr);
        for (size_t i = 0; i < keys.size(); i++) {
          if (!gets[i].status.ok()) fail(gets[i].status.ToString());
          if (memcmp(segment.data() + i * 1000, gets[i].space.address, kSize) != 0) {
            fail("wrong bytes of " + keys[i]);
          }
        }
        const std::string key = KeyOf(t, 200 + rounds % 5) + "/" + std::to_string(t);
        const Status put = Put(*store, key, Part(segment, t * 100, kSize));
        if (!put.ok()) fail(put.ToString());
        rounds++;
      }
    });
  }
  CHECK(Eventually([&] { return rounds > 10; }));
  cluster.node(1).Kill();
  // The replica of node 1 is node 4.
  CHECK(Eventually([&] {
    const std::string role = cluster.node(4).Ask({"INFO", "replication"}).text;
    return role.find("role:master") != std::string::npos;
  }));
  const int then = rounds;
  CHECK(Eventually([&] { return rounds > then + 20; }));
  ending = true;
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) check::Fail(__FILE__, __LINE__, failure);
  // A store that is opened now, by the address of a node that is gone and one that is there.
  const auto late =
      Redis("redis+cluster://" + cluster.node(1).address() + "," + cluster.node(2).address());
  CHECK_OK(Get(*late, keys[1], Part(segment, 0, kSize)));
  std::vector<std::string> wanted = keys;
  std::sort(wanted.begin(), wanted.end());
  std::vector<std::string> listed = ListAll(*store, "k1");
  for (const std::string& key : wanted) {
    CHECK(std::find(listed.begin(), listed.end(), key) != listed.end());
  }
}

TEST(a_slot_without_a_master_is_a_clear_error_within_the_limit) {
  RedisCluster& cluster = Cluster();
  TestSegment segment(1 << 20);
  const auto store = Redis(cluster.Url("?timeout=2"));
  CHECK_OK(Put(*store, "here", Part(segment, 0, 100)));
  for (const size_t node : {2, 5}) cluster.node(node).Kill();
  const Status status = Put(*store, KeyOf(2, 1), Part(segment, 0, 100));
  CHECK(!status.ok());
  CHECK(status.number() == EAGAIN || status.number() == ECONNREFUSED ||
        status.number() == ETIMEDOUT || status.number() == ECONNRESET);
  CHECK_CONTAINS(status.text(), "127.0.0.1");
}

CHECK_MAIN
