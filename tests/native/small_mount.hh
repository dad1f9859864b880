// SPDX-License-Identifier: Apache-2.0
//
// Small file systems of a test's own: tmpfs mounts in a mount namespace of this process alone.
// Needs the right to make one.
#ifndef LMSHM_TESTS_NATIVE_SMALL_MOUNT_H_
#define LMSHM_TESTS_NATIVE_SMALL_MOUNT_H_

#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#include "worker_check.hh"

// A namespace of this process in which mounts may be made; "" or why not.
inline std::string EnterNamespace() {
  static const std::string result = [] {
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    if (unshare(CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0) {
      return std::string("no mount namespace here: ") + strerror(errno);
    }
    if (uid != 0) {
      std::ofstream("/proc/self/setgroups") << "deny";
      std::ofstream("/proc/self/uid_map") << uid << " " << uid << " 1";
      std::ofstream("/proc/self/gid_map") << gid << " " << gid << " 1";
    }
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return std::string("mounts cannot be made private: ") + strerror(errno);
    }
    return std::string();
  }();
  return result;
}

// A tmpfs of `size` on `path` until it goes.
class SmallMount {
 public:
  SmallMount(const std::string& path, const std::string& size) : path_(path) {
    const std::string options = "size=" + size;
    if (mount("none", path.c_str(), "tmpfs", 0, options.c_str()) != 0) {
      path_.clear();
      SKIP(std::string("no tmpfs can be mounted: ") + strerror(errno));
    }
  }
  SmallMount(const SmallMount&) = delete;
  SmallMount& operator=(const SmallMount&) = delete;
  ~SmallMount() {
    if (!path_.empty()) umount2(path_.c_str(), MNT_DETACH);
  }

  // Bytes that files take of it at this moment.
  uint64_t used() const {
    struct statfs fs;
    REQUIRE_EQ(statfs(path_.c_str(), &fs), 0);
    return (fs.f_blocks - fs.f_bfree) * static_cast<uint64_t>(fs.f_bsize);
  }

 private:
  std::string path_;
};

#endif  // LMSHM_TESTS_NATIVE_SMALL_MOUNT_H_
