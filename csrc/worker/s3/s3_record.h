// SPDX-License-Identifier: Apache-2.0
//
// What is remembered with an object in a bucket, as one header of user-defined metadata:
//
//     x-amz-meta-lmshm: 33554432 5cbb4fe7 1a2b3c4d shape=2,32,256,1024 dtype=bfloat16
//
// That is the record of object_record.h, in which bytes that are not ASCII are coded, too. S3
// stores it with the bytes, at once. Pure functions.
#ifndef LMSHM_WORKER_S3_S3_RECORD_H_
#define LMSHM_WORKER_S3_S3_RECORD_H_

#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/s3/http_response.h"
#include "worker/storage/object_record.h"
#include "worker/storage/object_store.h"

namespace lmshm {

inline constexpr std::string_view kRecordHeader = "x-amz-meta-lmshm";
// What S3 allows for names and values of all user-defined metadata of an object.
inline constexpr size_t kMaxMetadataBytes = 2048;

// E2BIG where S3 has no room for it.
Status RecordHeader(const ObjectRecord& record, std::string* value);

// What the answer to a GET or HEAD of the object of `key` says about it. Objects of others have no
// record: length and time are known then. EBADMSG for a record that is none, or of another key or
// length.
Status InfoOf(const HttpResponseHead& head, std::string_view key, ObjectInfo* info);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_RECORD_H_
