// SPDX-License-Identifier: Apache-2.0
//
// At which of its system calls a scenario is interrupted, and how: killed before or after one, or
// one of them made to fail.
//
// A scenario is run again and again, each time interrupted at a later call, until it has fewer
// calls than that. The short form takes some of the calls, by chance and in order; with
// LMSHM_INTERRUPT=all it is all of them, and each error.
#ifndef LMSHM_TESTS_NATIVE_INTERRUPT_H_
#define LMSHM_TESTS_NATIVE_INTERRUPT_H_

#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "trace.hh"
#include "worker_check.hh"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

struct Interruption {
  enum Kind { kKillBefore, kKillAfter, kFail } kind = kKillBefore;
  int error = 0;
  size_t at = 0;  // calls before it

  std::string Describe() const {
    const char* const how[] = {"killed before", "killed after", "failed with "};
    std::string text = how[kind];
    if (kind == kFail) text += strerrorname(error);
    return text + " call " + std::to_string(at);
  }

  static const char* strerrorname(int error) {
    switch (error) {
      case EIO:
        return "EIO";
      case ENOSPC:
        return "ENOSPC";
      case EINTR:
        return "EINTR";
      case ENOMEM:
        return "ENOMEM";
      case EMFILE:
        return "EMFILE";
      default:
        return "?";
    }
  }
};

// Counts the calls of all threads, and interrupts at the one that is meant.
class Interrupter {
 public:
  explicit Interrupter(const Interruption& what) : what_(what) {}

  TraceAction OnCall(const TracedCall& call) {
    if (done_ || (what_.kind == Interruption::kFail && !MayFail(call.number))) return {};
    // There is no after of these.
    const bool last = call.number == SYS_exit || call.number == SYS_exit_group;
    if (what_.kind == Interruption::kKillAfter && last) return {};
    if (call.entry) {
      const bool now = seen_ == what_.at;
      seen_++;
      if (!now) return {};
      number_ = call.number;
      if (what_.kind == Interruption::kKillAfter) {
        thread_ = call.thread;
        return {};
      }
      done_ = true;
      if (what_.kind == Interruption::kKillBefore) return {TraceAction::kKill, 0};
      return {TraceAction::kFail, what_.error};
    }
    if (thread_ == 0 || call.thread != thread_) return {};
    done_ = true;
    return {TraceAction::kKill, 0};
  }

  // Whether the call failed, or the process was killed. Not when the process ended while another of
  // its threads was still in the call, as ThreadSanitizer's own thread is in its sleep.
  bool done() const { return done_; }
  // Whether the scenario had as many calls.
  bool reached() const { return done_ || thread_ != 0; }
  uint64_t number() const { return number_; }  // of the call

 private:
  // Threads cannot work without the first ones, and the others cannot fail.
  static bool MayFail(uint64_t number) {
    switch (number) {
      case SYS_futex:
      case SYS_exit:
      case SYS_exit_group:
      case SYS_rt_sigreturn:
      case SYS_rt_sigprocmask:
      case SYS_rt_sigaction:
      case SYS_restart_syscall:
      case SYS_set_robust_list:
      case SYS_sched_yield:
      case SYS_munmap:
      case SYS_mprotect:
      case SYS_brk:
      case SYS_gettid:
      case SYS_getpid:
      case SYS_tgkill:
        return false;
      default:
        return true;
    }
  }

  const Interruption what_;
  size_t seen_ = 0;
  pid_t thread_ = 0;
  uint64_t number_ = 0;
  bool done_ = false;
};

inline bool InterruptEverywhere() {
  const char* const text = getenv("LMSHM_INTERRUPT");
  return text != nullptr && std::string(text) == "all";
}

inline unsigned InterruptSeed() {
  static const unsigned seed = [] {
    const char* const text = getenv("LMSHM_SEED");
    const unsigned value = text != nullptr && *text != '\0'
                               ? static_cast<unsigned>(strtoul(text, nullptr, 10))
                               : std::random_device()();
    std::cout << "# LMSHM_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

// Runs `run` with one interruption after the other; it returns whether its scenario had as many
// calls. `every`: of so many calls one is taken in the short form.
inline void InterruptEach(const std::string& scenario, unsigned every,
                          const std::function<bool(const Interruption&)>& run) {
  std::vector<Interruption> kinds = {{Interruption::kKillBefore, 0, 0},
                                     {Interruption::kKillAfter, 0, 0}};
  // Sanitizers do not bear failures of the calls that they make themselves.
  for (const int error : {EIO, ENOSPC, EINTR, ENOMEM, EMFILE}) {
    if (!kSanitized) kinds.push_back({Interruption::kFail, error, 0});
  }
  std::minstd_rand random(InterruptSeed());
  const bool all = InterruptEverywhere();
  size_t runs = 0;
  for (Interruption what : kinds) {
    const unsigned usual = every * (check::LongForm() ? 1 : 2);
    const unsigned stride = all                                ? 1
                            : what.kind == Interruption::kFail ? usual * 3
                                                               : usual * (kSanitized ? 3 : 1);
    what.at = random() % stride;
    for (int over = 0; over < (all ? 2 : 1);) {
      alarm(check::kWatchdogSeconds);
      const int failures = check::Failures();
      const bool reached = run(what);
      if (check::Failures() > failures) {
        std::cout << "# " << scenario << ", " << what.Describe() << std::endl;
      }
      runs++;
      if (!reached) over++;
      what.at += 1 + (stride > 1 ? random() % (2 * stride - 1) : 0);
      if (check::Failures() > 20) return;
    }
  }
  std::cout << "# " << scenario << ": " << runs << " runs" << std::endl;
}

#endif  // LMSHM_TESTS_NATIVE_INTERRUPT_H_
