// SPDX-License-Identifier: Apache-2.0
//
// Opening a file strictly below a directory, without following any symbolic link: the kernel's
// half of confinement.
//
// openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS) does it in one call and without races. Where the
// kernel (before 5.6) or a container's system call filter has no openat2, the path is walked:
// each directory is opened in the one before with O_NOFOLLOW, which is as strict because the paths
// have no ".." (object_path.h), and slower.
#ifndef LMSHM_WORKER_STORAGE_BENEATH_H_
#define LMSHM_WORKER_STORAGE_BENEATH_H_

#include <string>

#include "worker/base/unique_fd.h"

namespace lmshm {

enum class BeneathMethod { kOpenat2, kWalk };

// Finds out by trying which one this process may use.
BeneathMethod DetectBeneathMethod();

// Opens `path`, which is relative, without ".." and without empty components ("" is the directory
// itself), below the directory `root_fd`. `flags` are open(2)'s, without O_CREAT; O_CLOEXEC is
// added. Returns 0 and sets `*fd`, or returns an errno value: ELOOP for a symbolic
// link anywhere in the path. Thread safe.
[[nodiscard]] int OpenBeneath(int root_fd, const std::string& path, int flags, BeneathMethod method,
                              UniqueFd* fd);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_BENEATH_H_
