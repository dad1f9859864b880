// SPDX-License-Identifier: Apache-2.0
//
// How descriptors are shared out, and that requests have theirs however many clients there are.
#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "worker/net/secret.h"
#include "worker/process/descriptors.h"
#include "worker/server/lingering_closes.h"
#include "worker/server/pending_logins.h"
#include "worker/storage/directories.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

using lmshm::DescriptorNeeds;
using lmshm::DescriptorShares;
using lmshm::ShareDescriptors;

namespace {

DescriptorNeeds Needs(uint64_t limit) {
  DescriptorNeeds needs;
  needs.limit = limit;
  needs.own = 8;
  needs.usual_clients = 64;
  needs.threads = 4;
  needs.logins = true;
  needs.directories = true;
  return needs;
}

// With both limits, so that the worker cannot raise the one.
WorkerSetup Limited(const TempDir& root, rlim_t descriptors,
                    const std::vector<std::string>& more = {}) {
  WorkerSetup setup;
  setup.arguments = {"--listen", "unix:" + root.path() + ".sock", "--root", root.path()};
  setup.arguments.insert(setup.arguments.end(), more.begin(), more.end());
  setup.before_exec = [descriptors] {
    const struct rlimit limit = {descriptors, descriptors};
    setrlimit(RLIMIT_NOFILE, &limit);
  };
  return setup;
}

}  // namespace

TEST(where_there_are_many_everybody_has_all) {
  DescriptorShares shares;
  CHECK_OK(ShareDescriptors(Needs(1 << 20), &shares));
  CHECK_EQ(shares.clients, 64u);
  CHECK_EQ(shares.wakes, 64u);
  CHECK_EQ(shares.logins, lmshm::kMaxPendingLogins);
  CHECK_EQ(shares.lingering, lmshm::kMaxLingering);
  CHECK_EQ(shares.directories, lmshm::kMaxDirectories);
  CHECK_EQ(shares.listings, 64 * lmshm::KeyListings::kMost);
  CHECK_EQ(shares.open_objects, 4u);
  CHECK_EQ(shares.begun, 68u);
  CHECK(shares.kept > 8192);
}

TEST(what_is_shared_out_is_never_more_than_there_is) {
  for (uint64_t limit = 1; limit < 1200; limit++) {
    for (const auto& [threads, listeners] :
         {std::pair<uint64_t, uint64_t>{1, 1}, {4, 1}, {4, 5}, {256, 1}, {256, 5}}) {
      DescriptorNeeds needs = Needs(limit);
      needs.threads = threads;
      needs.listeners = listeners;
      const uint64_t requests = std::min<uint64_t>(threads, 4);
      DescriptorShares shares;
      if (!ShareDescriptors(needs, &shares).ok()) {
        CHECK(limit < needs.own + 4 + 2 + 1 + 2 + 16 + 3 * requests + listeners);
        continue;
      }
      CHECK(shares.clients >= listeners && shares.clients <= 64);
      CHECK(shares.begun >= 1 && shares.open_objects >= 1);
      CHECK(shares.logins >= 16 && shares.logins <= std::max<uint64_t>(16, limit / 8));
      CHECK(shares.lingering >= 2);
      CHECK(shares.directories >= 1 && shares.listings >= 2);
      CHECK(needs.own + shares.clients + shares.logins + shares.lingering + shares.wakes +
                shares.directories + shares.listings + 3 * requests +
                (shares.begun - requests) * shares.open_objects + shares.kept <=
            limit);
      // Nothing is kept from the usual clients for the sake of what is only convenient.
      if (shares.clients < 64) CHECK_EQ(shares.kept + shares.wakes, 0u);
    }
  }
}

