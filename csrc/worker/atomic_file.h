// SPDX-License-Identifier: Apache-2.0
//
// AtomicFile: a file that appears under its name whole or not at all.
//
// Data goes to a temporary file of its own in the same directory, created exclusively, and
// Publish() renames it over the target. Until then, and whatever fails or is killed, readers see
// the old file or none. A process that is killed leaves its temporary behind, named
//
//     .<up to 64 bytes of the target's name>.<process id>.<16 hex digits>.tmp
//
// so that a collector can tell whose it was. O_TMPFILE would leave nothing, but linkat() cannot
// replace an existing name.
#ifndef LMSHM_WORKER_ATOMIC_FILE_H_
#define LMSHM_WORKER_ATOMIC_FILE_H_

#include <cstdint>
#include <string>

#include "worker/unique_fd.h"

namespace lmshm {

// Not thread safe; any number of them may be at work on one target, the last Publish() wins.
class AtomicFile {
 public:
  AtomicFile() = default;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();  // removes the temporary unless it was published

  // Creates the temporary, mode 0600 whatever the umask, for `name` (one component) in the
  // directory `dir_fd`, which stays the caller's and must live as long as this. Once only.
  // Returns 0 or an errno value.
  [[nodiscard]] int Create(int dir_fd, const std::string& name);

  // Asks the file system for `length` bytes now: ENOSPC comes before any data has been moved, and
  // writing large files is faster. Where the file system cannot reserve, this does nothing.
  // Returns 0 or an errno value.
  [[nodiscard]] int Reserve(uint64_t length);

  // The temporary, open for writing, until Publish().
  int fd() const { return fd_.get(); }

  // Closes the temporary and renames it onto the target. Returns 0 or an errno value: some file
  // systems report a failed write only when the file is closed. Does not wait for the disk.
  [[nodiscard]] int Publish();

 private:
  int dir_fd_ = -1;
  UniqueFd fd_;
  std::string name_;
  std::string temporary_;  // empty when there is none to remove
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_ATOMIC_FILE_H_
