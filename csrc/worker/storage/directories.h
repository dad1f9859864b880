// SPDX-License-Identifier: Apache-2.0
//
// Directories: the directories below a worker's root that clients keep their objects in, and one
// key store for each, shared by all clients that name it.
//
// Which directory it is, device and inode say: names lead to the same one in several ways. One that
// no client uses stays open for the next who names it, until another needs its place; the root
// always stays. When a directory is opened for the first time, what dead writers left in it is
// collected by a thread that no client waits for; with a quota, whenever that counts (quota.h).
#ifndef LMSHM_WORKER_STORAGE_DIRECTORIES_H_
#define LMSHM_WORKER_STORAGE_DIRECTORIES_H_

#include <atomic>
#include <cstddef>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/base/work.h"
#include "worker/storage/key_listing.h"
#include "worker/storage/key_store.h"
#include "worker/storage/object_dir.h"
#include "worker/storage/quota.h"
#include "worker/storage/stores.h"

namespace lmshm {

// At one time; fewer where a process may have few descriptors (descriptors.h).
inline constexpr size_t kMaxDirectories = 256;

// Thread safe.
class Directories : public Stores, private CancelCheck {
 public:
  using Store = std::shared_ptr<KeyStore>;

  // Finds out what a directory's file system can do.
  using Probe = int (*)(int dir_fd, StorageFacts* facts);

  // What may be open at one time, of all together.
  struct Limits {
    size_t directories = kMaxDirectories;  // at least 1
    size_t listings = 64;                  // that wait for their next page
    KeptFilesRules kept;                   // files that are got again and again
  };

  // `root` is confined and must outlive this. What is stored takes its room from `quota` (may be
  // null), which must outlive this, too.
  Directories(const ObjectDir& root, const Limits& limits, Probe probe = ProbeStorage,
              Quota* quota = nullptr);
  Directories(const Directories&) = delete;
  Directories& operator=(const Directories&) = delete;
  // Waits until the collecting of leftovers has been broken off. No store may be in use any more.
  ~Directories() override;

  // Opens the root: first of all. Fails as Open() does; EAGAIN: no thread can be started.
  Status Start();

  // The store of the directory at `path`: see ObjectDir::OpenDirectory(). Blocks for some system
  // calls when it is not open yet, and no other client meanwhile.
  //   EMFILE  clients use as many as may be open
  Status Open(std::string_view path, Store* store);
  Status Open(std::string_view path, std::shared_ptr<ObjectStore>* store) override;

  const KeyStore& root() const { return *root_store_; }
  StoresShare& share() const override { return *share_; }
  OpenListings& listings() override { return listings_; }
  std::string Describe() const override;
  // How many are open.
  size_t size() const;

 private:
  struct Directory {
    Directory(UniqueFd opened, const StorageFacts& facts, std::shared_ptr<StoresShare> share,
              Quota::Directory quota)
        : fd(std::move(opened)), store(fd.get(), facts, std::move(share), std::move(quota)) {}
    const UniqueFd fd;
    KeyStore store;
    dev_t device = 0;
    ino_t inode = 0;
  };

  // Null: it is not open.
  Store Find(const struct stat& st) REQUIRES(mutex_);
  // Makes room for one more. False: all are used.
  bool MakeRoom() REQUIRES(mutex_);
  // Closes the one that was named longest ago of those that nobody uses. False: all are used.
  bool LetGo() REQUIRES(mutex_);
  void CollectorMain();
  bool Cancelled() const override { return ending_.load(); }

  const ObjectDir& root_;
  const size_t most_;
  const Probe probe_;
  Quota* const quota_;
  const std::shared_ptr<StoresShare> share_;
  OpenListings listings_;
  Store root_store_;
  std::thread collector_;

  mutable Mutex mutex_;
  CondVar collector_wake_;
  // The one that was named last is the last.
  std::list<std::shared_ptr<Directory>> open_ GUARDED_BY(mutex_);
  std::deque<std::weak_ptr<Directory>> to_collect_ GUARDED_BY(mutex_);
  // That the collector is at, and holds.
  const Directory* collected_ GUARDED_BY(mutex_) = nullptr;
  bool collecting_ GUARDED_BY(mutex_) = false;  // its thread runs
  std::atomic<bool> ending_{false};             // written under the lock
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_DIRECTORIES_H_
