// SPDX-License-Identifier: Apache-2.0
//
// The Redis engine with servers that answer what no server should: broken off, longer or shorter
// than they say, out of step, of another type, never. What comes of it is an error or a miss, never
// a part of a value or another key's, and the next request is answered.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "redis_fixture.hh"
#include "redis_liar.hh"
#include "worker/redis/slots.h"

using lmshm::ObjectInfo;
using lmshm::Status;

namespace {

using Words = std::vector<std::string>;

constexpr size_t kMiB = 1 << 20;

// A server that does what it should.
class Truth {
 public:
  std::string Answer(const Words& words) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (words.empty()) return "-ERR no command\r\n";
    if (words[0] == "INFO") return Bulk("redis_version:0.0.0\r\ncluster_enabled:0\r\n");
    if (words[0] == "CONFIG") return "*0\r\n";
    if (words[0] == "SET") {
      values_[words.at(1)] = words.at(2);
      return "+OK\r\n";
    }
    if (words[0] == "GET") {
      const auto at = values_.find(words.at(1));
      return at == values_.end() ? "$-1\r\n" : Bulk(at->second);
    }
    if (words[0] == "UNLINK") return ":" + std::to_string(values_.erase(words.at(1))) + "\r\n";
    if (words[0] == "EXISTS") return ":" + std::to_string(values_.count(words.at(1))) + "\r\n";
    return "-ERR unknown command\r\n";
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

bool Is(const Words& words, const char* command, const char* key) {
  return words.size() > 1 && words[0] == command && words[1] == key;
}

std::string Scanned(const std::string& cursor, const Words& names) {
  std::string text = "*2\r\n" + Bulk(cursor) + "*" + std::to_string(names.size()) + "\r\n";
  for (const std::string& name : names) text += Bulk(name);
  return text;
}

}  // namespace

// Before anybody has told who has which slots there is no telling that there are no keys.
TEST(a_listing_of_a_cluster_that_does_not_answer_is_an_error_and_not_empty) {
  std::atomic<bool> up{false};
  std::atomic<int> port{0};
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "CLUSTER") return up ? SlotsOf({{0, 16383, port}}) : "*0\r\n";
    if (words[0] == "SCAN") return Scanned("0", {"k1", "k2"});
    return "-ERR unknown command\r\n";
  });
  port = server.port();
  const auto store =
      Redis("redis+cluster://127.0.0.1:" + std::to_string(server.port()) + "?timeout=1");
  std::unique_ptr<lmshm::ObjectListing> listing;
  CHECK_OK(store->BeginListing("", &listing));
  Words keys;
  bool ended = false;
  CHECK_EQ(listing->Read({10, 1000}, nullptr, &keys, &ended).number(), EAGAIN);
  CHECK(!ended);
  up = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  while (!ended && keys.size() < 10)
    REQUIRE(listing->Read({10, 1000}, nullptr, &keys, &ended).ok());
  CHECK(keys == Words({"k1", "k2"}));
}

TEST(a_listing_has_all_keys_where_a_slot_moves_meanwhile) {
  const std::string early = NameIn("a", 1, 8191);
  const std::string late = NameIn("b", 1, 8191);
  const std::string moved = NameIn("c", 0, 0);
  const std::string other = NameIn("d", 8192, 16383);
  std::atomic<bool> moving{false};
  std::atomic<int> ports[2] = {};
  const auto slots = [&] {
    return moving ? SlotsOf({{0, 0, ports[1]}, {1, 8191, ports[0]}, {8192, 16383, ports[1]}})
                  : SlotsOf({{0, 8191, ports[0]}, {8192, 16383, ports[1]}});
  };
  RedisLiar first([&](const Words& words, int) -> std::string {
    if (words[0] == "CLUSTER") return slots();
    if (words[0] == "SCAN") {
      return words[1] == "0" ? Scanned("7", {early}) : Scanned("0", {late});
    }
    if (words[0] == "GET") return "-MOVED 0 127.0.0.1:" + std::to_string(ports[1]) + "\r\n";
    return "-ERR unknown command\r\n";
  });
  RedisLiar second([&](const Words& words, int) -> std::string {
    if (words[0] == "CLUSTER") return slots();
    if (words[0] == "SCAN") return Scanned("0", moving ? Words{other, moved} : Words{other});
    if (words[0] == "GET") return "$-1\r\n";
    return "-ERR unknown command\r\n";
  });
  ports[0] = first.port();
  ports[1] = second.port();
  const auto store =
      Redis("redis+cluster://127.0.0.1:" + std::to_string(first.port()) + "?timeout=5");
  std::unique_ptr<lmshm::ObjectListing> listing;
  CHECK_OK(store->BeginListing("", &listing));
  Words keys;
  bool ended = false;
  CHECK_OK(listing->Read({1, 1000}, nullptr, &keys, &ended));
  CHECK(keys == Words({early}));
  moving = true;
  TestSegment segment(4096);
  CHECK_EQ(Get(*store, moved, Part(segment, 0, 100)).number(), ENOENT);  // it was told: MOVED
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  while (!ended && keys.size() < 10) REQUIRE(listing->Read({1, 1000}, nullptr, &keys, &ended).ok());
  std::sort(keys.begin(), keys.end());
  CHECK(keys == Words({early, late, moved, other}));
}

