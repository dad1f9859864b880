// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/beneath.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdint>
#include <string_view>

namespace lmshm {

namespace {

// From linux/openat2.h, which not every tool chain has.
struct OpenHow {
  uint64_t flags;
  uint64_t mode;
  uint64_t resolve;
};
constexpr uint64_t kResolveNoMagiclinks = 0x02;
constexpr uint64_t kResolveNoSymlinks = 0x04;
constexpr uint64_t kResolveBeneath = 0x08;
constexpr long kOpenat2 = 437;  // the same number on every architecture

int Openat2(int dir_fd, const char* path, int flags) {
  OpenHow how = {};
  how.flags = static_cast<uint64_t>(flags);
  how.resolve = kResolveBeneath | kResolveNoSymlinks | kResolveNoMagiclinks;
  return static_cast<int>(syscall(kOpenat2, dir_fd, path, &how, sizeof how));
}

int OpenByOpenat2(int root_fd, const char* path, int flags, UniqueFd* fd) {
  // EAGAIN: the kernel saw a rename or mount while it walked and could not be sure.
  for (int attempt = 0; attempt < 64; attempt++) {
    const int got = Openat2(root_fd, path, flags);
    if (got >= 0) {
      fd->Reset(got);
      return 0;
    }
    if (errno != EAGAIN && errno != EINTR) return errno;
  }
  return EAGAIN;
}

// O_DIRECTORY | O_NOFOLLOW on a symbolic link is ENOTDIR; openat2 says ELOOP, and so do we.
int DirectoryError(int dir_fd, const char* name, int error) {
  struct stat st;
  if (error == ENOTDIR && fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISLNK(st.st_mode)) {
    return ELOOP;
  }
  return error;
}

int OpenByWalking(int root_fd, std::string_view path, int flags, UniqueFd* fd) {
  UniqueFd held;
  int dir_fd = root_fd;
  for (;;) {
    const size_t slash = path.find('/');
    const std::string name(path.substr(0, slash));
    const bool last = slash == std::string_view::npos;
    const int how = last ? flags : O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int got;
    do {
      got = openat(dir_fd, name.c_str(), how);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return DirectoryError(dir_fd, name.c_str(), errno);
    UniqueFd opened(got);
    if (last) {
      // O_PATH | O_NOFOLLOW opens the link itself, which openat2 refuses.
      struct stat st;
      if ((flags & O_PATH) != 0 && fstat(got, &st) == 0 && S_ISLNK(st.st_mode)) return ELOOP;
      *fd = std::move(opened);
      return 0;
    }
    held = std::move(opened);
    dir_fd = held.get();
    path.remove_prefix(slash + 1);
  }
}

}  // namespace

BeneathMethod DetectBeneathMethod() {
  // ENOSYS from an old kernel, EPERM from an old seccomp profile; whatever it is, if "." cannot be
  // opened this way, then nothing can.
  UniqueFd fd(Openat2(AT_FDCWD, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() ? BeneathMethod::kOpenat2 : BeneathMethod::kWalk;
}

int OpenBeneath(int root_fd, const std::string& path, int flags, BeneathMethod method,
                UniqueFd* fd) {
  const std::string name = path.empty() ? "." : path;
  if (method == BeneathMethod::kWalk) {
    return OpenByWalking(root_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, fd);
  }
  // Without O_NOFOLLOW, which would have O_PATH open a link as such instead of refusing it.
  return OpenByOpenat2(root_fd, name.c_str(), (flags & ~O_NOFOLLOW) | O_CLOEXEC, fd);
}

}  // namespace lmshm
