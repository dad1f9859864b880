// SPDX-License-Identifier: Apache-2.0
//
// The S3 engine against a server that lies, stops, refuses or breaks off: a clear error or a miss,
// never a part of a value, never another's bytes, and afterwards all is well again.
#include "s3_liar.hh"

using namespace lmshm;  // NOLINT: a test

namespace {

const std::string kValue = "the value of the key \"k\"";
// So large that it does not fit into what the kernel keeps for a socket.
constexpr size_t kLarge = 24 << 20;

bool AnswerValue(LiarPeer& peer, const std::string& value = kValue, std::string_view key = "k") {
  peer.Answer("200 OK", value, RecordLine(key, value));
  return true;
}

Status StatusOfGet(ObjectStore& store, const CancelCheck* cancel = nullptr) {
  std::string space(1 << 16, '?');
  return GetRange(store, "k", space.data(), space.size(), nullptr, cancel);
}

}  // namespace

TEST(a_server_that_says_later_is_asked_again) {
  std::atomic<int> count{0};
  Liar liar([&](LiarPeer& peer) {
    const int n = count++;
    if (n == 0) peer.Answer("503 Slow Down", ErrorBody("SlowDown"));
    if (n == 1) peer.Answer("500 Internal Server Error", ErrorBody("InternalError"));
    return n < 2 || AnswerValue(peer);
  });
  CHECK_EQ(Get(*StoreAt(liar.port()), "k"), kValue);
  CHECK_EQ(liar.requests(), 3);
}

TEST(a_server_that_goes_on_saying_later_is_given_up) {
  Liar liar([](LiarPeer& peer) {
    peer.Body();
    peer.Answer("503 Slow Down", ErrorBody("SlowDown"));
    return true;
  });
  const auto store = StoreAt(liar.port());
  const Status status = Put(*store, "k", kValue);
  CHECK_EQ(NameOf(status), "EAGAIN");
  CHECK_CONTAINS(status.text(), "503 SlowDown");
  CHECK_EQ(liar.requests(), 6);
}