// ASK counts once: where nobody is to be reached, the master that said it is asked again.
TEST(a_node_that_is_named_by_ask_and_cannot_be_reached_is_not_insisted_on) {
  std::atomic<int> port{0};
  std::atomic<int> gets{0};
  uint16_t closed = 0;
  {
    const RedisLiar gone([](const Words&, int) { return ""; });
    closed = gone.port();
  }
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "CLUSTER") return SlotsOf({{0, 16383, port}});
    if (words[0] != "GET") return "-ERR unknown command\r\n";
    const std::string slot = std::to_string(lmshm::SlotOf("k"));
    return gets++ == 0 ? "-ASK " + slot + " 127.0.0.1:" + std::to_string(closed) + "\r\n"
                       : "$-1\r\n";
  });
  port = server.port();
  const auto store =
      Redis("redis+cluster://127.0.0.1:" + std::to_string(server.port()) + "?timeout=3");
  TestSegment segment(4096);
  CHECK_EQ(Get(*store, "k", Part(segment, 0, 100)).number(), ENOENT);
  CHECK_EQ(gets.load(), 2);
}

// What does not know AUTH repeats the beginning of what it was given.
TEST(a_password_is_in_no_error) {
  const std::string password = "s3cret" + std::string(200, 'x');
  RedisLiar server([&](const Words& words, int) -> std::string {
    return "-ERR unknown command '" + words[0] + "', with args beginning with: '" +
           password.substr(0, 128) + "' \r\n";
  });
  std::unique_ptr<lmshm::RedisStore> store;
  const Status status = OpenRedis(server.url(), &store, password);
  CHECK_EQ(status.number(), EACCES);
  CHECK(status.text().find("s3cret") == std::string::npos);
}

TEST(a_reply_that_is_cut_or_wrong_at_any_place_gives_no_part_of_a_value) {
  TestSegment segment(64 * 1024);
  segment.FillPattern(1);
  constexpr size_t kSize = 300;
  std::string whole;  // of the reply to GET
  {
    Truth truth;
    RedisLiar server([&](const Words& words, int) { return truth.Answer(words); });
    const auto store = Redis(server.url());
    CHECK_OK(Put(*store, "k", Part(segment, 0, kSize), {{"dtype", "half"}}));
    whole = truth.Answer({"GET", "k"});
  }
  const auto get = [&](const std::string& answer, size_t* connections) {
    Truth truth;
    std::atomic<int> lies{0};
    RedisLiar server([&](const Words& words, int) {
      if (Is(words, "GET", "k")) return answer;
      return truth.Answer(words);
    });
    const auto store = Redis(server.url("?timeout=1"));
    CHECK_OK(Put(*store, "other", Part(segment, 1000, kSize)));
    lmshm::GetItem items[] = {Getting("k", Part(segment, 4096, kSize)),
                              Getting("other", Part(segment, 8192, kSize))};
    store->Get(items, 2, nullptr);
    CHECK(items[0].done && items[1].done);
    // What comes behind the lie is right, or an error; and then right.
    const bool right = memcmp(segment.data() + 1000, segment.data() + 8192, kSize) == 0;
    CHECK(!items[1].status.ok() || right);
    CHECK_OK(Get(*store, "other", Part(segment, 8192, kSize)));
    CHECK(memcmp(segment.data() + 1000, segment.data() + 8192, kSize) == 0);
    *connections = static_cast<size_t>(server.connections());
    return items[0].status;
  };
  size_t connections = 0;
  CHECK_OK(get(whole, &connections));
  CHECK_EQ(connections, 1u);
  const size_t step = check::LongForm() ? 1 : 29;
  for (size_t cut = 0; cut < whole.size(); cut += step) {
    CHECK(!get(whole.substr(0, cut) + RedisLiar::kClose, &connections).ok());
  }
  // A byte is another one.
  for (size_t at = 0; at < whole.size(); at += step) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x11);
    CHECK(!get(changed, &connections).ok());
  }
  // Longer and shorter than it says.
  CHECK(!get(whole.substr(0, whole.size() - 2) + "x\r\n", &connections).ok());
  CHECK(connections > 1);
  CHECK(!get(whole.substr(0, whole.size() - 3) + "\r\n", &connections).ok());
  CHECK(!get("$10" + whole.substr(1), &connections).ok());
}

