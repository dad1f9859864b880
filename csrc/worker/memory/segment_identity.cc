// SPDX-License-Identifier: Apache-2.0
#include "worker/memory/segment_identity.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "worker/base/text.h"
#include "worker/base/unique_fd.h"

namespace lmshm {

namespace {

constexpr std::string_view kUnknown = "-";
constexpr size_t kBootDigits = 32;

bool IsBoot(std::string_view text) {
  return text == kUnknown || (text.size() == kBootDigits &&
                              text.find_first_not_of("0123456789abcdef") == std::string_view::npos);
}

// Takes the text before the next ':' off `rest`; false when there is none.
bool TakePart(std::string_view* rest, std::string_view* part) {
  const size_t colon = rest->find(':');
  if (colon == std::string_view::npos) return false;
  *part = rest->substr(0, colon);
  rest->remove_prefix(colon + 1);
  return true;
}

}  // namespace

std::string SegmentIdentity::ToString() const {
  return boot + ":" + std::to_string(device) + ":" + std::to_string(inode);
}

bool ParseIdentity(std::string_view text, std::optional<SegmentIdentity>* identity) {
  if (text == kUnknown) {
    identity->reset();
    return true;
  }
  std::string_view boot, device;
  SegmentIdentity parsed;
  if (!TakePart(&text, &boot) || !TakePart(&text, &device) || !IsBoot(boot) ||
      ParseU64(device, &parsed.device) != NumberError::kNone ||
      ParseU64(text, &parsed.inode) != NumberError::kNone) {
    return false;
  }
  parsed.boot = std::string(boot);
  *identity = std::move(parsed);
  return true;
}

std::string KernelBoot() {
  char text[64];
  const UniqueFd fd(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  const ssize_t length = fd.valid() ? read(fd.get(), text, sizeof text) : 0;
  std::string boot(text, static_cast<size_t>(std::max<ssize_t>(length, 0)));
  boot.erase(std::remove_if(boot.begin(), boot.end(), [](char c) { return c == '-' || c == '\n'; }),
             boot.end());
  return IsBoot(boot) ? boot : std::string(kUnknown);
}

Status CheckIdentity(const SegmentIdentity& claimed, std::string_view name, const struct stat& st,
                     const std::string& kernel_boot) {
  const SegmentIdentity found = {kernel_boot, static_cast<uint64_t>(st.st_dev),
                                 static_cast<uint64_t>(st.st_ino)};
  const bool other_kernel =
      claimed.boot != kUnknown && kernel_boot != kUnknown && claimed.boot != kernel_boot;
  if (!other_kernel && claimed.device == found.device && claimed.inode == found.inode) {
    return Status::OK();
  }
  const char* reason =
      other_kernel ? "worker and client run on different machines, and share no memory: run both "
                     "on one"
      : name.substr(0, 3) == "fd:" ? "the descriptor is of another file: start the worker with "
                                     "that of the client's segment"
      : claimed.device != found.device
          ? "worker and client see different /dev/shm: share it between the containers"
          : "the name now leads to another segment, because its owner was replaced or another "
            "program has taken it: attach it again and open a new connector";
  return Status::Error(ESTALE, "attach " + Printable(name) + ": the client's memory is file " +
                                   claimed.ToString() + ", and this is " + found.ToString() + "; " +
                                   reason);
}

}  // namespace lmshm
