// SPDX-License-Identifier: Apache-2.0
//
// Quota: keeps what the objects of all directories below a root take of the disk within a limit,
// whoever writes them.
//
// A put takes room before it writes (QuotaRoom), so what is being written counts, and says what it
// really takes when it is done. When the account is nearly full a thread makes room in advance: it
// chooses a time of last use such that removing what was not used since then frees a few percent of
// the limit, reads the directories once, and removes those. A put that finds no room waits for it.
// Another thread counts what is there at the start, and listens to what others do afterwards.
//
// The account (all times and sizes, docs/worker.md has them for people):
//
//     limit     97.5 %   room is made in advance from here on,
//               92.5 %   down to here;
//               90 %     below this only as far as one put needs it
//
// What was put within the last tenth of the limit (in bytes put) is not removed, unless one put
// alone needs more than the other nine tenths.
//
// Several workers on one directory hear of each other's objects when these have their names
// (directory_watch.h), before each put. What the others are writing they do not know; so while
// there are others (fellow_workers.h) all workers together write at most a tenth of the limit at a
// time, or one object each. One of them makes room at a time; the others look again afterwards.
#ifndef LMSHM_WORKER_STORAGE_QUOTA_H_
#define LMSHM_WORKER_STORAGE_QUOTA_H_

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/storage/directory_watch.h"
#include "worker/storage/fellow_workers.h"
#include "worker/storage/object_index.h"

namespace lmshm {

class Quota;

inline constexpr uint64_t kLeastQuotaBytes = kBlockBytes;
// At one time, in the account; fewer where a process may have few descriptors (descriptors.h).
inline constexpr size_t kMaxQuotaDirectories = 1024;

struct QuotaRules {
  uint64_t max_bytes = UINT64_MAX;
  size_t directories = kMaxQuotaDirectories;  // at most, each holds a descriptor
  std::chrono::seconds leftover_age{60};      // see leftovers.h
  // How long a put waits for room while nothing becomes free.
  std::chrono::milliseconds patience{10000};
  // How long making room waits in all for other processes that make room in a directory, or hold
  // its lock.
  std::chrono::milliseconds lock_patience{5000};
  // Everything is counted again after so long, or ten times as long as that takes: where the kernel
  // tells what others do, and where it does not.
  std::chrono::milliseconds recount{600000};
  std::chrono::milliseconds recount_unwatched{1000};
};

// One directory below the root. Thread safe.
class QuotaDirectory : public std::enable_shared_from_this<QuotaDirectory> {
 public:
  QuotaDirectory(Quota* quota, UniqueFd fd, DiskTotals* all, size_t number);

  // An object was read, or removed, by its file's name.
  void Used(std::string_view name);
  void Removed(const std::string& name);

  // What it holds.
  uint64_t bytes() const { return index_.totals().blocks * kBlockBytes; }
  uint64_t objects() const { return index_.totals().objects; }

  // `evicted` is called with the name of each object that is removed to make room, until
  // RemoveListener(); it is not being called when that returns. `owner` tells them apart.
  using Listener = std::function<void(const std::string&)>;
  void AddListener(const void* owner, Listener evicted);
  void RemoveListener(const void* owner);

 private:
  friend class Quota;
  friend class QuotaRoom;

  Quota* const quota_;
  ObjectIndex index_;
  const FellowWorkers fellows_;
  const uint64_t salt_;  // tells its names from those of other directories
  dev_t device_ = 0;
  ino_t inode_ = 0;
  bool counted_ = false;             // for the counting thread
  bool kept_ = false;                // others had it locked for too long; for the evicting thread
  std::weak_ptr<const void> users_;  // with the account's directories_mutex_ held
  bool watched_ = false;
  Mutex listeners_mutex_;
  std::map<const void*, Listener> listeners_ GUARDED_BY(listeners_mutex_);
};

// Room for one object while it is written. Not thread safe: one thread at a time.
class QuotaRoom {
 public:
  // Without a directory all of this does nothing and succeeds.
  QuotaRoom() = default;
  QuotaRoom(std::shared_ptr<QuotaDirectory> directory, std::string file_name, uint64_t bytes);
  QuotaRoom(const QuotaRoom&) = delete;
  QuotaRoom& operator=(const QuotaRoom&) = delete;
  // Unless it was committed the room is free again.
  ~QuotaRoom();

  // Takes the room, if it becomes free within `patience`; else may be called again. Success without
  // `*taken`: it is still waited for. ENOSPC: it does not fit, and will not.
  Status Take(std::chrono::milliseconds patience, bool* taken);

