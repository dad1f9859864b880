// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes what a client can send, from bytes to answers: LineReader and Session on a directory of
// their own, with the segment of 64 KiB attached at address 4096 (and attachable as fd:100).
// The first byte of the input says how the rest is cut into pieces.
//
// (Set TMPDIR to a directory in memory: creating files is most of what it does.)
//
// Whatever comes: one well-formed answer a line, nothing outside the root is touched, and no
// temporary is left in it.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "worker/base/log.h"
#include "worker/protocol/answer.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/session.h"
#include "worker/storage/temporary_name.h"

namespace {

constexpr int kSegmentFd = 100;
constexpr size_t kSegmentBytes = 64 * 1024;

#define HOLDS(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

// The directory, the segment and the service; made once, removed at exit.
class World {
 public:
  World() {
    lmshm::SetLogLevel(lmshm::LogLevel::kError);
    const char* base = getenv("TMPDIR");
    top_ = std::string(base != nullptr ? base : "/tmp") + "/lmshm_fuzz." + std::to_string(getpid());
    std::filesystem::create_directories(root() + "/sub");
    std::filesystem::create_directory(outside());
    std::ofstream(outside() + "/secret") << "secret";
    std::filesystem::create_symlink("../outside/secret", root() + "/link");
    std::filesystem::create_directory_symlink("../outside", root() + "/up");
    HOLDS(mkfifo((root() + "/fifo").c_str(), 0600) == 0);
    std::ofstream(root() + "/file") << "content";
    HOLDS(lmshm::ObjectDir::OpenConfined(root(), lmshm::DetectBeneathMethod(), &objects_).ok());

    const int fd = memfd_create("lmshm_fuzz", MFD_CLOEXEC);
    HOLDS(fd >= 0 && ftruncate(fd, kSegmentBytes) == 0 && dup2(fd, kSegmentFd) == kSegmentFd);
    close(fd);
    service.objects = objects_.get();
    service.segment_fds = {kSegmentFd};
  }
  ~World() {
    std::error_code ignored;
    std::filesystem::remove_all(top_, ignored);
  }

  // Aborts if something outside changed or, looked at from time to time, if a temporary was left
  // in the root; empties the root then.
  void Check() {
    size_t names = 0;
    for (const auto& entry : std::filesystem::directory_iterator(outside())) {
      HOLDS(entry.path().filename() == "secret" && entry.file_size() == 6);
      names++;
    }
    HOLDS(names == 1);
    if (++checks_ % 1000 != 0) return;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root())) {
      HOLDS(!lmshm::IsTemporaryName(entry.path().filename().string()));
      if (entry.is_regular_file() && entry.path().filename() != "file") {
        std::filesystem::remove(entry.path());
      }
    }
  }

  lmshm::Service service;

 private:
  std::string root() const { return top_ + "/root"; }
  std::string outside() const { return top_ + "/outside"; }

  std::string top_;
  std::unique_ptr<lmshm::ObjectDir> objects_;
  unsigned checks_ = 0;
};

void CheckAnswer(std::string_view answer) {
  HOLDS(answer.size() <= lmshm::kMaxAnswerBytes);
  HOLDS(!answer.empty() && answer.back() == '\n');
  answer.remove_suffix(1);
  HOLDS(answer == "OK" || answer.substr(0, 3) == "OK " || answer.substr(0, 7) == "ERROR E");
  for (const char c : answer) HOLDS(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  if (size == 0) return 0;
  const size_t piece = data[0] == 0 ? size : data[0];
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);

  lmshm::Session session(world.service, "fuzz");
  std::string answer;
  session.Handle("ATTACH fd:100 65536 4096", &answer);

  lmshm::LineReader reader;
  size_t answers = 0;
  bool ended = false;
  for (size_t at = 0; at < input.size() && !ended;) {
    size_t space;
    char* const to = reader.Space(&space);
    const size_t n = std::min({space, piece, input.size() - at});
    HOLDS(n > 0);
    std::memcpy(to, input.data() + at, n);
    reader.Commit(n);
    at += n;
    for (;;) {
      std::string_view line;
      const lmshm::LineReader::Event event = reader.Next(&line);
      if (event == lmshm::LineReader::Event::kNone) break;
      answer.clear();
      if (event == lmshm::LineReader::Event::kTooLong) {
        session.HandleTooLong(&answer);
      } else {
        HOLDS(line.size() <= lmshm::kMaxLineBytes);
        ended = session.Handle(line, &answer) != lmshm::AfterAnswer::kContinue;
      }
      CheckAnswer(answer);
      answers++;
      if (ended) break;
    }
  }
  if (!ended) {
    const size_t newlines = static_cast<size_t>(std::count(input.begin(), input.end(), '\n'));
    const size_t last = input.rfind('\n');
    const size_t tail = last == std::string_view::npos ? input.size() : input.size() - last - 1;
    HOLDS(answers == newlines + (tail > lmshm::kMaxLineBytes ? 1 : 0));
  }
  world.Check();
  return 0;
}

#ifdef LMSHM_FUZZ_STANDALONE
#include "standalone_main.hh"
#endif
