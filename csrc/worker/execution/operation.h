// SPDX-License-Identifier: Apache-2.0
//
// Carrying out one request of protocol version 2 that concerns objects.
//
// An operation has all it needs with it and shares ownership of the memory it works on: it may run
// on any thread, beside others, and outlive the client's attachment.
#ifndef LMSHM_WORKER_EXECUTION_OPERATION_H_
#define LMSHM_WORKER_EXECUTION_OPERATION_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "worker/base/cancel.h"
#include "worker/base/parallel.h"
#include "worker/base/status.h"
#include "worker/base/turn.h"
#include "worker/memory/attachment.h"
#include "worker/protocol/request_v2.h"
#include "worker/storage/key_listing.h"
#include "worker/storage/key_store.h"

namespace lmshm {

struct OperationContext {
  const KeyStore* store = nullptr;           // must outlive the operation, and so must the others
  KeyListing* listing = nullptr;             //
  std::shared_ptr<const Attachment> memory;  // null: nothing is attached
  const CancelCheck* cancel = nullptr;       // may be null
  Parallel* parallel = nullptr;              // may be null: nobody helps

  IoMode io = IoMode::kAuto;            // for objects that say nothing of it
  Durability sync = Durability::kNone;  // likewise
  size_t open_objects = 1;              // of a batch that are under way at one time
};

// What opening, describing and closing a file costs, as bytes that could be moved in the same time;
// and what making one does.
inline constexpr uint64_t kObjectCost = 16 * 1024;
inline constexpr uint64_t kNewObjectCost = 128 * 1024;

// PUT, GET, STAT, EXISTS, CONTAINS, REMOVE or LIST. One that takes long is carried out in turns
// (turn.h). Not thread safe: one thread at a time, which has others help it.
class Operation {
 public:
  Operation(RequestV2 request, OperationContext context);
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation();

  const RequestV2& request() const { return request_; }
  // Something has been done of it, so it should be finished.
  bool begun() const { return begun_; }

  // Goes on until it is over, and then returns true and sets `*status`, and `*result` to what
  // follows "OK" in the answer, at most `max_bytes`, each word with a space before it. False: its
  // turn is over. Of a batch every object has its own success or failure in there, and the whole
  // succeeds. Blocks.
  bool Go(size_t max_bytes, Status* status, std::string* result);

  // Bytes of shared memory that one turn moves, if somebody waits for the next.
  uint64_t TurnBytes() const;

 private:
  struct Item;
  struct Batch;

  bool GoTransfer(size_t index, Item* item, Turn* turn);
  bool GoPut(const TransferItem& object, Item* item, Turn* turn);
  bool GoGet(const TransferItem& object, Item* item, Turn* turn);
  bool GoBatch(size_t max_bytes, Turn* turn, std::string* result);
  void GoPart(size_t part, Turn* turn);
  bool GoOther(size_t max_bytes, Turn* turn, Status* status, std::string* result);
  bool GoKeys(Turn* turn, Status* status, std::string* result);

  const RequestV2 request_;
  const OperationContext context_;
  bool begun_ = false;
  std::unique_ptr<Item> item_;    // a lone one that is under way
  std::unique_ptr<Batch> batch_;  // once it is begun
  std::string_view keys_left_;    // that are not looked at yet
  std::string digits_;            // of the others
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_OPERATION_H_
