// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_record.h"

#include <cerrno>
#include <utility>

namespace lmshm {

Status RecordHeader(const ObjectRecord& record, std::string* value) {
  constexpr char kHex[] = "0123456789ABCDEF";
  value->clear();
  for (const char c : FormatRecord(record)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      value->push_back(c);
      continue;
    }
    value->push_back('%');
    value->push_back(kHex[byte >> 4]);
    value->push_back(kHex[byte & 15]);
  }
  const size_t bytes =
      kRecordHeader.substr(std::string_view("x-amz-meta-").size()).size() + value->size();
  if (bytes <= kMaxMetadataBytes) return Status::OK();
  return Status::Error(E2BIG, "its attributes would be " + std::to_string(bytes) +
                                  " bytes of metadata; S3 has room for " +
                                  std::to_string(kMaxMetadataBytes) + ": give fewer or shorter");
}

Status InfoOf(const HttpResponseHead& head, std::string_view key, ObjectInfo* info) {
  *info = ObjectInfo();
  if (!head.content_length.has_value()) {
    return Status::Error(EPROTO, "the server does not say how long the object is");
  }
  info->length = *head.content_length;
  int64_t seconds = 0;
  const std::string* const modified = head.Find("last-modified");
  if (modified != nullptr && ParseHttpDate(*modified, &seconds) && seconds > 0) {
    info->mtime_ms = static_cast<uint64_t>(seconds) * 1000;
  }
  const std::string* const text = head.Find(kRecordHeader);
  if (text == nullptr) return Status::OK();
  ObjectRecord record;
  if (!ParseRecord(*text, &record)) {
    return Status::Error(EBADMSG, "the metadata \"lmshm\" of the object is not what was stored");
  }
  if (record.key_check != KeyCheck(key)) {
    return Status::Error(EBADMSG,
                         "what the bucket has under this name is the object of another key");
  }
  if (record.length != info->length) {
    return Status::Error(EBADMSG, "the object has " + std::to_string(info->length) + " bytes; " +
                                      std::to_string(record.length) + " were stored");
  }
  info->crc32c = record.crc32c;
  info->attributes = std::move(record.attributes);
  return Status::OK();
}

}  // namespace lmshm
