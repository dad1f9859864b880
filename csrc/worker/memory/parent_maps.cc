// SPDX-License-Identifier: Apache-2.0
#include "worker/memory/parent_maps.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr uint32_t kTmpfs = 0x01021994;  // linux/magic.h
constexpr size_t kPieceBytes = 64 * 1024;

}  // namespace

bool FindSharedMapping(std::string_view line, uint64_t address, uint64_t* device, uint64_t* inode) {
  // "7f0000000000-7f0040000000 rw-s 00000000 00:1b 42   /dev/shm/kv": the numbers come first.
  char text[128];
  const size_t length = std::min(line.size(), sizeof text - 1);
  memcpy(text, line.data(), length);
  text[length] = '\0';
  uint64_t begin, end, offset, number;
  unsigned major_number, minor_number;
  char access[5] = "";
  if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &begin, &end, access,
             &offset, &major_number, &minor_number, &number) != 7) {
    return false;
  }
  if (address < begin || address >= end || access[3] != 's' || number == 0) return false;
  *device = makedev(major_number, minor_number);
  *inode = number;
  return true;
}

std::unique_ptr<ParentMaps> ParentMaps::Open() {
  const std::string path = "/proc/" + std::to_string(getppid()) + "/maps";
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return nullptr;
  return std::unique_ptr<ParentMaps>(new ParentMaps(std::move(fd)));
}

Status ParentMaps::Check(uint64_t address, std::string_view name, int fd,
                         const struct stat& st) const {
  // On others the list may show another device than stat() does.
  struct statfs system;
  if (fstatfs(fd, &system) != 0 || static_cast<uint32_t>(system.f_type) != kTmpfs) {
    return Status::OK();
  }
  if (lseek(fd_.get(), 0, SEEK_SET) != 0) return Status::OK();
  std::string rest;
  char piece[kPieceBytes];
  for (;;) {
    const ssize_t n = read(fd_.get(), piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Status::OK();
    rest.append(piece, static_cast<size_t>(n));
    size_t at = 0;
    for (size_t end; (end = rest.find('\n', at)) != std::string::npos; at = end + 1) {
      uint64_t device, inode;
      const std::string_view line = std::string_view(rest).substr(at, end - at);
      if (!FindSharedMapping(line, address, &device, &inode)) continue;
      if (device == st.st_dev && inode == st.st_ino) return Status::OK();
      return Status::Error(
          ESTALE, "attach " + Printable(name) + ": the parent process has file " +
                      std::to_string(device) + ":" + std::to_string(inode) + " at its address " +
                      std::to_string(address) + ", and this is " + std::to_string(st.st_dev) + ":" +
                      std::to_string(st.st_ino) +
                      "; the name now leads to another segment, or this is another /dev/shm: "
                      "attach the segment again and start a new worker");
    }
    rest.erase(0, at);
  }
}

}  // namespace lmshm
