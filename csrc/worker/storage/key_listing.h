// SPDX-License-Identifier: Apache-2.0
//
// KeyListing: the keys of a KeyStore, page by page.
//
// Pages go by file name in byte order, and a cursor is the last name looked at. Thus a cursor says
// all there is to say: it stays good across connections and restarts of the worker, whatever is
// stored and removed meanwhile, and an object that is there all the time is listed exactly once.
// (Positions of readdir() would save the sorting, but on some file systems they move when the
// directory changes.) One that is stored, replaced or removed meanwhile may be listed or not.
//
// To find the next names the whole directory must be read, so more of them than a page needs are
// kept for the page after it: a directory of n objects is read n / 8192 times.
#ifndef LMSHM_WORKER_STORAGE_KEY_LISTING_H_
#define LMSHM_WORKER_STORAGE_KEY_LISTING_H_

#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

#include "worker/base/cancel.h"
#include "worker/base/status.h"
#include "worker/storage/key_store.h"

namespace lmshm {

struct ListRequest {
  size_t limit = 0;      // keys, at least 1
  size_t max_bytes = 0;  // of the keys, percent-encoded, with a space before each
  std::string after;     // a cursor; empty: from the beginning
  std::string prefix;    // only keys that begin with it
};

struct ListPage {
  std::vector<std::string> keys;
  std::string next;  // the cursor for the next page; empty: that was the last one
};

// One for a client: it remembers names that it has read. Thread safe; nobody waits while another
// thread reads a directory.
class KeyListing {
 public:
  // Names that are read ahead, and for how long they are used.
  static constexpr size_t kBatchNames = 8192;
  static constexpr std::chrono::seconds kBatchAge{10};

  explicit KeyListing(const KeyStore& store) : store_(store) {}

  // A page may have few keys, or none, although `next` is not empty. `cancel` may be null.
  Status List(const ListRequest& request, const CancelCheck* cancel, ListPage* page);

 private:
  // The first names after `after`, in order, that may belong to keys with `prefix`.
  struct Batch {
    std::string prefix;
    std::string after;
    std::vector<std::string> names;
    size_t used = 0;
    bool complete = false;  // no names follow these
    std::chrono::steady_clock::time_point read;
  };

  Status Read(const ListRequest& request, const CancelCheck* cancel, Batch* batch) const;
  Status KeyOf(const std::string& name, std::string* key) const;
  Batch TakeAhead();

  const KeyStore& store_;
  std::mutex mutex_;
  Batch ahead_;  // what the last page left; guarded by mutex_
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_KEY_LISTING_H_
