// SPDX-License-Identifier: Apache-2.0
//
// Stores: where a worker's clients find the store that they mean. A worker that serves a directory
// has one for each directory below it that clients name (directories.h); one that serves another
// engine has that (OneStore).
//
// StoresShare: what is one for all of a worker's stores.
#ifndef LMSHM_WORKER_STORAGE_STORES_H_
#define LMSHM_WORKER_STORAGE_STORES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "worker/base/metrics.h"
#include "worker/base/status.h"
#include "worker/storage/kept_files.h"
#include "worker/storage/key_listing.h"
#include "worker/storage/object_store.h"

namespace lmshm {

// Thread safe.
struct StoresShare {
  explicit StoresShare(const KeptFilesRules& rules = KeptFilesRules()) : kept_files(rules) {}

  // Carries out `step`, which returns a Status, with patience: see Patience.
  template <typename Step>
  Status WithSpareRoom(const Step& step, bool wait = true);

  KeptFiles kept_files;  // of directories
  Metrics metrics;
};

// For one thing that can be repeated: whether to, if it failed for want of something that files
// take which stay open without need: descriptors, or the disk space of objects that others
// removed. For descriptors of other requests, which are finished soon, it also waits, if it may.
class Patience {
 public:
  Patience(StoresShare* share, bool wait)
      : files_(share->kept_files), before_(files_.let_go()), waits_(wait ? kWaits : 0) {}
  // Lets go of such files, or waits for a moment. False if that is of no use.
  bool TryAgain(const Status& status);

 private:
  static constexpr int kWaits = 200;  // of 10 ms
  KeptFiles& files_;
  uint64_t before_;
  int left_ = 4;
  int waits_;
};

template <typename Step>
Status StoresShare::WithSpareRoom(const Step& step, bool wait) {
  Patience patience(this, wait);
  for (;;) {
    Status status = step();
    if (status.ok() || !patience.TryAgain(status)) return status;
  }
}

// Thread safe.
class Stores {
 public:
  virtual ~Stores() = default;

  // The store of a client that names `directory` when it says HELLO; "": it names none. It stays
  // while somebody has it, and Stores longer. May block.
  virtual Status Open(std::string_view directory, std::shared_ptr<ObjectStore>* store) = 0;

  virtual StoresShare& share() const = 0;
  virtual OpenListings& listings() = 0;

  // Words for INFO, as ObjectStore::Describe(): of all stores together.
  virtual std::string Describe() const { return ""; }
};

// Of a store that has no directories.
class OneStore : public Stores {
 public:
  // `listings`: so many may wait for their next page.
  OneStore(std::unique_ptr<ObjectStore> store, size_t listings)
      : store_(std::move(store)), listings_(listings) {}

  // ENOTSUP: the client names another directory than ".".
  Status Open(std::string_view directory, std::shared_ptr<ObjectStore>* store) override;
  StoresShare& share() const override { return share_; }
  OpenListings& listings() override { return listings_; }

 private:
  const std::shared_ptr<ObjectStore> store_;
  mutable StoresShare share_;
  OpenListings listings_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_STORES_H_
