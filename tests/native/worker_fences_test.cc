// SPDX-License-Identifier: Apache-2.0
//
// The fences: what a worker that was taken over could still do, and workers on kernels that lack
// something.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>

#include "worker/base/unique_fd.h"
#include "worker/process/sandbox.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr long kOpenat2 = 437;
constexpr long kLandlockCreateRuleset = 444;

long LandlockAbi() { return syscall(kLandlockCreateRuleset, nullptr, 0, 1u); }

// Runs `body` in a child inside the sandbox; it returns a mask of what it could do.
template <typename Body>
int Inside(const lmshm::SandboxRules& rules, Body body) {
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    std::string fences;
    if (!lmshm::EnterSandbox(rules, &fences).ok()) _exit(255);
    _exit(body());
  }
  int status;
  REQUIRE_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFEXITED(status));
  return WEXITSTATUS(status);
}

bool CanOpen(const std::string& path, int flags) {
  return lmshm::UniqueFd(open(path.c_str(), flags | O_CLOEXEC, 0600)).valid();
}

// From now on, and in children, system call `number` fails with `error`.
void Forbid(long number, int error) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {4, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    _exit(98);
  }
}

}  // namespace

TEST(files_outside_are_out_of_reach_and_those_inside_are_not) {
  if (LandlockAbi() < 1) SKIP("no Landlock here");
  const TempDir dir;
  std::filesystem::create_directory(dir / "root");
  std::filesystem::create_directory(dir / "sockets");
  WriteFile(dir / "outside", "x");
  WriteFile(dir / "root/inside", "x");
  WriteFile(dir / "sockets/s", "x");
  TestSegment segment(4096);
  const lmshm::UniqueFd root(open((dir / "root").c_str(), O_PATH | O_CLOEXEC));
  const lmshm::UniqueFd sockets(open((dir / "sockets").c_str(), O_PATH | O_CLOEXEC));
  lmshm::SandboxRules rules;
  rules.root_fd = root.get();
  rules.socket_dir_fds = {sockets.get()};
  const std::string self = WorkerPath();

  CHECK_EQ(Inside(rules,
                  [&] {
                    int could = 0;
                    if (CanOpen(dir / "outside", O_RDONLY)) could |= 1;
                    if (CanOpen(dir / "new", O_WRONLY | O_CREAT)) could |= 2;
                    if (unlink((dir / "outside").c_str()) == 0) could |= 4;
                    if (CanOpen("/etc/passwd", O_RDONLY)) could |= 8;
                    if (symlink("x", (dir / "root/link").c_str()) == 0) could |= 16;
                    if (rename((dir / "root/inside").c_str(), (dir / "moved").c_str()) == 0) {
                      could |= 32;
                    }
                    char* const argv[] = {const_cast<char*>(self.c_str()), nullptr};
                    execv(self.c_str(), argv);
                    if (errno != EACCES) could |= 64;
                    return could;
                  }),
           0);
  CHECK_EQ(Inside(rules,
                  [&] {
                    int could = 0;
                    if (CanOpen(dir / "root/inside", O_RDWR)) could |= 1;
                    if (CanOpen(dir / "root/new", O_WRONLY | O_CREAT | O_EXCL)) could |= 2;
                    if (rename((dir / "root/new").c_str(), (dir / "root/inside").c_str()) == 0) {
                      could |= 4;
                    }
                    if (unlink((dir / "root/inside").c_str()) == 0) could |= 8;
                    if (CanOpen(segment.path(), O_RDWR)) could |= 16;
                    if (unlink((dir / "sockets/s").c_str()) == 0) could |= 32;
                    return could;
                  }),
           63);
}

TEST(no_network_and_no_signals) {
  if (LandlockAbi() < 6) SKIP("Landlock here knows no TCP or no signals");
  const TempDir dir;
  const lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_CLOEXEC));
  lmshm::SandboxRules rules;
  rules.root_fd = root.get();
  const pid_t parent = getpid();
  CHECK_EQ(Inside(rules,
                  [&] {
                    int could = 0;
                    struct sockaddr_in address = {};
                    address.sin_family = AF_INET;
                    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
                    const lmshm::UniqueFd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                    const auto* any = reinterpret_cast<const sockaddr*>(&address);
                    if (bind(tcp.get(), any, sizeof address) == 0 || errno != EACCES) could |= 1;
                    address.sin_port = htons(9);
                    if (connect(tcp.get(), any, sizeof address) == 0 || errno != EACCES) could |= 2;
                    if (kill(parent, 0) == 0 || errno != EPERM) could |= 4;
                    return could;
                  }),
           0);
}

