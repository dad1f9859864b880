// SPDX-License-Identifier: Apache-2.0
//
// What an S3 server refuses, as a Status: its reason in its own words, and what usually helps. Pure
// functions.
#ifndef LMSHM_WORKER_S3_S3_FAILURE_H_
#define LMSHM_WORKER_S3_S3_FAILURE_H_

#include <ctime>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/s3/http_response.h"
#include "worker/s3/s3_options.h"

namespace lmshm {

// The members of an <Error>, empty where there are none.
struct S3Error {
  std::string code;  // "NoSuchKey"
  std::string message;
  std::string region;  // where the server says that the bucket is
};

S3Error ParseS3Error(const HttpResponseHead& head, std::string_view body);

// Whether the same request may succeed in a moment.
bool WorthRetrying(int status, const S3Error& error);

// Whether the server says that it has not done it: a removal may be asked for again then.
bool SurelyNotDone(int status, const S3Error& error);

// An answer that is no success, of status 300 and above:
//   ENOENT        no such object               ENXIO        no such bucket, or no S3 server at all
//   EACCES        who we are, what we may, the clock           EBADMSG  the checksum is another one
//   EFBIG, E2BIG, ENAMETOOLONG, ENOSPC, ENOTSUP as they say    EAGAIN   overloaded
//   EINVAL        the bucket is elsewhere                      EIO      anything else
// `now` is our clock's, `signed_in` whether the request was signed.
Status S3Failure(const HttpResponseHead& head, const S3Error& error, const S3Options& options,
                 bool signed_in, time_t now);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_FAILURE_H_
