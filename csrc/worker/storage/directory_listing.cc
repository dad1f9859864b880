// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/directory_listing.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "worker/base/percent.h"
#include "worker/base/unique_fd.h"
#include "worker/storage/key_store.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

// Names that are read before somebody may have cancelled.
constexpr size_t kCancelNames = 256;

bool IsRegular(int dir_fd, const struct dirent& entry) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type == DT_REG;
  struct stat st;
  return fstatat(dir_fd, entry.d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

bool StartsWith(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

}  // namespace

DirectoryListing::DirectoryListing(const KeyStore& store, const std::string& prefix)
    : store_(store), prefix_(prefix), name_prefix_(PlainNameOf(prefix)) {}

Status DirectoryListing::Begin(const KeyStore& store, const std::string& prefix,
                               std::unique_ptr<ObjectListing>* listing) {
  UniqueFd fd;
  Status status = store.share().WithSpareRoom([&] {
    fd.Reset(openat(store.dir_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return fd.valid() ? Status::OK() : Status::System(errno, "list: open the directory");
  });
  if (!status.ok()) return status;
  std::unique_ptr<DirectoryListing> begun(new DirectoryListing(store, prefix));
  begun->dir_.reset(fdopendir(fd.get()));
  if (begun->dir_ == nullptr) return Status::System(errno, "list: open the directory");
  fd.Release();  // the stream's now
  *listing = std::move(begun);
  return status;
}

Status DirectoryListing::Look(const std::string& name, std::vector<std::string>* keys) const {
  std::string key;
  switch (ClassifyFile(name, &key)) {
    case FileKind::kOther:
      return Status::OK();
    case FileKind::kPlain:
      break;
    case FileKind::kHashed:
      Status status = store_.share().WithSpareRoom([&] { return store_.KeyOfHashed(name, &key); });
      if (status.number() == ENOENT) return Status::OK();  // nobody knows its key
      // Incomplete, a page would say that objects are not there.
      if (!status.ok()) return status;
      break;
  }
  if (StartsWith(key, prefix_)) keys->push_back(std::move(key));
  return Status::OK();
}

Status DirectoryListing::Read(const PageLimits& limits, const CancelCheck* cancel,
                              std::vector<std::string>* keys, bool* ended) {
  const size_t before = keys->size();
  size_t bytes = 0;
  size_t looked = 0;
  const auto full = [&] { return keys->size() - before >= limits.keys || bytes > limits.bytes; };
  for (size_t count = 0; !full() && looked < kPageNames; count++) {
    if (count % kCancelNames == 0 && cancel != nullptr && cancel->Cancelled()) {
      return Status::System(ECANCELED, "list", cancel->Reason());
    }
    std::string name = std::exchange(again_, std::string());
    if (name.empty()) {
      if (ended_) break;
      errno = 0;
      const struct dirent* const entry = readdir(dir_.get());
      if (entry == nullptr) {
        if (errno != 0) return Status::System(errno, "list: read the directory");
        ended_ = true;
        break;
      }
      looked++;
      const std::string_view text = entry->d_name;
      if (!StartsWith(text, name_prefix_) && !IsHashedName(text)) continue;
      if (!IsRegular(dirfd(dir_.get()), *entry)) continue;
      name = text;
    }
    if (IsHashedName(name)) looked += kHashedNames - 1;
    const size_t found = keys->size();
    const Status status = Look(name, keys);
    if (!status.ok()) {
      again_ = std::move(name);
      return status;
    }
    if (keys->size() > found) bytes += 1 + PercentSize(keys->back());
  }
  *ended = ended_;
  return Status::OK();
}

}  // namespace lmshm
