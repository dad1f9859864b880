// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/file_access.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace lmshm {

namespace {

FileAccess access_of_all;

}  // namespace

void SetFileAccess(const FileAccess& access) { access_of_all = access; }

const FileAccess& GetFileAccess() { return access_of_all; }

int ApplyFileAccess(int fd, mode_t mode, bool* exact) {
  struct stat st;
  if (fstat(fd, &st) != 0) return errno;
  const std::optional<gid_t>& group = access_of_all.group;
  const bool right_group = !group.has_value() || st.st_gid == *group;
  // A directory that hands its group down got that from the one above, and goes on doing so.
  if (S_ISDIR(st.st_mode)) mode |= st.st_mode & S_ISGID;
  const bool right_mode = (st.st_mode & 07777) == mode;
  if (exact != nullptr) *exact = right_group && right_mode;
  // The group first: until it is the right one nobody else has been let in.
  if (!right_group && fchown(fd, static_cast<uid_t>(-1), *group) != 0) return errno;
  // An umask that takes from the owner (0277, say) would make a file nobody can read back.
  return right_mode || fchmod(fd, mode) == 0 ? 0 : errno;
}

}  // namespace lmshm
