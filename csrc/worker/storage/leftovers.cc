// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <string>

#include "worker/base/unique_fd.h"
#include "worker/storage/object_key.h"
#include "worker/storage/sidecar.h"
#include "worker/storage/temporary_name.h"

namespace lmshm {

namespace {

bool IsOld(const struct stat& st, std::chrono::seconds age) {
  return time(nullptr) - st.st_mtim.tv_sec >= age.count();
}

bool RemoveIfDead(int dir_fd, const char* name, std::chrono::seconds age) {
  UniqueFd fd(openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st, now;
  if (!fd.valid() || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  if (!IsOld(st, age) || flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  // The name may be another file's by now.
  if (fstatat(dir_fd, name, &now, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (now.st_dev != st.st_dev || now.st_ino != st.st_ino) return false;
  return unlinkat(dir_fd, name, 0) == 0;
}

bool RemoveIfOrphan(int dir_fd, const std::string& name, const std::string& object_name,
                    std::chrono::seconds age) {
  struct stat st;
  if (fstatat(dir_fd, object_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return false;
  if (fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || !IsOld(st, age)) return false;
  return Sidecar(dir_fd, name, object_name).RemoveOrphan();
}

}  // namespace

Leftover RemoveIfLeftover(int dir_fd, const std::string& name, std::chrono::seconds age) {
  if (IsTemporaryName(name)) {
    return RemoveIfDead(dir_fd, name.c_str(), age) ? Leftover::kTemporary : Leftover::kNone;
  }
  const std::string object_name = ObjectOfSidecar(name);
  if (object_name.empty()) return Leftover::kNone;
  return RemoveIfOrphan(dir_fd, name, object_name, age) ? Leftover::kSidecar : Leftover::kNone;
}

Leftovers RemoveLeftovers(int dir_fd, std::chrono::seconds age, const CancelCheck* cancel) {
  Leftovers removed;
  UniqueFd fd(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return removed;
  DIR* const dir = fdopendir(fd.get());
  if (dir == nullptr) return removed;
  const int own_fd = fd.Release();  // the stream's
  for (size_t seen = 1; const struct dirent* entry = readdir(dir); seen++) {
    if (seen % 64 == 0 && cancel != nullptr && cancel->Cancelled()) break;
    const Leftover what = RemoveIfLeftover(own_fd, entry->d_name, age);
    if (what == Leftover::kTemporary) removed.temporaries++;
    if (what == Leftover::kSidecar) removed.sidecars++;
  }
  closedir(dir);
  return removed;
}

}  // namespace lmshm
