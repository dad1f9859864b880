// SPDX-License-Identifier: Apache-2.0
//
// DirectoryListing: the keys of a KeyStore, read from a directory that stays open between pages:
// each goes on where the one before it stopped, so all pages together read the directory once.
// (Positions of readdir() could be had without an open directory, but on some file systems they
// move when it changes.)
//
// An object that is there during all of a listing is listed exactly once, because readdir()
// promises that of a name. One that is stored, replaced or removed meanwhile may be listed or not,
// and where a file system gives a replaced name another place, twice.
#ifndef LMSHM_WORKER_STORAGE_DIRECTORY_LISTING_H_
#define LMSHM_WORKER_STORAGE_DIRECTORY_LISTING_H_

#include <dirent.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "worker/base/status.h"
#include "worker/storage/object_store.h"

namespace lmshm {

class KeyStore;

// Not thread safe.
class DirectoryListing : public ObjectListing {
 public:
  // Names that are looked at for one page. One whose key is in a sidecar counts for several.
  static constexpr size_t kPageNames = 8192;
  static constexpr size_t kHashedNames = 16;

  // `store` must outlive it.
  static Status Begin(const KeyStore& store, const std::string& prefix,
                      std::unique_ptr<ObjectListing>* listing);

  Status Read(const PageLimits& limits, const CancelCheck* cancel, std::vector<std::string>* keys,
              bool* ended) override;

 private:
  struct CloseDirectory {
    void operator()(DIR* dir) const { closedir(dir); }
  };

  DirectoryListing(const KeyStore& store, const std::string& prefix);
  Status Look(const std::string& name, std::vector<std::string>* keys) const;

  const KeyStore& store_;
  const std::string prefix_;
  const std::string name_prefix_;  // of files whose names say their keys
  std::unique_ptr<DIR, CloseDirectory> dir_;
  bool ended_ = false;  // `dir_` has
  std::string again_;   // a name that could not be looked at
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_DIRECTORY_LISTING_H_
