// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_client.h"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>

#include "worker/remote/backoff.h"
#include "worker/s3/s3_failure.h"
#include "worker/s3/signature.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// Of one request, the first among them: when the server says "later", and when connections break.
constexpr int kMostAnswers = 6;
constexpr int kMostBreaks = 3;
constexpr milliseconds kFirstPause(100);
constexpr milliseconds kLongestPause(2000);
// More are closed when they are given back.
constexpr size_t kMostIdle = 64;
// Requests without a body that are under way at a time for one caller.
constexpr size_t kAtOnce = 16;
// An object of this size is worth a question, and a round trip, if the last was refused.
constexpr uint64_t kWorthAsking = 1 << 20;

bool IsBroken(int number) {
  return number == ECONNRESET || number == EPIPE || number == ECONNABORTED;
}

bool IsSuccess(int status) { return status >= 200 && status < 300; }

}  // namespace

struct S3Client::Attempt {
  Attempt(milliseconds stall, const CancelCheck* cancel, uint64_t bytes)
      : limit(stall, cancel, bytes) {}

  WaitLimit limit;
  S3Outgoing outgoing;
  std::optional<S3Exchange> exchange;  // none: there was no connection
  bool used_before = false;            // the connection
  Status begun;
};

S3Client::S3Client(S3Options options, StoreSecrets secrets)
    : options_(std::move(options)),
      secrets_(std::move(secrets)),
      endpoint_{options_.connect.name, options_.connect.port, ""} {}

Sha256Digest S3Client::KeyOfDay(std::string_view day) const {
  const MutexLock lock(&mutex_);
  if (key_day_ != day) {
    key_ = SigningKey(secrets_.password, day, options_.region);
    key_day_ = std::string(day);
  }
  return key_;
}

std::string S3Client::HeadOf(const S3Request& request, bool if_absent,
                             bool expects_continue) const {
  std::string path;
  if (options_.path_style) path.append("/").append(options_.bucket);
  if (path.empty() || !request.name.empty()) path.append("/");
  AppendUriEncoded(request.name, true, &path);

  std::string head(request.method);
  head.append(" ").append(path);
  if (!request.query.empty()) head.append("?").append(request.query);
  head.append(" HTTP/1.1\r\n");

  RequestToSign to_sign;
  to_sign.headers = request.headers;
  to_sign.headers.emplace_back("host", options_.host);
  if (if_absent) to_sign.headers.emplace_back("if-none-match", "*");
  std::string hash = request.payload_hash;
  if (hash.empty()) {
    static const std::string empty_hash = Sha256Hex("");
    hash = request.body.size == 0 ? empty_hash : std::string(kUnsignedPayload);
  }
  const std::string time = AmzTime(::time(nullptr));
  if (has_secrets()) {
    to_sign.headers.emplace_back("x-amz-content-sha256", hash);
    to_sign.headers.emplace_back("x-amz-date", time);
    if (!secrets_.session_token.empty()) {
      to_sign.headers.emplace_back("x-amz-security-token", secrets_.session_token);
    }
  }
  std::sort(to_sign.headers.begin(), to_sign.headers.end());
  for (const auto& [name, value] : to_sign.headers) {
    head.append(name).append(": ").append(value).append("\r\n");
  }
  if (has_secrets()) {
    to_sign.method = request.method;
    to_sign.path = path;
    to_sign.query = request.query;
    to_sign.payload_hash = hash;
    const Sha256Digest key = KeyOfDay(std::string_view(time).substr(0, 8));
    head.append("authorization: ");
    head.append(Authorization(to_sign, secrets_.user, options_.region, time, key));
    head.append("\r\n");
  }
  if (request.method == "PUT") {
    head.append("content-length: ").append(std::to_string(request.body.size)).append("\r\n");
  }
  if (expects_continue) head.append("expect: 100-continue\r\n");
  return head.append("user-agent: lmshm\r\naccept-encoding: identity\r\n\r\n");
}

Status S3Client::OpenStream(bool fresh, WaitLimit* limit, Stream* stream, bool* used_before) {
  *used_before = false;
  while (!fresh) {
    const MutexLock lock(&mutex_);
    if (idle_.empty()) break;
    *stream = std::move(idle_.back());
    idle_.pop_back();
    *used_before = stream->Quiet();
    if (*used_before) return Status::OK();
  }
  std::vector<SocketAddress> addresses;
  const Status status = addresses_.Find(endpoint_, limit, &addresses);
  if (!status.ok()) return status;
  counts_.connects.fetch_add(1, std::memory_order_relaxed);
  return Stream::Connect(endpoint_, addresses, limit, stream);
}

void S3Client::KeepStream(Stream stream) {
  if (!stream.open()) return;
  const MutexLock lock(&mutex_);
  if (idle_.size() < kMostIdle) idle_.push_back(std::move(stream));
}

std::unique_ptr<S3Client::Attempt> S3Client::Begin(const S3Request& request, bool if_absent,
                                                   bool fresh, const CancelCheck* cancel,
                                                   const S3Incoming* incoming) {
  const uint64_t bytes = request.body.size + (incoming != nullptr ? incoming->space.size : 0);
  auto attempt = std::make_unique<Attempt>(options_.timeout, cancel, bytes);
  counts_.requests.fetch_add(1, std::memory_order_relaxed);
  attempt->outgoing.expects_continue =
      request.body.size >= kWorthAsking && refused_.load(std::memory_order_relaxed);
  attempt->outgoing.head = HeadOf(request, if_absent, attempt->outgoing.expects_continue);
  attempt->outgoing.is_head = request.method == "HEAD";
  attempt->outgoing.body = request.body;

  Stream stream;
  attempt->begun = OpenStream(fresh, &attempt->limit, &stream, &attempt->used_before);
  if (!attempt->begun.ok()) return attempt;
  attempt->exchange.emplace(std::move(stream));
  const int error = attempt->exchange->Send(attempt->outgoing, &attempt->limit);
  if (error != 0) attempt->begun = Status::System(error, "send the request");
  return attempt;
}

