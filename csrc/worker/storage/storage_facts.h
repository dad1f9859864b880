// SPDX-License-Identifier: Apache-2.0
//
// What the file system of a directory can do, found out once, when it is opened: by asking
// the kernel where it knows, else by trying with a temporary file. Nothing is left behind.
#ifndef LMSHM_WORKER_STORAGE_STORAGE_FACTS_H_
#define LMSHM_WORKER_STORAGE_STORAGE_FACTS_H_

#include <cstdint>
#include <string>

namespace lmshm {

struct StorageFacts {
  std::string file_system;  // "ext4"; "0x1234" for one without a name here

  // O_DIRECT: of what file offsets and lengths, and of what memory addresses must be multiples,
  // in bytes. 0: it cannot be used here, for `direct_reason`.
  uint32_t direct_offset = 0;
  uint32_t direct_memory = 0;
  std::string direct_reason;
  bool direct() const { return direct_offset != 0; }

  bool attributes = false;  // files can have attributes, see attributes.h
  // Objects can be made without a name first, see CanPublishUnnamed(), and a failure to write is
  // never reported only when the file is closed.
  bool unnamed_files = false;
  // Writing to a file, cutting it and setting its attributes change the time of its inode's last
  // change, for every process at once; see KeptFiles. (f2fs has not always done so for attributes.)
  bool tells_changes = false;
  // A new file has the access that all get (file_access.h) without help: neither umask nor a
  // default ACL takes from it, and no group has to be given.
  bool exact_mode = false;
};

// Of the directory `dir_fd` (may be O_PATH). Blocks for some system calls. Returns 0, or EMFILE or
// ENFILE: there was no descriptor to find out with.
[[nodiscard]] int ProbeStorage(int dir_fd, StorageFacts* facts);

// Whether the directory's file system has a disk of its own, or none: no other machine changes it.
bool IsLocalFileSystem(int dir_fd);

// Where O_DIRECT can be used, or why it cannot: for the log.
std::string DescribeDirect(const StorageFacts& facts);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_STORAGE_FACTS_H_
