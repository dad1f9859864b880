// SPDX-License-Identifier: Apache-2.0
//
// Threads that move data for a long time take long turns: so those that have little to do and
// somebody who waits for it go first, above all the event loop of a JavaScript program. They are
// not nice unless somebody says so: that gives way to everybody, and beside other programs that
// compute they would get a fifth to a third of what is theirs.
#ifndef LMSHM_WORKER_EXECUTION_GIVE_WAY_H_
#define LMSHM_WORKER_EXECUTION_GIVE_WAY_H_

#include <cstddef>

namespace lmshm {

inline constexpr int kMostNice = 19;

// CPUs that this process may use, at least 1.
size_t UsableCpus();

// The calling thread takes long turns, where the kernel knows that (Linux 6.12): whoever wakes up
// with a usual one need not wait until it is over. And it gets this nice value, 0 to kMostNice, if
// it has a lower one. Where somebody gave this process another scheduling policy than the usual
// one, all stays as it was. Returns the nice value that it has then.
int GiveWay(int nice);

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_GIVE_WAY_H_
