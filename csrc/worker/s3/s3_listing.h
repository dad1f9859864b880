// SPDX-License-Identifier: Apache-2.0
//
// The keys of a bucket, page by page: ListObjectsV2.
#ifndef LMSHM_WORKER_S3_S3_LISTING_H_
#define LMSHM_WORKER_S3_S3_LISTING_H_

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "worker/s3/s3_client.h"
#include "worker/storage/object_store.h"

namespace lmshm {

struct S3ListPage {
  std::vector<std::string> names;
  std::string next;  // continuation token; empty: that was all
};

// False for what is no <ListBucketResult>, or says that there is more and not where. Pure.
[[nodiscard]] bool ParseS3ListPage(std::string_view document, S3ListPage* page);

class S3Listing : public ObjectListing {
 public:
  // `client` must outlive it.
  S3Listing(S3Client* client, std::string prefix) : client_(client), prefix_(std::move(prefix)) {}

  Status Read(const PageLimits& limits, const CancelCheck* cancel, std::vector<std::string>* keys,
              bool* ended) override;

 private:
  Status Fetch(size_t most, const CancelCheck* cancel);

  S3Client* const client_;
  const std::string prefix_;  // of the keys
  std::string next_;          // of the page that is asked for next; empty: the first
  bool fetched_all_ = false;
  std::deque<std::string> keys_;  // that came with a page and had no room in the caller's
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_LISTING_H_
