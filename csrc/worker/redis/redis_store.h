// SPDX-License-Identifier: Apache-2.0
//
// RedisStore: objects as string values of a Redis or Valkey server or cluster, each at
// <prefix><key>, in one of the layouts of options.h. docs/engines.md is for users.
//
// A batch goes through one connection to each node, pipelined; threads that are given parts of a
// batch have connections of their own. Small requests, and batches of small puts, go through the
// lane of their client (redis_lane.h).
#ifndef LMSHM_WORKER_REDIS_REDIS_STORE_H_
#define LMSHM_WORKER_REDIS_REDIS_STORE_H_

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/redis/client.h"
#include "worker/redis/options.h"
#include "worker/storage/object_store.h"
#include "worker/storage/store_url.h"

namespace lmshm {

class RedisStore : public ObjectStore {
 public:
  // Asks the server what it takes. One that cannot be reached or is loading is only logged: it may
  // be there later. The URL's scheme is redis, redis+unix or redis+cluster. `*store` is set
  // on success only. Blocks, for as long as the parameter timeout says. `cancel` may be null.
  //   EINVAL      a parameter that there is not, or a value that is none
  //   EACCES      the server does not let us in
  //   EOPNOTSUPP  it is a node of a cluster, and the URL says nothing of a cluster
  static Status Open(const StoreUrl& url, const StoreSecrets& secrets, const CancelCheck* cancel,
                     std::unique_ptr<RedisStore>* store);

  const StoreFacts& facts() const override { return facts_; }
  void Put(PutItem* items, size_t count, Turn* turn) override;
  // Of `space` beyond the object nothing is touched either.
  void Get(GetItem* items, size_t count, Turn* turn) override;
  Status Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) override;
  Status Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* yes) override;
  Status Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* removed) override;
  // By SCAN over all masters: what is not of our layout is listed, too, and a key that the server
  // moves in its table meanwhile may come twice.
  Status BeginListing(const std::string& prefix, std::unique_ptr<ObjectListing>* listing) override;
  // Null for layouts in which an object is two values.
  std::unique_ptr<Lane> OpenLane() override;
  std::string Describe() const override;

  // Where it may have to connect, as far as is known now.
  std::vector<Endpoint> endpoints() const { return client_.topology().endpoints(); }
  // The ports of all members of a cluster when it was opened: replicas that had failed, too, which
  // serve no slots and are no endpoints. Empty where nobody told.
  const std::vector<uint16_t>& member_ports() const { return member_ports_; }

 private:
  friend class RedisLane;  // which makes and finishes items as this does

  explicit RedisStore(RedisOptions options);

  Status LookAtServer(const CancelCheck* cancel);
  void SetMaxValue(uint64_t bytes);
  std::string NameOf(std::string_view key, std::string_view suffix = "") const;
  std::string_view MainSuffix() const;
  Status CheckPut(const PutItem& item) const;
  void FillSet(std::string name, bool if_absent, Command* command) const;
  // What an item wants of the server. Of a put: false if it cannot be had; then the item is done.
  bool FillPut(PutItem* item, Command* command, Command* metadata);
  void FillGet(const GetItem& item, Command* command) const;
  void FillDigit(const char* verb, const std::string& key, Command* command) const;
  // `decisive` is the command after which the object is there.
  void FinishPut(const Command& command, const Command& decisive, PutItem* item) const;
  bool LooksFirst(const PutItem& item) const;
  void LookFirst(PutItem* items, size_t count);
  // `commands` are one for each key.
  Status FinishDigits(const char* verb, const std::vector<std::string>& keys,
                      const std::deque<Command>& commands, std::vector<bool>* yes) const;
  void PutAll(PutItem* items, size_t count);
  void GetAll(GetItem* items, size_t count);
  void GetAllLmcache(GetItem* items, size_t count);
  void FinishGet(Command* command, GetItem* item) const;
  Status StatLmshm(std::string_view key, const CancelCheck* cancel, ObjectInfo* info);
  Status StatPayload(std::string_view key, const CancelCheck* cancel, ObjectInfo* info);
  Status StatLmcache(std::string_view key, const CancelCheck* cancel, ObjectInfo* info);
  Status Digits(const char* verb, const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* yes);
  Status Failed(const char* verb, std::string_view key, const Status& status) const;

  const RedisOptions options_;
  RedisClient client_;
  StoreFacts facts_;
  std::string server_;  // "valkey-9.1.0"
  std::vector<uint16_t> member_ports_;
  uint64_t max_value_bytes_ = 0;
  std::atomic<uint32_t> next_tag_{0};  // of the next value that is put
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_REDIS_STORE_H_