TEST(replies_of_another_kind_are_errors) {
  TestSegment segment(64 * 1024);
  for (const std::string answer : {"+OK\r\n", ":1\r\n", "*1\r\n$1\r\na\r\n", "hello\r\n", "$-5\r\n",
                                   "$99999999999999999999\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n",
                                   "\r\n", "$9223372036854775807\r\nx"}) {
    Truth truth;
    std::atomic<bool> lie{true};
    RedisLiar server([&](const Words& words, int) {
      if (lie && (words[0] == "GET" || words[0] == "UNLINK")) return answer + RedisLiar::kClose;
      return truth.Answer(words);
    });
    const auto store = Redis(server.url("?timeout=2"));
    CHECK_OK(Put(*store, "k", Part(segment, 0, 100)));
    const Status status = Get(*store, "k", Part(segment, 4096, 100));
    CHECK(!status.ok() && status.number() != ENOENT);
    std::vector<bool> removed;
    const bool number = answer[0] == ':';
    CHECK_EQ(store->Remove({"k"}, nullptr, &removed).ok(), number);
    lie = false;
    CHECK_OK(Get(*store, "k", Part(segment, 4096, 100)));
  }
}

TEST(a_put_is_sent_again_when_its_answer_is_lost_and_a_removal_is_not) {
  TestSegment segment(64 * 1024);
  Truth truth;
  std::atomic<int> sets{0};
  std::atomic<int> unlinks{0};
  RedisLiar server([&](const Words& words, int) {
    const std::string answer = truth.Answer(words);
    if (words[0] == "SET" && sets++ == 0) return std::string(RedisLiar::kClose);
    if (words[0] == "UNLINK" && unlinks++ == 0) return std::string(RedisLiar::kClose);
    return answer;
  });
  const auto store = Redis(server.url());
  CHECK_OK(Put(*store, "k", Part(segment, 0, 1000)));
  CHECK_EQ(sets.load(), 2);
  std::vector<bool> removed;
  const Status status = store->Remove({"k"}, nullptr, &removed);
  CHECK_EQ(status.number(), ECONNRESET);
  CHECK_CONTAINS(status.text(), "not known");
  CHECK_EQ(unlinks.load(), 1);
}

