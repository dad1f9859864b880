// SPDX-License-Identifier: Apache-2.0
//
// AtomicFile: a file that appears under its name whole or not at all.
//
// Data goes to a file of its own in the same directory, and Publish() gives it the target's name.
// Until then, and whatever fails or is killed, readers see the old file or none.
//
// Best is a file without a name (O_TMPFILE): nothing is left when its writer is killed, and a new
// name is made for it at once, which costs half of what a renaming costs. linkat() cannot replace a
// file, though: where the target exists, and where there are no such files, it is a temporary
// (temporary_name.h), created exclusively and renamed onto the target. Its writer holds a lock on
// it (flock) for as long as it lives, so that leftovers.h can tell those that nobody will finish.
#ifndef LMSHM_WORKER_STORAGE_ATOMIC_FILE_H_
#define LMSHM_WORKER_STORAGE_ATOMIC_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "worker/base/unique_fd.h"

namespace lmshm {

struct AtomicFileOptions {
  bool unnamed = false;     // try it without a name, see CanPublishUnnamed()
  bool exact_mode = false;  // a new file here has the mode it is created with: do not look
  bool readable = false;    // fd() can be read from, too
};

// Not thread safe; any number of them may be at work on one target, the last Publish() wins.
class AtomicFile {
 public:
  AtomicFile() = default;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();  // removes the temporary unless it was published

  // Creates the file, with the access that all files get (file_access.h) whatever the umask, for
  // `name` (one component) in the directory `dir_fd`, which stays the caller's and must live as
  // long as this. Once only. Returns 0 or an errno value.
  [[nodiscard]] int Create(int dir_fd, const std::string& name,
                           const AtomicFileOptions& options = AtomicFileOptions());

  // Whether it has no name until it is published.
  bool unnamed() const { return unnamed_; }

  // Whether it had that access without help. Known when it was looked at, see AtomicFileOptions.
  bool had_exact_mode() const { return had_exact_mode_; }

  // Asks the file system for `length` bytes from `offset` on now: ENOSPC comes before any data has
  // been moved, and writing large files is faster. Where the file system cannot reserve, this does
  // nothing. Returns 0 or an errno value.
  [[nodiscard]] int Reserve(uint64_t offset, uint64_t length);

  // The file, open for writing, until Publish().
  int fd() const { return fd_.get(); }

  // Closes the file and gives it the target's name, in place of a file that has it. Returns 0 or an
  // errno value: some file systems report a failed write only when the file is closed. Does not
  // wait for the disk. `lock`, where it is given: gets a descriptor of the file with the writer's
  // lock, so that at no moment nobody holds it; not valid for a file without a name.
  [[nodiscard]] int Publish(UniqueFd* lock = nullptr);

  // The same, but what is not a regular file is not replaced: then returns EEXIST and sets
  // `*existing` to its st_mode (else 0).
  [[nodiscard]] int PublishOverFile(mode_t* existing);

  // The same, but nothing is replaced, whatever it is: EEXIST if something has the name. Of several
  // at a time, in any process, one succeeds. EOPNOTSUPP: the file system has no way to do that.
  [[nodiscard]] int PublishNew();

 private:
  int CreateNamed(const AtomicFileOptions& options);
  int Link(const std::string& name) const;
  int LinkTarget();
  int LinkTemporary();
  int Close(UniqueFd* lock);
  int Rename(unsigned flags) const;
  int LinkTemporaryAsTarget() const;
  int PublishAs(mode_t* existing, UniqueFd* kept_lock);

  int dir_fd_ = -1;
  UniqueFd fd_;
  std::string name_;
  std::string temporary_;  // empty when there is none to remove
  bool unnamed_ = false;
  bool had_exact_mode_ = false;
};

// Whether files without a name can be made and published in the directory `dir_fd`, by trying.
// Nothing is left behind.
bool CanPublishUnnamed(int dir_fd);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_ATOMIC_FILE_H_
