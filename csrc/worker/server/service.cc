// SPDX-License-Identifier: Apache-2.0
#include "worker/server/service.h"

#include <utility>

#include "worker/base/log.h"

namespace lmshm {

Status Service::Attach(std::string_view name, uint64_t size, uint64_t base_address,
                       const std::string& peer, const Attachment::Check& check,
                       std::shared_ptr<const Attachment>* attachment) const {
  std::unique_ptr<Attachment> attached;
  Status status = WithSpareRoom(
      [&] { return Attachment::Open(name, size, base_address, segment_fds, &attached, check); });
  if (!status.ok()) return status;
  *attachment = std::move(attached);
  Log(LogLevel::kInfo,
      peer + ": attached " + std::string(name) + ", " + std::to_string(size) + " bytes");
  return status;
}

}  // namespace lmshm
