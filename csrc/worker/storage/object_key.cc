// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_key.h"

#include <cerrno>
#include <utility>

#include "worker/base/sha256.h"
#include "worker/base/text.h"
#include "worker/storage/temporary_name.h"

namespace lmshm {

namespace {

constexpr std::string_view kSeparator = "-SEP-";
constexpr std::string_view kMiddle = "SEP";  // of the separator
constexpr std::string_view kData = ".data";
constexpr std::string_view kSidecar = ".key";
constexpr std::string_view kHashPrefix = "sha256-";
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD: decoders put it for non-UTF-8
constexpr size_t kHashDigits = 64;
constexpr size_t kMaxNameBytes = 255;

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (;;) {
    const size_t at = text.find(from);
    result.append(text.substr(0, at));
    if (at == std::string_view::npos) return result;
    result.append(to);
    text.remove_prefix(at + from.size());
  }
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

std::string_view StemOf(std::string_view file_name) {
  return file_name.substr(0, file_name.size() - kData.size());
}

bool LooksHashed(std::string_view stem) {
  if (stem.size() != kHashPrefix.size() + kHashDigits) return false;
  if (stem.substr(0, kHashPrefix.size()) != kHashPrefix) return false;
  return stem.find_first_not_of("0123456789abcdef", kHashPrefix.size()) == std::string_view::npos;
}

bool IsPlain(std::string_view key, std::string_view file_name) {
  if (file_name.size() > kMaxNameBytes || LooksHashed(key)) return false;
  if (key.find(kReplacement) != std::string_view::npos) return false;
  // Only a part of the separator in the key can make another one out of it.
  return key.find(kMiddle) == std::string_view::npos ||
         ReplaceAll(StemOf(file_name), kSeparator, "/") == key;
}

}  // namespace

Status CheckKey(std::string_view key) {
  if (key.empty()) return Status::Error(EINVAL, "the key is empty");
  if (key.size() > kMaxKeyBytes) {
    return Status::Error(ENAMETOOLONG, "the key has " + std::to_string(key.size()) +
                                           " bytes, more than " + std::to_string(kMaxKeyBytes));
  }
  if (!IsPrintable(key)) {
    return Status::Error(EINVAL,
                         "key " + Printable(key) + " contains a control character or is not UTF-8");
  }
  return Status::OK();
}

ObjectKey CheckedKey(std::string_view text) {
  std::string name = PlainNameOf(text).append(kData);
  if (IsPlain(text, name)) return {text, std::move(name), std::string()};
  const std::string stem = std::string(kHashPrefix) + Sha256Hex(text);
  return {text, stem + std::string(kData), stem + std::string(kSidecar)};
}

Status ParseKey(std::string_view text, ObjectKey* key) {
  Status status = CheckKey(text);
  if (status.ok()) *key = CheckedKey(text);
  return status;
}

FileKind ClassifyFile(std::string_view file_name, std::string* key) {
  if (!EndsWith(file_name, kData)) return FileKind::kOther;
  const std::string_view stem = StemOf(file_name);
  if (LooksHashed(stem)) return FileKind::kHashed;
  if (IsProbeKey(stem)) return FileKind::kOther;
  std::string plain = ReplaceAll(stem, kSeparator, "/");
  // A name that keys do not lead to: "a/b" and "a-SEP-b" both read as "a/b" but only one is it.
  if (!CheckKey(plain).ok() || !IsPlain(plain, file_name)) return FileKind::kOther;
  if (PlainNameOf(plain) != stem) return FileKind::kOther;
  *key = std::move(plain);
  return FileKind::kPlain;
}

bool IsHashedName(std::string_view file_name) {
  return EndsWith(file_name, kData) && LooksHashed(StemOf(file_name));
}

std::string PlainNameOf(std::string_view prefix) { return ReplaceAll(prefix, "/", kSeparator); }

std::string SidecarOf(std::string_view file_name) {
  return std::string(StemOf(file_name)).append(kSidecar);
}

std::string ObjectOfSidecar(std::string_view file_name) {
  if (!EndsWith(file_name, kSidecar)) return std::string();
  const std::string_view stem = file_name.substr(0, file_name.size() - kSidecar.size());
  return LooksHashed(stem) ? std::string(stem).append(kData) : std::string();
}

bool IsProbeFile(std::string_view file_name) {
  return EndsWith(file_name, kData) && IsProbeKey(StemOf(file_name));
}

}  // namespace lmshm