TEST(a_store_elsewhere_opens_its_ports_and_no_files) {
  if (LandlockAbi() < 4) SKIP("Landlock here knows no TCP");
  const TempDir dir;
  WriteFile(dir / "file", "x");
  TestSegment segment(4096);
  // Two listeners, of which one is the store's.
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const lmshm::UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE_EQ(bind(listening.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  REQUIRE_EQ(listen(listening.get(), 8), 0);
  REQUIRE_EQ(getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const uint16_t port = ntohs(address.sin_port);
  const auto connects = [&](uint16_t to) {
    address.sin_port = htons(to);
    const lmshm::UniqueFd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int failed = connect(tcp.get(), reinterpret_cast<const sockaddr*>(&address), size);
    return failed == 0 || errno != EACCES;
  };
  lmshm::SandboxRules rules;
  rules.files = false;
  for (const bool names : {false, true}) {
    rules.looks_up_names = names;
    for (const bool own : {true, false}) {
      rules.ports = {static_cast<uint16_t>(own ? port : port ^ 1)};
      CHECK_EQ(Inside(rules,
                      [&] {
                        int could = 0;
                        if (connects(port)) could |= 1;
                        if (connects(53)) could |= 2;
                        if (CanOpen("/etc/hosts", O_RDONLY)) could |= 4;
                        if (CanOpen(segment.path(), O_RDWR)) could |= 8;
                        if (CanOpen(dir / "file", O_RDONLY)) could |= 16;
                        if (CanOpen("/etc/hosts", O_WRONLY)) could |= 32;
                        if (CanOpen("/dev/shm/lmshm_new", O_WRONLY | O_CREAT)) could |= 64;
                        return could;
                      }),
               (own ? 1 : 0) | (names ? 2 + 4 : 0) | 8);
    }
  }
}

TEST(without_a_root_files_are_served_but_nothing_is_executed) {
  if (LandlockAbi() < 1) SKIP("no Landlock here");
  const TempDir dir;
  const std::string self = WorkerPath();
  CHECK_EQ(Inside(lmshm::SandboxRules(),
                  [&] {
                    int could = 0;
                    if (CanOpen(dir / "new", O_WRONLY | O_CREAT)) could |= 1;
                    char* const argv[] = {const_cast<char*>(self.c_str()), nullptr};
                    execv(self.c_str(), argv);
                    if (errno != EACCES) could |= 2;
                    return could;
                  }),
           1);
}

TEST(a_running_worker_is_fenced_in) {
  const TempDir dir;
  WorkerSetup setup;
  setup.keep_fence = true;
  setup.arguments = {"--root", dir.path(), "--log-level=info"};
  WorkerProcess worker(setup);
  CHECK_EQ(worker.client().Call("PING"), "OK");
  CHECK_CONTAINS(ReadFile("/proc/" + std::to_string(worker.pid()) + "/status"), "NoNewPrivs:\t1");
  const std::string errors = worker.Errors();
  CHECK_CONTAINS(errors, "fences: no_new_privs");
  if (LandlockAbi() >= 1) CHECK_CONTAINS(errors, "landlock ABI ");

  setup.arguments.push_back("--no-sandbox");
  WorkerProcess open_worker(setup);
  CHECK_EQ(open_worker.client().Call("PING"), "OK");
  CHECK_CONTAINS(open_worker.Errors(), "fences: none");
}

TEST(a_kernel_without_landlock_is_served_too) {
  for (const int error : {ENOSYS, EOPNOTSUPP, EPERM}) {
    const TempDir dir;
    TestSegment segment(4096);
    WorkerSetup setup;
    setup.keep_fence = true;
    setup.arguments = {"--root", dir.path(), "--log-level=info"};
    setup.before_exec = [error] { Forbid(kLandlockCreateRuleset, error); };
    WorkerProcess worker(setup);
    CHECK_EQ(worker.client().Call(segment.AttachLine()), "OK");
    CHECK_EQ(worker.client().Call(segment.Line("WRITE", "f", 0, 10)), "OK 10");
    CHECK_CONTAINS(worker.Errors(), "fewer fences: ENOTSUP no Landlock here");
  }
}

TEST(a_kernel_without_openat2_is_confined_too) {
  for (const int error : {ENOSYS, EPERM}) {
    const TempDir dir;
    std::filesystem::create_directories(dir / "root/sub");
    WriteFile(dir / "secret", "s");
    std::filesystem::create_symlink("..", dir / "root/up");
    TestSegment segment(4096);
    WorkerSetup setup;
    setup.keep_fence = true;
    setup.arguments = {"--root", dir / "root", "--log-level=info"};
    setup.before_exec = [error] { Forbid(kOpenat2, error); };
    WorkerProcess worker(setup);
    LineClient& c = worker.client();
    CHECK_EQ(c.Call(segment.AttachLine()), "OK");
    CHECK_EQ(c.Call(segment.Line("WRITE", "sub/f", 0, 10)), "OK 10");
    CHECK_EQ(c.Call(segment.Line("READ", dir / "root/sub/f", 0, 10)), "OK 10");
    CHECK_STARTS(c.Call(segment.Line("READ", "up/secret", 0, 10)), "ERROR ELOOP ");
    CHECK_STARTS(c.Call(segment.Line("WRITE", "up/new", 0, 10)), "ERROR ELOOP ");
    CHECK_CONTAINS(worker.Errors(), "walk: no openat2 here");
  }
}

CHECK_MAIN
