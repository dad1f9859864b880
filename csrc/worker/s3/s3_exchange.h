// SPDX-License-Identifier: Apache-2.0
//
// S3Exchange: one request to an S3 server and its answer, on one connection, once. Whether to try
// again is the client's decision (s3_client.h).
//
// The bytes of an object go from the client's memory to the socket and back without another copy:
// the end of an answer's head is found by looking at what has come without taking it (MSG_PEEK), so
// that the body can be received where it belongs.
#ifndef LMSHM_WORKER_S3_S3_EXCHANGE_H_
#define LMSHM_WORKER_S3_S3_EXCHANGE_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/memory/shared_bytes.h"
#include "worker/remote/stream.h"
#include "worker/remote/wait_limit.h"
#include "worker/s3/http_response.h"

namespace lmshm {

// Answers that are no object are read up to so many bytes: a page of a listing, an error.
inline constexpr size_t kMaxAnswerBytes = 8 << 20;

// What goes out. The head is complete, with its empty line.
struct S3Outgoing {
  std::string head;
  bool is_head = false;  // HEAD: no answer has a body
  SharedBytes body;
  bool expects_continue = false;  // the body is not sent before the server asks for it
};

// Where the content of an object goes. What is beyond it is not touched.
struct S3Incoming {
  SharedBytes space;
  bool checksum = false;
  // Set:
  bool begun = false;   // the answer is the object; else it is in S3Answer::text
  uint64_t length = 0;  // of the object, also when the space is too small
  uint32_t crc32c = 0;  // of what was received, if `checksum`
};

struct S3Answer {
  HttpResponseHead head;
  std::string text;  // the body, unless it went to S3Incoming
};

class S3Exchange {
 public:
  // Goes on with a connection that was used before, or is new.
  explicit S3Exchange(Stream stream) : stream_(std::move(stream)) {}

  // Sends the request, up to its end, or to where the server answers without waiting for it.
  // Returns 0 or an errno value; ECONNRESET and EPIPE when there was nobody any more.
  [[nodiscard]] int Send(const S3Outgoing& outgoing, WaitLimit* limit);

  // Receives the answer. `incoming` may be null. Among the failures, beside what WaitLimit::Wait()
  // and a broken connection are: EPROTO; EMSGSIZE, the object is larger than the space; EFAULT.
  Status Receive(const S3Outgoing& outgoing, WaitLimit* limit, S3Incoming* incoming,
                 S3Answer* answer);

  // Whether anything of an answer has come.
  bool answered() const { return answered_; }
  // Whether the whole body was sent.
  bool sent() const { return sent_; }

  // The connection, if another request may follow on it; else one that is not open.
  Stream TakeStream();

 private:
  // Sends rest_, up to its end or to where the server answers.
  [[nodiscard]] int SendRest(WaitLimit* limit);
  Status ReceiveHead(WaitLimit* limit, HttpResponseHead* head);
  Status ReceiveObject(const HttpResponseHead& head, WaitLimit* limit, S3Incoming* incoming);
  Status ReceiveText(const HttpResponseHead& head, WaitLimit* limit, std::string* text);
  // Waits for bytes: 0, EAGAIN: not within `time`; or as WaitLimit::Wait().
  [[nodiscard]] int WaitForAnswer(std::chrono::milliseconds time, WaitLimit* limit);

  Stream stream_;
  SharedBytes rest_;   // of the body: not sent yet
  std::string taken_;  // of a head that has not come as a whole
  bool answered_ = false;
  bool sent_ = false;
  bool reusable_ = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_EXCHANGE_H_
