// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes the confinement of paths: the textual half against its promises, and the two ways of
// opening (openat2, walking) against each other in a tree that is full of ways out.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "worker/storage/beneath.h"
#include "worker/storage/object_path.h"

namespace {

#define HOLDS(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

class Tree {
 public:
  Tree() {
    const char* base = getenv("TMPDIR");
    top_ = std::string(base != nullptr ? base : "/tmp") + "/lmshm_fuzz." + std::to_string(getpid());
    namespace fs = std::filesystem;
    const std::string root = top_ + "/r";
    fs::create_directories(root + "/d/d");
    fs::create_directory(top_ + "/o");
    std::ofstream(root + "/f") << "f";
    std::ofstream(root + "/d/d/f") << "f";
    std::ofstream(top_ + "/o/f") << "f";
    fs::create_symlink("f", root + "/l");
    fs::create_symlink("../o", root + "/u");
    fs::create_symlink(top_ + "/o", root + "/d/a");
    fs::create_symlink("p", root + "/p");
    fs::create_symlink("/proc/self/root", root + "/m");
    HOLDS(mkfifo((root + "/i").c_str(), 0600) == 0);
    real_ = fs::canonical(root).string();
    fd_.Reset(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    HOLDS(fd_.valid());
    both_ = lmshm::DetectBeneathMethod() == lmshm::BeneathMethod::kOpenat2;
  }
  ~Tree() {
    std::error_code ignored;
    std::filesystem::remove_all(top_, ignored);
  }

  void Check(const std::string& path, int flags) const {
    lmshm::UniqueFd walked, opened;
    const int walk_error =
        lmshm::OpenBeneath(fd_.get(), path, flags, lmshm::BeneathMethod::kWalk, &walked);
    HOLDS((walk_error == 0) == walked.valid());
    if (walk_error == 0) {
      char name[4096];
      const std::string link = "/proc/self/fd/" + std::to_string(walked.get());
      const ssize_t n = readlink(link.c_str(), name, sizeof name);
      HOLDS(n > 0);
      const std::string real(name, static_cast<size_t>(n));
      HOLDS(real == real_ || real.compare(0, real_.size() + 1, real_ + "/") == 0);
    }
    if (!both_) return;
    const int error =
        lmshm::OpenBeneath(fd_.get(), path, flags, lmshm::BeneathMethod::kOpenat2, &opened);
    HOLDS(error == walk_error);
    if (error != 0) return;
    struct stat a, b;
    HOLDS(fstat(walked.get(), &a) == 0 && fstat(opened.get(), &b) == 0);
    HOLDS(a.st_dev == b.st_dev && a.st_ino == b.st_ino);
  }

 private:
  std::string top_, real_;
  lmshm::UniqueFd fd_;
  bool both_ = false;
};

void CheckComponent(std::string_view component) {
  HOLDS(!component.empty() && component.size() <= 255);
  HOLDS(component != "." && component != "..");
  HOLDS(component.find('/') == std::string_view::npos);
  HOLDS(component.find('\0') == std::string_view::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tree tree;
  static const lmshm::RootNames root({"/r/s", "/alias"});
  const std::string_view path(reinterpret_cast<const char*>(data), size);

  lmshm::ObjectPath object;
  if (root.Split(path, &object).ok()) {
    CheckComponent(object.name);
    std::string_view rest = object.directory;
    while (!rest.empty()) {
      const size_t slash = rest.find('/');
      CheckComponent(rest.substr(0, slash));
      HOLDS(slash == std::string_view::npos || slash + 1 < rest.size());
      rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    }
    HOLDS(object.Joined().size() <= path.size());
    // Cutting what was cut changes nothing.
    lmshm::ObjectPath again;
    HOLDS(root.Split(object.Joined(), &again).ok());
    HOLDS(again.directory == object.directory && again.name == object.name);
    tree.Check(object.Joined(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
    tree.Check(object.directory, O_PATH | O_DIRECTORY);
  }
  if (lmshm::SplitTrusted(path, &object).ok()) {
    CheckComponent(object.name);
    HOLDS(!object.directory.empty());
  }
  return 0;
}

#ifdef LMSHM_FUZZ_STANDALONE
#include "standalone_main.hh"
#endif