TEST(a_put_whose_answer_is_lost_does_not_find_its_own_object) {
  TestSegment segment(2 << 20);
  Truth truth;
  std::vector<size_t> sets;  // how many words each had
  std::mutex mutex;
  RedisLiar server([&](const Words& words, int) {
    if (words[0] != "SET") return truth.Answer(words);
    const std::lock_guard<std::mutex> lock(mutex);
    sets.push_back(words.size());
    const bool conditional = words.back() == "NX";
    const bool there = truth.Answer({"EXISTS", words[1]}) == ":1\r\n";
    if (conditional && there) return std::string("$-1\r\n");
    const std::string answer = truth.Answer({words[0], words[1], words[2]});
    return sets.size() % 2 == 1 ? std::string(RedisLiar::kClose) : answer;
  });
  const auto store = Redis(server.url());
  CHECK_OK(PutIfAbsent(*store, "k", Part(segment, 0, 1000)));
  const auto seen = [&] {
    const std::lock_guard<std::mutex> lock(mutex);
    return std::exchange(sets, {});
  };
  CHECK(seen() == std::vector<size_t>({4, 3}));
  // Another put has its condition, and finds it.
  CHECK_EQ(PutIfAbsent(*store, "k", Part(segment, 0, 1000)).number(), EEXIST);
  CHECK(seen() == std::vector<size_t>({4}));
  const auto lasting = Redis(server.url("?ttl=77"));
  CHECK_OK(PutIfAbsent(*lasting, "other", Part(segment, 0, 1000)));
  CHECK(seen() == std::vector<size_t>({6, 5}));
}

TEST(a_put_that_was_not_sent_whole_is_done_again_with_its_condition) {
  TestSegment segment(32 * kMiB);
  Truth truth;
  std::atomic<int> asking{0}, others{0};
  RedisLiar server(
      [&](const Words& words, int) -> std::string {
        if (words[0] != "SET") return truth.Answer(words);
        (words.back() == "NX" ? asking : others)++;
        return words.back() == "NX" ? "$-1\r\n" : "+OK\r\n";
      },
      RedisLiar::kClose, 1);
  const auto store = Redis(server.url());
  CHECK_EQ(PutIfAbsent(*store, "k", Part(segment, 0, 32 * kMiB)).number(), EEXIST);
  CHECK_EQ(asking.load(), 1);
  CHECK_EQ(others.load(), 0);
}

// However many nodes there are, a request takes its limit and a little more.
TEST(a_cluster_whose_nodes_are_all_silent_is_given_up_as_soon_as_one_node) {
  constexpr int kNodes = 16;
  std::atomic<bool> silent{false};
  std::vector<std::unique_ptr<RedisLiar>> nodes;
  std::string slots;
  std::mutex mutex;
  for (int i = 0; i < kNodes; i++) {
    nodes.push_back(std::make_unique<RedisLiar>([&](const Words& words, int) -> std::string {
      if (silent) return RedisLiar::kHang;
      const std::lock_guard<std::mutex> lock(mutex);
      if (words[0] == "CLUSTER") return words[1] == "SLOTS" ? slots : "$0\r\n\r\n";
      return words[0] == "AUTH" || words[0] == "HELLO" ? "+OK\r\n" : "-ERR unknown command\r\n";
    }));
  }
  std::vector<std::array<int, 3>> ranges;
  std::vector<std::string> keys;
  for (int i = 0; i < kNodes; i++) {
    const int first = i * 16384 / kNodes, last = (i + 1) * 16384 / kNodes - 1;
    ranges.push_back({first, last, nodes[static_cast<size_t>(i)]->port()});
    keys.push_back(NameIn("k", first, last));
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    slots = SlotsOf(ranges);
  }
  const auto store = Redis(
      "redis+cluster://127.0.0.1:" + std::to_string(nodes[0]->port()) + "?timeout=2", "secret");
  silent = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  // One after the other they would take a second each, to let us in and to say who has which slots.
  const auto begun = std::chrono::steady_clock::now();
  std::vector<bool> yes(keys.size());
  CHECK_EQ(store->Exists(keys, nullptr, &yes).number(), ETIMEDOUT);
  TestSegment segment(4096);
  CHECK_EQ(Get(*store, keys[7], Part(segment, 0, 100)).number(), ETIMEDOUT);
  CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(20));
}

