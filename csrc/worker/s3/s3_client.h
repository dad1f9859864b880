// SPDX-License-Identifier: Apache-2.0
//
// S3Client: requests to one S3 server about one bucket, signed, over connections that are kept, and
// tried again where that is safe.
//
// What is tried again: an answer that says "later" (500, 503, SlowDown and others), after a pause
// that grows; and a connection that broke, because a server may close one that was idle at the very
// moment at which it is used. A removal only where it surely was not done; a put with a condition
// without that, unless it surely was not done. A wait that is over its limit is not begun again.
#ifndef LMSHM_WORKER_S3_S3_CLIENT_H_
#define LMSHM_WORKER_S3_S3_CLIENT_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/sha256.h"
#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/memory/shared_bytes.h"
#include "worker/remote/endpoint.h"
#include "worker/remote/known_addresses.h"
#include "worker/remote/stream.h"
#include "worker/s3/s3_exchange.h"
#include "worker/s3/s3_options.h"
#include "worker/storage/store_url.h"

namespace lmshm {

struct S3Request {
  std::string_view method;
  std::string name;                                          // of an object; empty: the bucket
  std::string query;                                         // coded and sorted: see RequestToSign
  std::vector<std::pair<std::string, std::string>> headers;  // x-amz-..., lower case
  SharedBytes body;                                          // of PUT
  std::string payload_hash;                                  // empty: UNSIGNED-PAYLOAD
  bool may_be_repeated = true;                               // doing it twice is doing it once
  // PUT: only if there is no object of that name, else the answer is 412. Not of an attempt after
  // one that may have stored it: that would be told of its own object.
  bool if_absent = false;
};

struct S3Counts {
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> retries{0};
  std::atomic<uint64_t> connects{0};
};

// Thread safe.
class S3Client {
 public:
  S3Client(S3Options options, StoreSecrets secrets);

  const S3Options& options() const { return options_; }
  const Endpoint& endpoint() const { return endpoint_; }
  const S3Counts& counts() const { return counts_; }
  bool has_secrets() const { return !secrets_.password.empty(); }

  // Success when the server answered with 2xx. `cancel` and `incoming` may be null. After a failure
  // `answer` has what the server said, if it did (status 0: it did not).
  Status Perform(const S3Request& request, const CancelCheck* cancel, S3Incoming* incoming,
                 S3Answer* answer);

  // Many without a body, several at a time. `answers` and `outcomes` have a place for each.
  void PerformAll(const std::vector<S3Request>& requests, const CancelCheck* cancel,
                  std::vector<S3Answer>* answers, std::vector<Status>* outcomes);

 private:
  struct Attempt;

  // Sends the request once.
  std::unique_ptr<Attempt> Begin(const S3Request& request, bool if_absent, bool fresh,
                                 const CancelCheck* cancel, const S3Incoming* incoming);
  // Receives what it is answered; success with whatever status.
  Status End(Attempt* attempt, S3Incoming* incoming, S3Answer* answer);
  // End(), and from the beginning where that is safe and may help.
  Status Finish(const S3Request& request, const CancelCheck* cancel,
                std::unique_ptr<Attempt> attempt, S3Incoming* incoming, S3Answer* answer);

  std::string HeadOf(const S3Request& request, bool if_absent, bool expects_continue) const;
  // One that was used before, unless `fresh`; else a new one.
  Status OpenStream(bool fresh, WaitLimit* limit, Stream* stream, bool* used_before)
      EXCLUDES(mutex_);
  void KeepStream(Stream stream) EXCLUDES(mutex_);
  Sha256Digest KeyOfDay(std::string_view day) const EXCLUDES(mutex_);

  const S3Options options_;
  const StoreSecrets secrets_;
  const Endpoint endpoint_;
  KnownAddresses addresses_;
  S3Counts counts_;
  // The last object that was put was refused: ask before sending the next large one.
  std::atomic<bool> refused_{false};
  mutable Mutex mutex_;
  std::vector<Stream> idle_ GUARDED_BY(mutex_);  // the one that was used last is at the end
  mutable std::string key_day_ GUARDED_BY(mutex_);
  mutable Sha256Digest key_ GUARDED_BY(mutex_) = {};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_CLIENT_H_