TEST(a_removal_is_repeated_only_if_it_was_surely_not_done) {
  std::atomic<int> deletes{0};
  std::string first_answer = "500 Internal Server Error";
  std::string code = "InternalError";
  Liar liar([&](LiarPeer& peer) {
    if (!peer.Is("DELETE")) return AnswerValue(peer);
    if (deletes++ == 0) {
      peer.Answer(first_answer, ErrorBody(code));
    } else {
      peer.Send("HTTP/1.1 204 No Content\r\n\r\n");
    }
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Remove(*store, "k"), "EIO");
  CHECK_EQ(deletes.load(), 1);
  deletes = 0;
  first_answer = "503 Slow Down";
  code = "SlowDown";
  CHECK_EQ(Remove(*store, "k"), "removed");
  CHECK_EQ(deletes.load(), 2);
}

TEST(a_removal_whose_answer_is_lost_is_not_repeated) {
  std::atomic<int> deletes{0};
  Liar liar([&](LiarPeer& peer) {
    if (!peer.Is("DELETE")) return AnswerValue(peer);
    deletes++;
    return false;
  });
  CHECK_EQ(Remove(*StoreAt(liar.port()), "k"), "ECONNRESET");
  CHECK_EQ(deletes.load(), 1);
}

TEST(a_connection_that_was_closed_while_idle_costs_nobody_an_error) {
  Liar liar([](LiarPeer& peer) {
    AnswerValue(peer);
    return false;  // although it has not said so
  });
  const auto store = StoreAt(liar.port());
  for (int i = 0; i < 20; i++) CHECK_EQ(Get(*store, "k"), kValue);
}

TEST(a_connection_is_used_again) {
  Liar liar([](LiarPeer& peer) {
    peer.Body();
    return AnswerValue(peer);
  });
  const auto store = StoreAt(liar.port());
  for (int i = 0; i < 5; i++) {
    CHECK_EQ(Get(*store, "k"), kValue);
    CHECK_OK(Put(*store, "k", kValue));
    CHECK_EQ(Exists(*store, "k"), "yes");
  }
  CHECK_EQ(liar.connections(), 1);
}

TEST(a_value_that_is_cut_once_is_got_again) {
  Liar liar([](LiarPeer& peer) {
    if (peer.connection() > 0) return AnswerValue(peer);
    peer.Send("HTTP/1.1 200 OK\r\n" + RecordLine("k", kValue) + "Content-Length: " +
              std::to_string(kValue.size()) + "\r\n\r\n" + kValue.substr(0, 7));
    return false;
  });
  CHECK_EQ(Get(*StoreAt(liar.port()), "k"), kValue);
}

TEST(a_value_that_is_always_cut_is_an_error) {
  Liar liar([](LiarPeer& peer) {
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    return false;
  });
  const auto store = StoreAt(liar.port());
  const Status status = StatusOfGet(*store);
  CHECK_EQ(NameOf(status), "ECONNRESET");
  CHECK_CONTAINS(status.text(), "100 of 100 bytes are missing");
  CHECK_EQ(liar.connections(), 3);
}

TEST(an_answer_that_is_cut_in_its_head_is_an_error) {
  Liar liar([](LiarPeer& peer) {
    peer.Send("HTTP/1.1 200 OK\r\nContent-Le");
    return false;
  });
  CHECK_EQ(Get(*StoreAt(liar.port()), "k"), "ECONNRESET");
}

TEST(a_value_that_is_longer_than_the_server_says_is_noticed_and_spoils_nothing) {
  std::atomic<bool> with_record{true};
  Liar liar([&](LiarPeer& peer) {
    if (peer.Has("/other ")) return AnswerValue(peer, "other", "other");
    peer.Answer("200 OK", kValue.substr(0, 5), with_record ? RecordLine("k", kValue) : "");
    peer.Send(kValue.substr(5));
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), "EBADMSG");
  CHECK_EQ(Get(*store, "other"), "other");
  with_record = false;  // of an object of others nobody knows better
  CHECK_EQ(Get(*store, "k"), kValue.substr(0, 5));
  CHECK_EQ(Get(*store, "other"), "other");
}

TEST(what_is_sent_behind_an_answer_is_not_taken_for_the_next_one) {
  const std::string more = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
  Liar liar([&](LiarPeer& peer) {
    const std::string right = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright";
    peer.Send(peer.connection() == 0 ? right + more : right);
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), "right");
  CHECK_EQ(Get(*store, "other"), "right");
  CHECK_EQ(liar.connections(), 2);
}

TEST(a_connection_with_an_unfinished_exchange_is_not_used_again) {
  Liar liar([](LiarPeer& peer) {
    if (peer.connection() > 0) return AnswerValue(peer);
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    peer.WaitForTheEnd();
    return false;
  });
  const auto store = StoreAt(liar.port(), {{"timeout", "1"}});
  CHECK_EQ(Get(*store, "k"), "ETIMEDOUT");
  CHECK_EQ(Get(*store, "k"), kValue);
  CHECK_EQ(liar.connections(), 2);
}

TEST(a_value_that_is_shorter_than_the_server_says_is_waited_for_within_the_limit) {
  Liar liar([](LiarPeer& peer) {
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    peer.WaitForTheEnd();
    return false;
  });
  CHECK_EQ(Get(*StoreAt(liar.port(), {{"timeout", "1"}}), "k"), "ETIMEDOUT");
  CHECK_EQ(liar.requests(), 1);
}

TEST(a_server_that_sends_a_byte_now_and_then_meets_the_limit_for_all) {
  Liar liar([](LiarPeer& peer) {
    peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    for (int i = 0; i < 400; i++) {
      peer.Send("x");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  });
  CHECK_EQ(Get(*StoreAt(liar.port(), {{"timeout", "1"}}), "k", 100000), "ETIMEDOUT");
}

TEST(a_server_that_accepts_and_says_nothing_is_waited_for_within_the_limit) {
  Liar liar([](LiarPeer& peer) {
    peer.WaitForTheEnd();
    return false;
  });
  const auto store = StoreAt(liar.port(), {{"timeout", "1"}});
  CHECK_EQ(Get(*store, "k"), "ETIMEDOUT");
  CHECK_EQ(NameOf(Put(*store, "k", kValue)), "ETIMEDOUT");
  CHECK_EQ(NameOf(Put(*store, "k", std::string(kLarge, 'x'))), "ETIMEDOUT");
  CHECK_EQ(Exists(*store, "k"), "ETIMEDOUT");
  CHECK_EQ(List(*store)[0], "ETIMEDOUT");
}

TEST(nobody_there_is_an_error_at_once) {
  int port = 0;
  {
    port = Liar([](LiarPeer&) { return false; }).port();
  }
  const auto store = StoreAt(port);
  const Status status = StatusOfGet(*store);
  CHECK_EQ(NameOf(status), "ECONNREFUSED");
  CHECK_CONTAINS(status.text(), "127.0.0.1:" + std::to_string(port));
  std::vector<bool> yes;
  CHECK_EQ(NameOf(store->Exists(std::vector<std::string>(40, "k"), nullptr, &yes)), "ECONNREFUSED");
}

TEST(a_wait_is_cancelled) {
  Liar liar([](LiarPeer& peer) {
    peer.WaitForTheEnd();
    return false;
  });
  Flag flag;
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    flag.set = true;
  });
  const auto store = StoreAt(liar.port(), {{"timeout", "60"}});
  const Status status = StatusOfGet(*store, &flag);
  later.join();
  CHECK_EQ(NameOf(status), "ECANCELED");
  CHECK_CONTAINS(status.text(), "the test says so");
}

