// SPDX-License-Identifier: Apache-2.0
#include "worker/net/secret.h"

#include <algorithm>
#include <cerrno>

#include "worker/base/private_file.h"
#include "worker/base/sha256.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

// volatile: the compiler must not leave out what nobody reads.
void WipeBytes(char* bytes, size_t size) {
  volatile char* p = bytes;
  for (size_t i = 0; i < size; i++) p[i] = 0;
}

}  // namespace

Secret::~Secret() { WipeBytes(bytes_.data(), bytes_.size()); }

Status Secret::FromFile(const std::string& path, std::unique_ptr<Secret>* result) {
  const std::string source = "secret file " + Printable(path);
  std::string text;
  Status status = ReadPrivateFile(path, source, kMaxBytes + 2, &text);  // with a line ending
  if (!status.ok()) return status;
  std::string_view view(text);
  if (!view.empty() && view.back() == '\n') view.remove_suffix(1);
  if (!view.empty() && view.back() == '\r') view.remove_suffix(1);
  status = FromText(view, source, result);
  Wipe(&text);
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