// A replica that has failed is in no CLUSTER SLOTS, and is the master when it is back.
TEST(all_members_of_a_cluster_are_known_at_the_start) {
  std::atomic<int> port{0};
  RedisLiar server([&](const Words& words, int) -> std::string {
    if (words[0] == "INFO") return Bulk("redis_version:0.0.0\r\ncluster_enabled:1\r\n");
    if (words[0] == "CONFIG") return "*0\r\n";
    if (words[0] != "CLUSTER") return "-ERR unknown command\r\n";
    if (words[1] == "SLOTS") return SlotsOf({{0, 16383, port}});
    return Bulk(
        "07c3 127.0.0.1:7001@17001,one.example myself,master - 0 14 2 connected 0-16383\n"
        "67ed 127.0.0.1:7002@17002 slave,fail 07c3 14 14 2 disconnected\n"
        "292f :0@0 slave,fail,noaddr 07c3 14 14 3 disconnected\n"
        "6ec2 fd00::1:7004@17004 slave 07c3 0 14 2 connected\n"
        "0000 127.0.0.1:7005 handshake - 0 0 0 disconnected\n");
  });
  port = server.port();
  const auto store =
      Redis("redis+cluster://127.0.0.1:" + std::to_string(server.port()) + "?timeout=5");
  CHECK(store->member_ports() == std::vector<uint16_t>({7001, 7002, 7004, 7005}));
}

// Such a key is with the node to which its slot moves, and the slot still belongs to the other.
TEST(a_listing_has_the_keys_of_a_slot_that_is_half_moved) {
  const std::string stays = NameIn("a", 0, 8191);
  const std::string moved = NameIn("b", 0, 8191);
  const std::string other = NameIn("c", 8192, 16383);
  std::atomic<int> ports[2] = {};
  const auto node = [&](const Words& names) {
    return [&ports, names](const Words& words, int) -> std::string {
      if (words[0] == "CLUSTER") {
        return SlotsOf({{0, 8191, ports[0]}, {8192, 16383, ports[1]}});
      }
      return words[0] == "SCAN" ? Scanned("0", names) : "-ERR unknown command\r\n";
    };
  };
  RedisLiar first(node({stays})), second(node({moved, other}));
  ports[0] = first.port();
  ports[1] = second.port();
  const auto store =
      Redis("redis+cluster://127.0.0.1:" + std::to_string(first.port()) + "?timeout=5");
  CHECK(ListAll(*store, "") == Words({stays, moved, other}));
}

TEST(a_server_that_always_breaks_off_is_given_up) {
  TestSegment segment(64 * 1024);
  Truth truth;
  RedisLiar server([&](const Words& words, int) {
    return words[0] == "SET" ? std::string(RedisLiar::kClose) : truth.Answer(words);
  });
  const auto store = Redis(server.url());
  CHECK_EQ(Put(*store, "k", Part(segment, 0, 1000)).number(), ECONNRESET);
  CHECK(server.connections() < 10);
}

TEST(a_server_that_trickles_or_hangs_is_given_up_after_its_limit) {
  TestSegment segment(4 * kMiB);
  Truth truth;
  std::atomic<bool> lie{true};
  RedisLiar server([&](const Words& words, int) {
    if (lie && words[0] == "GET") return "$1000000\r\nLMSHM1\r\n" + std::string(RedisLiar::kHang);
    return truth.Answer(words);
  });
  const auto store = Redis(server.url("?timeout=1"));
  CHECK_OK(Put(*store, "k", Part(segment, 0, 1000)));
  CHECK_EQ(Get(*store, "k", Part(segment, 0, 2 * kMiB)).number(), ETIMEDOUT);
  lie = false;
  CHECK_OK(Get(*store, "k", Part(segment, 0, 2 * kMiB)));
}

TEST(what_nobody_asked_for_closes_the_connection) {
  TestSegment segment(64 * 1024);
  segment.FillPattern(2);
  Truth truth;
  RedisLiar server([&](const Words& words, int) {
    // Twice: the second would be the next command's.
    const std::string answer = truth.Answer(words);
    return Is(words, "GET", "a") ? answer + answer : answer;
  });
  const auto store = Redis(server.url());
  CHECK_OK(Put(*store, "a", Part(segment, 0, 100)));
  CHECK_OK(Put(*store, "b", Part(segment, 200, 100)));
  for (int i = 0; i < 5; i++) {
    (void)Get(*store, "a", Part(segment, 4096, 100));
    const Status status = Get(*store, "b", Part(segment, 8192, 100));
    CHECK_OK(status);
    CHECK(segment.Bytes(200, 100) == segment.Bytes(8192, 100));
  }
  // In one pipeline the second answer to "a" is taken for that to "b", and the key shows it.
  lmshm::GetItem items[] = {Getting("a", Part(segment, 4096, 100)),
                            Getting("b", Part(segment, 8192, 100)),
                            Getting("a", Part(segment, 12288, 100))};
  store->Get(items, 3, nullptr);
  CHECK(!items[1].status.ok() || segment.Bytes(200, 100) == segment.Bytes(8192, 100));
  CHECK(!items[2].status.ok() || segment.Bytes(0, 100) == segment.Bytes(12288, 100));
}

