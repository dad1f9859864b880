// SPDX-License-Identifier: Apache-2.0
//
// What an s3:// URL says, taken apart and checked:
//
//     s3://bucket[/prefix]?endpoint=URL[&via=HOST:PORT][&region=NAME][&path_style=BOOL]
//                         [&layout=NAME][&chunk_bytes=N][&sign_payload=BOOL][&timeout=SECONDS]
//
// This worker speaks no TLS: an endpoint https:// needs `via`, the near end of a tunnel (stunnel)
// that does. What goes through it is addressed to, and signed for, the endpoint.
//
// What is signed is the request with its headers, the checksum and the record of an object among
// them, but not the bytes of the object: their SHA-256 would cost a multiple of the transfer.
// sign_payload=true is for servers that insist on it. Pure functions.
#ifndef LMSHM_WORKER_S3_S3_OPTIONS_H_
#define LMSHM_WORKER_S3_S3_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/storage/store_url.h"

namespace lmshm {

// How an object is named in the bucket; see s3_names.h.
enum class S3Layout { kLmshm, kPayload, kLmcacheS3 };

struct S3Options {
  std::string bucket;
  std::string prefix;  // empty, or ends with "/"
  StoreHost connect;   // where connections go to: the endpoint, or the tunnel
  std::string host;  // of the header Host: the endpoint, with its port unless that is the usual one
  bool tls = false;  // the endpoint is https://
  std::string region = "us-east-1";
  bool path_style = true;  // http://host/bucket/name; else http://bucket.host/name
  S3Layout layout = S3Layout::kLmshm;
  std::optional<uint64_t> chunk_bytes;        // the only length that a put may have
  bool sign_payload = false;                  // the signature covers the bytes of an object, too
  std::chrono::milliseconds timeout{10'000};  // how long nothing may move
};

// EINVAL with a text for whoever started the worker; EPROTONOSUPPORT for an endpoint https://
// without a tunnel.
Status ParseS3Options(const StoreUrl& url, S3Options* options);

std::string_view S3LayoutName(S3Layout layout);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_OPTIONS_H_
