// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_store.h"

#include <cerrno>

#include "worker/base/text.h"

namespace lmshm {

Status ThereAlready(std::string_view key) {
  return Status::Error(
      EEXIST,
      ActionOn("put", key) + ": there is an object already, and if=absent leaves it as it is");
}

}  // namespace lmshm
