// SPDX-License-Identifier: Apache-2.0
//
// S3Store: the objects of a bucket of an S3 server, each one object of the bucket with its record
// as metadata (s3_record.h) under a name that says its key (s3_names.h). Objects that others have
// put there have no record and are served without.
//
// S3 makes it easy to keep an object whole: a PUT is there as a whole, with its metadata, or not at
// all, and who reads sees one version of it.
#ifndef LMSHM_WORKER_S3_S3_STORE_H_
#define LMSHM_WORKER_S3_S3_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/s3/s3_client.h"
#include "worker/s3/s3_options.h"
#include "worker/storage/object_store.h"
#include "worker/storage/store_url.h"

namespace lmshm {

class S3Store : public ObjectStore {
 public:
  // Connects to nothing yet. EINVAL or EPROTONOSUPPORT for a URL that cannot be, EACCES for half a
  // set of credentials. `*store` is set on success only.
  static Status Open(const StoreUrl& url, const StoreSecrets& secrets,
                     std::unique_ptr<S3Store>* store);

  // Where it connects to.
  const Endpoint& endpoint() const { return client_.endpoint(); }

  // Whether there is such a bucket, and we may look into it. Blocks.
  Status CheckBucket(const CancelCheck* cancel);

  const StoreFacts& facts() const override { return facts_; }
  void Put(PutItem* items, size_t count, Turn* turn) override;
  void Get(GetItem* items, size_t count, Turn* turn) override;
  Status Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) override;
  Status Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* yes) override;
  Status Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* removed) override;
  Status BeginListing(const std::string& prefix, std::unique_ptr<ObjectListing>* listing) override;
  std::string Describe() const override;

 private:
  S3Store(S3Options options, StoreSecrets secrets);

  Status PutOne(PutItem* item);
  // Of those that are put only if there is no object: finishes those that find one, or fail.
  void LookBeforePut(PutItem* items, size_t count);
  // `outcomes` gets a place for each key: success, it is there; ENOENT, it is not.
  void LookForAll(const std::vector<std::string>& keys, const CancelCheck* cancel,
                  std::vector<Status>* outcomes);
  Status GetOne(GetItem* item);
  // One request without a body for each key.
  Status AskForAll(std::string_view method, const std::vector<std::string>& keys,
                   const CancelCheck* cancel, std::vector<S3Answer>* answers,
                   std::vector<Status>* outcomes);
  // An answer to HEAD has no text: makes of a failure what the server says when it is asked for the
  // bucket. ENOENT stays where there is the bucket.
  Status ExplainHead(const S3Answer& answer, const Status& status, const CancelCheck* cancel);
  void SawBucket();

  S3Client client_;
  const StoreFacts facts_;
  std::atomic<int64_t> saw_bucket_{0};  // seconds of the steady clock; 0: never
  // A put with a condition was refused, and without it was not.
  std::atomic<bool> lacks_conditions_{false};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_S3_STORE_H_
