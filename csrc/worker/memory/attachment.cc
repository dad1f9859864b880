// SPDX-License-Identifier: Apache-2.0
#include "worker/memory/attachment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#include "worker/base/text.h"
#include "worker/base/unique_fd.h"

namespace lmshm {

namespace {

constexpr char kDirectory[] = "/dev/shm";
constexpr std::string_view kDescriptorPrefix = "fd:";
constexpr size_t kMaxNameBytes = 254;

Status OpenByName(std::string_view name, const std::string& action, UniqueFd* fd) {
  std::string_view component = name;
  if (component.front() == '/') component.remove_prefix(1);
  if (component.empty() || component == "." || component == ".." ||
      component.find('/') != std::string_view::npos ||
      component.find('\0') != std::string_view::npos) {
    return Status::Error(EINVAL, action + ": a segment's name is one path component");
  }
  if (component.size() > kMaxNameBytes) {
    return Status::Error(ENAMETOOLONG, action + ": the name has " +
                                           std::to_string(component.size()) + " bytes, more than " +
                                           std::to_string(kMaxNameBytes));
  }
  // What shm_open() does, with O_NONBLOCK in case a FIFO has the name.
  const std::string path = std::string(kDirectory) + "/" + std::string(component);
  fd->Reset(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (fd->valid()) return Status::OK();
  switch (errno) {
    case ENOENT:
      if (access(kDirectory, F_OK) != 0) {
        return Status::Error(ENOENT, action + ": this worker has no /dev/shm; mount a tmpfs there");
      }
      return Status::System(ENOENT, action,
                            "create the segment first; in containers, worker and client must "
                            "share /dev/shm");
    case ELOOP:
    case EISDIR:
    case ENXIO:
      return Status::Error(EINVAL, action + ": not a shared memory segment");
    case EACCES:
      return Status::System(
          EACCES, action,
          "the worker, user " + std::to_string(geteuid()) + ", must run as the segment's owner");
    default:
      return Status::System(errno, action);
  }
}

Status FindGranted(std::string_view number, const std::vector<int>& granted,
                   const std::string& action, int* fd) {
  uint64_t value;
  if (ParseU64(number, &value) != NumberError::kNone) {
    return Status::Error(EINVAL, action + ": expected fd:<number>");
  }
  for (const int candidate : granted) {
    if (static_cast<uint64_t>(candidate) != value) continue;
    *fd = candidate;
    return Status::OK();
  }
  return Status::Error(EACCES, action +
                                   ": descriptor not granted; start the worker with it open "
                                   "and with --segment-fd " +
                                   Printable(number));
}

}  // namespace

Attachment::~Attachment() { munmap(memory_, size_); }

Status Attachment::Open(std::string_view name, uint64_t size, uint64_t base_address,
                        const std::vector<int>& granted_fds, std::unique_ptr<Attachment>* result,
                        const Check& check) {
  const std::string action = "attach " + Printable(name);
  if (name.empty()) return Status::Error(EINVAL, "attach: the segment's name is empty");
  if (size == 0) return Status::Error(EINVAL, action + ": size 0");
  if (size > std::numeric_limits<size_t>::max() ||
      base_address > std::numeric_limits<uint64_t>::max() - size) {
    return Status::Error(ERANGE, action + ": base address " + std::to_string(base_address) +
                                     " + size " + std::to_string(size) + " is over 2^64");
  }

  const bool by_name = name.substr(0, kDescriptorPrefix.size()) != kDescriptorPrefix;
  UniqueFd opened;
  int fd = -1;
  if (by_name) {
    Status status = OpenByName(name, action, &opened);
    if (!status.ok()) return status;
    fd = opened.get();
  } else {
    Status status = FindGranted(name.substr(kDescriptorPrefix.size()), granted_fds, action, &fd);
    if (!status.ok()) return status;
  }

  struct stat st;
  if (fstat(fd, &st) != 0) return Status::System(errno, action);
  if (!S_ISREG(st.st_mode)) {
    return Status::Error(EINVAL, action + ": not a shared memory segment");
  }
  // A granted descriptor was handed over by the parent process, whoever made it.
  if (by_name && st.st_uid != geteuid()) {
    return Status::Error(EACCES, action + ": it belongs to user " + std::to_string(st.st_uid) +
                                     ", and this worker is user " + std::to_string(geteuid()));
  }
  if (check != nullptr) {
    Status status = check(fd, st);
    if (!status.ok()) return status;
  }
  if (static_cast<uint64_t>(st.st_size) < size) {
    return Status::Error(ERANGE, action + ": asked for " + std::to_string(size) +
                                     " bytes, but the segment has " + std::to_string(st.st_size));
  }

  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    return Status::System(errno, action + ": map " + std::to_string(size) + " bytes");
  }
  result->reset(new Attachment(memory, size, base_address));
  return Status::OK();
}

Status Attachment::Resolve(uint64_t address, uint64_t length, SharedBytes* result) const {
  // Only subtractions whose result is known not to be negative: nothing here can wrap.
  const bool inside = address >= base_address_ && address - base_address_ <= size_ &&
                      length <= size_ - (address - base_address_);
  if (!inside) {
    return Status::Error(
        ERANGE, std::to_string(length) + " bytes at address " + std::to_string(address) +
                    " are not inside the attached segment, which has " + std::to_string(size_) +
                    " bytes from " + std::to_string(base_address_) + " on");
  }
  result->address = static_cast<char*>(memory_) + (address - base_address_);
  result->size = length;
  return Status::OK();
}

}  // namespace lmshm
