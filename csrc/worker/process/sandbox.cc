// SPDX-License-Identifier: Apache-2.0
#include "worker/process/sandbox.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "worker/base/unique_fd.h"

namespace lmshm {

namespace {

// From linux/landlock.h, which not every tool chain has in a version that is new enough. The
// comment is the ABI version that brought the right.
constexpr uint64_t kExecute = 1 << 0;  // 1, and so are the next
constexpr uint64_t kWriteFile = 1 << 1;
constexpr uint64_t kReadFile = 1 << 2;
constexpr uint64_t kReadDir = 1 << 3;
constexpr uint64_t kRemoveDir = 1 << 4;
constexpr uint64_t kRemoveFile = 1 << 5;
constexpr uint64_t kMakeChar = 1 << 6;
constexpr uint64_t kMakeDir = 1 << 7;
constexpr uint64_t kMakeReg = 1 << 8;
constexpr uint64_t kMakeSock = 1 << 9;
constexpr uint64_t kMakeFifo = 1 << 10;
constexpr uint64_t kMakeBlock = 1 << 11;
constexpr uint64_t kMakeSym = 1 << 12;
constexpr uint64_t kRefer = 1 << 13;             // 2: rename or link into another directory
constexpr uint64_t kTruncate = 1 << 14;          // 3
constexpr uint64_t kIoctlDevice = 1 << 15;       // 5
constexpr uint64_t kBindTcp = 1 << 0;            // 4
constexpr uint64_t kConnectTcp = 1 << 1;         // 4
constexpr uint64_t kScopeAbstractUnix = 1 << 0;  // 6
constexpr uint64_t kScopeSignal = 1 << 1;        // 6

struct RulesetAttributes {
  uint64_t filesystem;
  uint64_t network;  // ABI 4
  uint64_t scoped;   // ABI 6
};

struct PathBeneathAttributes {
  uint64_t allowed;
  int32_t parent_fd;
} __attribute__((packed));

struct NetPortAttributes {
  uint64_t allowed;
  uint64_t port;
};

constexpr long kCreateRuleset = 444;  // the same numbers on every architecture
constexpr long kAddRule = 445;
constexpr long kRestrictSelf = 446;
constexpr unsigned kGetVersion = 1;
constexpr int kPathBeneath = 1;
constexpr int kNetPort = 2;

constexpr uint16_t kDnsPort = 53;
// That say how names are looked up. (The C library reads them anew when they change.)
constexpr const char* kNameFiles[] = {"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf",
                                      "/etc/host.conf", "/etc/gai.conf"};

uint64_t FilesystemRights(long abi) {
  uint64_t rights = kExecute | kWriteFile | kReadFile | kReadDir | kRemoveDir | kRemoveFile |
                    kMakeChar | kMakeDir | kMakeReg | kMakeSock | kMakeFifo | kMakeBlock | kMakeSym;
  if (abi >= 2) rights |= kRefer;
  if (abi >= 3) rights |= kTruncate;
  if (abi >= 5) rights |= kIoctlDevice;
  return rights;
}

Status Allow(int ruleset_fd, int parent_fd, uint64_t rights, const char* what) {
  PathBeneathAttributes rule = {rights, parent_fd};
  if (syscall(kAddRule, ruleset_fd, kPathBeneath, &rule, 0) == 0) return Status::OK();
  return Status::System(errno, std::string("landlock: allow ") + what);
}

Status AllowConnecting(int ruleset_fd, uint16_t port) {
  NetPortAttributes rule = {kConnectTcp, port};
  if (syscall(kAddRule, ruleset_fd, kNetPort, &rule, 0) == 0) return Status::OK();
  return Status::System(errno, "landlock: allow connecting to port " + std::to_string(port));
}

// The directories of those files, because whoever changes one puts a new file in its place. They
// may be links to others.
Status AllowNameFiles(int ruleset_fd) {
  Status status;
  for (const char* name : kNameFiles) {
    char* const real = realpath(name, nullptr);
    if (real == nullptr) continue;
    *strrchr(real, '/') = '\0';
    const UniqueFd directory(open(*real == '\0' ? "/" : real, O_PATH | O_DIRECTORY | O_CLOEXEC));
    free(real);
    if (!directory.valid()) continue;
    status = Allow(ruleset_fd, directory.get(), kReadFile, name);
    if (!status.ok()) break;
  }
  return status;
}

}  // namespace

Status EnterSandbox(const SandboxRules& rules, std::string* fences) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Status::System(errno, "no_new_privs");
  *fences = "no_new_privs";

  const long abi = syscall(kCreateRuleset, nullptr, 0, kGetVersion);
  if (abi < 0) {  // an old kernel, switched off, or filtered out by a container
    return Status::Error(EOPNOTSUPP, "no Landlock here (" + ErrnoName(errno) + ")");
  }
  RulesetAttributes attributes = {};
  size_t size = sizeof attributes.filesystem;
  attributes.filesystem = FilesystemRights(abi);
  if (abi >= 4) {
    attributes.network = kBindTcp | kConnectTcp;
    size = offsetof(RulesetAttributes, scoped);
  }
  if (abi >= 6) {
    attributes.scoped = kScopeAbstractUnix | kScopeSignal;
    size = sizeof attributes;
  }
  UniqueFd ruleset(static_cast<int>(syscall(kCreateRuleset, &attributes, size, 0)));
  if (!ruleset.valid()) return Status::System(errno, "landlock: create a ruleset");

  UniqueFd slash;
  int root_fd = rules.root_fd;
  if (rules.files && root_fd < 0) {
    slash.Reset(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    root_fd = slash.get();
  }
  // Clients name directories below the root, and those that are missing are made.
  const uint64_t files = kReadFile | kReadDir | kWriteFile | kRemoveFile | kMakeReg |
                         (rules.root_fd >= 0 ? kMakeDir : 0) | (kTruncate & FilesystemRights(abi));
  Status status;
  if (rules.files) status = Allow(ruleset.get(), root_fd, files, "the root");
  if (status.ok() && rules.looks_up_names) status = AllowNameFiles(ruleset.get());
  if (!status.ok()) return status;
  std::vector<uint16_t> ports = rules.ports;
  if (rules.looks_up_names) ports.push_back(kDnsPort);
  std::string allowed;
  for (const uint16_t port : ports) {
    if (abi < 4) break;
    status = AllowConnecting(ruleset.get(), port);
    if (!status.ok()) return status;
    allowed += (allowed.empty() ? " but to port " : ", ") + std::to_string(port);
  }
  UniqueFd shm(open("/dev/shm", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (shm.valid()) {  // without it there is no segment to attach by name either
    status = Allow(ruleset.get(), shm.get(), kReadFile | kWriteFile, "/dev/shm");
    if (!status.ok()) return status;
  }
  for (const int fd : rules.socket_dir_fds) {
    status = Allow(ruleset.get(), fd, kRemoveFile, "the socket's directory");
    if (!status.ok()) return status;
  }
  if (syscall(kRestrictSelf, ruleset.get(), 0) != 0) {
    return Status::System(errno, "landlock: enter");
  }
  *fences += ", landlock ABI " + std::to_string(abi) + ": files, exec";
  if (abi >= 4) *fences += ", TCP" + allowed;
  if (abi >= 6) *fences += ", abstract sockets, signals";
  return Status::OK();
}

}  // namespace lmshm
