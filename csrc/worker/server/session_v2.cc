// SPDX-License-Identifier: Apache-2.0
#include "worker/server/session_v2.h"

#include <cerrno>
#include <utility>

#include "worker/base/log.h"
#include "worker/execution/request_task.h"
#include "worker/protocol/answer.h"
#include "worker/server/info.h"

namespace lmshm {

namespace {

// Whether a request is answered at once, by the thread that reads.
bool IsImmediate(Verb verb) {
  switch (verb) {
    case Verb::kAttach:
    case Verb::kCancel:
    case Verb::kInfo:
    case Verb::kPing:
    case Verb::kQuit:
      return true;
    default:
      return false;
  }
}

}  // namespace

SessionV2::SessionV2(const Service& service, std::string peer, std::shared_ptr<ObjectStore> store,
                     Pipeline* pipeline)
    : service_(service),
      peer_(std::move(peer)),
      store_(std::move(store)),
      pipeline_(pipeline),
      listings_(store_.get(), &service.stores->listings()) {
  if (pipeline_ != nullptr) pipeline_->UseLane(store_->OpenLane());
}

AfterAnswer SessionV2::Handle(std::string_view line, std::string* answer) {
  const Metrics::Clock::time_point read = Metrics::Clock::now();
  AfterAnswer next = AfterAnswer::kContinue;
  std::string result;
  RequestV2 request;
  Status status = ParseRequestV2(line, &request);
  const bool parsed = status.ok();
  uint64_t id = request.id;
  if (id != 0 && pipeline_ != nullptr && pipeline_->Has(id)) {
    // Under its own id this answer would be taken for the other request's.
    status = Status::Error(EEXIST, "request id " + std::to_string(id) + " is in flight already");
    id = 0;
  } else if (parsed && !IsImmediate(request.verb)) {
    if (LogEnabled(LogLevel::kDebug)) Log(LogLevel::kDebug, peer_ + ": " + std::string(line));
    Begin(std::move(request), read, answer);
    return next;
  } else if (parsed) {
    status = Dispatch(request, &result, &next);
  }

  // A line that is no request is not shown: it might have been meant to carry a secret.
  if (LogEnabled(LogLevel::kDebug)) {
    Log(LogLevel::kDebug, peer_ + ": " + (parsed ? std::string(line) : "(not shown)") + " -> " +
                              (status.ok() ? "OK" + result : status.ToString()));
  }
  AppendAnswer(id, status, result, answer);
  if (parsed) {
    Metrics* const metrics = service_.metrics();
    const auto verb = static_cast<size_t>(request.verb);
    if (!status.ok()) metrics->CountError(verb);
    metrics->CountRequest(verb, Metrics::Clock::now() - read);
  }
  return next;
}

void SessionV2::Begin(RequestV2 request, Metrics::Clock::time_point read, std::string* answers) {
  RequestContext context;
  context.store = store_.get();
  context.listings = &listings_;
  context.metrics = service_.metrics();
  context.memory = attachment_;
  context.cancel = service_.cancel;
  context.parallel = service_.engine;
  context.io = service_.io;
  context.sync = service_.sync;
  context.open_objects = service_.open_objects;
  auto task = std::make_unique<RequestTask>(std::move(request), std::move(context), peer_, read);
  if (pipeline_ != nullptr) {
    pipeline_->Accept(std::move(task));
  } else {
    while (!task->Go(answers)) {
    }
    task->CountAnswered(Metrics::Clock::now());
  }
}

Status SessionV2::Dispatch(const RequestV2& request, std::string* result, AfterAnswer* next) {
  switch (request.verb) {
    case Verb::kPing:
      *result = " boot=" + service_.boot_id;
      return Status::OK();
    case Verb::kQuit:
      *next = AfterAnswer::kQuit;
      return Status::OK();
    case Verb::kAttach:
      return Attach(request);
    case Verb::kCancel:
      *result = pipeline_ != nullptr && pipeline_->Cancel(request.number) ? " 1" : " 0";
      return Status::OK();
    case Verb::kInfo:
      *result = DescribeService(service_, *store_);
      return Status::OK();
    default:
      return Status::Error(EINVAL, "not answered at once");
  }
}

Status SessionV2::Attach(const RequestV2& request) {
  const Attachment::Check check = [&](int, const struct stat& st) {
    return request.identity.has_value()
               ? CheckIdentity(*request.identity, request.text, st, service_.kernel_boot)
               : Status::OK();
  };
  return service_.Attach(request.text, request.number, 0, peer_, check, &attachment_);
}

}  // namespace lmshm
