// SPDX-License-Identifier: Apache-2.0
#include "worker/server/dialogue.h"

#include <cerrno>
#include <utility>

#include "include/lmshm.h"
#include "worker/base/log.h"
#include "worker/base/percent.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kHello = "HELLO";
constexpr std::string_view kDir = "dir=";

// What follows the version.
Status ParseDirectory(std::string_view word, std::string* directory) {
  if (word.substr(0, kDir.size()) != kDir || word.find(' ') != std::string_view::npos) {
    return Status::Error(EINVAL, "expected: HELLO 2 [dir=<directory>]");
  }
  word.remove_prefix(kDir.size());
  if (PercentDecode(word, directory)) return Status::OK();
  return Status::Error(EINVAL, "dir=" + Printable(word.substr(0, 200)) +
                                   " is not percent-encoded: spaces, %, control characters and "
                                   "what is not ASCII are written as %XX");
}

}  // namespace

Dialogue::Dialogue(const Service& service, const std::string& peer, Pipeline* pipeline)
    : service_(service), pipeline_(pipeline), v1_(service, peer) {}

Conversation& Dialogue::current() {
  if (v2_ != nullptr) return *v2_;
  return v1_;
}

Conversation::Next Dialogue::Handle(std::string_view line, std::string* answer) {
  const size_t space = line.find(' ');
  if (v2_ != nullptr || line.substr(0, space) != kHello) return current().Handle(line, answer);

  std::string result;
  const Status status =
      Hello(space == std::string_view::npos ? std::string_view() : line.substr(space + 1), &result);
  Log(LogLevel::kDebug, v1_.peer() + ": HELLO -> " + (status.ok() ? result : status.ToString()));
  if (status.ok()) {
    v1_.Detach();
    answer->append(result + "\n");
  } else {
    AppendError(status, answer);
  }
  return Next::kContinue;
}

Status Dialogue::Hello(std::string_view words, std::string* result) {
  const size_t space = words.find(' ');
  const std::string_view version = words.substr(0, space);
  uint64_t number;
  if (ParseU64(version, &number) == NumberError::kMalformed) {
    return Status::Error(EINVAL, "expected: HELLO 2 [dir=<directory>]");
  }
  if (version != "2") {
    return Status::Error(EPROTONOSUPPORT,
                         "HELLO " + Printable(version.substr(0, 32)) +
                             ": this worker speaks version 2, and 1 without HELLO");
  }
  std::string directory;
  Directories::Store store;
  Status status = space == std::string_view::npos
                      ? Status::OK()
                      : ParseDirectory(words.substr(space + 1), &directory);
  if (status.ok() && service_.directories == nullptr) {
    status = Status::Error(
        EINVAL, "keys need a directory, and this worker has none; start it with --root DIR");
  }
  if (status.ok()) status = service_.directories->Open(directory, &store);
  if (!status.ok()) return Status::Error(status.number(), "HELLO 2: " + status.text());
  if (pipeline_ != nullptr) {
    status = pipeline_->Open();
    if (!status.ok()) return status;
  }
  const bool attributes = store->has_attributes();
  *result = "OK 2 boot=" + service_.boot_id + " worker=lmshm-worker/" LMSHM_VERSION +
            " features=batch,cancel,crc32c" + (attributes ? ",xattr xattr=1" : " xattr=0") +
            " window=" + std::to_string(kWindow);
  v2_ = std::make_unique<SessionV2>(service_, v1_.peer(), std::move(store), pipeline_);
  return Status::OK();
}

}  // namespace lmshm
