// SPDX-License-Identifier: Apache-2.0
//
// Who may use the files and directories that this process makes: their mode, and their group. The
// default is its user alone. Another user's program that is to read an object needs more, and gets
// it here, by what the worker was started with, and not by the umask of whoever started it.
#ifndef LMSHM_WORKER_STORAGE_FILE_ACCESS_H_
#define LMSHM_WORKER_STORAGE_FILE_ACCESS_H_

#include <sys/types.h>

#include <optional>

namespace lmshm {

struct FileAccess {
  mode_t mode = 0600;          // of files
  std::optional<gid_t> group;  // none: as the system chooses

  // Of directories: whoever may read files may enter them.
  mode_t directory_mode() const { return mode | 0100 | ((mode & 0044) >> 2); }
  bool is_default() const { return mode == 0600 && !group.has_value(); }
};

// Whether files may have it: its owner can read and write them, nobody can execute them, and not
// everybody can write them.
constexpr bool IsFileMode(mode_t mode) {
  return (mode & 0600) == 0600 && (mode & ~mode_t{0664}) == 0;
}

// For all of the process. To be called before there are threads.
void SetFileAccess(const FileAccess& access);
const FileAccess& GetFileAccess();

// Gives an open file or directory of our own that access, where it has another: `mode` is a file's
// or a directory's. `*exact` (may be null): it had it already. Returns 0 or an errno value; EPERM:
// this user may not give files to that group.
[[nodiscard]] int ApplyFileAccess(int fd, mode_t mode, bool* exact);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_FILE_ACCESS_H_
