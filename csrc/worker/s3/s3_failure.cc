// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_failure.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "worker/base/text.h"
#include "worker/s3/xml.h"

namespace lmshm {

namespace {

struct Known {
  std::string_view code;
  int number;
  const char* hint;
};

constexpr const char* kFewerAttributes = "give fewer or shorter attributes";

constexpr Known kKnown[] = {
    {"NoSuchKey", ENOENT, ""},
    {"NoSuchBucket", ENXIO, "create it, or correct the bucket in the store's URL"},
    {"AccessDenied", EACCES, "these credentials may not do that with this bucket"},
    {"InvalidAccessKeyId", EACCES, "is AWS_ACCESS_KEY_ID that of this server?"},
    {"SignatureDoesNotMatch", EACCES,
     "is AWS_SECRET_ACCESS_KEY that of this key id, and is the region right?"},
    {"ExpiredToken", EACCES, "get new credentials and start the worker with them"},
    {"InvalidToken", EACCES, "get new credentials and start the worker with them"},
    {"AuthorizationHeaderMalformed", EACCES, "is the region right?"},
    {"AccountProblem", EACCES, ""},
    {"AllAccessDisabled", EACCES, ""},
    {"BadDigest", EBADMSG, "the bytes were changed on their way"},
    {"XAmzContentChecksumMismatch", EBADMSG, "the bytes were changed on their way"},
    {"XAmzContentSHA256Mismatch", EBADMSG, "the bytes were changed on their way"},
    {"EntityTooLarge", EFBIG, ""},
    {"MetadataTooLarge", E2BIG, kFewerAttributes},
    {"KeyTooLongError", ENAMETOOLONG, "this server allows less than S3 does"},
    {"QuotaExceeded", ENOSPC, "the bucket's quota is used up"},
    {"XMinioAdminBucketQuotaExceeded", ENOSPC, "the bucket's quota is used up"},
    {"XMinioStorageFull", ENOSPC, "the server's disks are full"},
    {"InsufficientStorage", ENOSPC, "the server's disks are full"},
    {"NotImplemented", EOPNOTSUPP, ""},
    {"MethodNotAllowed", EOPNOTSUPP, ""},
    {"SlowDown", EAGAIN, "fewer --io-threads ask for less at a time"},
    {"ServiceUnavailable", EAGAIN, ""},
    {"OperationAborted", EAGAIN, ""},
    {"ConditionalRequestConflict", EAGAIN, "somebody else stores or removes it all the time"},
    {"RequestTimeout", EAGAIN, ""},
};

int NumberOf(int status) {
  switch (status) {
    case 401:
    case 403:
      return EACCES;
    case 405:
    case 501:
      return EOPNOTSUPP;
    case 413:
      return EFBIG;
    case 429:
    case 503:
      return EAGAIN;
    case 431:
      return E2BIG;
    case 507:
      return ENOSPC;
    default:
      return EIO;
  }
}

std::string ClockHint(const HttpResponseHead& head, time_t now) {
  int64_t theirs = 0;
  const std::string* const date = head.Find("date");
  if (date == nullptr || !ParseHttpDate(*date, &theirs)) return "set this machine's clock";
  const int64_t ahead = static_cast<int64_t>(now) - theirs;
  return "this machine's clock is " + std::to_string(std::llabs(ahead)) + " s " +
         (ahead < 0 ? "behind" : "ahead of") + " the server's: set the wrong one";
}

std::string RegionHint(const S3Error& error, const S3Options& options) {
  return "the bucket is in " + Printable(error.region) + ", not in " + options.region +
         ": put region=" + Printable(error.region) +
         ", and an endpoint of that region, into the "
         "store's URL";
}

}  // namespace

S3Error ParseS3Error(const HttpResponseHead& head, std::string_view body) {
  S3Error error;
  XmlElement root;
  if (ParseXml(body, &root) && root.name == "Error") {
    error.code = root.TextOf("Code");
    error.message = root.TextOf("Message");
    error.region = root.TextOf("Region");
  }
  if (const std::string* const region = head.Find("x-amz-bucket-region")) error.region = *region;
  return error;
}

bool SurelyNotDone(int status, const S3Error& error) {
  return status == 429 || error.code == "SlowDown" || error.code == "ServiceUnavailable" ||
         error.code == "OperationAborted" || error.code == "ConditionalRequestConflict";
}

bool WorthRetrying(int status, const S3Error& error) {
  if (SurelyNotDone(status, error) || error.code == "RequestTimeout") return true;
  return status == 408 || status == 500 || status == 502 || status == 503 || status == 504;
}

Status S3Failure(const HttpResponseHead& head, const S3Error& error, const S3Options& options,
                 bool signed_in, time_t now) {
  const auto* const known = std::find_if(std::begin(kKnown), std::end(kKnown),
                                         [&](const Known& k) { return k.code == error.code; });
  int number = NumberOf(head.status);
  std::string hint;
  if (known != std::end(kKnown)) {
    number = known->number;
    hint = known->hint;
  }
  const bool elsewhere = !error.region.empty() && error.region != options.region;
  if (error.code == "RequestTimeTooSkewed") {
    number = EACCES;
    hint = ClockHint(head, now);
  } else if (elsewhere && (head.status == 301 || head.status == 400 || head.status == 307)) {
    number = EINVAL;
    hint = RegionHint(error, options);
  } else if (head.status >= 300 && head.status < 400) {
    number = EINVAL;
    const std::string* const location = head.Find("location");
    hint = "it sends us elsewhere, which is not followed: correct the endpoint in the store's URL";
    if (location != nullptr) hint += "; it names " + Printable(*location);
  } else if (head.status == 404 && error.code.empty()) {
    number = ENXIO;
    hint = "is there an S3 server at that endpoint?";
  } else if (number == EACCES && !signed_in) {
    hint =
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
        "--store-secret-file";
  }
  std::string text = "the server at " + options.host + " answers " + std::to_string(head.status);
  if (!error.code.empty()) text += " " + Printable(error.code);
  if (!error.message.empty()) {
    text += " \"";
    AppendPrintable(error.message, 300, &text);
    text += "\"";
  }
  if (!hint.empty()) text += " (" + hint + ")";
  return Status::Error(number, std::move(text));
}

}  // namespace lmshm
