// SPDX-License-Identifier: Apache-2.0
#include "worker/base/random.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace lmshm {

int FillRandom(void* bytes, size_t size) {
  long got;  // by number: glibc has had the function only since 2.25
  do {
    got = syscall(SYS_getrandom, bytes, size, 0);
  } while (got < 0 && errno == EINTR);
  if (got == static_cast<long>(size)) return 0;
  return got < 0 ? errno : EIO;
}

Status RandomDigits(size_t digits, const char* purpose, std::string* text) {
  constexpr char kHex[] = "0123456789abcdef";
  unsigned char random[256];
  const int error = FillRandom(random, digits / 2);
  if (error != 0) return Status::System(error, purpose);
  text->clear();
  for (size_t i = 0; i < digits / 2; i++) {
    text->push_back(kHex[random[i] >> 4]);
    text->push_back(kHex[random[i] & 15]);
  }
  return Status::OK();
}

}  // namespace lmshm