TEST(clients_that_were_asked_for_are_served_or_refused_at_the_start) {
  DescriptorNeeds needs = Needs(100);
  needs.logins = false;
  needs.clients = 71;
  DescriptorShares shares;
  CHECK_OK(ShareDescriptors(needs, &shares));
  CHECK_EQ(shares.clients, 71u);
  needs.clients = 72;
  const lmshm::Status status = ShareDescriptors(needs, &shares);
  CHECK_EQ(status.number(), EMFILE);
  CHECK_CONTAINS(status.text(), "--max-clients 72 needs 101 descriptors");
  CHECK_CONTAINS(status.text(), "may have 100");
  CHECK_CONTAINS(status.text(), "at most --max-clients 71");
  needs.logins = true;
  CHECK_CONTAINS(ShareDescriptors(needs, &shares).text(), "at most --max-clients 55");
  needs.logins = false;
  needs.sockets = false;  // a pipe takes none
  needs.clients.reset();
  needs.usual_clients = 1;
  CHECK_OK(ShareDescriptors(needs, &shares));
  CHECK_EQ(shares.clients, 1u);
}

TEST(too_few_descriptors_are_said_at_the_start) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir root;
  {
    WorkerProcess worker(Limited(root, 100, {"--max-clients", "200"}));
    CHECK_EQ(worker.Wait(), 3);
    CHECK_CONTAINS(worker.Errors(), "--max-clients 200 needs ");
  }
  WorkerProcess worker(Limited(root, 60));
  CHECK_CONTAINS(worker.Listening(), "unix:");
  CHECK_CONTAINS(worker.Errors(), " clients instead of 64: this process may have 60 descriptors");
}

// However few they are: an address that listens has a place for a client.
TEST(each_address_serves_one_client_or_the_start_fails) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  int served = 0;
  for (rlim_t limit = 20; limit < 40; limit++) {
    const TempDir root;
    WorkerProcess worker(
        Limited(root, limit, {"--listen", "unix:" + root.path() + ".too", "--log-level", "warn"}));
    if (worker.client().Line() == "<end>") {
      CHECK_EQ(worker.Wait(), 3);
      CHECK_CONTAINS(worker.Errors(), "descriptors");
      continue;
    }
    CHECK_CONTAINS(worker.Listening(), "unix:");
    LineClient one = ConnectUnix(root.path() + ".sock");
    CHECK_EQ(one.Call("PING"), "OK");
    CHECK_EQ(ConnectUnix(root.path() + ".too").Call("PING"), "OK");
    served++;
  }
  CHECK(served > 0 && served < 20);
}

// A login takes two round trips: how many strangers connect meanwhile does not depend on how many
// descriptors the worker may have.
TEST(strangers_who_connect_during_a_login_do_not_end_it_where_descriptors_are_few) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const std::string text = "correct-horse-battery", nonce(64, 'a');
  std::unique_ptr<lmshm::Secret> secret;
  CHECK_OK(lmshm::Secret::FromText(text, "test", &secret));
  const TempDir root;
  WorkerSetup setup = Limited(root, 100);
  setup.arguments = {"--listen", "127.0.0.1:0", "--root", root.path()};
  setup.environment = {"LMSHM_SECRET=" + text};
  WorkerProcess worker(setup);
  const int port = worker.ListeningPort();
  std::vector<LineClient> strangers;
  for (int round = 0; round < 20; round++) {
    LineClient honest = ConnectTcp(port);
    const std::string challenge = honest.Call("CHALLENGE " + nonce);
    CHECK_STARTS(challenge, "OK ");
    for (int i = 0; i < 15; i++) {
      strangers.push_back(ConnectTcp(port));
      CHECK_EQ(strangers.back().Call("PING"), "OK");  // it is there
    }
    const std::string worker_nonce = challenge.substr(std::min<size_t>(3, challenge.size()));
    CHECK_EQ(
        honest.Call("PROVE " + secret->Prove(lmshm::Secret::Proof::kOfClient, nonce, worker_nonce)),
        "OK " + secret->Prove(lmshm::Secret::Proof::kOfWorker, nonce, worker_nonce));
  }
}

