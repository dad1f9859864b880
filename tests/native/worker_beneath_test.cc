// SPDX-License-Identifier: Apache-2.0
//
// Opening below a directory: openat2 and the walk that replaces it must agree on everything.
#include <cerrno>

#include "worker/base/status.h"
#include "worker/storage/beneath.h"
#include "worker_fixture.hh"

using lmshm::BeneathMethod;
using lmshm::OpenBeneath;
using lmshm::UniqueFd;

namespace {

// A tree with everything that might lead out of it.
class Tree {
 public:
  Tree() {
    namespace fs = std::filesystem;
    fs::create_directories(dir_ / "root/sub/deep");
    fs::create_directories(dir_ / "outside");
    WriteFile(dir_ / "root/file", "inside");
    WriteFile(dir_ / "root/sub/deep/file", "deep inside");
    WriteFile(dir_ / "outside/secret", "outside");
    fs::create_symlink("file", dir_ / "root/link_inside");
    fs::create_symlink("sub", dir_ / "root/link_dir_inside");
    fs::create_symlink("../outside/secret", dir_ / "root/link_out");
    fs::create_symlink("../outside", dir_ / "root/link_dir_out");
    fs::create_symlink(dir_ / "outside", dir_ / "root/link_dir_absolute");
    fs::create_symlink("/proc/self/root", dir_ / "root/magic");
    fs::create_symlink("loop", dir_ / "root/loop");
    fs::create_symlink("nowhere", dir_ / "root/dangling");
    REQUIRE_EQ(mkfifo((dir_ / "root/fifo").c_str(), 0600), 0);
    root_.Reset(open((dir_ / "root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(root_.valid());
  }

  // The errno name, or the file's inode number.
  std::string Try(const std::string& path, int flags, BeneathMethod method) const {
    UniqueFd fd;
    const int error = OpenBeneath(root_.get(), path, flags, method, &fd);
    if (error != 0) {
      CHECK(!fd.valid());
      return lmshm::ErrnoName(error);
    }
    struct stat st;
    REQUIRE_EQ(fstat(fd.get(), &st), 0);
    CHECK((fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    return std::to_string(st.st_ino);
  }

  std::string Inode(const std::string& name) const {
    struct stat st;
    REQUIRE_EQ(lstat((dir_ / name).c_str(), &st), 0);
    return std::to_string(st.st_ino);
  }

 private:
  TempDir dir_;
  UniqueFd root_;
};

constexpr BeneathMethod kBoth[] = {BeneathMethod::kOpenat2, BeneathMethod::kWalk};

// openat2 itself is not there in an old kernel or under a system call filter.
bool Available(BeneathMethod method) {
  return method == BeneathMethod::kWalk || lmshm::DetectBeneathMethod() == method;
}

constexpr int kReadFlags = O_RDONLY | O_NONBLOCK;
constexpr int kDirFlags = O_PATH | O_DIRECTORY;

}  // namespace

TEST(what_is_inside_is_opened) {
  const Tree tree;
  for (const BeneathMethod method : kBoth) {
    if (!Available(method)) continue;
    CHECK_EQ(tree.Try("file", kReadFlags, method), tree.Inode("root/file"));
    CHECK_EQ(tree.Try("sub/deep/file", kReadFlags, method), tree.Inode("root/sub/deep/file"));
    CHECK_EQ(tree.Try("", kDirFlags, method), tree.Inode("root"));
    CHECK_EQ(tree.Try("sub/deep", kDirFlags, method), tree.Inode("root/sub/deep"));
  }
}

TEST(no_symbolic_link_is_followed_anywhere) {
  const Tree tree;
  for (const BeneathMethod method : kBoth) {
    if (!Available(method)) continue;
    for (const char* path :
         {"link_inside", "link_out", "loop", "dangling", "link_dir_inside/deep/file",
          "link_dir_out/secret", "link_dir_absolute/secret", "magic/etc/passwd", "loop/x",
          "dangling/x"}) {
      CHECK_EQ(tree.Try(path, kReadFlags, method), "ELOOP");
    }
    for (const char* path : {"link_dir_inside", "link_dir_out", "link_dir_absolute", "magic"}) {
      CHECK_EQ(tree.Try(path, kDirFlags, method), "ELOOP");
    }
  }
}

TEST(what_is_not_there_or_no_directory) {
  const Tree tree;
  for (const BeneathMethod method : kBoth) {
    if (!Available(method)) continue;
    CHECK_EQ(tree.Try("nothing", kReadFlags, method), "ENOENT");
    CHECK_EQ(tree.Try("nothing/file", kReadFlags, method), "ENOENT");
    CHECK_EQ(tree.Try("file/file", kReadFlags, method), "ENOTDIR");
    CHECK_EQ(tree.Try("file", kDirFlags, method), "ENOTDIR");
    CHECK_EQ(tree.Try("fifo/file", kReadFlags, method), "ENOTDIR");
    CHECK_EQ(tree.Try(std::string(255, 'n'), kReadFlags, method), "ENOENT");
  }
}

CHECK_MAIN
