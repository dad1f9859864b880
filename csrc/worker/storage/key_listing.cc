// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/key_listing.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "worker/base/percent.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

struct CloseDirectory {
  void operator()(DIR* dir) const { closedir(dir); }
};

bool IsRegular(int dir_fd, const struct dirent& entry) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type == DT_REG;
  struct stat st;
  return fstatat(dir_fd, entry.d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

bool StartsWith(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

}  // namespace

Status KeyListing::Read(const ListRequest& request, const CancelCheck* cancel, Batch* batch) const {
  UniqueFd fd(openat(store_.dir_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return Status::System(errno, "list: open the directory");
  const std::unique_ptr<DIR, CloseDirectory> dir(fdopendir(fd.get()));
  if (dir == nullptr) return Status::System(errno, "list: open the directory");
  fd.Release();  // dir's now

  // The smallest names so far, the largest of them in front.
  std::vector<std::string> heap;
  batch->complete = true;
  for (size_t count = 0;; count++) {
    if (count % 1024 == 0 && cancel != nullptr && cancel->Cancelled()) {
      return Status::System(ECANCELED, "list", "the worker is ending");
    }
    errno = 0;
    const struct dirent* const entry = readdir(dir.get());
    if (entry == nullptr) {
      if (errno != 0) return Status::System(errno, "list: read the directory");
      break;
    }
    const std::string name(entry->d_name);
    if (name <= request.after) continue;
    const bool full = heap.size() >= kBatchNames;
    if (full && name >= heap.front()) {
      batch->complete = false;
      continue;
    }
    std::string key;
    const FileKind kind = ClassifyFile(name, &key);
    if (kind == FileKind::kOther) continue;
    if (kind == FileKind::kPlain && !StartsWith(key, request.prefix)) continue;
    if (!IsRegular(dirfd(dir.get()), *entry)) continue;
    if (full) {
      batch->complete = false;
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    heap.push_back(name);
    std::push_heap(heap.begin(), heap.end());
  }
  std::sort_heap(heap.begin(), heap.end());
  // A file system may show a name twice when it is replaced while the directory is read.
  heap.erase(std::unique(heap.begin(), heap.end()), heap.end());
  batch->names = std::move(heap);
  batch->prefix = request.prefix;
  batch->after = request.after;
  batch->used = 0;
  batch->read = std::chrono::steady_clock::now();
  return Status::OK();
}

Status KeyListing::KeyOf(const std::string& name, std::string* key) const {
  switch (ClassifyFile(name, key)) {
    case FileKind::kPlain:
      return Status::OK();
    case FileKind::kHashed:
      return store_.share().WithSpareRoom([&] { return store_.KeyOfHashed(name, key); });
    case FileKind::kOther:
      break;
  }
  return Status::Error(ENOENT, "no object");
}

KeyListing::Batch KeyListing::TakeAhead() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(ahead_, Batch());
}

Status KeyListing::List(const ListRequest& request, const CancelCheck* cancel, ListPage* page) {
  Batch batch = TakeAhead();
  const bool usable = !request.after.empty() && batch.after == request.after &&
                      batch.prefix == request.prefix && !batch.names.empty() &&
                      std::chrono::steady_clock::now() - batch.read <= kBatchAge;
  if (!usable) {
    batch = Batch();
    Status status = store_.share().WithSpareRoom([&] { return Read(request, cancel, &batch); });
    if (!status.ok()) return status;
  }

  page->keys.clear();
  size_t bytes = 0;
  for (; batch.used < batch.names.size() && page->keys.size() < request.limit; batch.used++) {
    const std::string& name = batch.names[batch.used];
    std::string key;
    const Status status = KeyOf(name, &key);
    // Incomplete, a page would say that objects are not there.
    if (!status.ok() && status.number() != ENOENT) return status;
    if (status.ok() && StartsWith(key, request.prefix)) {
      bytes += 1 + PercentSize(key);
      if (bytes > request.max_bytes) break;
      page->keys.push_back(std::move(key));
    }
    batch.after = name;
  }
  page->next = batch.used == batch.names.size() && batch.complete ? std::string() : batch.after;
  if (batch.used < batch.names.size()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ahead_ = std::move(batch);
  }
  return Status::OK();
}

}  // namespace lmshm
