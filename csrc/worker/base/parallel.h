// SPDX-License-Identifier: Apache-2.0
//
// Parallel: other threads' help with one piece of work. Whoever asks does not know who they are.
#ifndef LMSHM_WORKER_BASE_PARALLEL_H_
#define LMSHM_WORKER_BASE_PARALLEL_H_

#include <cstddef>
#include <functional>

namespace lmshm {

class Parallel {
 public:
  virtual ~Parallel() = default;

  // How long a part takes. Calling others costs them and the caller some ten microseconds each.
  enum class Pace {
    kSlow,     // much longer than that
    kUnknown,  // perhaps not: others are called when it turns out so, or have a CPU for themselves
  };

  // Calls part(0) to part(parts - 1), each once, in any order: on this thread, and on those that
  // have nothing else to do, at most `at_once` in all at a time. Returns when all have returned.
  // `part` must not throw. Never waits for a thread that is not at work on a part of it, so it
  // cannot deadlock when no thread is idle.
  virtual void Run(size_t parts, size_t at_once, Pace pace,
                   const std::function<void(size_t)>& part) = 0;

  // Whether other work waits for a thread. Cheap; any thread.
  virtual bool Wanted() const = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_PARALLEL_H_
