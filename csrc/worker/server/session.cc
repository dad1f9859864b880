// SPDX-License-Identifier: Apache-2.0
#include "worker/server/session.h"

#include <cerrno>
#include <utility>

#include "include/lmshm.h"
#include "worker/base/log.h"
#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/protocol/answer.h"

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

Session::Session(const Service& service, const std::string& peer, Pipeline* pipeline,
                 const CancelCheck* client)
    : service_(service), pipeline_(pipeline), v1_(service, peer, client) {}

void Session::HandleTooLong(std::string* answer) const {
  if (v2_ != nullptr) return AppendError(0, LineTooLong(), answer);
  AppendError(LineTooLong(), answer);
}

AfterAnswer Session::Handle(std::string_view line, std::string* answer) {
  if (v2_ != nullptr) return v2_->Handle(line, answer);
  const size_t space = line.find(' ');
  if (line.substr(0, space) != kHello) return v1_.Handle(line, answer);

  std::string result;
  const Status status =
      Hello(space == std::string_view::npos ? std::string_view() : line.substr(space + 1), &result);
  Log(LogLevel::kDebug,
      v1_.peer() + ": HELLO -> " + (status.ok() ? "OK" + result : status.ToString()));
  AppendAnswer(status, result, answer);
  return AfterAnswer::kContinue;
}

Status Session::Hello(std::string_view words, std::string* result) {
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
  std::shared_ptr<ObjectStore> store;
  Status status = space == std::string_view::npos
                      ? Status::OK()
                      : ParseDirectory(words.substr(space + 1), &directory);
  if (status.ok() && service_.stores == nullptr) {
    status = Status::Error(
        EINVAL, "keys need a directory, and this worker has none; start it with --root DIR");
  }
  if (status.ok()) status = service_.stores->Open(directory, &store);
  if (!status.ok()) return Status::Error(status.number(), "HELLO 2: " + status.text());
  if (pipeline_ != nullptr) {
    status = pipeline_->Open();
    if (!status.ok()) return status;
  }
  *result = " 2 boot=" + service_.boot_id + " worker=lmshm-worker/" LMSHM_VERSION +
            (store->facts().attributes ? " xattr=1" : " xattr=0") +
            " window=" + std::to_string(kWindow) + " engine=" + store->facts().engine;
  v1_.Detach();
  v2_ = std::make_unique<SessionV2>(service_, v1_.peer(), std::move(store), pipeline_);
  return Status::OK();
}

}  // namespace lmshm
