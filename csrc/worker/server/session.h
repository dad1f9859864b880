// SPDX-License-Identifier: Apache-2.0
//
// Session: what one client has said so far, and the answer to what it says next.
//
// It is handed lines and hands back answers; where they come from and go to is connection.h's
// business. Nothing a client sends can make it fail: the worst is an ERROR answer.
#ifndef LMSHM_WORKER_SERVER_SESSION_H_
#define LMSHM_WORKER_SERVER_SESSION_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/cancel.h"
#include "worker/base/metrics.h"
#include "worker/base/status.h"
#include "worker/execution/engine.h"
#include "worker/memory/attachment.h"
#include "worker/memory/parent_maps.h"
#include "worker/memory/segment_identity.h"
#include "worker/protocol/answer.h"
#include "worker/protocol/request.h"
#include "worker/server/conversation.h"
#include "worker/storage/directories.h"
#include "worker/storage/io_mode.h"
#include "worker/storage/object_dir.h"

namespace lmshm {

// What all sessions of a worker share. Must outlive them; not changed while they live.
struct Service {
  const ObjectDir* objects = nullptr;
  std::vector<int> segment_fds;         // granted by --segment-fd
  std::string kernel_boot = "-";        // see KernelBoot()
  const ParentMaps* parent = nullptr;   // null: the client is not the parent, or it is not known
  const CancelCheck* cancel = nullptr;  // may be null
  // For version 2 of the protocol.
  Directories* directories = nullptr;  // null: version 2 is not served
  Quota* quota = nullptr;              // null: there is none
  std::string boot_id;                 // see boot_id.h

  Engine* engine = nullptr;   // null: requests are carried out where they are read
  IoMode io = IoMode::kAuto;  // where a request does not say
  Durability sync = Durability::kNone;
  size_t open_objects = 1;  // see RequestContext

  // Where there are no directories nothing is counted, and null is returned.
  Metrics* metrics() const {
    return directories == nullptr ? nullptr : &directories->share().metrics;
  }

  // See StoresShare.
  template <typename Step>
  Status WithSpareRoom(const Step& step, bool wait = true) const {
    return directories == nullptr ? step() : directories->share().WithSpareRoom(step, wait);
  }
};

// Where Metrics has the verbs of version 1: behind those of version 2.
inline constexpr size_t kWriteMetrics = Metrics::kVerbs - 2;
inline constexpr size_t kReadMetrics = Metrics::kVerbs - 1;

// In version 1 of the protocol.
class Session : public Conversation {
 public:
  // `peer` names the client in the log.
  Session(const Service& service, std::string peer);

  Next Handle(std::string_view line, std::string* answer) override;
  void HandleTooLong(std::string* answer) override;

  // Lets go of the segment, as if nothing had been attached.
  void Detach();

  const std::string& peer() const { return peer_; }

 private:
  Status Dispatch(const Request& request, std::string* result, Next* next);
  Status Identify(std::string_view identity);
  Status Attach(const Request& request);
  Status Transfer(const Request& request, std::string* result);
  void Count(Command command, const Status& status, Metrics::Clock::duration took) const;

  const Service& service_;
  const std::string peer_;
  std::optional<SegmentIdentity> identity_;  // what the client says that its memory is
  std::unique_ptr<Attachment> attachment_;   // null before ATTACH
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_SESSION_H_
