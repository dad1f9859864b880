// SPDX-License-Identifier: Apache-2.0
//
// Service: what all sessions of a worker share.
#ifndef LMSHM_WORKER_SERVER_SERVICE_H_
#define LMSHM_WORKER_SERVER_SERVICE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/metrics.h"
#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/execution/engine.h"
#include "worker/memory/attachment.h"
#include "worker/memory/parent_maps.h"
#include "worker/storage/io_mode.h"
#include "worker/storage/object_dir.h"
#include "worker/storage/quota.h"
#include "worker/storage/stores.h"

namespace lmshm {

// What a session wants after its answer has been sent.
enum class AfterAnswer {
  kContinue,
  kQuit,  // the client said QUIT: close
};

// Where Metrics has the verbs of version 1: behind those of version 2.
inline constexpr size_t kWriteMetrics = Metrics::kVerbs - 2;
inline constexpr size_t kReadMetrics = Metrics::kVerbs - 1;

// Must outlive all sessions; not changed while they live.
struct Service {
  const ObjectDir* objects = nullptr;   // for version 1; null: it is not served
  std::vector<int> segment_fds;         // granted by --segment-fd
  std::string kernel_boot = "-";        // see KernelBoot()
  const ParentMaps* parent = nullptr;   // null: the client is not the parent, or it is not known
  const CancelCheck* cancel = nullptr;  // may be null
  // For version 2 of the protocol.
  Stores* stores = nullptr;   // null: version 2 is not served
  std::string boot_id;        // 16 random digits
  Quota* quota = nullptr;     // null: there is none
  Engine* engine = nullptr;   // null: requests are carried out where they are read
  IoMode io = IoMode::kAuto;  // where a request does not say
  Durability sync = Durability::kNone;
  size_t open_objects = 1;  // see RequestContext

  // Where there are no stores nothing is counted, and null is returned.
  Metrics* metrics() const { return stores == nullptr ? nullptr : &stores->share().metrics; }

  // See StoresShare.
  template <typename Step>
  Status WithSpareRoom(const Step& step, bool wait = true) const {
    return stores == nullptr ? step() : stores->share().WithSpareRoom(step, wait);
  }

  // Maps a segment for the client `peer` (for the log): see Attachment::Open(). On failure
  // `*attachment` stays as it was.
  Status Attach(std::string_view name, uint64_t size, uint64_t base_address,
                const std::string& peer, const Attachment::Check& check,
                std::shared_ptr<const Attachment>* attachment) const;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SERVICE_H_
