// SPDX-License-Identifier: Apache-2.0
//
// The owner of a segment killed at each of its system calls, and each of them made to fail:
// whatever is left in /dev/shm can be had by the next owner, nobody else's is touched, and nothing
// hangs.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "interrupt.hh"
#include "lmshm.h"
#include "trace.hh"
#include "worker_check.hh"

namespace {

constexpr uint64_t kBytes = 200 * 1024;
constexpr char kMark = 0x5a;

// Of this process, also in its children.
const std::string& Name() {
  static const std::string name = "lmshm-test-interrupted-" + std::to_string(getpid());
  return name;
}
std::string Path() { return "/dev/shm/" + Name(); }

lmshm_options Options(uint32_t kind, const std::string& name) {
  lmshm_options options = {};
  options.struct_size = sizeof options;
  options.kind = kind;
  options.pin = LMSHM_PIN_NONE;
  options.size = kBytes;
  options.populate_threads = 2;
  options.name = name.c_str();
  options.fd = -1;
  return options;
}

enum class Scenario { kCreate, kCreateOverDead, kReplace, kFree, kAttach };

constexpr int kOpened = 10, kNotOpened = 11;

// Of the child, which is traced from here on: ends with what became of it.
[[noreturn]] void Act(Scenario scenario, const std::string& name) {
  lmshm_options options =
      Options(scenario == Scenario::kAttach ? LMSHM_ATTACH : LMSHM_CREATE, name);
  if (scenario == Scenario::kReplace) options.if_exists = LMSHM_EXISTS_REPLACE;
  intptr_t segment = -1;
  if (scenario == Scenario::kFree) segment = lmshm_open(&options, nullptr);
  raise(SIGSTOP);
  if (scenario == Scenario::kFree) {
    _exit(lmshm_close(reinterpret_cast<lmshm_segment*>(segment), 0) == 0 ? kOpened : kNotOpened);
  }
  segment = lmshm_open(&options, nullptr);
  syscall(SYS_exit_group, segment > 0 ? kOpened : kNotOpened);
  abort();
}

// Waits for the child's SIGSTOP, and lets it go on under the tracer. False: it may not be traced.
bool Attach(pid_t child, Tracer* tracer) {
  int status;
  REQUIRE_EQ(waitpid(child, &status, WUNTRACED), child);
  REQUIRE(WIFSTOPPED(status));
  if (!tracer->Attach()) return false;
  REQUIRE_EQ(kill(child, SIGCONT), 0);
  return true;
}

void MakeStrangers() {
  const int fd = open(Path().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0);
  const std::string bytes(1000, kMark);
  REQUIRE_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  close(fd);
}

void MakeDead() {
  const std::string& name = Name();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const lmshm_options options = Options(LMSHM_CREATE, name);
    _exit(lmshm_open(&options, nullptr) > 0 ? 0 : 1);
  }
  int status;
  REQUIRE_EQ(waitpid(child, &status, 0), child);
  REQUIRE_EQ(status, 0);
  REQUIRE_EQ(lmshm_name_state(name.c_str()), LMSHM_NAME_DEAD);
}

void CheckStrangers() {
  char bytes[1001];
  const int fd = open(Path().c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK_EQ(read(fd, bytes, sizeof bytes), 1000);
  CHECK_EQ(std::string(bytes, 1000), std::string(1000, kMark));
  close(fd);
}

bool Run(Scenario scenario, const Interruption& what) {
  const std::string name = Name();
  intptr_t owned = 0;
  if (scenario == Scenario::kReplace) MakeStrangers();
  if (scenario == Scenario::kCreateOverDead) MakeDead();
  if (scenario == Scenario::kAttach) {
    const lmshm_options options = Options(LMSHM_CREATE, name);
    owned = lmshm_open(&options, nullptr);
    REQUIRE(owned > 0);
  }
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    alarm(30);  // nothing hangs
    Act(scenario, name);
  }
  Tracer tracer(child);
  if (!Attach(child, &tracer)) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    unlink(Path().c_str());
    SKIP("ptrace is not allowed");
  }
  Interrupter interrupter(what);
  const int status = tracer.Run([&](const TracedCall& call) { return interrupter.OnCall(call); });
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  CHECK_EQ(killed, what.kind != Interruption::kFail && interrupter.done());
  if (!killed) CHECK(WIFEXITED(status) && WEXITSTATUS(status) >= kOpened);

  const int state = lmshm_name_state(name.c_str());
  if (scenario == Scenario::kAttach) {
    CHECK_EQ(state, LMSHM_NAME_LIVE);
    CHECK_EQ(lmshm_close(reinterpret_cast<lmshm_segment*>(owned), 0), 0);
  } else if (state == LMSHM_NAME_FOREIGN) {
    CHECK(scenario == Scenario::kReplace);
    CheckStrangers();
  } else {
    CHECK(state == LMSHM_NAME_FREE || state == LMSHM_NAME_DEAD);
  }
  // Who comes next has the name, with the memory that it asks for, full of zeros.
  lmshm_options options = Options(LMSHM_CREATE, name);
  if (scenario == Scenario::kReplace) options.if_exists = LMSHM_EXISTS_REPLACE;
  lmshm_info info = {};
  info.struct_size = sizeof info;
  const intptr_t next = lmshm_open(&options, &info);
  if (next > 0) {
    const char* const bytes = reinterpret_cast<const char*>(info.address);
    CHECK_EQ(std::string(bytes, info.size), std::string(info.size, '\0'));
    CHECK_EQ(lmshm_close(reinterpret_cast<lmshm_segment*>(next), 0), 0);
  } else {
    check::Fail(__FILE__, __LINE__, std::string("the name is not free: ") + info.message);
    unlink(Path().c_str());
  }
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string left = entry.path().filename().string();
    CHECK(left.find(name) == std::string::npos);
  }
  return interrupter.reached();
}

}  // namespace

TEST(create_that_is_interrupted_leaves_a_name_that_can_be_had) {
  InterruptEach("create", 3, [](const Interruption& what) { return Run(Scenario::kCreate, what); });
}

TEST(create_over_a_dead_owners_segment_that_is_interrupted_leaves_a_name_that_can_be_had) {
  InterruptEach("create over a dead one", 3,
                [](const Interruption& what) { return Run(Scenario::kCreateOverDead, what); });
}

TEST(replace_that_is_interrupted_leaves_the_strangers_segment_or_a_name_that_can_be_had) {
  InterruptEach("replace", 3,
                [](const Interruption& what) { return Run(Scenario::kReplace, what); });
}

TEST(free_that_is_interrupted_leaves_a_name_that_can_be_had) {
  InterruptEach("free", 1, [](const Interruption& what) { return Run(Scenario::kFree, what); });
}

TEST(attach_that_is_interrupted_leaves_the_owner_alone) {
  InterruptEach("attach", 2, [](const Interruption& what) { return Run(Scenario::kAttach, what); });
}

CHECK_MAIN
