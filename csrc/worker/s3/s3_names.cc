// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_names.h"

#include <algorithm>
#include <cerrno>

#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

// PercentEncode() but for "/" and for "+" (which servers are known to read as a space), and for a
// dot in front: "." and ".." are no names.
void AppendFlat(std::string_view key, std::string* name) {
  for (size_t i = 0; i < key.size(); i++) {
    const char c = key[i];
    if (c == '/') {
      name->append("%2F");
    } else if (c == '+') {
      name->append("%2B");
    } else if (c == '.' && i == 0) {
      name->append("%2E");
    } else {
      AppendPercent(key.substr(i, 1), name);
    }
  }
}

bool HasDotSegment(std::string_view name) {
  while (true) {
    const size_t slash = name.find('/');
    const std::string_view segment = name.substr(0, slash);
    if (segment == "." || segment == "..") return true;
    if (slash == std::string_view::npos) return false;
    name.remove_prefix(slash + 1);
  }
}

void AppendName(S3Layout layout, std::string_view key, std::string* name) {
  switch (layout) {
    case S3Layout::kLmshm:
      AppendFlat(key, name);
      break;
    case S3Layout::kPayload:
      name->append(key);
      break;
    case S3Layout::kLmcacheS3: {
      const size_t begin = name->size();
      name->append(key);
      std::replace(name->begin() + static_cast<std::ptrdiff_t>(begin), name->end(), '/', '_');
      break;
    }
  }
}

}  // namespace

Status ObjectNameOf(const S3Options& options, std::string_view key, std::string* name) {
  name->assign(options.prefix);
  AppendName(options.layout, key, name);
  if (name->size() > kMaxObjectNameBytes) {
    return Status::Error(ENAMETOOLONG, "the object's name in the bucket would be " +
                                           std::to_string(name->size()) + " bytes; S3 allows " +
                                           std::to_string(kMaxObjectNameBytes));
  }
  if (options.layout != S3Layout::kLmshm && (HasDotSegment(*name) || name->back() == '/')) {
    return Status::Error(EINVAL, "layout=" + std::string(S3LayoutName(options.layout)) +
                                     " has no object \"" + Printable(key) +
                                     "\": its name would have \".\", \"..\" or nothing behind a "
                                     "slash; layout=lmshm has it");
  }
  return Status::OK();
}

std::string ObjectNamesOf(const S3Options& options, std::string_view key_prefix) {
  std::string name = options.prefix;
  AppendName(options.layout, key_prefix, &name);
  return name;
}

bool KeyOf(const S3Options& options, std::string_view name, std::string* key) {
  if (name.substr(0, options.prefix.size()) != options.prefix) return false;
  const std::string_view rest = name.substr(options.prefix.size());
  if (rest.empty() || rest.back() == '/') return false;
  if (options.layout == S3Layout::kLmshm) {
    if (!PercentDecode(rest, key)) return false;
    std::string again;
    AppendFlat(*key, &again);
    if (again != rest) return false;
  } else {
    key->assign(rest);
  }
  return CheckKey(*key).ok();
}

}  // namespace lmshm
