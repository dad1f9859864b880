// SPDX-License-Identifier: Apache-2.0
#include "worker/server/dialogue.h"

#include <cerrno>

#include "include/lmshm.h"
#include "worker/base/log.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kHello = "HELLO";

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

Status Dialogue::Hello(std::string_view version, std::string* result) {
  uint64_t number;
  if (ParseU64(version, &number) == NumberError::kMalformed) {
    return Status::Error(EINVAL, "expected: HELLO <version>, for instance HELLO 2");
  }
  if (version != "2") {
    return Status::Error(EPROTONOSUPPORT,
                         "HELLO " + Printable(version.substr(0, 32)) +
                             ": this worker speaks version 2, and 1 without HELLO");
  }
  if (service_.keys == nullptr) {
    return Status::Error(EINVAL,
                         "HELLO 2: keys need a directory, and this worker has none; start it with "
                         "--root DIR");
  }
  if (pipeline_ != nullptr) {
    Status status = pipeline_->Open();
    if (!status.ok()) return status;
  }
  *result = "OK 2 boot=" + service_.boot_id + " worker=lmshm-worker/" LMSHM_VERSION +
            " features=batch,cancel,crc32c" + (service_.keys->has_attributes() ? ",xattr" : "") +
            " window=" + std::to_string(kWindow);
  v2_ = std::make_unique<SessionV2>(service_, v1_.peer(), pipeline_);
  return Status::OK();
}

}  // namespace lmshm
