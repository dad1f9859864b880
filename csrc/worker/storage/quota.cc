// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/quota.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>
#include <utility>

#include "worker/base/log.h"
#include "worker/storage/storage_facts.h"

namespace lmshm {

namespace {

// One that waits and was not asked about for so long is passed by: its client takes no answers.
constexpr std::chrono::milliseconds kAskedLately(200);
// A put waits for so many times the patience, however much becomes free meanwhile.
constexpr int kMostPatience = 6;

uint64_t Minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

// Where an open directory is now; "" where the system does not say.
std::string PathOf(int dir_fd) {
  char path[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(dir_fd);
  const ssize_t length = readlink(link.c_str(), path, sizeof path);
  if (length <= 0 || path[0] != '/') return "";
  return std::string(path, static_cast<size_t>(length));
}

}  // namespace

// -------------------------------------------------------------------------------- one directory

QuotaDirectory::QuotaDirectory(Quota* quota, UniqueFd fd, DiskTotals* all, size_t number)
    : quota_(quota),
      index_(std::move(fd), all),
      fellows_(index_.fd()),
      salt_((number + 1) * 0x9e3779b97f4a7c15u) {}

void QuotaDirectory::Used(std::string_view name) {
  index_.table().Touch(ObjectTable::HashOf(name), NextTick(),
                       quota_->keep_from_.load(std::memory_order_relaxed));
}

void QuotaDirectory::Removed(const std::string& name) {
  if (index_.Forget(ObjectTable::HashOf(name)) == 0) return;
  const MutexLock lock(&quota_->mutex_);
  quota_->NoteChange();
}

void QuotaDirectory::AddListener(const void* owner, Listener evicted) {
  const MutexLock lock(&listeners_mutex_);
  listeners_[owner] = std::move(evicted);
}

void QuotaDirectory::RemoveListener(const void* owner) {
  const MutexLock lock(&listeners_mutex_);
  listeners_.erase(owner);
}

// ----------------------------------------------------------------------------------------- room

QuotaRoom::QuotaRoom(Quota::Directory directory, std::string file_name, uint64_t bytes)
    : directory_(std::move(directory)),
      name_(std::move(file_name)),
      hash_(directory_ == nullptr ? 0 : ObjectTable::HashOf(name_)),
      blocks_(std::max<uint64_t>(BlocksOf(bytes), 1)) {}

QuotaRoom::~QuotaRoom() {
  if (directory_ == nullptr) return;
  Quota* const quota = directory_->quota_;
  const MutexLock lock(&quota->mutex_);
  quota->Leave(this);
}

Status QuotaRoom::Take(std::chrono::milliseconds patience, bool* taken) {
  *taken = true;
  return directory_ == nullptr ? Status::OK() : directory_->quota_->Take(this, patience, taken);
}

void QuotaRoom::Commit(const struct stat& st, uint64_t sidecar_bytes) {
  if (directory_ == nullptr) return;
  directory_->quota_->Commit(this, WrittenBlocks(st) + BlocksOf(sidecar_bytes));
}

// ---------------------------------------------------------------------------------- the account

Quota::Quota(int root_fd, const QuotaRules& rules)
    : rules_(rules),
      root_fd_(root_fd),
      limit_(rules.max_bytes / kBlockBytes),
      high_(limit_ - limit_ / 40),
      low_(limit_ - limit_ / 40 * 3),
      floor_(limit_ - limit_ / 10),
      tenth_(limit_ / 10),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Quota::~Quota() {
  {
    const MutexLock lock(&mutex_);
    ending_.store(true);
    work_.SignalAll();
    counts_done_.SignalAll();
  }
  WakeCounter();
  if (counter_.joinable()) counter_.join();
  if (evictor_.joinable()) evictor_.join();
}

Status Quota::Start() {
  Status status = Find(root_fd_, &root_);
  if (!status.ok()) return status;
  try {
    counter_ = std::thread([this] { CountMain(); });
    evictor_ = std::thread([this] { EvictMain(); });
  } catch (const std::system_error& error) {
    return Status::Error(EAGAIN, std::string("start the threads of --max-bytes: ") + error.what());
  }
  return Status::OK();
}

Quota::Directory Quota::Known(int dir_fd) const {
  struct stat st;
  if (fstat(dir_fd, &st) != 0) return nullptr;
  for (const Directory& directory : directories_) {
    if (directory->device_ == st.st_dev && directory->inode_ == st.st_ino) return directory;
  }
  return nullptr;
}

// A pointer to it that counts as a user, as long as it or a copy of it lives.
Quota::Directory Quota::Use(const Directory& directory) {
  std::shared_ptr<const void> users = directory->users_.lock();
  if (users == nullptr) users = std::make_shared<const Directory>(directory);
  directory->users_ = users;
  return Directory(users, directory.get());
}

// One that nobody uses and that has nothing in it gives way.
bool Quota::MakePlace() {
  if (directories_.size() < rules_.directories) return true;
  const auto unused = [](const Directory& one) {
    return one->users_.expired() && one->index_.totals().blocks == 0;
  };
  const auto found = std::find_if(directories_.begin(), directories_.end(), unused);
  if (found == directories_.end()) return false;
  watch_.Remove(found->get());
  directories_.erase(found);
  return true;
}

Status Quota::Find(int dir_fd, Directory* directory) {
  const MutexLock lock(&directories_mutex_);
  const Directory known = Known(dir_fd);
  if (known != nullptr) {
    *directory = Use(known);
    return Status::OK();
  }
  if (!MakePlace()) {
    return Status::Error(EMFILE, "--max-bytes keeps account of at most " +
                                     std::to_string(rules_.directories) +
                                     " directories; use fewer, or let this process have more "
                                     "descriptors (RLIMIT_NOFILE, \"ulimit -n\")");
  }
  UniqueFd fd(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0) {
    return Status::System(errno, "open a directory to count what is in it");
  }
  const bool local = IsLocalFileSystem(fd.get());
  auto added = std::make_shared<QuotaDirectory>(this, std::move(fd), &all_, numbered_++);
  added->device_ = st.st_dev;
  added->inode_ = st.st_ino;
  added->watched_ = local && watch_.Add(added->index_.fd(), added.get());
  *directory = Use(added);
  {
    const MutexLock account(&mutex_);
    uncounted_.push_back(added);
  }
  directories_.push_back(std::move(added));
  WakeCounter();
  return Status::OK();
}

std::vector<Quota::Directory> Quota::AllDirectories() const {
  const MutexLock lock(&directories_mutex_);
  return directories_;
}

Quota::Stats Quota::stats() const {
  Stats stats;
  for (const Directory& directory : AllDirectories()) {
    stats.directories++;
    stats.memory_bytes += directory->index_.table().memory_bytes();
  }
  {
    const MutexLock lock(&mutex_);
    stats.used_bytes = InAccount() * kBlockBytes;
    stats.counted = counted_;
  }
  stats.objects = all_.objects;
  stats.evictions = evictions_;
  stats.evicted_bytes = evicted_blocks_ * kBlockBytes;
  stats.stale_temporaries = stale_temporaries_;
  stats.stale_keys = stale_keys_;
  return stats;
}

std::vector<Quota::DirectoryUse> Quota::Largest(size_t most) const {
  std::vector<std::pair<uint64_t, Directory>> held;
  for (Directory& directory : AllDirectories()) {
    const uint64_t bytes = directory->bytes();
    if (bytes > 0) held.emplace_back(bytes, std::move(directory));
  }
  const auto larger = [](const auto& a, const auto& b) { return a.first > b.first; };
  std::sort(held.begin(), held.end(), larger);
  std::vector<DirectoryUse> uses;
  const std::string root = PathOf(root_fd_);
  for (const auto& [bytes, directory] : held) {
    if (uses.size() == most) break;
    std::string path = PathOf(directory->index_.fd());
    // Of one that was moved away or removed nobody asks.
    if (root.empty() || path.compare(0, root.size(), root) != 0) continue;
    path.erase(0, root.size());
    if (!path.empty() && root != "/" && path.front() != '/') continue;  // "/a/store2" of "/a/store"
    if (!path.empty() && path.front() == '/') path.erase(0, 1);
    uses.push_back({std::move(path), directory->objects(), bytes});
  }
  return uses;
}

uint64_t Quota::InAccount() const { return all_.blocks.load() + reserved_; }

// Those that came before go first. `share` is what this worker may write at a time.
bool Quota::Fits(const QuotaRoom& room, uint64_t share, Clock::time_point now) const {
  if (evicting_ == IdOf(*room.directory_, room.hash_)) return false;
  uint64_t before = 0;
  for (const QuotaRoom* const other : waiting_) {
    if (other == &room) break;
    if (now - other->asked_ < kAskedLately) before += other->blocks_;
  }
  if (InAccount() + before + room.blocks_ > limit_) return false;
  const uint64_t writing = reserved_ + before;
  return writing == 0 || writing + room.blocks_ <= share;
}

// Whether nothing that may still happen makes room for it.
bool Quota::IsHopeless(const QuotaRoom& room, Clock::time_point now) const {
  if (now - room.began_ > kMostPatience * rules_.patience) return true;
  if (now - std::max(progress_, room.began_) > rules_.patience) return true;
  return room.hopeless_;
}

Status Quota::Refuse(const QuotaRoom& room) const {
  const auto bytes = [](uint64_t blocks) { return std::to_string(blocks * kBlockBytes); };
  std::string text =
      bytes(room.blocks_) + " bytes do not fit: --max-bytes is " + std::to_string(rules_.max_bytes);
  if (room.blocks_ > limit_) {
    return Status::Error(ENOSPC, text + "; give the worker a larger one");
  }
  text += ", objects take " + bytes(all_.blocks.load()) + ", and " + bytes(reserved_) +
          " more are being written";
  if (!refused_.empty()) text += "; " + refused_ + " (let this worker's user remove it)";
  return Status::Error(ENOSPC,
                       text +
                           "; write fewer or smaller objects at a time, or give the worker a "
                           "larger --max-bytes");
}

Status Quota::Take(QuotaRoom* room, std::chrono::milliseconds patience, bool* taken) {
  using State = QuotaRoom::State;
  const size_t others = room->directory_->fellows_.Count();
  const uint64_t share = others == 0 ? UINT64_MAX : limit_ / (10 * (others + 1));
  if (others > 0) Hear();
  *taken = false;
  const MutexLock lock(&mutex_);
  if (room->blocks_ > limit_) return Refuse(*room);
  const Clock::time_point end = Clock::now() + patience;
  for (;;) {
    const Clock::time_point now = Clock::now();
    room->asked_ = now;
    if (Fits(*room, share, now)) {
      Leave(room);
      room->state_ = State::kTaken;
      reserved_ += room->blocks_;
      writing_.insert(IdOf(*room->directory_, room->hash_));
      // What it replaces is not removed now: others are chosen.
      room->directory_->index_.table().Touch(room->hash_, NextTick(), UINT64_MAX);
      if (InAccount() > high_) work_.Signal();
      *taken = true;
      return Status::OK();
    }
    if (room->state_ == State::kNew) {
      room->state_ = State::kWaiting;
      room->place_ = waiting_.insert(waiting_.end(), room);
      room->began_ = now;
      waiting_blocks_ += room->blocks_;
    } else if (IsHopeless(*room, now)) {
      Status status = Refuse(*room);
      Leave(room);
      return status;
    }
    work_.Signal();
    if (now >= end) return Status::OK();
    room_.WaitFor(&mutex_, std::chrono::ceil<std::chrono::milliseconds>(end - now));
  }
}

// Whatever it had is free again.
void Quota::Leave(QuotaRoom* room) {
  using State = QuotaRoom::State;
  const State state = std::exchange(room->state_, State::kOver);
  if (state == State::kWaiting) {
    waiting_.erase(room->place_);
    waiting_blocks_ -= room->blocks_;
  } else if (state == State::kTaken) {
    reserved_ -= room->blocks_;
    writing_.erase(writing_.find(IdOf(*room->directory_, room->hash_)));
  } else {
    return;
  }
  NoteChange();
}

void Quota::NoteChange() {
  changes_++;
  progress_ = Clock::now();
  if (waiting_.empty()) return;
  room_.SignalAll();
  work_.Signal();
}

void Quota::Commit(QuotaRoom* room, uint64_t blocks) {
  UseTick tick;
  {
    const MutexLock lock(&mutex_);
    tick = NextTick();
    NotePut(blocks, tick);
  }
  ObjectIndex& index = room->directory_->index_;
  index.Update(room->hash_, [&](std::optional<TableObject>* entry) {
    *entry = TableObject();
    (*entry)->blocks = blocks;
    (*entry)->used = tick;
    (*entry)->put = true;
  });
  const MutexLock lock(&mutex_);
  Leave(room);
  if (InAccount() > high_) work_.Signal();
}

void Quota::NotePut(uint64_t blocks, UseTick tick) {
  if (samples_.empty() || put_ - samples_.back().before >= tenth_ / 16) {
    samples_.push_back({put_, tick});
  }
  put_ += blocks;
  changes_++;
  while (samples_.size() > 1 && put_ - samples_[1].before > tenth_) samples_.pop_front();
  // The first one itself began before the last tenth did, unless so much was not put yet.
  const bool before = put_ - samples_.front().before > tenth_;
  keep_from_.store(samples_.front().tick + (before ? 1 : 0), std::memory_order_relaxed);
}

void Quota::NotePutByOthers(uint64_t blocks, UseTick tick) {
  if (blocks == 0) return;
  const MutexLock lock(&mutex_);
  NotePut(blocks, tick);
  if (InAccount() > high_) work_.Signal();
}

// What is to be done, if anything.
std::optional<Quota::Goal> Quota::NextGoal() const {
  const uint64_t account = InAccount();
  const Clock::time_point now = Clock::now();
  const auto asked = [now](const QuotaRoom* room) { return now - room->asked_ < kAskedLately; };
  const auto found = std::find_if(waiting_.begin(), waiting_.end(), asked);
  const uint64_t first = found == waiting_.end() ? 0 : (*found)->blocks_;
  const bool must = first > 0 && account + first > limit_;
  if (!must && (!counted_ || account <= high_)) return std::nullopt;
  // It has to wait for those that are being written; no object is sacrificed.
  if (must && reserved_ + first > limit_) return std::nullopt;
  Goal goal;
  const uint64_t some = std::max(first, std::min(waiting_blocks_, limit_ / 20));
  goal.used = std::max(Minus(low_, reserved_ + (must ? some : 0)), floor_);
  if (must) goal.used = std::min(goal.used, limit_ - reserved_ - first);
  if (IsOver(goal)) return std::nullopt;
  goal.may_take_all = must && first > limit_ - tenth_;
  goal.first = must ? *found : nullptr;
  return goal;
}

}  // namespace lmshm
