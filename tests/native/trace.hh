// SPDX-License-Identifier: Apache-2.0
//
// The system calls of another process, all its threads, one by one: to see them, to make one fail,
// or to kill the process before or after one. By ptrace(2), so it works with every binary, static
// ones too. Linux 5.3 and later, x86-64 and arm64.
//
// Whoever calls Attach() must be the one who calls Run(): a process is traced by one thread.
#ifndef LMSHM_TESTS_NATIVE_TRACE_H_
#define LMSHM_TESTS_NATIVE_TRACE_H_

#include <elf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>

struct TracedCall {
  pid_t thread = 0;
  bool entry = false;  // else its result is known
  uint64_t number = 0;
  uint64_t arguments[6] = {};
  int64_t result = 0;  // -errno on failure
};

struct TraceAction {
  enum Kind { kGo, kKill, kFail } kind = kGo;
  int error = 0;  // of kFail, which is for entries: the call is not made
};

class Tracer {
 public:
  explicit Tracer(pid_t process) : process_(process) {}
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Of a child that runs: takes hold of all its threads. False where that is not allowed.
  bool Attach() {
    size_t before;
    do {
      before = threads_.size();
      const std::string tasks = "/proc/" + std::to_string(process_) + "/task";
      for (const auto& entry : std::filesystem::directory_iterator(tasks)) {
        const pid_t thread = atoi(entry.path().filename().c_str());
        if (threads_.count(thread) != 0) continue;
        if (ptrace(PTRACE_SEIZE, thread, nullptr, kOptions) != 0) {
          if (errno == ESRCH) continue;
          return false;
        }
        threads_[thread] = {};
        ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr);
      }
    } while (threads_.size() != before);
    std::set<pid_t> waiting;
    for (const auto& [thread, state] : threads_) waiting.insert(thread);
    while (!waiting.empty()) {
      int status;
      const pid_t thread = waitpid(-1, &status, __WALL);
      if (thread < 0) return false;
      if (WIFSTOPPED(status)) waiting.erase(thread);
      if (WIFSTOPPED(status)) ptrace(PTRACE_SYSCALL, thread, nullptr, nullptr);
      if (!WIFSTOPPED(status) && thread == process_) return false;
    }
    return true;
  }

  // Until the process is gone, which it is when this returns: its exit status as waitpid() has it.
  // `on_call` is asked at every entry and exit of a call.
  int Run(const std::function<TraceAction(const TracedCall&)>& on_call) {
    for (;;) {
      int status;
      const pid_t thread = waitpid(-1, &status, __WALL);
      if (thread < 0) return errno == EINTR ? Run(on_call) : -1;
      if (!WIFSTOPPED(status)) {
        threads_.erase(thread);
        if (thread == process_) return status;
        continue;
      }
      long deliver = 0;
      const int signal_number = WSTOPSIG(status);
      if (signal_number == (SIGTRAP | 0x80)) {
        OnStop(thread, on_call);
      } else if (status >> 16 == 0) {
        deliver = signal_number;
      }  // else an event of tracing: a new thread, the first stop of one
      ptrace(PTRACE_SYSCALL, thread, nullptr, deliver);
    }
  }

  // Text at an address of the process.
  std::string Text(uint64_t address) const {
    char text[4096];
    struct iovec here = {text, sizeof text};
    // Not over the end of the page, which may be the last one.
    struct iovec there = {reinterpret_cast<void*>(address), sizeof text - address % 4096};
    const ssize_t got = process_vm_readv(process_, &here, 1, &there, 1, 0);
    if (got <= 0) return "";
    return std::string(text, strnlen(text, static_cast<size_t>(got)));
  }

  // What a descriptor of the process is open for: a path, mostly.
  std::string File(int fd) const {
    char text[4096];
    const std::string link = "/proc/" + std::to_string(process_) + "/fd/" + std::to_string(fd);
    const ssize_t got = readlink(link.c_str(), text, sizeof text);
    return got <= 0 ? "" : std::string(text, static_cast<size_t>(got));
  }

 private:
  static constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
                                   PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL;

  struct State {
    TracedCall call;
    int error = 0;  // what the call that was not made is to return
  };

  void OnStop(pid_t thread, const std::function<TraceAction(const TracedCall&)>& on_call) {
    struct __ptrace_syscall_info info = {};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) < 0) {
      return;
    }
    State& state = threads_[thread];
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      state.call = {};
      state.call.thread = thread;
      state.call.entry = true;
      state.call.number = info.entry.nr;
      memcpy(state.call.arguments, info.entry.args, sizeof state.call.arguments);
      state.error = 0;
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && state.call.entry) {
      if (state.error != 0) SetResult(thread, -state.error);
      state.call.entry = false;
      state.call.result = state.error != 0 ? -state.error : info.exit.rval;
    } else {
      return;  // such as the end of a call that had begun before Attach()
    }
    const TraceAction action = on_call(state.call);
    if (action.kind == TraceAction::kKill) kill(process_, SIGKILL);
    if (action.kind == TraceAction::kFail && state.call.entry) {
      state.error = action.error;
      SkipCall(thread);
    }
  }

#if defined(__x86_64__)
  static void SkipCall(pid_t thread) {
    ptrace(PTRACE_POKEUSER, thread, offsetof(struct user_regs_struct, orig_rax), -1L);
  }
  static void SetResult(pid_t thread, long result) {
    ptrace(PTRACE_POKEUSER, thread, offsetof(struct user_regs_struct, rax), result);
  }
#else
  static void SkipCall(pid_t thread) {
    int none = -1;
    struct iovec part = {&none, sizeof none};
    ptrace(PTRACE_SETREGSET, thread, NT_ARM_SYSTEM_CALL, &part);
  }
  static void SetResult(pid_t thread, long result) {
    struct user_regs_struct registers;
    struct iovec part = {&registers, sizeof registers};
    ptrace(PTRACE_GETREGSET, thread, NT_PRSTATUS, &part);
    registers.regs[0] = static_cast<uint64_t>(result);
    ptrace(PTRACE_SETREGSET, thread, NT_PRSTATUS, &part);
  }
#endif

  const pid_t process_;
  std::map<pid_t, State> threads_;
};

#endif  // LMSHM_TESTS_NATIVE_TRACE_H_
