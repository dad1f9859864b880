// SPDX-License-Identifier: Apache-2.0
//
// A conversation in version 2, without a process or a socket around it.
#ifndef LMSHM_TESTS_NATIVE_WORKER_V2_FIXTURE_H_
#define LMSHM_TESTS_NATIVE_WORKER_V2_FIXTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "worker/protocol/answer.h"
#include "worker/server/session.h"
#include "worker/storage/directories.h"
#include "worker_fixture.hh"

enum class Attributes { kDetect, kNone };

// Of `root`, without the help of its file system but, where that is asked for, attributes.
inline std::unique_ptr<lmshm::Directories> OpenDirectories(
    const lmshm::ObjectDir& root, Attributes mode = Attributes::kDetect,
    const lmshm::Directories::Limits& limits = lmshm::Directories::Limits()) {
  const auto probe = [](int dir_fd, lmshm::StorageFacts* facts) {
    const int error = lmshm::ProbeStorage(dir_fd, facts);
    const bool attributes = facts->attributes;
    *facts = lmshm::StorageFacts();
    facts->attributes = attributes;
    facts->direct_reason = "it was not tried";
    return error;
  };
  const auto without = [](int, lmshm::StorageFacts* facts) {
    facts->direct_reason = "it was not tried";
    return 0;
  };
  lmshm::Directories::Probe chosen = probe;
  if (mode == Attributes::kNone) chosen = without;
  auto directories = std::make_unique<lmshm::Directories>(root, limits, chosen);
  REQUIRE(directories->Start().ok());
  return directories;
}

class TalkV2 {
 public:
  explicit TalkV2(Attributes mode = Attributes::kDetect, bool confined = true,
                  const lmshm::Directories::Limits& limits = lmshm::Directories::Limits(),
                  const char* parent = nullptr)
      : root(parent) {
    if (confined) {
      const lmshm::Status status =
          lmshm::ObjectDir::OpenConfined(root.path(), lmshm::DetectBeneathMethod(), &objects_);
      REQUIRE(status.ok());
      directories_ = OpenDirectories(*objects_, mode, limits);
      has_attributes = directories_->root().has_attributes();
    } else {
      objects_ = lmshm::ObjectDir::Unconfined();
    }
    service_.objects = objects_.get();
    service_.stores = directories_.get();
    service_.boot_id = "0123456789abcdef";
    session_ = std::make_unique<lmshm::Session>(service_, "test");
  }

  // Another client of the same worker, in the same directory.
  explicit TalkV2(TalkV2* other) : service_(other->service_) {
    session_ = std::make_unique<lmshm::Session>(service_, "another");
  }

  // One line, without its '\n'; it is checked to be one.
  std::string Say(const std::string& line) {
    std::string answer = "before\n";
    next = session_->Handle(line, &answer);
    CHECK_STARTS(answer, "before\n");
    answer.erase(0, 7);
    REQUIRE(!answer.empty());
    CHECK_EQ(answer.find('\n'), answer.size() - 1);
    CHECK(answer.size() <= lmshm::kMaxAnswerV2Bytes);
    answer.pop_back();
    for (const char c : answer) CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    return answer;
  }

  // Says HELLO 2 and attaches `segment`.
  void Begin(const TestSegment& segment) {
    CHECK_STARTS(Say("HELLO 2"), "OK 2 ");
    CHECK_EQ(Say("1 ATTACH /" + segment.name() + " " + std::to_string(segment.size()) + " -"),
             "1 OK");
  }

  lmshm::Session& session() { return *session_; }
  lmshm::Service& service() { return service_; }

  TempDir root;
  bool has_attributes = false;
  lmshm::AfterAnswer next = lmshm::AfterAnswer::kContinue;

 private:
  std::unique_ptr<lmshm::ObjectDir> objects_;
  std::unique_ptr<lmshm::Directories> directories_;
  lmshm::Service service_;
  std::unique_ptr<lmshm::Session> session_;
};

inline std::vector<std::string> SplitWords(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

#endif  // LMSHM_TESTS_NATIVE_WORKER_V2_FIXTURE_H_
