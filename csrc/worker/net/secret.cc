// SPDX-License-Identifier: Apache-2.0
#include "worker/net/secret.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "worker/base/sha256.h"
#include "worker/base/text.h"
#include "worker/base/unique_fd.h"

namespace lmshm {

namespace {

// volatile: the compiler must not leave out what nobody reads.
void Wipe(char* bytes, size_t size) {
  volatile char* p = bytes;
  for (size_t i = 0; i < size; i++) p[i] = 0;
}

}  // namespace

Secret::~Secret() { Wipe(bytes_.data(), bytes_.size()); }

Status Secret::FromFile(const std::string& path, std::unique_ptr<Secret>* result) {
  const std::string source = "secret file " + Printable(path);
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
  char text[kMaxBytes + 3];  // room for a line ending and one byte too many
  size_t size = 0;
  while (size < sizeof text) {
    const ssize_t n = read(fd.get(), text + size, sizeof text - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::System(errno, "read " + source);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  std::string_view view(text, size);
  if (!view.empty() && view.back() == '\n') view.remove_suffix(1);
  if (!view.empty() && view.back() == '\r') view.remove_suffix(1);
  Status status = FromText(view, source, result);
  Wipe(text, sizeof text);
  return status;
}

Status Secret::FromText(std::string_view text, const std::string& source,
                        std::unique_ptr<Secret>* result) {
  if (text.size() < kMinBytes || text.size() > kMaxBytes) {
    return Status::Error(EINVAL,
                         source + ": a secret has 16 to 1024 characters, this one has " +
                             (text.size() > kMaxBytes ? "more" : std::to_string(text.size())));
  }
  for (const char c : text) {
    if (c > ' ' && c < '\x7f') continue;
    return Status::Error(EINVAL,
                         source + ": a secret is one line of printable ASCII without spaces");
  }
  std::unique_ptr<Secret> secret(new Secret);
  std::copy(text.begin(), text.end(), secret->bytes_.begin());
  secret->size_ = text.size();
  *result = std::move(secret);
  return Status::OK();
}

std::string Secret::Prove(Proof of, std::string_view client_nonce,
                          std::string_view worker_nonce) const {
  // Two labels: what one end says is of no use to somebody who plays the other.
  std::string message = of == Proof::kOfClient ? "lmshm client 1" : "lmshm worker 1";
  message.append(1, '\0').append(client_nonce).append(1, '\0').append(worker_nonce);
  return HexOf(HmacSha256(std::string_view(bytes_.data(), size_), message));
}

bool Secret::Matches(std::string_view offered) const {
  std::array<char, kMaxBytes> other = {};
  std::copy_n(offered.begin(), std::min(offered.size(), kMaxBytes), other.begin());
  const bool same = SameInConstantTime(std::string_view(bytes_.data(), kMaxBytes),
                                       std::string_view(other.data(), kMaxBytes));
  return same && offered.size() == size_;
}

bool SameInConstantTime(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  // volatile: the compiler must not stop at the first difference.
  volatile unsigned difference = 0;
  for (size_t i = 0; i < a.size(); i++) {
    difference = difference | static_cast<unsigned>(a[i] ^ b[i]);
  }
  return difference == 0;
}

}  // namespace lmshm