TEST(the_pause_between_attempts_is_cancelled) {
  Flag flag;
  Liar liar([&](LiarPeer& peer) {
    flag.set = true;
    peer.Answer("503 Slow Down", ErrorBody("SlowDown"));
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(NameOf(StatusOfGet(*store, &flag)), "ECANCELED");
  CHECK_EQ(liar.requests(), 1);
}

TEST(bytes_that_are_not_those_that_were_stored_are_an_error) {
  std::string value = kValue;
  std::string line = RecordLine("k", kValue);
  Liar liar([&](LiarPeer& peer) {
    peer.Answer("200 OK", value, line);
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), kValue);
  value[3] ^= 1;
  CHECK_EQ(Get(*store, "k"), "EBADMSG");
  value = kValue;
  line = RecordLine("l", kValue);  // of another key
  CHECK_EQ(Get(*store, "k"), "EBADMSG");
  line = "x-amz-meta-lmshm: nonsense\r\n";
  CHECK_EQ(Get(*store, "k"), "EBADMSG");
  line = "ETag: \"0123456789abcdef0123456789abcdef\"\r\n";  // which is not checked
  CHECK_EQ(Get(*store, "k"), kValue);
}

TEST(an_object_that_is_too_large_says_its_size) {
  Liar liar([](LiarPeer& peer) { return AnswerValue(peer); });
  const auto store = StoreAt(liar.port());
  std::string space(10, '?');
  const Status status = GetRange(*store, "k", space.data(), space.size());
  CHECK_EQ(NameOf(status), "EMSGSIZE");
  CHECK_STARTS(status.text(), std::to_string(kValue.size()) + " ");
  CHECK_EQ(space, std::string(10, '?'));
  CHECK_EQ(Get(*store, "k"), kValue);
}

TEST(what_is_no_object_is_never_taken_for_one) {
  std::mutex mutex;
  std::string said;
  Liar liar([&](LiarPeer& peer) {
    std::string now;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      now = said;
    }
    peer.Send(now);
    return false;
  });
  // A connection that was given up may still be sent to.
  const auto answer = [&](std::string text) {
    const std::lock_guard<std::mutex> lock(mutex);
    said = std::move(text);
  };
  const auto store = StoreAt(liar.port());
  answer("SSH-2.0-OpenSSH_9.2\r\n\r\n");
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc");
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 200 OK\r\n\r\nabc");
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 101 Switching Protocols\r\n\r\n");
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 200 OK\r\nX: " + std::string(100000, 'x'));
  CHECK_EQ(Get(*store, "k"), "EPROTO");
  answer("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found");
  CHECK_EQ(Get(*store, "k"), "ENXIO");
  answer("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n<");
  CHECK_EQ(List(*store)[0], "EPROTO");
  answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
  CHECK_EQ(List(*store)[0], "EPROTO");
}

TEST(a_miss_of_the_key_is_told_from_one_of_the_bucket) {
  std::string code = "NoSuchKey";
  bool bucket = true;
  Liar liar([&](LiarPeer& peer) {
    if (peer.Is("PUT")) {
      peer.Body();
      peer.Answer("200 OK");
    } else if (peer.Is("GET") && peer.Has("list-type=2") && bucket) {
      peer.Answer("200 OK",
                  "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
    } else {
      peer.Answer("404 Not Found", ErrorBody(bucket ? "NoSuchKey" : "NoSuchBucket"));
    }
    return true;
  });
  const auto store = StoreAt(liar.port());
  ObjectInfo info;
  CHECK_EQ(Get(*store, "k"), "ENOENT");
  CHECK_EQ(Exists(*store, "k"), "no");
  CHECK_EQ(NameOf(store->Stat("k", nullptr, &info)), "ENOENT");
  CHECK_EQ(Remove(*store, "k"), "nothing");
  const int before = liar.requests();
  CHECK_EQ(Exists(*store, "k"), "no");  // it was there a moment ago
  CHECK_EQ(liar.requests(), before + 1);

  bucket = false;
  const auto other = StoreAt(liar.port());
  CHECK_EQ(Get(*other, "k"), "ENXIO");
  CHECK_EQ(Exists(*other, "k"), "ENXIO");
  CHECK_EQ(NameOf(other->Stat("k", nullptr, &info)), "ENXIO");
  CHECK_EQ(Remove(*other, "k"), "ENXIO");
  CHECK_EQ(List(*other)[0], "ENXIO");
}

TEST(a_head_that_is_refused_gets_its_reason_from_another_request) {
  Liar liar([](LiarPeer& peer) {
    peer.Answer("403 Forbidden", ErrorBody("InvalidAccessKeyId"));
    return true;
  });
  ObjectInfo info;
  const Status status = StoreAt(liar.port())->Stat("k", nullptr, &info);
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "InvalidAccessKeyId");
}

TEST(a_large_put_that_is_refused_stops_and_the_next_one_asks_first) {
  std::atomic<int> asked{0};
  std::atomic<bool> refuse{true};
  std::atomic<size_t> received{0};
  Liar liar([&](LiarPeer& peer) {
    const bool asks = peer.Has("expect: 100-continue");
    asked += asks;
    if (refuse) {
      peer.Answer("403 Forbidden", ErrorBody("AccessDenied"));
      peer.HoldUntilClosed();  // and reads nothing of it
      return false;
    }
    if (asks) peer.Send("HTTP/1.1 100 Continue\r\n\r\n");
    received = peer.Body().size();
    peer.Answer("200 OK");
    return true;
  });
  const auto store = StoreAt(liar.port());
  const std::string large(kLarge, 'x');
  Status status = Put(*store, "k", large);
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "AccessDenied");
  CHECK_EQ(asked.load(), 0);
  CHECK_EQ(NameOf(Put(*store, "k", large)), "EACCES");
  CHECK_EQ(asked.load(), 1);
  refuse = false;
  CHECK_OK(Put(*store, "k", large));
  CHECK_EQ(asked.load(), 2);
  CHECK_EQ(received.load(), kLarge);
  CHECK_OK(Put(*store, "k", large));  // which was not refused before
  CHECK_EQ(asked.load(), 2);
}

