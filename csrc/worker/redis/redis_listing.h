// SPDX-License-Identifier: Apache-2.0
//
// RedisListing: the keys of all masters, by SCAN, one master after the other.
//
// SCAN promises every key that is there all the time, and may give one twice when the server's
// table grows or shrinks; within a page duplicates are left out. A slot of a cluster counts as read
// when one master had it from the beginning of its SCAN to the end. Where slots go to another node
// meanwhile, that node is read from its beginning, because its table is another one, until all
// slots are read; keys of those that are read already are left out then.
#ifndef LMSHM_WORKER_REDIS_REDIS_LISTING_H_
#define LMSHM_WORKER_REDIS_REDIS_LISTING_H_

#include <deque>
#include <string>
#include <vector>

#include "worker/redis/client.h"
#include "worker/storage/object_store.h"

namespace lmshm {

class RedisListing : public ObjectListing {
 public:
  // Keys that begin with `prefix`, whose names have `before` before them and `behind` behind.
  RedisListing(RedisClient* client, std::string before, std::string prefix, std::string behind);

  Status Read(const PageLimits& limits, const CancelCheck* cancel, std::vector<std::string>* keys,
              bool* ended) override;

 private:
  // A master that is being read.
  struct Part {
    Topology::Node node;        // null: none
    std::vector<size_t> slots;  // that it had at first, and that were not read
    std::string cursor = "0";
  };

  Status Choose(const CancelCheck* cancel);
  void Finish(const CancelCheck* cancel);
  Status Scan(const CancelCheck* cancel);
  void Keep(const std::vector<Reply>& names);

  RedisClient* const client_;
  const std::string before_;
  const std::string prefix_;
  const std::string behind_;
  // Of each slot: how often it may be read before it counts as read in any case; 0: it is.
  std::vector<int> left_;
  Part part_;
  bool all_read_ = false;
  std::deque<std::string> got_;  // that no page has had
};

// `text` as a pattern that matches it alone. For tests, too.
std::string EscapeGlob(std::string_view text);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_REDIS_LISTING_H_
