// SPDX-License-Identifier: Apache-2.0
//
// Figures: what a worker counts over its life, beside what engine and store count. INFO shows them.
#ifndef LMSHM_WORKER_BASE_FIGURES_H_
#define LMSHM_WORKER_BASE_FIGURES_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace lmshm {

// Thread safe. Each figure is right; several that are read one after the other need not fit
// together.
struct Figures {
  std::atomic<uint64_t> clients{0};    // connected now, in any version of the protocol
  std::atomic<uint64_t> errors{0};     // objects, or requests without any, that failed; no misses
  std::atomic<uint64_t> cancelled{0};  // of these, because a client or the worker's end said so
  const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_FIGURES_H_
