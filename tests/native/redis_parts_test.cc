// SPDX-License-Identifier: Apache-2.0
//
// The Redis engine without a server: replies, slots, how values lie, parameters.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "worker/redis/errors.h"
#include "worker/redis/options.h"
#include "worker/redis/redis_listing.h"
#include "worker/redis/reply.h"
#include "worker/redis/slots.h"
#include "worker/redis/value_record.h"
#include "worker/remote/endpoint.h"
#include "worker_check.hh"

using lmshm::Parsed;
using lmshm::Reply;

namespace {

Reply Parse(const std::string& text) {
  Reply reply;
  size_t used = 0;
  REQUIRE(lmshm::ParseReply(text, &used, &reply) == Parsed::kWhole);
  CHECK_EQ(used, text.size());
  // Nothing less is whole, and nothing more is taken.
  for (size_t size = 0; size < text.size(); size++) {
    Reply part;
    CHECK(lmshm::ParseReply(text.substr(0, size), &used, &part) == Parsed::kMore);
  }
  Reply again;
  CHECK(lmshm::ParseReply(text + "+next\r\n", &used, &again) == Parsed::kWhole);
  CHECK_EQ(used, text.size());
  return reply;
}

lmshm::Status ParseUrl(const std::string& url, lmshm::RedisOptions* options,
                       const std::string& password = "") {
  lmshm::StoreUrl parsed;
  lmshm::Status status = lmshm::ParseStoreUrl(url, &parsed);
  if (!status.ok()) return status;
  lmshm::StoreSecrets secrets;
  secrets.password = password;
  return lmshm::ParseRedisOptions(parsed, secrets, options);
}

}  // namespace

// More threads than may look up names at one time wait for their turn.
TEST(many_threads_look_up_a_name_at_the_same_time) {
  std::atomic<int> failures{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 100; i++) {
    threads.emplace_back([&] {
      while (!go) std::this_thread::yield();
      for (int j = 0; j < 5; j++) {
        lmshm::WaitLimit limit(std::chrono::seconds(60), nullptr);
        std::vector<lmshm::SocketAddress> addresses;
        const lmshm::Endpoint endpoint = {"localhost", 6379, ""};
        if (!lmshm::Resolve(endpoint, &limit, &addresses).ok()) failures++;
      }
    });
  }
  go = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(failures.load(), 0);
}

TEST(a_reply_is_taken_apart) {
  CHECK_EQ(Parse("+OK\r\n").text, "OK");
  CHECK_EQ(Parse(":-12\r\n").number, -12);
  CHECK_EQ(Parse("$5\r\na\r\nbc\r\n").text, "a\r\nbc");
  CHECK_EQ(Parse("$0\r\n\r\n").type, '$');
  CHECK_EQ(Parse("$-1\r\n").type, '_');
  CHECK_EQ(Parse("*-1\r\n").type, '_');
  const Reply error = Parse("-MOVED 3999 10.0.0.1:6381\r\n");
  CHECK(error.IsError());
  CHECK_EQ(error.ErrorWord(), "MOVED");
  const Reply list = Parse("*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+x\r\n");
  REQUIRE_EQ(list.items.size(), 3u);
  REQUIRE_EQ(list.items[1].items.size(), 2u);
  CHECK_EQ(list.items[1].items[0].number, 1);
  CHECK_EQ(list.items[2].text, "x");
}

TEST(what_is_no_reply_is_refused) {
  const std::string deep = [] {
    std::string text;
    for (int i = 0; i < 100; i++) text += "*1\r\n";
    return text + ":1\r\n";
  }();
  for (const std::string& text :
       {std::string("hello\r\n"), std::string("\r\n"), std::string("$x\r\n"),
        std::string("$-2\r\n"), std::string("$3\r\nabcde\r\n"), std::string(":\r\n"),
        std::string(":1x\r\n"), std::string("*99999999999\r\n"),
        std::string("$99999999999999999999\r\n"), std::string("HTTP/1.1 400 Bad Request\r\n"), deep,
        std::string(20000, '+')}) {
    Reply reply;
    size_t used = 0;
    CHECK(lmshm::ParseReply(text, &used, &reply) == Parsed::kBad);
  }
}

TEST(a_key_belongs_to_the_slot_that_servers_say) {
  CHECK_EQ(lmshm::SlotOf("123456789"), 0x31C3 % 16384);
  CHECK_EQ(lmshm::SlotOf("foo"), 12182);
  CHECK_EQ(lmshm::SlotOf(""), 0);
  CHECK_EQ(lmshm::SlotOf("{user1000}.following"), lmshm::SlotOf("user1000"));
  CHECK_EQ(lmshm::SlotOf("foo{}{bar}"), 8363);
  CHECK_EQ(lmshm::SlotOf("foo{{bar}}zap"), lmshm::SlotOf("{bar"));
}

