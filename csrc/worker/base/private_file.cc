// SPDX-License-Identifier: Apache-2.0
#include "worker/base/private_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "worker/base/unique_fd.h"

namespace lmshm {

void Wipe(std::string* text) {
  // volatile: the compiler must not leave out what nobody reads.
  volatile char* const p = text->data();
  for (size_t i = 0; i < text->size(); i++) p[i] = 0;
  text->clear();
}

Status ReadPrivateFile(const std::string& path, const std::string& source, size_t max_bytes,
                       std::string* content) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd.valid()) return Status::System(errno, "open " + source);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Status::System(errno, source);
  if (!S_ISREG(st.st_mode)) return Status::Error(EINVAL, source + ": not a regular file");
  if (st.st_uid != geteuid() && st.st_uid != 0) {
    return Status::Error(EACCES, source + ": it belongs to user " + std::to_string(st.st_uid) +
                                     ", and this worker is user " + std::to_string(geteuid()));
  }
  if ((st.st_mode & 077) != 0) {
    char mode[8];
    snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(st.st_mode & 07777));
    return Status::Error(
        EACCES, source + ": mode " + mode + " lets others read or change it; run chmod 600 on it");
  }
  std::string text(max_bytes + 1, '\0');  // in one piece: what is moved is not wiped
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = read(fd.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::System(errno, "read " + source);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  text.resize(size);
  *content = std::move(text);
  return Status::OK();
}

}  // namespace lmshm
