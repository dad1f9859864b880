// SPDX-License-Identifier: Apache-2.0
#include "worker/execution/give_way.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <thread>

namespace lmshm {

namespace {

constexpr int kResetOnFork = 0x40000000;  // SCHED_RESET_ON_FORK, which not all headers have
// The longest turn that the kernel gives: who wakes up with a shorter one goes first.
constexpr uint64_t kTurnNs = 100'000'000;

// sched_setattr(2), whose structure older headers do not have.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedulingAttributes) == 48);

}  // namespace

size_t UsableCpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) {
    return static_cast<size_t>(std::max(1, CPU_COUNT(&cpus)));
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

int GiveWay(int nice) {
  const int now = getpriority(PRIO_PROCESS, 0);
  // Whoever chose another policy for this process (chrt, a container's manager) knew what for.
  if ((sched_getscheduler(0) & ~kResetOnFork) != SCHED_OTHER) return now;
#ifdef SYS_sched_setattr
  SchedulingAttributes attributes = {};
  attributes.size = sizeof attributes;
  attributes.policy = SCHED_OTHER;
  attributes.nice = std::max(now, nice);
  attributes.runtime = kTurnNs;
  if (syscall(SYS_sched_setattr, 0, &attributes, 0) == 0) return attributes.nice;
#endif
  if (now < nice) setpriority(PRIO_PROCESS, 0, nice);
  return getpriority(PRIO_PROCESS, 0);
}

}  // namespace lmshm
