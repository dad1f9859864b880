// SPDX-License-Identifier: Apache-2.0
#include "worker/session.h"

#include <cerrno>
#include <utility>

#include "worker/line_reader.h"
#include "worker/log.h"
#include "worker/text.h"

namespace lmshm {

namespace {

void AppendError(const Status& status, std::string* answer) {
  constexpr std::string_view kWord = "ERROR ";
  answer->append(kWord);
  AppendPrintable(status.ToString(), kMaxAnswerBytes - kWord.size() - 1, answer);
  answer->push_back('\n');
}

}  // namespace

Session::Session(const Service& service, const Secret* secret, std::string peer)
    : service_(service), secret_(secret), peer_(std::move(peer)) {}

Session::Next Session::Handle(std::string_view line, std::string* answer) {
  Next next = Next::kContinue;
  std::string result = "OK";
  Request request;
  Status status = ParseRequest(line, &request);
  const bool parsed = status.ok();
  if (parsed) status = Dispatch(request, &result, &next);

  // Never what came with AUTH, and nothing of a line that might have been meant as one.
  if (LogEnabled(LogLevel::kDebug)) {
    const bool showable = parsed && request.command != Command::kAuth;
    Log(LogLevel::kDebug, peer_ + ": " + (showable ? std::string(line) : "(not shown)") + " -> " +
                              (status.ok() ? result : status.ToString()));
  }
  if (status.ok()) {
    answer->append(result);
    answer->push_back('\n');
  } else {
    AppendError(status, answer);
  }
  return next;
}

void Session::HandleTooLong(std::string* answer) {
  AppendError(Status::Error(E2BIG, "the line is longer than " + std::to_string(kMaxLineBytes) +
                                       " bytes; all of it was ignored"),
              answer);
}

Status Session::Dispatch(const Request& request, std::string* result, Next* next) {
  switch (request.command) {
    case Command::kPing:
      return Status::OK();
    case Command::kQuit:
      *next = Next::kQuit;
      return Status::OK();
    case Command::kAuth:
      if (secret_ == nullptr) return Status::OK();  // nothing to prove here
      authenticated_ = secret_->Matches(request.name);
      if (authenticated_) return Status::OK();
      *next = Next::kReject;
      Log(LogLevel::kWarn, peer_ + ": wrong secret");
      return Status::Error(EACCES, "wrong secret; the connection is closed");
    case Command::kAttach:
    case Command::kWrite:
    case Command::kRead:
      break;
  }
  if (!authenticated()) {
    return Status::Error(EACCES, "not authenticated: send AUTH <secret> first");
  }
  if (request.command == Command::kAttach) return Attach(request);
  return Transfer(request, result);
}

Status Session::Attach(const Request& request) {
  std::unique_ptr<Attachment> attached;
  Status status = service_.WithSpareRoom([&] {
    return Attachment::Open(request.name, request.first, request.second, service_.segment_fds,
                            &attached);
  });
  if (!status.ok()) return status;
  attachment_ = std::move(attached);
  Log(LogLevel::kInfo, peer_ + ": attached " + std::string(request.name) + ", " +
                           std::to_string(request.first) + " bytes");
  return Status::OK();
}

Status Session::Transfer(const Request& request, std::string* result) {
  if (attachment_ == nullptr) {
    return Status::Error(ENOTCONN, "no segment is attached: send ATTACH first");
  }
  SharedBytes bytes;
  Status status = attachment_->Resolve(request.first, request.second, &bytes);
  if (!status.ok()) return status;
  uint64_t moved = bytes.size;
  status = service_.WithSpareRoom([&] {
    return request.command == Command::kWrite
               ? service_.objects->Write(request.name, bytes, service_.cancel)
               : service_.objects->Read(request.name, bytes, service_.cancel, &moved);
  });
  if (!status.ok()) return status;
  result->push_back(' ');
  result->append(std::to_string(moved));
  return Status::OK();
}

}  // namespace lmshm
