// SPDX-License-Identifier: Apache-2.0
//
// Carrying out one request of protocol version 2 that concerns objects.
//
// An operation has all it needs with it and shares ownership of the memory it works on: it may run
// on any thread, beside others, and outlive the client's attachment.
#ifndef LMSHM_WORKER_OPERATION_H_
#define LMSHM_WORKER_OPERATION_H_

#include <cstddef>
#include <memory>
#include <string>

#include "worker/attachment.h"
#include "worker/cancel.h"
#include "worker/figures.h"
#include "worker/key_listing.h"
#include "worker/key_store.h"
#include "worker/parallel.h"
#include "worker/request_v2.h"
#include "worker/status.h"

namespace lmshm {

struct OperationContext {
  const KeyStore* store = nullptr;           // must outlive the operation, and so must the others
  KeyListing* listing = nullptr;             //
  std::shared_ptr<const Attachment> memory;  // null: nothing is attached
  const CancelCheck* cancel = nullptr;       // may be null
  Parallel* parallel = nullptr;              // may be null: nobody helps
  Figures* figures = nullptr;                // may be null: nothing is counted
  IoMode io = IoMode::kAuto;                 // for objects that say nothing of it
  Durability sync = Durability::kNone;       // likewise
};

// Carries out PUT, GET, STAT, EXISTS, CONTAINS, REMOVE or LIST and sets `*result` to what follows
// "OK" in the answer, at most `max_bytes`, each word with a space before it. Of a batch every
// object has its own success or failure in there, and the whole succeeds. Blocks. Thread safe.
Status RunOperation(const RequestV2& request, const OperationContext& context, size_t max_bytes,
                    std::string* result);

// What is answered to a request that was cancelled before it was begun, which this counts.
Status CancelledBefore(const RequestV2& request, const OperationContext& context);

}  // namespace lmshm

#endif  // LMSHM_WORKER_OPERATION_H_
