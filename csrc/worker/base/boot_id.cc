// SPDX-License-Identifier: Apache-2.0
#include "worker/base/boot_id.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>

namespace lmshm {

Status MakeBootId(std::string* id) {
  uint64_t random;
  long got;  // by number: glibc has had the function only since 2.25
  do {
    got = syscall(SYS_getrandom, &random, sizeof random, 0);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<long>(sizeof random)) {
    return Status::System(got < 0 ? errno : EIO, "choose a random boot id");
  }
  char text[17];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(random));
  *id = text;
  return Status::OK();
}

}  // namespace lmshm
