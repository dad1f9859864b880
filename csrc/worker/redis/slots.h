// SPDX-License-Identifier: Apache-2.0
//
// Which of a cluster's 16,384 slots a key belongs to: CRC-16 (XMODEM) of the key, or of what is
// between its first "{" and the "}" after that, if that is something. Pure function.
#ifndef LMSHM_WORKER_REDIS_SLOTS_H_
#define LMSHM_WORKER_REDIS_SLOTS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lmshm {

inline constexpr size_t kSlots = 16384;

uint16_t SlotOf(std::string_view key);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_SLOTS_H_