Status S3Client::End(Attempt* attempt, S3Incoming* incoming, S3Answer* answer) {
  answer->head = HttpResponseHead();
  answer->text.clear();
  if (!attempt->exchange.has_value()) return attempt->begun;
  // A server that has closed the connection while we were sending may have said why.
  if (!attempt->begun.ok() && !IsBroken(attempt->begun.number())) return attempt->begun;
  const Status status =
      attempt->exchange->Receive(attempt->outgoing, &attempt->limit, incoming, answer);
  if (!status.ok()) return attempt->begun.ok() ? status : attempt->begun;
  KeepStream(attempt->exchange->TakeStream());
  return status;
}

Status S3Client::Finish(const S3Request& request, const CancelCheck* cancel,
                        std::unique_ptr<Attempt> attempt, S3Incoming* incoming, S3Answer* answer) {
  const milliseconds stall(options_.timeout);
  const auto begin = WaitLimit::Clock::now();
  Backoff backoff(kFirstPause, kLongestPause);
  bool if_absent = request.if_absent;
  for (int tries = 1;; tries++) {
    Status status = End(attempt.get(), incoming, answer);
    bool again = false;
    bool pause = true;
    if (status.ok()) {
      const bool success = IsSuccess(answer->head.status);
      // That there is an object says nothing about the next one.
      const bool refused = !success && answer->head.status != 412;
      if (request.body.size > 0) refused_.store(refused, std::memory_order_relaxed);
      if (success && request.body.size > 0 && !attempt->exchange->sent()) {
        return Status::Error(EPROTO, "the server at " + options_.host + " answers " +
                                         std::to_string(answer->head.status) +
                                         " before it has got the object");
      }
      if (success) return status;
      const S3Error error = ParseS3Error(answer->head, answer->text);
      status = S3Failure(answer->head, error, options_, has_secrets(), ::time(nullptr));
      again = tries < kMostAnswers &&
              (request.may_be_repeated ? WorthRetrying(answer->head.status, error)
                                       : SurelyNotDone(answer->head.status, error));
      if (!SurelyNotDone(answer->head.status, error)) if_absent = false;
    } else if (attempt->exchange.has_value() && request.may_be_repeated) {
      // On a connection that was idle even nonsense may be the rest of something earlier.
      const bool stale =
          attempt->used_before && (IsBroken(status.number()) || status.number() == EPROTO);
      again = tries < kMostBreaks && (stale || IsBroken(status.number()));
      pause = !stale || attempt->exchange->answered();
      // Of a part of an object the server makes none.
      if (attempt->exchange->sent()) if_absent = false;
    }
    if (status.number() == ECANCELED && cancel != nullptr) {
      return Status::System(ECANCELED, "talk to the server", cancel->Reason());
    }
    if (!again || WaitLimit::Clock::now() - begin > stall) return status;
    if (pause) {
      WaitLimit waiting(stall, cancel);
      const int error = waiting.Sleep(backoff.Next());
      if (error != 0) return Status::System(error, "wait for another attempt", status.text());
    }
    counts_.retries.fetch_add(1, std::memory_order_relaxed);
    attempt = Begin(request, if_absent, true, cancel, incoming);
  }
}

Status S3Client::Perform(const S3Request& request, const CancelCheck* cancel, S3Incoming* incoming,
                         S3Answer* answer) {
  return Finish(request, cancel, Begin(request, request.if_absent, false, cancel, incoming),
                incoming, answer);
}

void S3Client::PerformAll(const std::vector<S3Request>& requests, const CancelCheck* cancel,
                          std::vector<S3Answer>* answers, std::vector<Status>* outcomes) {
  answers->resize(requests.size());
  outcomes->resize(requests.size());
  size_t at_once = kAtOnce;
  for (size_t first = 0; first < requests.size();) {
    const size_t end = std::min(requests.size(), first + at_once);
    std::vector<std::unique_ptr<Attempt>> attempts;
    bool connected = true;
    for (size_t i = first; connected && i < end; i++) {
      attempts.push_back(Begin(requests[i], requests[i].if_absent, false, cancel, nullptr));
      connected = attempts.back()->exchange.has_value();
    }
    const int failure = connected ? 0 : attempts.back()->begun.number();
    if ((failure == EMFILE || failure == ENFILE) && attempts.size() > 1) {
      // With as many as there are descriptors for.
      attempts.pop_back();
      at_once = attempts.size();
      connected = true;
    }
    for (size_t i = 0; i < attempts.size(); i++) {
      (*outcomes)[first + i] = Finish(requests[first + i], cancel, std::move(attempts[i]), nullptr,
                                      &(*answers)[first + i]);
    }
    if (connected) {
      first += attempts.size();
      continue;
    }
    // There is no connection to be had: so it is for the rest, without waiting for each.
    for (size_t i = first + attempts.size(); i < requests.size(); i++) {
      (*outcomes)[i] = (*outcomes)[first + attempts.size() - 1];
      (*answers)[i] = S3Answer();
    }
    return;
  }
}

}  // namespace lmshm
