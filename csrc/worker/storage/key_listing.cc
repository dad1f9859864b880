// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/key_listing.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string_view>
#include <utility>

#include "worker/base/percent.h"
#include "worker/base/text.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

// Names that are read before somebody may have cancelled.
constexpr size_t kCancelNames = 256;

struct CloseDirectory {
  void operator()(DIR* dir) const { closedir(dir); }
};

bool IsRegular(int dir_fd, const struct dirent& entry) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type == DT_REG;
  struct stat st;
  return fstatat(dir_fd, entry.d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

bool StartsWith(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

}  // namespace

// One listing. It is in the hand of one thread, or waits in OpenListings.
struct KeyListings::Listing {
  const KeyListings* owner = nullptr;
  uint64_t number = 0;
  uint64_t page = 0;  // the next
  std::string prefix;
  std::string name_prefix;  // of files whose names say their keys
  std::unique_ptr<DIR, CloseDirectory> dir;
  bool ended = false;              // `dir` has
  std::string again;               // a name that could not be looked at
  std::vector<std::string> found;  // keys that are on no page yet
  bool has_place = false;
  std::chrono::steady_clock::time_point used;

  std::string Cursor() const { return std::to_string(number) + "." + std::to_string(page); }
};

KeyListings::~KeyListings() { open_->CloseAll(this); }

Status KeyListings::Begin(const std::string& prefix, Owned* listing) {
  UniqueFd fd;
  Status status = store_.share().WithSpareRoom([&] {
    fd.Reset(openat(store_.dir_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return fd.valid() ? Status::OK() : Status::System(errno, "list: open the directory");
  });
  if (!status.ok()) return status;
  auto begun = std::make_unique<Listing>();
  begun->dir.reset(fdopendir(fd.get()));
  if (begun->dir == nullptr) return Status::System(errno, "list: open the directory");
  fd.Release();  // the stream's now
  begun->owner = this;
  begun->number = begun_.fetch_add(1) + 1;
  begun->prefix = prefix;
  begun->name_prefix = PlainNameOf(prefix);
  *listing = std::move(begun);
  return status;
}

Status KeyListings::Continue(const std::string& cursor, Owned* listing) {
  *listing = open_->Take(this, cursor);
  if (*listing != nullptr) return Status::OK();
  return Status::Error(ESTALE, "list: the cursor " + Printable(cursor.substr(0, 100)) +
                                   " is not known, or not any more: it is another connection's, "
                                   "its page has been listed, or it gave way to others; begin "
                                   "again with -");
}

Status KeyListings::Look(const std::string& name, Listing* listing) const {
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
  if (StartsWith(key, listing->prefix)) listing->found.push_back(std::move(key));
  return Status::OK();
}

// Finds more keys than fit on the page, if it can: else that would not be known to be the last.
Status KeyListings::Read(const ListRequest& request, const CancelCheck* cancel,
                         Listing* listing) const {
  size_t bytes = 0;
  for (const std::string& key : listing->found) bytes += 1 + PercentSize(key);
  const auto full = [&] {
    return listing->found.size() > request.limit || bytes > request.max_bytes;
  };
  size_t looked = 0;
  for (size_t count = 0; !full() && looked < kPageNames; count++) {
    if (count % kCancelNames == 0 && cancel != nullptr && cancel->Cancelled()) {
      return Status::System(ECANCELED, "list", "the worker is ending");
    }
    std::string name = std::exchange(listing->again, std::string());
    if (name.empty()) {
      if (listing->ended) break;
      errno = 0;
      const struct dirent* const entry = readdir(listing->dir.get());
      if (entry == nullptr) {
        if (errno != 0) return Status::System(errno, "list: read the directory");
        listing->ended = true;
        break;
      }
      looked++;
      const std::string_view text = entry->d_name;
      if (!StartsWith(text, listing->name_prefix) && !IsHashedName(text)) continue;
      if (!IsRegular(dirfd(listing->dir.get()), *entry)) continue;
      name = text;
    }
    if (IsHashedName(name)) looked += kHashedNames - 1;
    const size_t before = listing->found.size();
    const Status status = Look(name, listing);
    if (!status.ok()) {
      listing->again = std::move(name);
      return status;
    }
    if (listing->found.size() > before) bytes += 1 + PercentSize(listing->found.back());
  }
  return Status::OK();
}

Status KeyListings::List(const ListRequest& request, const CancelCheck* cancel, ListPage* page) {
  Owned listing;
  Status status =
      request.cursor.empty() ? Begin(request.prefix, &listing) : Continue(request.cursor, &listing);
  if (!status.ok()) return status;
  status = Read(request, cancel, listing.get());
  if (!status.ok()) {
    if (listing->has_place) {
      (void)open_->Put(std::move(listing)).ok();  // it has its place
    }
    return status;
  }

  page->keys.clear();
  std::vector<std::string>& found = listing->found;
  size_t count = 0;
  for (size_t bytes = 0; count < std::min(found.size(), request.limit); count++) {
    bytes += 1 + PercentSize(found[count]);
    if (bytes > request.max_bytes) break;
  }
  const auto end = found.begin() + static_cast<ptrdiff_t>(count);
  page->keys.assign(std::make_move_iterator(found.begin()), std::make_move_iterator(end));
  found.erase(found.begin(), end);
  listing->page++;
  page->next = found.empty() && listing->ended ? std::string() : listing->Cursor();
  if (!page->next.empty()) return open_->Put(std::move(listing));
  open_->Close(std::move(listing));
  return status;
}

void KeyListings::End(const std::string& cursor) {
  Owned listing = open_->Take(this, cursor);
  if (listing != nullptr) open_->Close(std::move(listing));
}

OpenListings::OpenListings(size_t most, std::chrono::milliseconds idle)
    : most_(most), idle_(idle) {}

OpenListings::~OpenListings() = default;

size_t OpenListings::size() const {
  const MutexLock lock(&mutex_);
  return places_;
}

OpenListings::Owned OpenListings::Take(const KeyListings* owner, const std::string& cursor) {
  const MutexLock lock(&mutex_);
  for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
    if ((*at)->owner != owner || (*at)->Cursor() != cursor) continue;
    Owned taken = std::move(*at);
    waiting_.erase(at);
    return taken;
  }
  return nullptr;
}

void OpenListings::TakeOut(std::list<Owned>::iterator at, std::list<Owned>* closed) {
  closed->splice(closed->end(), waiting_, at);
  places_--;
}

Status OpenListings::Put(Owned listing) {
  const auto now = std::chrono::steady_clock::now();
  std::list<Owned> closed;  // when the lock is not held any more
  const MutexLock lock(&mutex_);
  const auto is_own = [&](const Owned& other) { return other->owner == listing->owner; };
  if (std::count_if(waiting_.begin(), waiting_.end(), is_own) >=
      static_cast<ptrdiff_t>(KeyListings::kMost)) {
    TakeOut(std::find_if(waiting_.begin(), waiting_.end(), is_own), &closed);
  }
  if (!listing->has_place) {
    if (places_ >= most_ && !waiting_.empty() && now - waiting_.front()->used >= idle_) {
      TakeOut(waiting_.begin(), &closed);
    }
    if (places_ >= most_) {
      return Status::Error(EMFILE, "list: " + std::to_string(places_) +
                                       " listings are open, as many as this worker has "
                                       "descriptors for; try again later, or raise its limit "
                                       "(ulimit -n)");
    }
    listing->has_place = true;
    places_++;
  }
  listing->used = now;
  waiting_.push_back(std::move(listing));
  return Status::OK();
}

void OpenListings::Close(Owned listing) {
  const bool has_place = listing->has_place;
  listing.reset();
  if (!has_place) return;
  const MutexLock lock(&mutex_);
  places_--;
}

void OpenListings::CloseAll(const KeyListings* owner) {
  std::list<Owned> closed;
  const MutexLock lock(&mutex_);
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    const auto next = std::next(at);
    if ((*at)->owner == owner) TakeOut(at, &closed);
    at = next;
  }
}

}  // namespace lmshm
