// SPDX-License-Identifier: Apache-2.0
//
// KeyListings: the keys of a store, page by page, for one connection.
//
// A listing stays open between its pages (ObjectListing): each page goes on reading where the one
// before it stopped. A cursor is the number of a listing and of its next page, and means nothing to
// anybody else.
#ifndef LMSHM_WORKER_STORAGE_KEY_LISTING_H_
#define LMSHM_WORKER_STORAGE_KEY_LISTING_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/storage/object_store.h"

namespace lmshm {

// That wait for their next page, of all clients: each has a buffer of 32 KiB, and of a directory a
// descriptor.
inline constexpr size_t kMaxListings = 1024;

struct ListRequest {
  size_t limit = 0;      // keys, at least 1
  size_t max_bytes = 0;  // of the keys, percent-encoded, with a space before each
  std::string cursor;    // empty: a new listing
  std::string prefix;    // of a new listing: only keys that begin with it
};

struct ListPage {
  std::vector<std::string> keys;
  std::string next;  // the cursor for the next page; empty: that was the last one
};

class OpenListings;

// Thread safe; nobody waits while another thread reads a listing.
class KeyListings {
 public:
  // Of a connection, that wait for their next page. The one that was used longest ago ends.
  static constexpr size_t kMost = 4;

  // Both must outlive this.
  KeyListings(ObjectStore* store, OpenListings* open) : store_(store), open_(open) {}
  KeyListings(const KeyListings&) = delete;
  KeyListings& operator=(const KeyListings&) = delete;
  ~KeyListings();

  // A page may have few keys, or none, although `next` is not empty. `cancel` may be null. After
  // another failure than ESTALE or EMFILE the same cursor can be tried again.
  //   ESTALE  the cursor is not known, or not any more
  //   EMFILE  there is more than a page, and no place for a listing to stay open
  Status List(const ListRequest& request, const CancelCheck* cancel, ListPage* page);
  // Ends the listing that waits for its next page with this cursor; another cursor ends nothing.
  void End(const std::string& cursor);

 private:
  friend class OpenListings;
  struct Listing;
  using Owned = std::unique_ptr<Listing>;

  Status Begin(const std::string& prefix, Owned* listing);
  Status Continue(const std::string& cursor, Owned* listing);

  ObjectStore* const store_;
  OpenListings* const open_;
  std::atomic<uint64_t> begun_{0};  // listings
};

// All listings of a worker that wait for their next page, and the places that there are for them:
// of directories each takes a descriptor. Thread safe.
class OpenListings {
 public:
  // A listing gives its place to another one once nobody has asked for a page of it in `idle`.
  explicit OpenListings(size_t most, std::chrono::milliseconds idle = std::chrono::seconds(60));
  OpenListings(const OpenListings&) = delete;
  OpenListings& operator=(const OpenListings&) = delete;
  ~OpenListings();

  // How many places are taken.
  size_t size() const;

 private:
  friend class KeyListings;
  using Owned = KeyListings::Owned;

  // Takes that one out, to be read; null: it is not there.
  Owned Take(const KeyListings* owner, const std::string& cursor);
  // Has it wait. EMFILE: there is no place for it.
  Status Put(Owned listing);
  // It is not open any more.
  void Close(Owned listing);
  void CloseAll(const KeyListings* owner);
  // Moves that one to `closed`, to go when the lock is not held any more.
  void TakeOut(std::list<Owned>::iterator at, std::list<Owned>* closed) REQUIRES(mutex_);

  const size_t most_;
  const std::chrono::milliseconds idle_;
  mutable Mutex mutex_;
  // The one that was used longest ago first.
  std::list<Owned> waiting_ GUARDED_BY(mutex_);
  // Taken, by these and by those that are being read.
  size_t places_ GUARDED_BY(mutex_) = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_KEY_LISTING_H_