TEST(a_redirection_names_slot_and_address) {
  uint16_t slot = 0;
  lmshm::Endpoint endpoint;
  REQUIRE(lmshm::ParseRedirection(Parse("-ASK 3999 ::1:6381\r\n"), &slot, &endpoint));
  CHECK_EQ(slot, 3999);
  CHECK_EQ(endpoint.host, "::1");
  CHECK_EQ(endpoint.port, 6381);
  REQUIRE(lmshm::ParseRedirection(Parse("-MOVED 1 :7000\r\n"), &slot, &endpoint));
  CHECK_EQ(endpoint.host, "");
  for (const char* const text : {"-MOVED\r\n", "-MOVED 16384 a:1\r\n", "-MOVED 1 a\r\n",
                                 "-MOVED 1 a:0\r\n", "-ERR 1 a:1\r\n", "-MOVED x a:1\r\n"}) {
    CHECK(!lmshm::ParseRedirection(Parse(text), &slot, &endpoint));
  }
}

TEST(the_head_of_a_value_comes_back_and_any_change_of_it_is_seen) {
  lmshm::ValueHead head;
  head.tag = 0xdeadbeef;
  head.payload_bytes = head.record.length = 33554432;
  head.mtime_ms = 1234567890123;
  head.record.key_check = lmshm::KeyCheck("a/key");
  head.record.attributes = {{"dtype", "half"}, {"shape", "2,32,256,1024"}};
  const std::string text = lmshm::FormatHead(&head);
  CHECK_EQ(text.size(), head.head_bytes);
  lmshm::ValueHead read;
  REQUIRE(lmshm::ParseHead(text, &read));
  CHECK_EQ(read.tag, head.tag);
  CHECK_EQ(read.payload_bytes, head.payload_bytes);
  CHECK_EQ(read.mtime_ms, head.mtime_ms);
  REQUIRE_EQ(read.record.attributes.size(), 2u);
  CHECK_EQ(read.record.attributes[1].value, "2,32,256,1024");
  for (size_t i = 0; i < text.size(); i++) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    CHECK(!lmshm::ParseHead(changed, &read));
  }
  const uint32_t crc = 0x12345678;
  std::optional<uint32_t> found;
  CHECK(lmshm::ParseTail(lmshm::FormatTail(7, &crc), 7, &found));
  CHECK(found == crc);
  CHECK(!lmshm::ParseTail(lmshm::FormatTail(7, &crc), 8, &found));
  CHECK(lmshm::ParseTail(lmshm::FormatTail(7, nullptr), 7, &found));
  CHECK(!found.has_value());
}

TEST(parameters_of_the_url_are_checked) {
  lmshm::RedisOptions options;
  CHECK_OK(
      ParseUrl("redis://[::1]/3?ttl=60&prefix=p%3A&timeout=7&max_value_bytes=1048576", &options));
  CHECK_EQ(options.client.seeds.at(0).ToString(), "[::1]:6379");
  CHECK_EQ(options.client.login.db, 3);
  CHECK_EQ(options.ttl_seconds, 60u);
  CHECK_EQ(options.prefix, "p:");
  CHECK_EQ(options.client.timeout.count(), 7000);
  CHECK_OK(ParseUrl("valkey+cluster://a,b:7001", &options));
  CHECK(options.client.cluster);
  CHECK_EQ(options.client.seeds.at(1).ToString(), "b:7001");
  CHECK_OK(ParseUrl("redis+unix:///run/redis.sock?db=2", &options));
  CHECK_EQ(options.client.seeds.at(0).ToString(), "/run/redis.sock");
  CHECK_EQ(options.client.login.db, 2);
  CHECK_OK(ParseUrl("redis://me@h?layout=payload&chunk_bytes=100", &options, "secret"));
  CHECK_EQ(options.client.login.user, "me");
  for (const auto& [url, part] : std::vector<std::pair<std::string, std::string>>{
           {"redis://h?tll=60", "known are layout"},
           {"redis://h?ttl=0", "a number from 1"},
           {"redis://h?ttl=1s", "a number from 1"},
           {"redis://h?layout=resp", "lmshm, payload or lmcache-redis"},
           {"redis://h?timeout=0", "a number from 1"},
           {"redis://h?db=1", "known are layout"},
           {"redis://h/x", "a number from 0"},
           {"redis://h?chunk_bytes=100", "layout=payload"},
           {"redis+cluster://h/1", "database 0"},
           {"redis://me@h", "no password"},
       }) {
    const lmshm::Status status = ParseUrl(url, &options);
    CHECK_EQ(status.number(), EINVAL);
    CHECK_CONTAINS(status.text(), part);
  }
}

TEST(a_prefix_is_no_pattern) {
  CHECK_EQ(lmshm::EscapeGlob("a*b?[c]\\d^"), "a\\*b\\?\\[c\\]\\\\d\\^");
}

CHECK_MAIN
