// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes what a Redis server can answer: the first byte of the input says how many commands there
// are, the next ones what each wants, and the rest is what comes back.
//
// Whatever comes: it ends, nothing outside the commands' spaces is touched, a payload that counts
// as verified is, and all of this is the same whether the answer comes in one piece or byte by
// byte. So nothing of a payload is ever read as if it were a reply, or the other way round.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/redis/pipe.h"

namespace {

constexpr size_t kSpace = 256;
constexpr size_t kGuard = 64;
constexpr char kFill = 0x77;

#define HOLDS(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

// What came of one command, as far as it must not depend on how the answer was cut.
struct Result {
  bool replied = false;
  int status = 0;
  char type = 0;
  std::string text;
  std::string payload;

  bool operator==(const Result& other) const {
    return replied == other.replied && status == other.status && type == other.type &&
           text == other.text && payload == other.payload;
  }
};

std::vector<Result> Run(const std::vector<uint8_t>& wants, std::string_view answer, size_t piece) {
  int fds[2];
  HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  lmshm::Stream stream{lmshm::UniqueFd(fds[0])};
  lmshm::UniqueFd server(fds[1]);
  std::deque<lmshm::Command> commands(wants.size());
  std::vector<char> memory((kSpace + kGuard) * (wants.size() + 1), kFill);
  std::vector<lmshm::Command*> all;
  for (size_t i = 0; i < wants.size(); i++) {
    lmshm::Command& command = commands[i];
    lmshm::AppendCommand({"GET", "k"}, &command.head);
    command.want = static_cast<lmshm::Command::Want>(wants[i] % 3);
    command.space = {memory.data() + i * (kSpace + kGuard) + kGuard, kSpace};
    command.verify = (wants[i] & 4) != 0;
    command.asking = (wants[i] & 8) != 0;
    all.push_back(&command);
  }
  {
    lmshm::Pipe pipe(&stream, all);
    const auto go = [&] {
      for (bool more = true; more;) {
        bool moved = false;
        more = false;
        if (!pipe.Go(&moved, &more)) return false;
      }
      return true;
    };
    bool on = go();  // all commands are sent
    while (on && !answer.empty()) {
      const size_t size = std::min(piece, answer.size());
      HOLDS(send(server.get(), answer.data(), size, MSG_NOSIGNAL) == static_cast<ssize_t>(size));
      answer.remove_prefix(size);
      on = go();
    }
    server.Reset();
    HOLDS(!go());
    HOLDS(pipe.through() || pipe.error() != 0);
  }
  std::vector<Result> results;
  for (size_t i = 0; i < wants.size(); i++) {
    const lmshm::Command& command = commands[i];
    for (size_t j = 0; j < kGuard; j++) HOLDS(memory[i * (kSpace + kGuard) + j] == kFill);
    Result result;
    result.replied = command.outcome == lmshm::Command::Outcome::kReplied;
    if (result.replied) {
      result.status = command.status.number();
      result.type = command.reply.type;
      result.text = command.reply.text;
      const bool payload =
          command.want != lmshm::Command::Want::kReply && result.type == '$' && command.status.ok();
      if (payload) {
        HOLDS(command.length <= kSpace);
        result.payload.assign(static_cast<char*>(command.space.address), command.length);
        const auto& crc = command.value.record.crc32c;
        if (command.want == lmshm::Command::Want::kValue && command.verify && crc.has_value()) {
          HOLDS(lmshm::Crc32c(0, result.payload.data(), result.payload.size()) == *crc);
        }
      }
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 65536) return 0;
  const size_t count = 1 + data[0] % 6;
  if (size < 1 + count) return 0;
  const std::vector<uint8_t> wants(data + 1, data + 1 + count);
  const std::string_view answer(reinterpret_cast<const char*>(data) + 1 + count, size - 1 - count);
  const std::vector<Result> whole = Run(wants, answer, answer.size() + 1);
  for (const size_t piece : {size_t{1}, size_t{7}}) HOLDS(Run(wants, answer, piece) == whole);
  return 0;
}

#if defined(LMSHM_FUZZ_STANDALONE)
#include "standalone_main.hh"
#endif
