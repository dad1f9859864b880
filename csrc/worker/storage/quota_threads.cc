// SPDX-License-Identifier: Apache-2.0
//
// The two threads of a Quota: one counts what is there and listens, one makes room.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <utility>

#include "worker/base/log.h"
#include "worker/base/text.h"
#include "worker/storage/object_key.h"
#include "worker/storage/object_path.h"
#include "worker/storage/quota.h"
#include "worker/storage/sidecar.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// Requests go first.
constexpr int kCounterNice = 10;
// All in all; what is beyond is not counted, and neither is what is deeper than clients'
// directories.
constexpr size_t kMostDirectories = 100'000;
// Counting takes at most this part of the time.
constexpr int kCountPause = 10;
// Events are taken in lots.
constexpr milliseconds kHearPause(5);
constexpr milliseconds kLockPause(1);
// After an attempt to make room that did not make enough.
constexpr milliseconds kFailedPause(20);
constexpr milliseconds kLongestPause(5000);
// Of events, some thousand: what one look at them takes at most. The counting thread hears the
// rest.
constexpr size_t kHearBytes = 64 * 1024;
// Objects that are removed between two looks at what others did.
constexpr size_t kHearEvery = 32;
constexpr size_t kBuckets = 1024;

}  // namespace

// ------------------------------------------------------------------------------------- counting

struct Quota::Round {
  std::set<Directory> seen;
  size_t directories = 0;
  bool cut = false;
};

void Quota::WakeCounter() const {
  const uint64_t one = 1;
  const ssize_t ignored = write(wake_.get(), &one, sizeof one);
  (void)ignored;
}

void Quota::CountOne(QuotaDirectory* directory, std::vector<std::string>* below) {
  const ObjectIndex::Counted counted =
      directory->index_.Count(rules_.leftover_age, [this] { return Ending(); });
  stale_temporaries_ += counted.temporaries;
  stale_keys_ += counted.keys;
  if (directory->counted_) NotePutByOthers(counted.put_blocks, NowTick());
  directory->counted_ = true;
  *below = counted.below;
}

