// SPDX-License-Identifier: Apache-2.0
//
// Threads that move data for a long time give way to those that have little to do and somebody who
// waits for it: the client's, above all the event loop of a JavaScript program. Where there are
// CPUs for all it changes nothing.
#ifndef LMSHM_WORKER_GIVE_WAY_H_
#define LMSHM_WORKER_GIVE_WAY_H_

#include <cstddef>

namespace lmshm {

inline constexpr int kMostNice = 19;

// CPUs that this process may use, at least 1.
size_t UsableCpus();

// The nice value for `threads` that move data, where nobody says another: 10 if they could occupy
// all CPUs, else 0.
int NiceFor(size_t threads);

// The calling thread gets this nice value, 0 to kMostNice, if it has a lower one. With more than 0,
// others that wake up need not wait either until its turn is over, where the kernel knows that
// (Linux 6.12). Where that is forbidden, or somebody gave this process another scheduling policy
// than the usual one, it stays as it was. Returns the nice value that it has then.
int GiveWay(int nice);

}  // namespace lmshm

#endif  // LMSHM_WORKER_GIVE_WAY_H_
