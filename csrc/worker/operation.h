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
#include "worker/key_listing.h"
#include "worker/key_store.h"
#include "worker/request_v2.h"
#include "worker/status.h"

namespace lmshm {

struct OperationContext {
  const KeyStore* store = nullptr;           // must outlive the operation
  KeyListing* listing = nullptr;             // likewise
  std::shared_ptr<const Attachment> memory;  // null: nothing is attached
  const CancelCheck* cancel = nullptr;       // may be null
};

// Carries out PUT, GET, STAT, EXISTS, REMOVE or LIST and sets `*result` to what follows "OK" in
// the answer, at most `max_bytes`, each word with a space before it. Blocks. Thread safe.
Status RunOperation(const RequestV2& request, const OperationContext& context, size_t max_bytes,
                    std::string* result);

}  // namespace lmshm

#endif  // LMSHM_WORKER_OPERATION_H_