// `dir`, if it has objects or is known already, and what is below it.
void Quota::CountBelow(UniqueFd dir, size_t depth, Round* round) {
  if (Ending()) return;
  if (++round->directories > kMostDirectories || depth > kMaxDirectoryDepth) {
    round->cut = true;
    return;
  }
  Directory known;
  {
    const MutexLock lock(&directories_mutex_);
    known = Known(dir.get());
  }
  const int dir_fd = dir.get();
  std::vector<std::string> below;
  UniqueFd own(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (known == nullptr) {
    bool objects = false;
    DiskTotals unused;
    const ObjectIndex reader(std::move(dir), &unused);
    const int ignored = reader.ReadNames([&](const std::string& name, bool directory) {
      std::string key;
      if (directory) {
        below.push_back(name);
      } else if (!objects) {
        objects = ClassifyFile(name, &key) != FileKind::kOther;
      }
      return !objects && !Ending();
    });
    (void)ignored;  // what cannot be read cannot be served either
    // Others may still put something there: it is better known while there is place.
    const bool roomy = AllDirectories().size() < rules_.directories / 2;
    if ((objects || roomy) && !Find(own.get(), &known).ok()) round->cut = true;
  }
  if (known != nullptr) {
    CountOne(known.get(), &below);
    round->seen.insert(known);
  }
  for (const std::string& name : below) {
    UniqueFd child(openat(own.get(), name.c_str(),
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (child.valid()) CountBelow(std::move(child), depth + 1, round);
  }
}

void Quota::CountAll() {
  Round round;
  {
    // What comes from here on is looked at afterwards: the directory above may have been read.
    const MutexLock lock(&mutex_);
    uncounted_.clear();
    appeared_.clear();
  }
  UniqueFd root(openat(root_fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.valid()) CountBelow(std::move(root), 0, &round);
  // Those that were moved away.
  for (const Directory& directory : AllDirectories()) {
    std::vector<std::string> below;
    if (round.seen.count(directory) == 0 && !Ending()) CountOne(directory.get(), &below);
  }
  if (round.cut && !told_) {
    told_ = true;
    Log(LogLevel::kWarn,
        "--max-bytes: not all directories below the root are counted, there are too many or they "
        "are nested too deeply; objects in the others do not count");
  }
}

// Directories that are new in the account or below the root.
void Quota::CountAppeared() {
  std::vector<Appeared> appeared;
  std::vector<Directory> uncounted;
  {
    const MutexLock lock(&mutex_);
    appeared.swap(appeared_);
    uncounted.swap(uncounted_);
  }
  Round round;
  std::vector<std::string> below;
  for (const Directory& directory : uncounted) {
    if (!directory->counted_ && !Ending()) CountOne(directory.get(), &below);
  }
  for (const Appeared& one : appeared) {
    UniqueFd child(openat(one.parent->index_.fd(), one.name.c_str(),
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (child.valid()) CountBelow(std::move(child), 1, &round);
  }
}

void Quota::HearOf(QuotaDirectory* directory, const std::string& name, DirectoryWatch::What what) {
  const std::string of_sidecar = ObjectOfSidecar(name);
  const std::string& object = of_sidecar.empty() ? name : of_sidecar;
  const uint64_t hash = ObjectTable::HashOf(object);
  // Most often this process has made it.
  const bool made = what == DirectoryWatch::What::kMade && of_sidecar.empty();
  if (made && directory->index_.table().Find(hash).has_value()) return;
  {
    const MutexLock lock(&mutex_);
    // This process says itself what comes of it.
    const uint64_t id = IdOf(*directory, hash);
    if (writing_.count(id) > 0 || evicting_ == id) return;
  }
  const UseTick before = NowTick();
  NotePutByOthers(directory->index_.Look(object, true), before);
}

void Quota::Hear() {
  bool more;
  const bool complete = watch_.Drain(
      kHearBytes,
      [this](void* owner, const std::string& name, DirectoryWatch::What what) {
        const Directory directory = static_cast<QuotaDirectory*>(owner)->shared_from_this();
        if (what != DirectoryWatch::What::kDirectory) return HearOf(directory.get(), name, what);
        const MutexLock lock(&mutex_);
        appeared_.push_back({directory, name});
        WakeCounter();
      },
      &more);
  if (more) WakeCounter();
  if (complete) return;
  const MutexLock lock(&mutex_);
  count_wanted_ = true;
  WakeCounter();
}

void Quota::CountMain() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kCounterNice);
  Clock::time_point next = Clock::now();
  Clock::time_point soonest = next;
  while (!Ending()) {
    bool wanted;
    {
      const MutexLock lock(&mutex_);
      wanted = count_wanted_;
    }
    const Clock::time_point now = Clock::now();
    if (now >= next || (wanted && now >= soonest)) {
      uint64_t round;
      {
        const MutexLock lock(&mutex_);
        count_wanted_ = false;
        round = counts_wanted_;
      }
      CountAll();
      if (Ending()) return;
      const Clock::time_point end = Clock::now();
      const std::vector<Directory> all = AllDirectories();
      const bool watched =
          std::all_of(all.begin(), all.end(), [](const Directory& one) { return one->watched_; });
      soonest = end + kCountPause * (end - now);
      next = std::max<Clock::time_point>(
          soonest, end + (watched ? rules_.recount : rules_.recount_unwatched));
      const MutexLock lock(&mutex_);
      if (!counted_) {
        const auto took = std::chrono::duration_cast<milliseconds>(end - now).count();
        Log(LogLevel::kInfo, "--max-bytes: counted " + std::to_string(all_.objects) +
                                 " objects of " + std::to_string(all_.blocks * kBlockBytes) +
                                 " bytes in " + std::to_string(took) + " ms");
      }
      counted_ = true;
      counts_ = std::max(counts_, round);
      counts_done_.SignalAll();
      work_.SignalAll();
      continue;
    }
    Hear();
    CountAppeared();
    struct pollfd polled[2] = {{wake_.get(), POLLIN, 0}, {watch_.fd(), POLLIN, 0}};
    const Clock::time_point until = wanted ? std::min(next, soonest) : next;
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now()).count();
    poll(polled, 2, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (polled[0].revents != 0) {
      uint64_t count;
      const ssize_t ignored = read(wake_.get(), &count, sizeof count);
      (void)ignored;
    } else if (polled[1].revents != 0) {
      std::this_thread::sleep_for(kHearPause);
    }
  }
}

void Quota::Recount() {
  const MutexLock lock(&mutex_);
  const uint64_t mine = ++counts_wanted_;
  count_wanted_ = true;
  WakeCounter();
  while (!Ending() && counts_ < mine) counts_done_.Wait(&mutex_);
}

// ---------------------------------------------------------------------------------- making room

bool Quota::WaitUntilIdle(milliseconds patience) {
  const MutexLock lock(&mutex_);
  const Clock::time_point end = Clock::now() + patience;
  while (!Ending() && (!counted_ || making_room_ || NextGoal().has_value())) {
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (left <= milliseconds::zero()) return false;
    counts_done_.WaitFor(&mutex_, left);
  }
  return true;
}

void Quota::EvictMain() {
  const MutexLock lock(&mutex_);
  while (!Ending()) {
    const std::optional<Goal> goal = NextGoal();
    if (!goal.has_value()) {
      counts_done_.SignalAll();
      work_.Wait(&mutex_);
      continue;
    }
    // What is being written, or changes meanwhile, may help the next time.
    const bool quiet = counted_ && reserved_ == 0;
    const uint64_t changes = changes_;
    const Clock::time_point began = Clock::now();
    making_room_ = true;
    refused_.clear();
    mutex_.Unlock();
    MakeRoom(*goal);
    mutex_.Lock();
    making_room_ = false;
    if (IsOver(*goal)) continue;
    for (QuotaRoom* const room : waiting_) {
      if (room == goal->first && quiet && changes == changes_) room->hopeless_ = true;
    }
    room_.SignalAll();
    if (!refused_.empty() && !told_refused_) {
      told_refused_ = true;
      Log(LogLevel::kWarn,
          "--max-bytes: " + refused_ + "; more is stored than the limit allows for");
    }
    // Nothing may have changed the next time; that must not cost all the time there is. Who comes
    // anew may ask for more than was tried.
    const uint64_t waiting = waiting_blocks_;
    const Clock::time_point now = Clock::now();
    const Clock::time_point soonest = now + kFailedPause;
    const Clock::time_point end = std::max(
        soonest, now + std::min<Clock::duration>(kCountPause * (now - began), kLongestPause));
    for (Clock::time_point at = now;
         !Ending() && at < (changes == changes_ && waiting_blocks_ <= waiting ? end : soonest);
         at = Clock::now()) {
      work_.WaitFor(&mutex_, kFailedPause);
    }
  }
}

// Sets the earliest time such that all that was not used since takes as much as is to be removed,
// or the latest if there is not so much. False: nothing may be removed.
bool Quota::Choose(const Goal& goal, const std::vector<Directory>& all, Choice* choice) const {
  const UseTick keep_from = goal.may_take_all ? UINT64_MAX : keep_from_.load();
  const uint64_t used = all_.blocks.load();
  const uint64_t wanted = used > goal.used ? used - goal.used : 0;
  UseTick from = 0;
  UseTick width = UseTick{1} << 37;  // of a bucket
  UseTick latest = 0;
  choice->before = 0;
  for (;; width = std::max<UseTick>(width / kBuckets, 1)) {
    std::array<uint64_t, kBuckets> buckets = {};
    for (const Directory& directory : all) {
      directory->index_.table().ForEach([&](const TableObject& object) {
        if (object.lone || (object.put && object.used >= keep_from && keep_from != 0)) return;
        if (object.used < from || (object.used - from) / width >= kBuckets) return;
        buckets[(object.used - from) / width] += object.blocks;
        latest = std::max(latest, object.used);
      });
    }
    size_t bucket = 0;
    while (bucket < kBuckets && choice->before + buckets[bucket] < wanted) {
      choice->before += buckets[bucket++];
    }
    // There is not so much at all; or some of it was used or removed since the last look.
    if (bucket == kBuckets) choice->latest = from == 0 ? latest : from + kBuckets * width - 1;
    if (bucket == kBuckets) return choice->latest > 0;
    choice->latest = from += bucket * width;
    if (width > 1) continue;
    choice->at_latest = wanted - choice->before;
    return true;
  }
}

void Quota::MakeRoom(const Goal& goal) {
  Clock::duration patience = rules_.lock_patience;
  std::vector<Directory> all = AllDirectories();
  for (size_t before = 0; before != all.size() && !Ending() && !IsOver(goal);) {
    before = all.size();
    if (!MakeRoomIn(goal, &patience, &all)) return;
  }
}

bool Quota::MakeRoomIn(const Goal& goal, Clock::duration* patience, std::vector<Directory>* all) {
  Choice choice;
  Evicted evicted;
  if (!Choose(goal, *all, &choice)) return false;
  std::vector<Directory> ours;
  for (const Directory& directory : *all) {
    bool any = false;
    directory->index_.table().ForEach(
        [&](const TableObject& object) { any = any || object.used <= choice.latest; });
    if (any && !LockRoom(directory.get(), patience)) continue;
    ours.push_back(directory);
    if (!any) continue;
    const bool alone = directory->fellows_.Count() == 0;
    if (!alone) Hear();
    EvictIn(directory.get(), goal, choice, alone, &evicted);
    directory->fellows_.UnlockRoom();
    if (Ending() || (!alone && IsOver(goal))) return false;
  }
  *all = std::move(ours);
  return true;
}

bool Quota::LockRoom(QuotaDirectory* directory, Clock::duration* patience) {
  const Clock::time_point began = Clock::now();
  const bool kept = std::exchange(directory->kept_, false);
  bool locked = directory->fellows_.LockRoom();
  while (!locked && !kept && !Ending() && Clock::now() - began < *patience) {
    std::this_thread::sleep_for(kLockPause);
    Hear();
    locked = directory->fellows_.LockRoom();
  }
  *patience -= std::min(*patience, Clock::now() - began);
  if (locked || Ending()) return locked;
  directory->kept_ = true;
  const MutexLock lock(&mutex_);
  refused_ = "another process holds the lock (flock) of a directory with " +
             std::to_string(directory->objects()) + " objects";
  return false;
}

void Quota::EvictIn(QuotaDirectory* directory, const Goal& goal, const Choice& choice, bool alone,
                    Evicted* evicted) {
  const UseTick keep_from = goal.may_take_all ? UINT64_MAX : keep_from_.load();
  ObjectIndex& index = directory->index_;
  size_t count = 0;
  const int error = index.ReadNames([&](const std::string& name, bool is_directory) {
    if (Ending()) return false;
    if (is_directory) return true;
    const uint64_t hash = ObjectTable::HashOf(name);
    const std::optional<TableObject> object = index.table().Find(hash);
    if (!object.has_value() || object->lone || object->used > choice.latest) return true;
    if (object->blocks == 0) return true;  // nothing to gain; perhaps it is just being written
    if (object->put && keep_from != 0 && object->used >= keep_from) return true;
    const bool at_latest = object->used == choice.latest;
    // Many may have been put at one time.
    if (at_latest && evicted->at_latest >= choice.at_latest) return true;
    if (IsOver(goal)) {
      // A larger one may have come first; what is older goes nevertheless. While there are others
      // they may have removed it.
      if (!alone || evicted->before >= choice.before) return false;
      if (at_latest) return true;
    }
    if (!Evict(directory, name, hash, *object)) return true;
    (at_latest ? evicted->at_latest : evicted->before) += object->blocks;
    if (++count % kHearEvery == 0 && !alone) Hear();
    return true;
  });
  if (error == 0 || error == ECANCELED) return;
  const MutexLock lock(&mutex_);
  refused_ = "the directory cannot be read: " + ErrnoName(error);
}

bool Quota::Evict(QuotaDirectory* directory, const std::string& name, uint64_t hash,
                  const TableObject& object) {
  {
    const MutexLock lock(&mutex_);
    const uint64_t id = IdOf(*directory, hash);
    if (writing_.count(id) > 0) return false;
    evicting_ = id;
  }
  ObjectIndex& index = directory->index_;
  const std::string sidecar_name = IsHashedName(name) ? SidecarOf(name) : std::string();
  int error = 0;
  struct stat st;
  bool current = false;
  if (fstatat(index.fd(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    error = errno;
  } else if (!S_ISREG(st.st_mode)) {
    error = EISDIR;  // or something else that is no object
  } else if (ChangedTick(st) > object.used) {
    NotePutByOthers(index.Look(name, false), NowTick());  // somebody else has replaced it
  } else {
    current = true;
    Sidecar sidecar(index.fd(), sidecar_name, name);
    sidecar.LockForRemoval();
    error = unlinkat(index.fd(), name.c_str(), 0) == 0 ? 0 : errno;
    if (error == 0) error = sidecar.Remove();
  }
  const bool removed = current && error == 0;
  if (removed) {
    {
      // Whoever has it open lets go first: until then it takes its place on the disk.
      const MutexLock lock(&directory->listeners_mutex_);
      for (const auto& [owner, evicted] : directory->listeners_) evicted(name);
    }
    index.Forget(hash);
    evicted_blocks_ += object.blocks;
    evictions_++;
  } else if (error == ENOENT) {
    index.Forget(hash);
  } else if (error != 0) {
    // It still takes its place; others are tried first the next time.
    index.Update(hash, [](std::optional<TableObject>* entry) {
      if (entry->has_value()) (*entry)->used = NowTick();
    });
  }
  const MutexLock lock(&mutex_);
  evicting_ = 0;
  if (error != 0 && error != ENOENT) {
    refused_ = Printable(name) + " cannot be removed: " + ErrnoName(error);
  } else if (removed) {
    progress_ = Clock::now();
  }
  if (!waiting_.empty()) room_.SignalAll();
  return removed;
}

}  // namespace lmshm
