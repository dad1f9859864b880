// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/io_mode.h"

namespace lmshm {

namespace {

// In the order of the enumerators.
constexpr std::string_view kModeNames[] = {"auto", "direct", "cached"};
constexpr std::string_view kDurabilityNames[] = {"none", "data", "full"};

template <typename Enum, size_t kCount>
bool Parse(const std::string_view (&names)[kCount], std::string_view text, Enum* value) {
  for (size_t i = 0; i < kCount; i++) {
    if (names[i] != text) continue;
    *value = static_cast<Enum>(i);
    return true;
  }
  return false;
}

}  // namespace

bool ParseIoMode(std::string_view text, IoMode* mode) { return Parse(kModeNames, text, mode); }

std::string_view IoModeName(IoMode mode) { return kModeNames[static_cast<size_t>(mode)]; }

bool ParseDurability(std::string_view text, Durability* durability) {
  return Parse(kDurabilityNames, text, durability);
}

std::string_view DurabilityName(Durability durability) {
  return kDurabilityNames[static_cast<size_t>(durability)];
}

}  // namespace lmshm
