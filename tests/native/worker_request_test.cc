// SPDX-License-Identifier: Apache-2.0
//
// The parser of requests.
#include <cerrno>
#include <cstdint>

#include "worker/protocol/request.h"
#include "worker_check.hh"

using lmshm::Command;
using lmshm::ParseRequest;
using lmshm::Request;

TEST(requests_with_a_name_and_two_numbers) {
  Request r;
  CHECK_OK(ParseRequest("ATTACH /kv 4096 140737488355328", &r));
  CHECK(r.command == Command::kAttach);
  CHECK_EQ(r.name, "/kv");
  CHECK_EQ(r.first, 4096u);
  CHECK_EQ(r.second, 140737488355328u);
  CHECK_OK(ParseRequest("WRITE /data/x.data 18446744073709551615 0", &r));
  CHECK(r.command == Command::kWrite);
  CHECK_EQ(r.first, UINT64_MAX);
  CHECK_EQ(r.second, 0u);
  CHECK_OK(ParseRequest("READ x 1 2", &r));
  CHECK(r.command == Command::kRead);
}

TEST(a_path_may_contain_spaces) {
  Request r;
  CHECK_OK(ParseRequest("READ /my files/a b 1 2", &r));
  CHECK_EQ(r.name, "/my files/a b");
  CHECK_OK(ParseRequest("READ 7 8 9 10", &r));
  CHECK_EQ(r.name, "7 8");
  CHECK_OK(ParseRequest("READ  x  1 2", &r));  // spaces beside the separators belong to the path
  CHECK_EQ(r.name, " x ");
  CHECK_OK(ParseRequest("READ a\tb 1 2", &r));
  CHECK_EQ(r.name, "a\tb");
}

TEST(requests_without_numbers) {
  Request r;
  CHECK_OK(ParseRequest("PING", &r));
  CHECK(r.command == Command::kPing);
  CHECK_OK(ParseRequest("QUIT", &r));
  CHECK(r.command == Command::kQuit);
}

TEST(bad_requests_are_refused_and_leave_the_result_alone) {
  const char* const bad[] = {"",
                             " ",
                             "ping",
                             "PING ",
                             "PING x",
                             " PING",
                             "QUIT now",
                             "HELLO 2",
                             "WRITE",
                             "WRITE ",
                             "WRITE x",
                             "WRITE x 1",
                             "WRITE x 1 ",
                             "WRITE x  1",
                             "WRITE 1 2",
                             "WRITE  1 2",
                             "WRITE x 1 -2",
                             "WRITE x +1 2",
                             "WRITE x 0x1 2",
                             "WRITE x 1\t2",
                             "WRITE x 1 2 ",
                             "ATTACH x 1 y",
                             "AUTH",
                             "AUTH 0123456789abcdef",
                             "WRITEx 1 2",
                             "\x01"};
  for (const char* line : bad) {
    Request r;
    r.first = 77;
    const lmshm::Status status = ParseRequest(line, &r);
    CHECK(!status.ok());
    if (status.ok()) std::cout << "# accepted: \"" << line << "\"" << std::endl;
    CHECK_EQ(status.number(), EINVAL);
    CHECK_EQ(r.first, 77u);
  }
}

TEST(numbers_beyond_64_bits_are_a_range_error) {
  Request r;
  CHECK_EQ(ParseRequest("WRITE x 18446744073709551616 1", &r).number(), ERANGE);
  CHECK_EQ(ParseRequest("WRITE x 1 99999999999999999999", &r).number(), ERANGE);
}

TEST(a_refused_secret_is_not_repeated) {
  Request r;
  const lmshm::Status status = ParseRequest("auth sesame-open-sesame", &r);
  CHECK(!status.ok());
  CHECK(status.text().find("sesame") == std::string::npos);
}

CHECK_MAIN