TEST(a_refusal_in_the_middle_of_a_value_is_told_as_the_server_said_it) {
  TestSegment segment(32 * kMiB);
  Truth truth;
  RedisLiar server([&](const Words& words, int) { return truth.Answer(words); },
                   "-NOAUTH Authentication required.\r\n");
  const auto store = Redis(server.url());
  lmshm::PutItem items[] = {Putting("a", Part(segment, 0, 1000)),
                            Putting("large", Part(segment, 0, 16 * kMiB))};
  store->Put(items, 2, nullptr);
  CHECK_EQ(items[1].status.number(), EACCES);
  CHECK_CONTAINS(items[1].status.text(), "NOAUTH");
  CHECK_OK(Put(*store, "a", Part(segment, 0, 1000)));
}

TEST(a_connection_that_is_cut_in_the_middle_of_a_put_costs_no_other_object) {
  TestSegment segment(32 * kMiB);
  Truth truth;
  RedisLiar server([&](const Words& words, int) { return truth.Answer(words); }, RedisLiar::kClose);
  const auto store = Redis(server.url());
  lmshm::PutItem items[] = {Putting("a", Part(segment, 0, 1000)),
                            Putting("large", Part(segment, 0, 16 * kMiB)),
                            Putting("b", Part(segment, 0, 2000))};
  store->Put(items, 3, nullptr);
  CHECK_OK(items[0].status);
  CHECK(items[1].status.number() == ECONNRESET || items[1].status.number() == EPIPE);
  CHECK_OK(Put(*store, "c", Part(segment, 0, 1000)));
  ObjectInfo info;
  CHECK_EQ(Get(*store, "large", Part(segment, 0, 16 * kMiB)).number(), ENOENT);
}

TEST(a_replys_line_that_never_ends_is_given_up) {
  TestSegment segment(64 * 1024);
  Truth truth;
  RedisLiar server([&](const Words& words, int) {
    return words[0] == "GET" ? "$" + std::string(1 << 20, '1') : truth.Answer(words);
  });
  const auto store = Redis(server.url());
  const Status status = Get(*store, "k", Part(segment, 0, 100));
  CHECK_EQ(status.number(), EPROTO);
  CHECK(status.text().size() < 500);
}

TEST(neither_sides_buffers_can_be_full_for_ever) {
  // A server that reads no further command while its reply does not go out: a batch that wrote all
  // commands before it read would wait for ever, with long keys and large values.
  TestSegment segment(64 * kMiB);
  segment.FillPattern(3);
  Truth truth;
  RedisLiar server([&](const Words& words, int) { return truth.Answer(words); });
  const auto store = Redis(server.url("?timeout=20"));
  std::vector<std::string> keys;
  constexpr size_t kCount = 1024;
  for (size_t i = 0; i < kCount; i++) keys.push_back(std::string(15000, 'k') + std::to_string(i));
  std::vector<lmshm::PutItem> puts;
  std::vector<lmshm::GetItem> gets;
  for (size_t i = 0; i < kCount; i++) {
    puts.push_back(Putting(keys[i], Part(segment, i * 16384, 16384)));
    gets.push_back(Getting(keys[i], Part(segment, 32 * kMiB + i * 16384, 16384)));
  }
  store->Put(puts.data(), kCount, nullptr);
  for (const lmshm::PutItem& put : puts) CHECK_OK(put.status);
  store->Get(gets.data(), kCount, nullptr);
  for (const lmshm::GetItem& get : gets) CHECK_OK(get.status);
  CHECK(memcmp(segment.data(), segment.data() + 32 * kMiB, kCount * 16384) == 0);
}

CHECK_MAIN
