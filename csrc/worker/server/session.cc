// SPDX-License-Identifier: Apache-2.0
#include "worker/server/session.h"

#include <cerrno>
#include <utility>

#include "worker/base/log.h"
#include "worker/base/text.h"
#include "worker/protocol/line_reader.h"

namespace lmshm {

Session::Session(const Service& service, std::string peer)
    : service_(service), peer_(std::move(peer)) {}

Session::Next Session::Handle(std::string_view line, std::string* answer) {
  const Metrics::Clock::time_point read = Metrics::Clock::now();
  Next next = Next::kContinue;
  std::string result = "OK";
  Request request;
  Status status = ParseRequest(line, &request);
  const bool parsed = status.ok();
  if (parsed) status = Dispatch(request, &result, &next);

  // A line that is no request is not shown: it might have been meant to carry a secret.
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + (parsed ? std::string(line) : "(not shown)") + " -> " +
                              (status.ok() ? result : status.ToString()));
  }
  if (status.ok()) {
    answer->append(result);
    answer->push_back('\n');
  } else {
    AppendError(status, answer);
  }
  if (parsed) Count(request.command, status, Metrics::Clock::now() - read);
  return next;
}

// Of WRITE and READ alone.
void Session::Count(Command command, const Status& status, Metrics::Clock::duration took) const {
  Metrics* const metrics = service_.metrics();
  if (metrics == nullptr || (command != Command::kWrite && command != Command::kRead)) return;
  const size_t verb = command == Command::kWrite ? kWriteMetrics : kReadMetrics;
  metrics->CountRequest(verb, took);
  if (!status.ok() && status.number() != ENOENT) metrics->CountError(verb);
  if (command == Command::kWrite || (!status.ok() && status.number() != ENOENT)) return;
  Metrics::Add(status.ok() ? &metrics->hits : &metrics->misses, 1);
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
    case Command::kIdentity:
      return Identify(request.name);
    case Command::kAttach:
      return Attach(request);
    case Command::kWrite:
    case Command::kRead:
      break;
  }
  return Transfer(request, result);
}

Status Session::Identify(std::string_view identity) {
  if (ParseIdentity(identity, &identity_)) return Status::OK();
  return Status::Error(EINVAL, "identity \"" + Printable(identity.substr(0, 128)) +
                                   "\" is not <boot>:<device>:<inode>, nor -");
}

void Session::Detach() {
  identity_.reset();
  attachment_.reset();
}

Status Session::Attach(const Request& request) {
  const Attachment::Check check = [&](int fd, const struct stat& st) {
    if (identity_.has_value()) {
      return CheckIdentity(*identity_, request.name, st, service_.kernel_boot);
    }
    if (service_.parent == nullptr) return Status::OK();
    return service_.parent->Check(request.second, request.name, fd, st);
  };
  std::unique_ptr<Attachment> attached;
  Status status = service_.WithSpareRoom([&] {
    return Attachment::Open(request.name, request.first, request.second, service_.segment_fds,
                            &attached, check);
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
               ? service_.objects->Write(request.name, bytes, service_.cancel, service_.quota)
               : service_.objects->Read(request.name, bytes, service_.cancel, &moved,
                                        service_.quota);
  });
  if (!status.ok()) return status;
  if (Metrics* const metrics = service_.metrics()) {
    const bool write = request.command == Command::kWrite;
    Metrics::Add(write ? &metrics->write_bytes : &metrics->read_bytes, moved);
  }
  result->push_back(' ');
  result->append(std::to_string(moved));
  return Status::OK();
}

}  // namespace lmshm
