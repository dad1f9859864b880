// SPDX-License-Identifier: Apache-2.0
#include "worker/session_v2.h"

#include <cerrno>
#include <utility>

#include "worker/line_reader.h"
#include "worker/log.h"
#include "worker/operation.h"
#include "worker/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxResultBytes = kMaxAnswerV2Bytes - 32;  // less "<id> OK" and '\n'
constexpr size_t kMaxErrorBytes = 8 * 1024;

void AppendError(uint64_t id, const Status& status, std::string* answer) {
  answer->append(std::to_string(id));
  answer->append(" ERROR ");
  AppendPrintable(status.ToString(), kMaxErrorBytes, answer);
  answer->push_back('\n');
}

void AppendOk(uint64_t id, const std::string& result, std::string* answer) {
  answer->append(std::to_string(id));
  answer->append(" OK");
  answer->append(result);
  answer->push_back('\n');
}

}  // namespace

SessionV2::SessionV2(const Service& service, const Secret* secret, std::string peer,
                     bool authenticated)
    : service_(service),
      secret_(secret),
      peer_(std::move(peer)),
      authenticated_(authenticated),
      listing_(*service.keys) {}

Conversation::Next SessionV2::Handle(std::string_view line, std::string* answer) {
  Next next = Next::kContinue;
  std::string result;
  RequestV2 request;
  Status status = ParseRequestV2(line, &request);
  const bool parsed = status.ok();
  if (parsed) status = Dispatch(request, &result, &next);

  // Never what came with AUTH, and nothing of a line that might have been meant as one.
  if (LogEnabled(LogLevel::kDebug)) {
    const bool showable = parsed && request.verb != Verb::kAuth;
    Log(LogLevel::kDebug, peer_ + ": " + (showable ? std::string(line) : "(not shown)") + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
  if (status.ok()) {
    AppendOk(request.id, result, answer);
  } else {
    AppendError(request.id, status, answer);
  }
  return next;
}

void SessionV2::HandleTooLong(std::string* answer) {
  AppendError(0,
              Status::Error(E2BIG, "the line is longer than " + std::to_string(kMaxLineBytes) +
                                       " bytes; all of it was ignored"),
              answer);
}

Status SessionV2::Dispatch(const RequestV2& request, std::string* result, Next* next) {
  switch (request.verb) {
    case Verb::kPing:
      *result = " boot=" + service_.boot_id;
      return Status::OK();
    case Verb::kQuit:
      *next = Next::kQuit;
      return Status::OK();
    case Verb::kAuth:
      return Authenticate(request, next);
    default:
      break;
  }
  if (!authenticated()) {
    return Status::Error(EACCES, "not authenticated: send <id> AUTH <secret> first");
  }
  if (request.verb == Verb::kAttach) return Attach(request);
  OperationContext context;
  context.store = service_.keys;
  context.listing = &listing_;
  context.memory = attachment_;
  context.cancel = service_.cancel;
  return RunOperation(request, context, kMaxResultBytes, result);
}

Status SessionV2::Authenticate(const RequestV2& request, Next* next) {
  if (secret_ == nullptr) return Status::OK();  // nothing to prove here
  authenticated_ = secret_->Matches(request.text);
  if (authenticated_) return Status::OK();
  *next = Next::kReject;
  Log(LogLevel::kWarn, peer_ + ": wrong secret");
  return Status::Error(EACCES, "wrong secret; the connection is closed");
}

Status SessionV2::Attach(const RequestV2& request) {
  std::unique_ptr<Attachment> attached;
  Status status = Attachment::Open(request.text, request.first, 0, service_.segment_fds, &attached);
  if (!status.ok()) return status;
  attachment_ = std::move(attached);
  Log(LogLevel::kInfo,
      peer_ + ": attached " + request.text + ", " + std::to_string(request.first) + " bytes");
  return Status::OK();
}

}  // namespace lmshm
