// SPDX-License-Identifier: Apache-2.0
//
// ObjectDir: whole objects, one regular file each, in a directory tree.
//
// It confines paths to the tree, writes atomically and reads. It knows nothing of protocols,
// clients or segments: it is given a path and a range of memory. An object is published whole or
// not at all (atomic_file.h). Nothing here waits for data to reach the disk: after a power cut the
// last seconds' objects may be missing or, on file systems that do not order data before the
// rename, short.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_DIR_H_
#define LMSHM_WORKER_STORAGE_OBJECT_DIR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/base/work.h"
#include "worker/storage/beneath.h"
#include "worker/storage/file_io.h"
#include "worker/storage/object_io.h"
#include "worker/storage/object_path.h"
#include "worker/storage/quota.h"

namespace lmshm {

// Thread safe: it does not change after it was made.
class ObjectDir {
 public:
  // Serves only what is below `root`, an existing directory, for clients that are not trusted. No
  // symbolic link below the root is followed; the root's own path may have some. On failure
  // `*result` stays as it was.
  static Status OpenConfined(const std::string& root, BeneathMethod method,
                             std::unique_ptr<ObjectDir>* result);

  // Serves every path, relative ones from the current directory, for a client that could open the
  // files itself. Symbolic links to directories are followed; the object itself must not be one.
  static std::unique_ptr<ObjectDir> Unconfined();

  // Makes the object at `path` have exactly the bytes of `data`. On failure the old object, or
  // none, is there. `cancel` may be null. Blocks. Errors, beside those of object_path.h:
  //   ENOENT     the directory is missing; it is never made here
  //   ELOOP      a symbolic link is in the way     EISDIR, EINVAL  something else is
  //   ENOSPC     noticed before data is moved      EFAULT          the shared memory is gone
  //   ECANCELED  `cancel` said so                  others          of the system call that failed
  // With a `quota` an object takes room there (and waits for it), and ENOSPC is also that there is
  // none; a file that is named otherwise does not count. `client` (may be null) is asked while it
  // waits for room: when the client is gone it is ECANCELED.
  Status Write(std::string_view path, SharedBytes data, const CancelCheck* cancel,
               Quota* quota = nullptr, const CancelCheck* client = nullptr) const;

  // Reads the object at `path` into `data`, up to whichever ends first; `*done` is the number of
  // bytes. `data` beyond them is untouched; on failure its content is unspecified. Errors as
  // above; ENOENT: no such object.
  Status Read(std::string_view path, SharedBytes data, const CancelCheck* cancel, uint64_t* done,
              Quota* quota = nullptr) const;

  // Opens (O_PATH) the directory at `path`, "" being the root, and makes what is missing of it,
  // with the access that all directories get (file_access.h). Only where it is confined. Errors,
  // beside those of RootNames::Directory():
  //   ELOOP   a symbolic link is in the way    ENOTDIR  a file is
  //   others  of the system call that failed
  Status OpenDirectory(std::string_view path, UniqueFd* fd) const;

  // What paths are resolved with, in words, for logs.
  std::string Describe() const;

  // The directory, for a fence around it; -1 when not confined.
  int root_fd() const { return root_fd_.get(); }

 private:
  ObjectDir() : names_({}) {}
  Status Split(std::string_view path, ObjectPath* object) const;
  // Returns 0 or an errno value; the last component is never followed.
  int Open(const std::string& path, int flags, UniqueFd* fd) const;
  int MakeDirectories(std::string_view path, UniqueFd* fd) const;

  UniqueFd root_fd_;  // not valid: not confined
  std::string root_;  // real path
  RootNames names_;
  BeneathMethod method_ = BeneathMethod::kWalk;
  // Of any directory: nothing is known of its file system.
  StorageFacts facts_;
  Metrics metrics_;
  const ObjectIo io_{facts_, &metrics_};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_DIR_H_
