// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/storage_error.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace lmshm {

Status ExplainStorage(int error, const std::string& action) {
  switch (error) {
    case EFAULT:
      return Status::System(error, action,
                            "the shared memory is shorter than when it was attached, or its file "
                            "system is full: recreate the segment and ATTACH again");
    case ELOOP:
      return Status::System(error, action, "symbolic links are not followed here");
    case ECANCELED:
      return Status::System(error, action, "the worker is ending");
    case EROFS:
    case EACCES:
    case EPERM:
      return Status::System(error, action, "the worker runs as user " + std::to_string(geteuid()));
    default:
      return Status::System(error, action);
  }
}

Status CheckObjectType(mode_t mode, const std::string& action) {
  if (S_ISREG(mode)) return Status::OK();
  if (S_ISDIR(mode)) return Status::System(EISDIR, action);
  if (S_ISLNK(mode)) return Status::System(ELOOP, action, "a symbolic link is no object");
  return Status::Error(EINVAL, action + ": not a regular file");
}

}  // namespace lmshm
