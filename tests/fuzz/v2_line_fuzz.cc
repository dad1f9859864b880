// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes what a client of version 2 can send: each line of the input is parsed, and then said to a
// conversation on a directory of its own, with a segment of 64 KiB attached.
//
// (Set TMPDIR to a directory in memory: creating files is most of what it does.)
//
// Whatever comes: what is parsed keeps the parser's promises, and every line gets one well-formed
// answer with its own id.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/log.h"
#include "worker/base/percent.h"
#include "worker/protocol/answer.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/session.h"
#include "worker/storage/directories.h"

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
    root_ =
        std::string(base != nullptr ? base : "/tmp") + "/lmshm_fuzz." + std::to_string(getpid());
    std::filesystem::create_directories(root_);
    HOLDS(lmshm::ObjectDir::OpenConfined(root_, lmshm::DetectBeneathMethod(), &objects_).ok());
    directories_ = std::make_unique<lmshm::Directories>(*objects_, lmshm::Directories::Limits());
    HOLDS(directories_->Start().ok());
    const int fd = memfd_create("lmshm_fuzz", MFD_CLOEXEC);
    HOLDS(fd >= 0 && ftruncate(fd, kSegmentBytes) == 0 && dup2(fd, kSegmentFd) == kSegmentFd);
    close(fd);
    service.objects = objects_.get();
    service.stores = directories_.get();
    service.boot_id = "0123456789abcdef";
    service.segment_fds = {kSegmentFd};
  }
  ~World() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  // From time to time: only objects and sidecars may be left; removes them.
  void Check() {
    if (++checks_ % 1000 != 0) return;
    for (const auto& entry : std::filesystem::directory_iterator(root_)) {
      const std::string name = entry.path().filename().string();
      std::string key;
      HOLDS(lmshm::ClassifyFile(name, &key) != lmshm::FileKind::kOther ||
            entry.path().extension() == ".key");
      std::filesystem::remove(entry.path());
    }
  }

  lmshm::Service service;

 private:
  std::string root_;
  std::unique_ptr<lmshm::ObjectDir> objects_;
  std::unique_ptr<lmshm::Directories> directories_;
  unsigned checks_ = 0;
};

// What the parser promises; returns the id that an answer must have.
uint64_t CheckParse(std::string_view line) {
  lmshm::RequestV2 request;
  request.id = 77;
  if (!lmshm::ParseRequestV2(line, &request).ok()) return request.id;
  HOLDS(request.id > 0);
  if (request.identity.has_value()) {
    std::optional<lmshm::SegmentIdentity> again;
    HOLDS(lmshm::ParseIdentity(request.identity->ToString(), &again) && again.has_value());
    HOLDS(again->ToString() == request.identity->ToString());
  }
  std::vector<std::string> keys;
  for (std::string_view rest = request.keys; !rest.empty();) {
    keys.push_back(lmshm::TakeKey(&rest));
  }
  HOLDS(keys.size() == request.key_count);
  HOLDS(request.items.size() <= lmshm::kMaxBatchObjects);
  for (const lmshm::TransferItem& item : request.items) {
    keys.emplace_back(item.key);
    size_t bytes = 0;
    const std::vector<lmshm::Attribute> attributes = Attributes(item);
    for (const lmshm::Attribute& attribute : attributes) {
      HOLDS(lmshm::IsAttributeName(attribute.name) && !lmshm::IsReservedAttribute(attribute.name));
      bytes += attribute.name.size() + attribute.value.size();
    }
    HOLDS(attributes.size() <= lmshm::kMaxAttributes && bytes <= lmshm::kMaxAttributeBytes);
  }
  for (const std::string& key : keys) {
    lmshm::ObjectKey file;
    HOLDS(lmshm::ParseKey(key, &file).ok());
    HOLDS(file.file_name.size() <= 255 && file.file_name.find('/') == std::string::npos);
    HOLDS(file.file_name.find('\0') == std::string::npos);
    std::string back;
    const lmshm::FileKind kind = lmshm::ClassifyFile(file.file_name, &back);
    if (file.sidecar_name.empty()) {
      HOLDS(kind == lmshm::FileKind::kPlain && back == key);
    } else {
      HOLDS(kind == lmshm::FileKind::kHashed);
      HOLDS(lmshm::SidecarOf(file.file_name) == file.sidecar_name);
    }
    HOLDS(lmshm::PercentDecode(lmshm::PercentEncode(key), &back) && back == key);
  }
  return request.id;
}

void CheckAnswer(std::string_view answer, uint64_t id) {
  HOLDS(answer.size() <= lmshm::kMaxAnswerV2Bytes);
  HOLDS(!answer.empty() && answer.back() == '\n');
  answer.remove_suffix(1);
  for (const char c : answer) HOLDS(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  const std::string start = std::to_string(id) + " ";
  HOLDS(answer.substr(0, start.size()) == start);
  answer.remove_prefix(start.size());
  HOLDS(answer == "OK" || answer.substr(0, 3) == "OK " || answer.substr(0, 7) == "ERROR E");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  lmshm::Session session(world.service, "fuzz");
  std::string answer;
  session.Handle("HELLO 2", &answer);
  session.Handle("1 ATTACH fd:100 65536 -", &answer);

  std::string_view input(reinterpret_cast<const char*>(data), size);
  while (!input.empty()) {
    const size_t end = input.find('\n');
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(end == std::string_view::npos ? input.size() : end + 1);
    if (line.size() > lmshm::kMaxLineBytes) continue;
    const uint64_t id = CheckParse(line);
    answer.clear();
    const lmshm::AfterAnswer next = session.Handle(line, &answer);
    CheckAnswer(answer, id);
    if (next != lmshm::AfterAnswer::kContinue) break;
  }
  world.Check();
  return 0;
}

#ifdef LMSHM_FUZZ_STANDALONE
#include "standalone_main.hh"
#endif