  // The object is there. `st`: of its file, once all of it was written; the sidecar's bytes.
  void Commit(const struct stat& st, uint64_t sidecar_bytes);

 private:
  friend class Quota;
  using Clock = std::chrono::steady_clock;
  enum class State { kNew, kWaiting, kTaken, kOver };

  std::shared_ptr<QuotaDirectory> directory_;
  std::string name_;
  uint64_t hash_ = 0;
  uint64_t blocks_ = 0;
  State state_ = State::kNew;
  std::list<QuotaRoom*>::iterator place_;  // while it waits
  bool hopeless_ = false;                  // an attempt to make room for it has failed
  Clock::time_point began_;                // to wait
  Clock::time_point asked_;                // lately
};

// Thread safe.
class Quota {
 public:
  struct Stats {
    uint64_t used_bytes = 0;  // what is being written included
    uint64_t objects = 0;
    uint64_t directories = 0;
    uint64_t evictions = 0;
    uint64_t evicted_bytes = 0;
    uint64_t stale_temporaries = 0;
    uint64_t stale_keys = 0;
    uint64_t memory_bytes = 0;  // of the tables
    bool counted = false;       // all that was there at the start
  };

  // What one directory holds.
  struct DirectoryUse {
    std::string path;  // below the root; "" is the root itself
    uint64_t objects = 0;
    uint64_t bytes = 0;
  };

  // `root_fd` (may be O_PATH) stays the caller's, and must live as long as this.
  Quota(int root_fd, const QuotaRules& rules);
  Quota(const Quota&) = delete;
  Quota& operator=(const Quota&) = delete;
  // Nobody uses its directories any more.
  ~Quota();

  // Begins to count, and returns at once.
  Status Start();

  // The directory `dir_fd` (may be O_PATH), which is in the account from now on. The same for all
  // descriptors of one directory. It must not outlive this. EMFILE: there are too many.
  using Directory = std::shared_ptr<QuotaDirectory>;
  Status Find(int dir_fd, Directory* directory);

  uint64_t max_bytes() const { return rules_.max_bytes; }
  Stats stats() const;

  // The directories that hold most, at most so many, the largest first; not those that hold
  // nothing. Blocks for some system calls.
  std::vector<DirectoryUse> Largest(size_t most) const;

  // For tests: returns once everything was counted again after the call; and once no more room is
  // being made.
  void Recount();
  bool WaitUntilIdle(std::chrono::milliseconds patience);

 private:
  friend class QuotaDirectory;
  friend class QuotaRoom;
  using Clock = std::chrono::steady_clock;

  // So much had been put before the object whose tick this is.
  struct Sample {
    uint64_t before = 0;
    UseTick tick = 0;
  };
  // What making room once is about.
  struct Goal {
    uint64_t used = 0;                 // blocks that may remain
    bool may_take_all = false;         // what was put lately, too
    const QuotaRoom* first = nullptr;  // what it is for; may be gone by now
  };

  // What goes: all that was used last before `latest`, and of what was used just then what is
  // needed.
  struct Choice {
    UseTick latest = 0;
    uint64_t before = 0;              // blocks of the former
    uint64_t at_latest = UINT64_MAX;  // and of the latter, of which there may be more
  };
  // Blocks that went of either.
  struct Evicted {
    uint64_t before = 0;
    uint64_t at_latest = 0;
  };

  // The account: quota.cc.
  Status Take(QuotaRoom* room, std::chrono::milliseconds patience, bool* taken);
  bool Fits(const QuotaRoom& room, uint64_t share, Clock::time_point now) const REQUIRES(mutex_);
  bool IsHopeless(const QuotaRoom& room, Clock::time_point now) const REQUIRES(mutex_);
  Status Refuse(const QuotaRoom& room) const REQUIRES(mutex_);
  void Leave(QuotaRoom* room) REQUIRES(mutex_);
  void Commit(QuotaRoom* room, uint64_t blocks);
  void NoteChange() REQUIRES(mutex_);
  void NotePut(uint64_t blocks, UseTick tick) REQUIRES(mutex_);
  void NotePutByOthers(uint64_t blocks, UseTick tick);
  uint64_t InAccount() const REQUIRES(mutex_);
  std::optional<Goal> NextGoal() const REQUIRES(mutex_);
  uint64_t IdOf(const QuotaDirectory& directory, uint64_t hash) const {
    return hash ^ directory.salt_;
  }

