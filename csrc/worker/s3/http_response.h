// SPDX-License-Identifier: Apache-2.0
//
// The answers of an HTTP/1.1 server (RFC 9112), as far as an S3 server gives them: a head, and how
// its body is delimited. Strict: what could be read in two ways is refused, because the next answer
// on the connection would begin at a wrong place. Pure functions.
#ifndef LMSHM_WORKER_S3_HTTP_RESPONSE_H_
#define LMSHM_WORKER_S3_HTTP_RESPONSE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/status.h"

namespace lmshm {

// A longer head is refused.
inline constexpr size_t kMaxHttpHeadBytes = 64 * 1024;

struct HttpResponseHead {
  int status = 0;                                            // 100 to 599
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case

  std::optional<uint64_t> content_length;
  bool chunked = false;     // Transfer-Encoding: chunked
  bool keep_alive = false;  // the connection can be used again after the body

  // The value of the first such header; null without one. `name` in lower case.
  const std::string* Find(std::string_view name) const;
};

// The bytes up to the end of the head, its empty line included; 0 while it is not there.
size_t HttpHeadSize(std::string_view bytes);

// `bytes` are HttpHeadSize() many. EPROTO with a text that says what is wrong with it.
Status ParseHttpHead(std::string_view bytes, HttpResponseHead* head);

// Takes a chunked body apart.
class ChunkedBody {
 public:
  // Consumes bytes of the body and appends what they carry to `*content`. EPROTO for what is no
  // chunked body. `*used` is less than all only when the body ended there: done().
  Status Feed(std::string_view bytes, std::string* content, size_t* used);
  bool done() const { return state_ == State::kDone; }

 private:
  enum class State { kSize, kData, kAfterData, kTrailer, kDone };
  Status TakeLine(std::string_view line);

  State state_ = State::kSize;
  uint64_t left_ = 0;  // of the chunk
  std::string line_;   // the beginning of one that is not complete
};

// The seconds since 1970 of "Sun, 06 Nov 1994 08:49:37 GMT"; false for any other form.
[[nodiscard]] bool ParseHttpDate(std::string_view text, int64_t* seconds);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_HTTP_RESPONSE_H_
