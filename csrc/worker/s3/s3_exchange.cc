// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_exchange.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// At once; small enough to be in the cache still when the checksum is computed.
constexpr size_t kPieceBytes = 256 << 10;
constexpr size_t kSendBytes = 4 << 20;
// How long a server may take to ask for a body. One that does not know the question gets it then.
constexpr milliseconds kContinueLimit(1000);
constexpr size_t kPeekBytes = 4096;
// Interim answers before the answer; nobody needs so many.
constexpr int kMostInterim = 100;

bool IsInterim(int status) { return status >= 100 && status < 200; }

bool HasNoBody(const S3Outgoing& outgoing, int status) {
  return outgoing.is_head || status == 204 || status == 304;
}

Status Broken(int error, std::string_view action) { return Status::System(error, action); }

}  // namespace

int S3Exchange::WaitForAnswer(milliseconds time, WaitLimit* limit) {
  const auto end = WaitLimit::Clock::now() + time;
  pollfd fd = {stream_.fd(), POLLIN, 0};
  while (WaitLimit::Clock::now() < end) {
    if (limit->Cancelled()) return ECANCELED;
    const int ready = poll(&fd, 1, 100);
    if (ready > 0) return 0;
    if (ready < 0 && errno != EINTR) return errno;
  }
  return EAGAIN;
}

int S3Exchange::SendRest(WaitLimit* limit) {
  while (rest_.size > 0) {
    // Not all at once, so that cancelling is noticed.
    const iovec piece = {rest_.address,
                         static_cast<size_t>(std::min<uint64_t>(rest_.size, kSendBytes))};
    size_t done = 0;
    const int error = stream_.SendSome(&piece, 1, &done);
    if (error != 0 && error != EAGAIN) return error;
    if (done > 0) {
      limit->Progress();
      if (limit->Cancelled()) return ECANCELED;
      rest_.address = static_cast<char*>(rest_.address) + done;
      rest_.size -= done;
      if (done == piece.iov_len) continue;
    }
    pollfd fd = {stream_.fd(), POLLIN | POLLOUT, 0};
    const int waited = limit->Wait(&fd, 1);
    if (waited != 0) return waited;
    // It answers before it has got everything: that it does not want it, most likely. If it is an
    // interim answer Receive() goes on here.
    if ((fd.revents & (POLLIN | POLLHUP | POLLERR)) != 0) return 0;
  }
  sent_ = true;
  return 0;
}

int S3Exchange::Send(const S3Outgoing& outgoing, WaitLimit* limit) {
  rest_ = outgoing.body;
  iovec head = {const_cast<char*>(outgoing.head.data()), outgoing.head.size()};
  if (outgoing.expects_continue) {
    int error = stream_.SendAll(&head, 1, limit);
    if (error == 0) error = WaitForAnswer(kContinueLimit, limit);
    // What has come Receive() looks at. A server that does not know the question gets the body.
    return error == EAGAIN ? SendRest(limit) : error;
  }
  // The head and the beginning of the body in one call: a small object is one packet.
  const iovec parts[2] = {
      head, {rest_.address, static_cast<size_t>(std::min<uint64_t>(rest_.size, kSendBytes))}};
  size_t done = 0;
  for (;;) {
    const int error = stream_.SendSome(parts, 2, &done);
    if (error == 0) break;
    if (error != EAGAIN) return error;
    const int waited = limit->Wait(stream_.fd(), POLLOUT);
    if (waited != 0) return waited;
  }
  limit->Progress();
  const size_t of_head = std::min(done, head.iov_len);
  if (of_head < head.iov_len) {
    Advance(&head, 1, of_head);
    const int error = stream_.SendAll(&head, 1, limit);
    if (error != 0) return error;
  }
  rest_.address = static_cast<char*>(rest_.address) + (done - of_head);
  rest_.size -= done - of_head;
  return SendRest(limit);
}

Status S3Exchange::ReceiveHead(WaitLimit* limit, HttpResponseHead* head) {
  constexpr std::string_view kAction = "wait for the server's answer";
  for (;;) {
    char peeked[kPeekBytes];
    const ssize_t n = recv(stream_.fd(), peeked, sizeof peeked, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0) return Broken(ECONNRESET, kAction);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      const int error = limit->Wait(stream_.fd(), POLLIN);
      if (error != 0) return Broken(error, kAction);
      continue;
    }
    if (n < 0) return Broken(errno, kAction);
    answered_ = true;
    // An end that began in what was taken before is found, too.
    const size_t before = taken_.size();
    taken_.append(peeked, static_cast<size_t>(n));
    const size_t size = HttpHeadSize(taken_);
    const size_t use = size == 0 ? static_cast<size_t>(n) : size - before;
    size_t received = 0;
    const int error = stream_.ReceiveSome(peeked, use, &received);
    if (error != 0 || received != use) return Broken(error != 0 ? error : EIO, kAction);
    limit->Progress();
    if (size != 0) {
      const std::string text = taken_.substr(0, size);
      taken_.clear();
      return ParseHttpHead(text, head);
    }
    if (taken_.size() > kMaxHttpHeadBytes) {
      return Status::Error(EPROTO, "the server's answer is no HTTP/1.1: a head of more than " +
                                       std::to_string(kMaxHttpHeadBytes) + " bytes");
    }
  }
}

