// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/storage_facts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "worker/base/status.h"
#include "worker/storage/atomic_file.h"
#include "worker/storage/attributes.h"

namespace lmshm {

namespace {

// Enough for every device that there is, where the kernel does not say.
constexpr uint32_t kSafeAlignment = 4096;
constexpr uint32_t kLargestAlignment = 64 * 1024;

struct FileSystem {
  uint32_t type;  // statfs(2)
  const char* name;
  bool local;          // it has a disk of its own, or none
  bool tells_changes;  // see StorageFacts
};
constexpr FileSystem kFileSystems[] = {
    {0xef53, "ext4", true, true},          {0x58465342, "xfs", true, true},
    {0x9123683e, "btrfs", true, true},     {0x01021994, "tmpfs", true, true},
    {0xf2f52010, "f2fs", true, false},     {0x858458f6, "ramfs", true, false},
    {0x2fc12fc1, "zfs", true, false},      {0x4d44, "fat", true, false},
    {0xca451a4e, "bcachefs", true, false}, {0x6969, "nfs", false, false},
    {0x00c36400, "ceph", false, false},    {0x65735546, "fuse", false, false},
    {0x794c7630, "overlay", false, false}, {0xff534d42, "cifs", false, false},
    {0xfe534d42, "smb2", false, false},    {0x0bd00bd0, "lustre", false, false},
    {0x01021997, "9p", false, false},
};

FileSystem FileSystemOf(int dir_fd) {
  struct statfs fs;
  if (fstatfs(dir_fd, &fs) != 0) return {0, "unknown", false, false};
  const uint32_t type = static_cast<uint32_t>(fs.f_type);
  for (const FileSystem& known : kFileSystems) {
    if (known.type == type) return known;
  }
  return {type, nullptr, false, false};
}

std::string NameOf(const FileSystem& file_system) {
  if (file_system.name != nullptr) return file_system.name;
  char text[16];
  snprintf(text, sizeof text, "0x%x", static_cast<unsigned>(file_system.type));
  return text;
}

// The part of struct statx (Linux 6.1) that is asked for; older headers do not have it.
struct StatxReply {
  uint32_t mask;
  char before[148];
  uint32_t memory_alignment;
  uint32_t offset_alignment;
  char after[96];
};
static_assert(sizeof(StatxReply) == 256 && offsetof(StatxReply, memory_alignment) == 152);
constexpr unsigned kDirectAlignment = 0x2000;  // STATX_DIOALIGN

enum class Told { kNothing, kPossible, kImpossible };

// What the kernel says of O_DIRECT with this file.
Told AskAlignment(int fd, StorageFacts* facts) {
#ifdef SYS_statx
  StatxReply reply = {};
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, kDirectAlignment, &reply) != 0 ||
      (reply.mask & kDirectAlignment) == 0) {
    return Told::kNothing;
  }
  if (reply.offset_alignment == 0 || reply.memory_alignment == 0) return Told::kImpossible;
  if (reply.offset_alignment > kLargestAlignment || reply.memory_alignment > kLargestAlignment) {
    return Told::kImpossible;
  }
  facts->direct_offset = reply.offset_alignment;
  facts->direct_memory = reply.memory_alignment;
  return Told::kPossible;
#else
  (void)fd;
  (void)facts;
  return Told::kNothing;
#endif
}

// Writes a block past the page cache and reads it back. "" or what failed.
std::string TryDirect(int fd, uint32_t alignment) {
  const std::unique_ptr<void, void (*)(void*)> memory(aligned_alloc(alignment, 2 * alignment),
                                                      free);
  if (memory == nullptr) return "out of memory";
  char* const out = static_cast<char*>(memory.get());
  char* const in = out + alignment;
  std::memset(out, 0x5a, alignment);
  std::memset(in, 0, alignment);
  if (fcntl(fd, F_SETFL, O_DIRECT) != 0) return "O_DIRECT: " + ErrnoName(errno);
  const ssize_t wrote = pwrite(fd, out, alignment, 0);
  if (wrote < 0) return "writing with O_DIRECT: " + ErrnoName(errno);
  const ssize_t got = pread(fd, in, alignment, 0);
  if (got < 0) return "reading with O_DIRECT: " + ErrnoName(errno);
  if (wrote != static_cast<ssize_t>(alignment) || got != wrote ||
      std::memcmp(in, out, alignment) != 0) {
    return "a block that was written with O_DIRECT did not come back";
  }
  return std::string();
}

void ProbeDirect(int fd, StorageFacts* facts) {
  if (facts->file_system == "tmpfs" || facts->file_system == "ramfs") {
    // It may be accepted there, and means nothing.
    facts->direct_reason = "its files are in the page cache and nowhere else";
    return;
  }
  const Told told = AskAlignment(fd, facts);
  if (told == Told::kImpossible) {
    facts->direct_reason = "the kernel says that O_DIRECT is not possible with its files";
    return;
  }
  const uint32_t alignment = told == Told::kPossible
                                 ? std::max(facts->direct_offset, facts->direct_memory)
                                 : kSafeAlignment;
  facts->direct_reason = TryDirect(fd, std::max(alignment, kSafeAlignment));
  if (!facts->direct_reason.empty()) {
    facts->direct_offset = facts->direct_memory = 0;
  } else if (told == Told::kNothing) {
    facts->direct_offset = facts->direct_memory = kSafeAlignment;
  }
}

}  // namespace

int ProbeStorage(int dir_fd, StorageFacts* facts) {
  *facts = StorageFacts();
  const FileSystem file_system = FileSystemOf(dir_fd);
  facts->file_system = NameOf(file_system);
  facts->tells_changes = file_system.tells_changes;
  AtomicFile file;
  AtomicFileOptions options;
  options.readable = true;
  const int error = file.Create(dir_fd, "storage-test", options);
  if (error == EMFILE || error == ENFILE) return error;
  facts->attributes = DetectAttributes(dir_fd, file.fd());
  if (error != 0) {
    facts->direct_reason = "no file can be made to try it with: " + ErrnoName(error);
    return 0;
  }
  facts->unnamed_files = file_system.local && CanPublishUnnamed(dir_fd);
  facts->exact_mode = file.had_exact_mode();
  ProbeDirect(file.fd(), facts);
  return 0;
}

bool IsLocalFileSystem(int dir_fd) { return FileSystemOf(dir_fd).local; }

std::string DescribeDirect(const StorageFacts& facts) {
  if (!facts.direct()) return "none on this " + facts.file_system + ": " + facts.direct_reason;
  return "files in multiples of " + std::to_string(facts.direct_offset) + ", memory of " +
         std::to_string(facts.direct_memory) + " bytes (" + facts.file_system + ")";
}

}  // namespace lmshm
