// SPDX-License-Identifier: Apache-2.0
#include "worker/server/session_v1.h"

#include <cerrno>
#include <utility>

#include "worker/base/log.h"
#include "worker/protocol/answer.h"

namespace lmshm {

SessionV1::SessionV1(const Service& service, std::string peer, const CancelCheck* client)
    : service_(service), peer_(std::move(peer)), client_(client) {}

AfterAnswer SessionV1::Handle(std::string_view line, std::string* answer) {
  const Metrics::Clock::time_point read = Metrics::Clock::now();
  AfterAnswer next = AfterAnswer::kContinue;
  std::string result;
  Request request;
  Status status = ParseRequest(line, &request);
  const bool parsed = status.ok();
  if (parsed) status = Dispatch(request, &result, &next);

  // A line that is no request is not shown: it might have been meant to carry a secret.
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + (parsed ? std::string(line) : "(not shown)") + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
  AppendAnswer(status, result, answer);
  if (parsed) Count(request.command, status, Metrics::Clock::now() - read);
  return next;
}

// Of WRITE and READ alone.
void SessionV1::Count(Command command, const Status& status, Metrics::Clock::duration took) const {
  Metrics* const metrics = service_.metrics();
  if (metrics == nullptr || (command != Command::kWrite && command != Command::kRead)) return;
  const size_t verb = command == Command::kWrite ? kWriteMetrics : kReadMetrics;
  metrics->CountRequest(verb, took);
  if (!status.ok() && status.number() != ENOENT) metrics->CountError(verb);
  if (command == Command::kWrite || (!status.ok() && status.number() != ENOENT)) return;
  Metrics::Add(status.ok() ? &metrics->hits : &metrics->misses, 1);
}

Status SessionV1::Dispatch(const Request& request, std::string* result, AfterAnswer* next) {
  switch (request.command) {
    case Command::kPing:
      return Status::OK();
    case Command::kQuit:
      *next = AfterAnswer::kQuit;
      return Status::OK();
    case Command::kAttach:
      return Attach(request);
    case Command::kWrite:
    case Command::kRead:
      break;
  }
  return Transfer(request, result);
}

void SessionV1::Detach() { attachment_.reset(); }

Status SessionV1::Attach(const Request& request) {
  const Attachment::Check check = [&](int fd, const struct stat& st) {
    if (service_.parent == nullptr) return Status::OK();
    return service_.parent->Check(request.second, request.name, fd, st);
  };
  return service_.Attach(request.name, request.first, request.second, peer_, check, &attachment_);
}

Status SessionV1::Transfer(const Request& request, std::string* result) {
  if (service_.objects == nullptr) {
    return Status::Error(ENOTSUP,
                         "version 1 of the protocol is for paths of files, and this worker's store "
                         "has none; say HELLO 2 first, and use keys");
  }
  if (attachment_ == nullptr) {
    return Status::Error(ENOTCONN, "no segment is attached: send ATTACH first");
  }
  SharedBytes bytes;
  Status status = attachment_->Resolve(request.first, request.second, &bytes);
  if (!status.ok()) return status;
  uint64_t moved = bytes.size;
  status = service_.WithSpareRoom([&] {
    return request.command == Command::kWrite
               ? service_.objects->Write(request.name, bytes, service_.cancel, service_.quota,
                                         client_)
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