// All that connect are served, and each of their requests succeeds.
TEST(requests_have_their_descriptors_beside_idle_clients) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir root;
  TestSegment segment(8 << 20);
  WorkerProcess worker(Limited(root, 100));
  const std::string socket = root.path() + ".sock";
  CHECK_EQ(worker.Listening(), "unix:" + socket);
  std::vector<LineClient> clients;
  const auto begin = [&](LineClient* client) {
    CHECK_STARTS(client->Call("HELLO 2"), "OK 2 ");
    CHECK_EQ(
        client->Call("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -"),
        "1 OK");
  };
  for (int i = 0; i < 63; i++) {
    clients.push_back(ConnectUnix(socket));
    if (i % 2 == 0) {
      begin(&clients.back());
    } else {
      CHECK_EQ(clients.back().Call("PING"), "OK");
    }
  }
  clients.push_back(ConnectUnix(socket));
  LineClient& honest = clients.back();
  begin(&honest);
  const std::string large = " 0 " + std::to_string(segment.size());
  const std::string long_key(400, 'k');  // with a sidecar
  for (int i = 0; i < 20; i++) {
    CHECK_STARTS(honest.Call("2 PUT a" + large), "2 OK ");
    CHECK_STARTS(honest.Call("3 GET a" + large), "3 OK ");
    CHECK_STARTS(honest.Call("4 PUT " + long_key + " 0 100 sync=full"), "4 OK ");
    CHECK_STARTS(honest.Call("5 GET " + long_key + " 0 100"), "5 OK ");
    CHECK_STARTS(honest.Call("6 LIST 100 -"), "6 OK ");
    CHECK_STARTS(honest.Call("7 PUT b 0 3000000 ; c 0 3000000 ; d 0 3000000 ; e 0 3000000"),
                 "7 OK 3000000 ");
    CHECK_STARTS(honest.Call("8 REMOVE " + long_key), "8 OK 1");
  }
  // Many in flight, and the others at the same time.
  std::vector<std::thread> threads;
  for (size_t i = 0; i < clients.size(); i += 2) {
    if (i == 0) continue;
    threads.emplace_back([&, i] {
      std::string lines;
      for (int id = 10; id < 40; id++) {
        lines += std::to_string(id) + " PUT " + std::to_string(i) + "." + std::to_string(id) +
                 (id % 10 == 0 ? " 0 5000000\n" : " 0 1000\n");
      }
      CHECK(clients[i].Send(lines));
      for (int n = 0; n < 30; n++) CHECK_CONTAINS(clients[i].Line(), " OK ");
    });
  }
  for (std::thread& thread : threads) thread.join();
  // More than a window of the last one, whose thread cannot be woken; it takes the answers late.
  std::string lines;
  for (int id = 10; id < 20010; id++) lines += std::to_string(id) + " STAT a\n";
  std::thread sending([&] { CHECK(honest.Send(lines)); });
  usleep(500 * 1000);
  for (int n = 0; n < 20000; n++) {
    const std::string line = honest.Line();
    if (line.find(" OK ") == std::string::npos) check::Fail(__FILE__, __LINE__, line);
  }
  sending.join();
  // One more is told why it is not served.
  CHECK_STARTS(ConnectUnix(socket).Line(), "ERROR EAGAIN ");
}

// In version 1, too.
TEST(version_1_has_its_descriptors_beside_idle_clients) {
  if (kAddressSanitizer) SKIP("the sanitizer needs descriptors for its checks");
  const TempDir root;
  TestSegment segment(1 << 20);
  WorkerProcess worker(Limited(root, 100));
  const std::string socket = root.path() + ".sock";
  CHECK_EQ(worker.Listening(), "unix:" + socket);
  std::vector<LineClient> clients;
  for (int i = 0; i < 64; i++) {
    clients.push_back(ConnectUnix(socket));
    CHECK_EQ(clients.back().Call(segment.AttachLine()), "OK");
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < clients.size(); i++) {
    threads.emplace_back([&, i] {
      const std::string path = root / std::to_string(i);
      for (int n = 0; n < 10; n++) {
        CHECK_EQ(clients[i].Call(segment.Line("WRITE", path, 0, 100000)), "OK 100000");
        CHECK_EQ(clients[i].Call(segment.Line("READ", path, 0, 100000)), "OK 100000");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

CHECK_MAIN