TEST(a_put_that_is_confirmed_before_it_was_sent_is_an_error) {
  Liar liar([](LiarPeer& peer) {
    peer.Answer("200 OK");
    peer.HoldUntilClosed();
    return false;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(NameOf(Put(*store, "k", std::string(64 << 20, 'x'))), "EPROTO");
}

TEST(a_server_that_does_not_know_the_question_gets_the_body_after_a_while) {
  std::atomic<int> count{0};
  Liar liar([&](LiarPeer& peer) {
    if (count++ == 0) {
      peer.Body();
      peer.Answer("403 Forbidden", ErrorBody("AccessDenied"));
      return true;
    }
    CHECK(peer.Has("expect: 100-continue"));
    CHECK_EQ(peer.Body().size(), kLarge);
    peer.Answer("200 OK");
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(NameOf(Put(*store, "k", std::string(kLarge, 'x'))), "EACCES");
  CHECK_OK(Put(*store, "k", std::string(kLarge, 'x')));
}

TEST(interim_answers_are_passed_over) {
  Liar liar([](LiarPeer& peer) {
    peer.Send("HTTP/1.1 102 Processing\r\n\r\n");
    if (peer.Is("PUT")) {
      CHECK_EQ(peer.Body().size(), kLarge);
    }
    peer.Send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    return AnswerValue(peer);
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), kValue);
  CHECK_OK(Put(*store, "k", std::string(kLarge, 'x')));
}

TEST(interim_answers_without_end_are_given_up) {
  Liar liar([](LiarPeer& peer) {
    for (int i = 0; i < 2000; i++) peer.Send("HTTP/1.1 103 Early Hints\r\n\r\n");
    return AnswerValue(peer);
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), "EPROTO");
}

TEST(answers_in_chunks_are_understood) {
  Liar liar([](LiarPeer& peer) {
    const std::string text = peer.Has("list-type=2")
                                 ? "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
                                   "<Key>a</Key></Contents></ListBucketResult>"
                                 : ErrorBody("NoSuchKey");
    char size[16];
    snprintf(size, sizeof size, "%zx", text.size() - 1);
    peer.Send(std::string(peer.Has("list-type=2") ? "HTTP/1.1 200 OK" : "HTTP/1.1 404 Not Found") +
              "\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n<\r\n" + size + "\r\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    peer.Send(text.substr(1) + "\r\n0\r\n\r\n");
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(Get(*store, "k"), "ENOENT");
  CHECK_EQ(List(*store).size(), 1u);
  CHECK_EQ(liar.connections(), 1);
}

TEST(a_head_that_comes_byte_by_byte_is_understood) {
  Liar liar([](LiarPeer& peer) {
    const std::string text = "HTTP/1.1 200 OK\r\n" + RecordLine("k", kValue) +
                             "Content-Length: " + std::to_string(kValue.size()) + "\r\n\r\n" +
                             kValue;
    for (const char c : text) peer.Send(std::string_view(&c, 1));
    return true;
  });
  const auto store = StoreAt(liar.port());
  for (int i = 0; i < 3; i++) CHECK_EQ(Get(*store, "k"), kValue);
}

TEST(a_list_that_never_ends_is_noticed_and_a_page_that_fails_can_be_asked_for_again) {
  std::atomic<bool> fail{false};
  std::atomic<bool> circle{false};
  Liar liar([&](LiarPeer& peer) {
    const bool second = peer.Has("continuation-token=t%2B1");
    if (second && fail.exchange(false)) {
      peer.Answer("403 Forbidden", ErrorBody("AccessDenied"));
      return true;
    }
    const bool more = !second || circle;
    peer.Answer("200 OK", std::string("<ListBucketResult><IsTruncated>") +
                              (more ? "true" : "false") +
                              "</IsTruncated><NextContinuationToken>t+1</NextContinuationToken>"
                              "<Contents><Key>" +
                              (second ? "b" : "a") + "</Key></Contents></ListBucketResult>");
    return true;
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(List(*store).size(), 2u);
  circle = true;
  CHECK_EQ(List(*store)[0], "EPROTO");
  circle = false;

  std::unique_ptr<ObjectListing> listing;
  CHECK_OK(store->BeginListing("", &listing));
  std::vector<std::string> keys;
  bool ended = false;
  CHECK_OK(listing->Read({10, 1000}, nullptr, &keys, &ended));
  CHECK(!ended);
  fail = true;
  CHECK_EQ(NameOf(listing->Read({10, 1000}, nullptr, &keys, &ended)), "EACCES");
  CHECK_OK(listing->Read({10, 1000}, nullptr, &keys, &ended));
  CHECK(ended && keys.size() == 2 && keys[1] == "b");
}

TEST(what_cannot_be_stored_is_refused_before_anybody_is_asked) {
  Liar liar([](LiarPeer& peer) {
    peer.Body();
    peer.Answer("200 OK");
    return true;
  });
  auto store = StoreAt(liar.port(), {{"chunk_bytes", "10"}, {"layout", "payload"}});
  CHECK_EQ(NameOf(Put(*store, "k", kValue)), "EINVAL");
  CHECK_OK(Put(*store, "k", "0123456789"));
  CHECK_EQ(NameOf(Put(*store, "a/../b", "0123456789")), "EINVAL");
  CHECK_EQ(liar.requests(), 1);
  store = StoreAt(liar.port());
  CHECK_EQ(NameOf(Put(*store, "k", "x", {{"a", std::string(3000, 'x')}})), "E2BIG");
  CHECK_EQ(NameOf(Put(*store, std::string(2000, 'k'), "x")), "ENAMETOOLONG");
  CHECK_EQ(Exists(*store, std::string(2000, 'k')), "no");
  CHECK_EQ(liar.requests(), 1);
}

TEST(memory_that_vanishes_is_an_error_and_the_connection_is_not_used_again) {
  std::atomic<TestSegment*> segment{nullptr};
  Liar liar([&](LiarPeer& peer) {
    if (peer.Has("/small ")) {
      peer.Body();
      return AnswerValue(peer, kValue, "small");
    }
    if (peer.Is("GET")) {
      CHECK_EQ(ftruncate(segment.load()->fd(), 4096), 0);
      peer.Answer("200 OK", std::string(kLarge, 'x'));
      return true;
    }
    // In the middle of what is being sent.
    CHECK_EQ(ftruncate(segment.load()->fd(), 4096), 0);
    peer.WaitForTheEnd();
    return false;
  });
  const auto store = StoreAt(liar.port());
  {
    TestSegment gone(kLarge);
    segment = &gone;
    CHECK_EQ(NameOf(GetRange(*store, "k", gone.data(), gone.size())), "EFAULT");
  }
  {
    TestSegment gone(kLarge);
    segment = &gone;
    CHECK_EQ(NameOf(PutRange(*store, "k", gone.data(), gone.size())), "EFAULT");
  }
  CHECK_EQ(Get(*store, "small"), kValue);
}

TEST(the_hash_of_the_bytes_is_sent_and_signed_where_that_is_asked_for) {
  std::string head;
  Liar liar([&](LiarPeer& peer) {
    head = peer.head();
    peer.Body();
    peer.Answer("200 OK");
    return true;
  });
  CHECK_OK(Put(*StoreAt(liar.port(), {{"sign_payload", "true"}}), "k", kValue));
  CHECK_CONTAINS(head, "x-amz-content-sha256: " + Sha256Hex(kValue) + "\r\n");
  CHECK_OK(Put(*StoreAt(liar.port()), "k", kValue));
  CHECK_CONTAINS(head, "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n");
  // The checksum and the record are signed in any case.
  CHECK_CONTAINS(head, "x-amz-checksum-crc32c;x-amz-content-sha256;x-amz-date;x-amz-meta-lmshm,");
}

TEST(requests_without_credentials_are_not_signed_and_those_with_a_token_carry_it) {
  std::string head;
  Liar liar([&](LiarPeer& peer) {
    head = peer.head();
    peer.Answer("403 Forbidden", ErrorBody("AccessDenied"));
    return true;
  });
  auto store = StoreAt(liar.port(), {}, StoreSecrets());
  CHECK_CONTAINS(StatusOfGet(*store).text(), "AWS_ACCESS_KEY_ID");
  CHECK(head.find("authorization") == std::string::npos);
  store = StoreAt(liar.port(), {}, {"key", "secret", "token"});
  const std::string text = StatusOfGet(*store).text();
  CHECK_CONTAINS(head, "x-amz-security-token: token\r\n");
  CHECK_CONTAINS(head, "x-amz-security-token,Signature=");
  CHECK(text.find("secret") == std::string::npos);
  CHECK(head.find("secret\r\n") == std::string::npos);

  std::unique_ptr<S3Store> none;
  StoreUrl url;
  url.hosts = {{"kv-test", 0}};
  url.parameters = {{"endpoint", "http://127.0.0.1:1"}};
  CHECK_EQ(NameOf(S3Store::Open(url, {"key", "", ""}, &none)), "EACCES");
  CHECK_EQ(NameOf(S3Store::Open(url, {"key\r\nx: y", "s", ""}, &none)), "EACCES");
}

// ------------------------------------------------------------------------ if there is no object

namespace {

// A bucket without objects of whose puts a test says how they end.
struct Absent {
  explicit Absent(std::function<bool(LiarPeer&, int)> put)
      : liar([this, put = std::move(put)](LiarPeer& peer) {
          if (peer.Is("PUT")) {
            const bool with = peer.Has("\r\nif-none-match: *\r\n");
            const int number = puts++;
            {
              const std::lock_guard<std::mutex> lock(mutex);
              conditions.push_back(with ? '*' : '-');
            }
            return put(peer, number);
          }
          if (peer.Is("GET")) {
            peer.Answer("200 OK",
                        "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
          } else {
            looks++;
            peer.Answer("404 Not Found");
          }
          return true;
        }) {}

  // Of each put in turn, since this was asked last: * with the condition, - without.
  std::string Conditions() {
    const std::lock_guard<std::mutex> lock(mutex);
    puts = 0;
    return std::exchange(conditions, std::string());
  }

  std::mutex mutex;
  std::string conditions;
  std::atomic<int> puts{0};
  std::atomic<int> looks{0};
  Liar liar;
};

bool Finish(LiarPeer& peer, const std::string& status, const std::string& code = "") {
  peer.Body();
  peer.Answer(status, code.empty() ? "" : ErrorBody(code));
  return true;
}

}  // namespace

TEST(a_put_that_replaces_nothing_looks_first_and_sends_nothing_where_there_is_an_object) {
  std::atomic<int> puts{0};
  Liar liar([&](LiarPeer& peer) {
    puts += peer.Is("PUT");
    peer.Body();
    return AnswerValue(peer);
  });
  const auto store = StoreAt(liar.port());
  CHECK_EQ(PutNew(*store, "k", "other").ToString(), ThereAlready("k").ToString());
  CHECK_EQ(puts.load(), 0);
  CHECK_OK(Put(*store, "k", "other"));
  CHECK_EQ(liar.requests(), 2);
}

TEST(a_put_that_replaces_nothing_says_so_to_the_server_and_signs_it) {
  std::string head;
  Absent bucket([&](LiarPeer& peer, int number) {
    if (number == 0) head = peer.head();
    return Finish(peer, number == 2 ? "412 Precondition Failed" : "200 OK",
                  number == 2 ? "PreconditionFailed" : "");
  });
  const auto store = StoreAt(bucket.liar.port());
  CHECK_OK(PutNew(*store, "k", kValue));
  CHECK_CONTAINS(head, "SignedHeaders=host;if-none-match;x-amz-checksum-crc32c;");
  CHECK_OK(Put(*store, "k", kValue));
  // Somebody was faster.
  CHECK_EQ(PutNew(*store, "k", kValue).ToString(), ThereAlready("k").ToString());
  CHECK_EQ(bucket.Conditions(), "*-*");
  CHECK_EQ(bucket.looks.load(), 2);
}

TEST(an_object_that_is_there_does_not_make_the_next_large_put_ask_first) {
  std::atomic<int> asked{0};
  Absent bucket([&](LiarPeer& peer, int number) {
    asked += peer.Has("expect: 100-continue");
    return Finish(peer, number == 0 ? "412 Precondition Failed" : "200 OK");
  });
  const auto store = StoreAt(bucket.liar.port());
  CHECK_EQ(NameOf(PutNew(*store, "k", std::string(kLarge, 'x'))), "EEXIST");
  CHECK_OK(PutNew(*store, "k", std::string(kLarge, 'x')));
  CHECK_EQ(asked.load(), 0);
}

TEST(a_put_that_meets_another_one_is_tried_again_with_its_condition) {
  std::atomic<bool> always{false};
  Absent bucket([&](LiarPeer& peer, int number) {
    if (always || number < 2) return Finish(peer, "409 Conflict", "ConditionalRequestConflict");
    return Finish(peer, "412 Precondition Failed", "PreconditionFailed");
  });
  const auto store = StoreAt(bucket.liar.port());
  CHECK_EQ(NameOf(PutNew(*store, "k", kValue)), "EEXIST");
  CHECK_EQ(bucket.Conditions(), "***");
  always = true;
  CHECK_EQ(NameOf(PutNew(*store, "k", kValue)), "EAGAIN");
  CHECK_EQ(bucket.Conditions(), "******");
}

TEST(a_put_that_may_have_stored_its_object_is_repeated_without_the_condition) {
  // Else it would be told of its own object.
  std::atomic<const char*> way{""};
  Absent bucket([&](LiarPeer& peer, int number) {
    if (number > 0) return Finish(peer, "200 OK");
    const std::string_view first = way.load();
    if (first == "500") return Finish(peer, "500 Internal Server Error", "InternalError");
    if (first == "503") return Finish(peer, "503 Slow Down", "SlowDown");
    if (first == "lost answer") peer.Body();
    return false;
  });
  const auto put = [&](const char* how, const std::string& value) {
    way = how;
    CHECK_OK(PutNew(*StoreAt(bucket.liar.port()), "k", value));
    return bucket.Conditions();
  };
  CHECK_EQ(put("lost answer", kValue), "*-");
  CHECK_EQ(put("500", kValue), "*-");
  // These have surely not stored it.
  CHECK_EQ(put("503", kValue), "**");
  CHECK_EQ(put("half of it", std::string(kLarge, 'x')), "**");
}

TEST(a_server_that_has_no_conditions_is_asked_for_one_once) {
  std::atomic<bool> refuses_all{true};
  Absent bucket([&](LiarPeer& peer, int) {
    const bool refuse = refuses_all || peer.Has("if-none-match");
    return refuse ? Finish(peer, "501 Not Implemented", "NotImplemented") : Finish(peer, "200 OK");
  });
  const auto store = StoreAt(bucket.liar.port());
  // That is not for the condition.
  CHECK_EQ(NameOf(PutNew(*store, "k", kValue)), "ENOTSUP");
  CHECK_EQ(bucket.Conditions(), "*-");
  refuses_all = false;
  CHECK_OK(PutNew(*store, "k", kValue));
  CHECK_OK(PutNew(*store, "l", kValue));
  CHECK_EQ(bucket.Conditions(), "*--");
  CHECK_EQ(bucket.looks.load(), 3);
}

TEST(a_look_before_a_put_that_fails_is_the_failure_of_the_put) {
  std::string code = "NoSuchBucket";
  std::atomic<int> puts{0};
  Liar liar([&](LiarPeer& peer) {
    puts += peer.Is("PUT");
    peer.Body();
    peer.Answer(code == "NoSuchBucket" ? "404 Not Found" : "403 Forbidden", ErrorBody(code));
    return true;
  });
  const auto store = StoreAt(liar.port());
  Status status = PutNew(*store, "k", kValue);
  CHECK_EQ(NameOf(status), "ENXIO");
  CHECK_STARTS(status.text(), "put \"k\": ");
  code = "InvalidAccessKeyId";
  status = PutNew(*store, "k", kValue);
  CHECK_EQ(NameOf(status), "EACCES");
  CHECK_CONTAINS(status.text(), "InvalidAccessKeyId");
  CHECK_EQ(puts.load(), 0);
  // Of many that are refused one gets the reason for all.
  std::vector<PutItem> items(20);
  std::string value = kValue;
  for (PutItem& item : items) {
    item.key = "k";
    item.data = {value.data(), value.size()};
    item.options.if_absent = true;
  }
  const int before = liar.requests();
  store->Put(items.data(), items.size(), nullptr);
  for (const PutItem& item : items) CHECK_EQ(NameOf(item.status), "EACCES");
  CHECK_EQ(liar.requests(), before + 21);
  // What can have no name is told as ever.
  CHECK_EQ(NameOf(PutNew(*store, std::string(2000, 'k'), "x")), "ENAMETOOLONG");
}

TEST(objects_of_one_call_are_looked_for_together) {
  std::atomic<int> puts{0};
  std::atomic<int> early{0};
  std::atomic<int> looks{0};
  Liar liar([&](LiarPeer& peer) {
    if (peer.Is("PUT")) {
      early += looks < 30;
      puts++;
      CHECK(!peer.Has("/there"));
      return Finish(peer, "200 OK");
    }
    if (peer.Is("HEAD")) looks++;
    if (peer.Is("GET") || peer.Has("/there")) {
      peer.Answer("200 OK", "<ListBucketResult></ListBucketResult>");
    } else {
      peer.Answer("404 Not Found");
    }
    return true;
  });
  const auto store = StoreAt(liar.port());
  std::string value = kValue;
  std::vector<std::string> keys;
  for (int i = 0; i < 30; i++) keys.push_back((i % 3 == 0 ? "there" : "new") + std::to_string(i));
  keys.push_back("any");  // which may be replaced
  std::vector<PutItem> items(keys.size());
  for (size_t i = 0; i < keys.size(); i++) {
    items[i].key = keys[i];
    items[i].data = {value.data(), value.size()};
    items[i].options.if_absent = i < 30;
  }
  store->Put(items.data(), items.size(), nullptr);
  for (size_t i = 0; i < items.size(); i++) {
    CHECK_EQ(NameOf(items[i].status), i < 30 && i % 3 == 0 ? "EEXIST" : "OK");
  }
  CHECK_EQ(puts.load(), 21);
  CHECK_EQ(early.load(), 0);
  CHECK(liar.connections() > 1);
}

CHECK_MAIN