  // Counting and making room: quota_threads.cc.
  // A directory that appeared in another one.
  struct Appeared {
    Directory parent;
    std::string name;
  };
  struct Round;  // of counting everything
  void CountMain();
  void CountAll();
  void CountAppeared();
  void CountOne(QuotaDirectory* directory, std::vector<std::string>* below);
  void CountBelow(UniqueFd dir, size_t depth, Round* round);
  Directory Known(int dir_fd) const REQUIRES(directories_mutex_);
  // With directories_mutex_ held.
  static Directory Use(const Directory& directory);
  bool MakePlace() REQUIRES(directories_mutex_);
  void WakeCounter() const;
  // Takes note of all that others did until now.
  void Hear();
  void HearOf(QuotaDirectory* directory, const std::string& name, DirectoryWatch::What what);
  bool Ending() const { return ending_.load(std::memory_order_relaxed); }
  void EvictMain();
  void MakeRoom(const Goal& goal);
  bool Choose(const Goal& goal, const std::vector<Directory>& all, Choice* choice) const;
  // Once over the directories. Leaves those out of `*all` that others keep locked: what was chosen
  // of them is to be chosen of the rest. False: there is no more to do.
  bool MakeRoomIn(const Goal& goal, Clock::duration* patience, std::vector<Directory>* all);
  // False, and why in refused_: others keep it for longer than `*patience`, of which it takes what
  // it waits; or kept it the last time and have it still. The next attempt may find it free.
  bool LockRoom(QuotaDirectory* directory, Clock::duration* patience);
  void EvictIn(QuotaDirectory* directory, const Goal& goal, const Choice& choice, bool alone,
               Evicted* evicted);
  bool Evict(QuotaDirectory* directory, const std::string& name, uint64_t hash,
             const TableObject& object);
  bool IsOver(const Goal& goal) const { return all_.blocks.load() <= goal.used; }
  std::vector<Directory> AllDirectories() const;

  const QuotaRules rules_;
  const int root_fd_;
  const uint64_t limit_;  // this and all below in blocks
  const uint64_t high_;
  const uint64_t low_;
  const uint64_t floor_;
  const uint64_t tenth_;
  DiskTotals all_;
  DirectoryWatch watch_;

  mutable Mutex directories_mutex_;
  std::vector<Directory> directories_ GUARDED_BY(directories_mutex_);
  size_t numbered_ GUARDED_BY(directories_mutex_) = 0;
  Directory root_;

  mutable Mutex mutex_;
  CondVar room_;  // there may be room
  CondVar work_;  // room may have to be made
  uint64_t reserved_ GUARDED_BY(mutex_) = 0;
  uint64_t waiting_blocks_ GUARDED_BY(mutex_) = 0;
  std::list<QuotaRoom*> waiting_ GUARDED_BY(mutex_);  // the one that came first in front
  std::unordered_multiset<uint64_t> writing_ GUARDED_BY(mutex_);  // objects, by IdOf()
  uint64_t evicting_ GUARDED_BY(mutex_) = 0;                      // the object, likewise; 0: none
  uint64_t put_ GUARDED_BY(mutex_) = 0;                           // in all
  std::deque<Sample> samples_ GUARDED_BY(mutex_);
  uint64_t changes_ GUARDED_BY(mutex_) = 0;  // of the account
  bool making_room_ GUARDED_BY(mutex_) = false;
  Clock::time_point progress_ GUARDED_BY(mutex_);  // something became free
  bool counted_ GUARDED_BY(mutex_) = false;
  bool count_wanted_ GUARDED_BY(mutex_) = false;
  std::vector<Appeared> appeared_ GUARDED_BY(mutex_);
  std::vector<Directory> uncounted_ GUARDED_BY(mutex_);
  uint64_t counts_wanted_ GUARDED_BY(mutex_) = 0;
  uint64_t counts_ GUARDED_BY(mutex_) = 0;
  std::string refused_ GUARDED_BY(mutex_);  // the last object that could not be removed, and why
  CondVar counts_done_;

  std::atomic<UseTick> keep_from_{0};  // what was put then or later stays
  std::atomic<uint64_t> evictions_{0};
  std::atomic<uint64_t> evicted_blocks_{0};
  std::atomic<uint64_t> stale_temporaries_{0};
  std::atomic<uint64_t> stale_keys_{0};
  std::atomic<bool> ending_{false};
  bool told_ = false;          // that not all is counted; for the counting thread
  bool told_refused_ = false;  // that something cannot be removed; for the evicting thread
  UniqueFd wake_;              // that thread
  std::thread counter_;
  std::thread evictor_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_QUOTA_H_