Status S3Exchange::ReceiveObject(const HttpResponseHead& head, WaitLimit* limit,
                                 S3Incoming* incoming) {
  if (!head.content_length.has_value()) {
    return Status::Error(EPROTO, "the server sends an object without saying how long it is");
  }
  incoming->begun = true;
  incoming->length = *head.content_length;
  incoming->crc32c = 0;
  if (incoming->length > incoming->space.size) {
    return Status::Error(EMSGSIZE, std::to_string(incoming->length));
  }
  char* at = static_cast<char*>(incoming->space.address);
  for (uint64_t left = incoming->length; left > 0;) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(left, kPieceBytes));
    const int error = stream_.ReceiveAll(at, want, limit);
    if (error != 0) {
      return Broken(error, "receive the object, " + std::to_string(left) + " of " +
                               std::to_string(incoming->length) + " bytes are missing");
    }
    if (incoming->checksum && SharedCrc32c({at, want}, &incoming->crc32c) != 0) {
      return Broken(EFAULT, "checksum of the object");
    }
    at += want;
    left -= want;
  }
  return Status::OK();
}

Status S3Exchange::ReceiveText(const HttpResponseHead& head, WaitLimit* limit, std::string* text) {
  constexpr std::string_view kAction = "receive the server's answer";
  ChunkedBody chunks;
  std::string buffer;
  for (;;) {
    if (head.chunked ? chunks.done() : text->size() == head.content_length) return Status::OK();
    if (text->size() > kMaxAnswerBytes || head.content_length.value_or(0) > kMaxAnswerBytes) {
      return Status::Error(EPROTO, "the server's answer is longer than " +
                                       std::to_string(kMaxAnswerBytes) + " bytes");
    }
    size_t want = 16 * 1024;
    // Not beyond its end: what stands there belongs to nobody.
    if (head.content_length.has_value()) {
      want = std::min<size_t>(want, static_cast<size_t>(*head.content_length) - text->size());
    }
    buffer.resize(want);
    size_t received = 0;
    int error = stream_.ReceiveSome(buffer.data(), want, &received);
    if (error == EAGAIN) {
      error = limit->Wait(stream_.fd(), POLLIN);
      if (error != 0) return Broken(error, kAction);
      continue;
    }
    // Without a length and without chunks it ends with the connection.
    if (error == ECONNRESET && !head.chunked && !head.content_length.has_value()) {
      return Status::OK();
    }
    if (error != 0) return Broken(error, kAction);
    limit->Progress();
    if (limit->Cancelled()) return Broken(ECANCELED, kAction);
    buffer.resize(received);
    if (!head.chunked) {
      text->append(buffer);
      continue;
    }
    size_t used = 0;
    const Status status = chunks.Feed(buffer, text, &used);
    if (!status.ok()) return status;
    if (used != received) {
      return Status::Error(EPROTO, "the server sends more than its answer");
    }
  }
}

Status S3Exchange::Receive(const S3Outgoing& outgoing, WaitLimit* limit, S3Incoming* incoming,
                           S3Answer* answer) {
  reusable_ = false;
  if (incoming != nullptr) incoming->begun = false;
  for (int interim = 0;; interim++) {
    if (interim > kMostInterim) {
      return Status::Error(EPROTO, "the server sends interim answers without end");
    }
    const Status status = ReceiveHead(limit, &answer->head);
    if (!status.ok()) return status;
    if (!IsInterim(answer->head.status)) break;
    if (answer->head.status == 101) {
      return Status::Error(EPROTO, "the server changes to a protocol that nobody asked for");
    }
    const int error = SendRest(limit);
    if (error != 0) return Broken(error, "send the object");
  }
  const HttpResponseHead& head = answer->head;
  answer->text.clear();
  Status status;
  if (HasNoBody(outgoing, head.status)) {
    // Nothing follows.
  } else if (incoming != nullptr && head.status == 200) {
    status = ReceiveObject(head, limit, incoming);
  } else {
    status = ReceiveText(head, limit, &answer->text);
  }
  const bool delimited =
      HasNoBody(outgoing, head.status) || head.chunked || head.content_length.has_value();
  reusable_ = status.ok() && head.keep_alive && delimited && sent_;
  return status;
}

Stream S3Exchange::TakeStream() {
  if (!reusable_) stream_.Close();
  return std::move(stream_);
}

}  // namespace lmshm
