// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/key_listing.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "worker/base/percent.h"
#include "worker/base/text.h"

namespace lmshm {

// One listing. It is in the hand of one thread, or waits in OpenListings.
struct KeyListings::Listing {
  const KeyListings* owner = nullptr;
  uint64_t number = 0;
  uint64_t page = 0;  // the next
  std::unique_ptr<ObjectListing> keys;
  bool ended = false;              // `keys` has
  std::vector<std::string> found;  // keys that are on no page yet
  bool has_place = false;
  std::chrono::steady_clock::time_point used;

  std::string Cursor() const { return std::to_string(number) + "." + std::to_string(page); }
};

KeyListings::~KeyListings() { open_->CloseAll(this); }

Status KeyListings::Begin(const std::string& prefix, Owned* listing) {
  auto begun = std::make_unique<Listing>();
  Status status = store_->BeginListing(prefix, &begun->keys);
  if (!status.ok()) return status;
  begun->owner = this;
  begun->number = begun_.fetch_add(1) + 1;
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

Status KeyListings::List(const ListRequest& request, const CancelCheck* cancel, ListPage* page) {
  Owned listing;
  Status status =
      request.cursor.empty() ? Begin(request.prefix, &listing) : Continue(request.cursor, &listing);
  if (!status.ok()) return status;
  std::vector<std::string>& found = listing->found;
  size_t before = 0;
  for (const std::string& key : found) before += 1 + PercentSize(key);
  // One key more than fit on the page: else that would not be known to be the last.
  if (found.size() <= request.limit && before <= request.max_bytes && !listing->ended) {
    const PageLimits limits = {request.limit + 1 - found.size(), request.max_bytes - before};
    status = listing->keys->Read(limits, cancel, &found, &listing->ended);
  }
  if (!status.ok()) {
    if (listing->has_place) {
      (void)open_->Put(std::move(listing)).ok();  // it has its place
    }
    return status;
  }

  page->keys.clear();
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
                                       " listings are open, as many as this worker has room "
                                       "for; try again later, or raise its limit of "
                                       "descriptors (ulimit -n)");
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
