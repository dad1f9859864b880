// SPDX-License-Identifier: Apache-2.0
//
// KnownAddresses: a server is found while its name cannot be looked up.

#include "worker/remote/known_addresses.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <vector>

#include "worker_check.hh"

namespace {

using lmshm::Endpoint;
using lmshm::KnownAddresses;
using lmshm::SocketAddress;
using lmshm::Status;
using lmshm::WaitLimit;
using std::chrono::milliseconds;

const Endpoint kEndpoint = {"server.test", 6379, ""};

// What the name server says next.
int failure = 0;
std::vector<const char*> answer;
milliseconds given(0);

SocketAddress Address(const char* text) {
  SocketAddress address;
  auto* const in = reinterpret_cast<sockaddr_in*>(&address.storage);
  in->sin_family = AF_INET;
  inet_pton(AF_INET, text, &in->sin_addr);
  address.size = sizeof *in;
  return address;
}

Status Scripted(const Endpoint&, WaitLimit* limit, std::vector<SocketAddress>* addresses) {
  given = limit->Left();
  if (failure != 0) return Status::Error(failure, "scripted");
  addresses->clear();
  for (const char* text : answer) addresses->push_back(Address(text));
  return Status::OK();
}

// "1.2.3.4 1.2.3.5", or the number of the failure.
std::string Find(KnownAddresses* known) {
  WaitLimit limit(milliseconds(9000), nullptr);
  std::vector<SocketAddress> addresses;
  const Status status = known->Find(kEndpoint, &limit, &addresses);
  if (!status.ok()) return std::to_string(status.number());
  std::string all;
  for (const SocketAddress& one : addresses) {
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&one.storage)->sin_addr, text,
              sizeof text);
    all += (all.empty() ? "" : " ") + std::string(text);
  }
  return all;
}

}  // namespace

TEST(what_was_found_last_must_do_while_nobody_knows_the_name) {
  KnownAddresses known(Scripted);
  failure = 0;
  answer = {"10.0.0.1", "10.0.0.2"};
  CHECK_EQ(Find(&known), "10.0.0.1 10.0.0.2");
  for (const int number : {EHOSTUNREACH, ETIMEDOUT}) {
    failure = number;
    CHECK_EQ(Find(&known), "10.0.0.1 10.0.0.2");
  }
  // A server that has moved is found where it is now.
  failure = 0;
  answer = {"10.0.0.3"};
  CHECK_EQ(Find(&known), "10.0.0.3");
  failure = EHOSTUNREACH;
  CHECK_EQ(Find(&known), "10.0.0.3");
}

TEST(a_name_that_was_never_known_is_a_failure_and_so_is_a_look_up_that_was_given_up) {
  KnownAddresses known(Scripted);
  failure = EHOSTUNREACH;
  CHECK_EQ(Find(&known), std::to_string(EHOSTUNREACH));
  failure = 0;
  answer = {"10.0.0.1"};
  CHECK_EQ(Find(&known), "10.0.0.1");
  failure = ECANCELED;
  CHECK_EQ(Find(&known), std::to_string(ECANCELED));
}

TEST(a_look_up_that_could_be_done_without_leaves_time_to_connect) {
  KnownAddresses known(Scripted);
  failure = 0;
  answer = {"10.0.0.1"};
  CHECK_EQ(Find(&known), "10.0.0.1");
  CHECK(given > milliseconds(3000));
  failure = ETIMEDOUT;
  CHECK_EQ(Find(&known), "10.0.0.1");
  CHECK(given <= milliseconds(3000));
}

CHECK_MAIN
