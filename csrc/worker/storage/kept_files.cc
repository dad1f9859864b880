// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/kept_files.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <system_error>
#include <utility>

namespace lmshm {

namespace {

// Rounds of the sweeper after which nobody is expected to ask for a file again.
constexpr uint64_t kIdleRounds = 10;
// Names that share a place in the memory of what was asked for.
constexpr size_t kAskedWays = 4;

// What thousands of files may hold of memory is not the client's choice.
constexpr size_t kMostAttributeBytes = 512;

size_t BytesOf(const std::vector<Attribute>& attributes) {
  size_t bytes = 0;
  for (const Attribute& one : attributes) {
    bytes += sizeof one + one.name.size() + one.value.size();
  }
  return bytes;
}

bool SameTime(const struct timespec& a, const struct timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

uint64_t HashOf(int dir_fd, std::string_view name) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u;  // spreads small numbers over all bits
  return std::hash<std::string_view>()(name) ^ (static_cast<uint64_t>(dir_fd) * kOdd);
}

}  // namespace

KeptFiles::KeptFiles(const KeptFilesRules& rules)
    : rules_(rules),
      ways_(std::min(rules.limit, kWays)),
      sets_(rules.limit / std::max<size_t>(ways_, 1)),
      asked_(rules.limit == 0 ? 0 : 4 * rules.limit + kAskedWays) {}

KeptFiles::~KeptFiles() {
  {
    const std::lock_guard<std::mutex> lock(sweeper_mutex_);
    ending_ = true;
  }
  sweeper_wake_.notify_all();
  if (sweeper_.joinable()) sweeper_.join();
}

bool KeptFiles::IsCurrent(const KeptFile& file) const {
  struct stat st;
  return fstatat(file.dir_fd, file.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
         st.st_dev == file.state.device && st.st_ino == file.state.inode &&
         SameTime(st.st_ctim, file.state.changed);
}

size_t KeptFiles::WayOf(const Set& set, uint64_t hash, int dir_fd, const std::string& name) {
  for (size_t way = 0; way < kWays; way++) {
    if (set.hash[way] != hash || set.file[way] == nullptr) continue;
    if (set.file[way]->dir_fd == dir_fd && set.file[way]->name == name) return way;
  }
  return kWays;
}

KeptFiles::File KeptFiles::Find(int dir_fd, const std::string& name) {
  if (size() == 0) return nullptr;
  const uint64_t hash = HashOf(dir_fd, name);
  Set& set = SetOf(hash);
  File file;
  {
    const std::lock_guard<std::mutex> lock(LockOf(set));
    const size_t way = WayOf(set, hash, dir_fd, name);
    if (way == kWays) return nullptr;
    set.used[way] = round_.load(std::memory_order_relaxed);
    file = set.file[way];
  }
  if (!IsCurrent(*file)) {
    DropName(dir_fd, name, file.get());
    return nullptr;
  }
  found_.fetch_add(1, std::memory_order_relaxed);
  return file;
}

bool KeptFiles::Wants(int dir_fd, const std::string& name) {
  if (asked_.empty()) return false;
  const uint64_t hash = HashOf(dir_fd, name);
  // The latest of a few that share a place come first. Threads that meet there lose at most a name.
  const size_t places = asked_.size() / kAskedWays;
  std::atomic<uint64_t>* const place = &asked_[(hash >> 16) % places * kAskedWays];
  uint64_t moved = hash;
  for (size_t way = 0; way < kAskedWays; way++) {
    moved = place[way].exchange(moved, std::memory_order_relaxed);
    if (moved == hash) return true;
  }
  return false;
}

std::optional<FileState> KeptFiles::Look(int fd, dev_t device) const {
  // Before the look: what is changed after it has a later time.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return std::nullopt;
  // Mounted over the name: what is known of the directory's file system is not known of this one.
  if (st.st_dev != device) return std::nullopt;
  const auto changed =
      std::chrono::seconds(st.st_ctim.tv_sec) + std::chrono::nanoseconds(st.st_ctim.tv_nsec);
  if (now - changed < rules_.settled) return std::nullopt;
  return FileState{st.st_dev, st.st_ino, st.st_ctim};
}

void KeptFiles::Keep(std::shared_ptr<const KeptFile> file) {
  if (BytesOf(file->attributes) > kMostAttributeBytes) return;
  if (sets_.empty()) return;
  const uint64_t hash = HashOf(file->dir_fd, file->name);
  Set& set = SetOf(hash);
  File closed;
  {
    const std::lock_guard<std::mutex> lock(LockOf(set));
    size_t way = WayOf(set, hash, file->dir_fd, file->name);
    for (size_t i = 0; way == kWays && i < ways_; i++) {
      if (set.file[i] == nullptr) way = i;
    }
    if (way == kWays) {
      const auto end = set.used.begin() + static_cast<ptrdiff_t>(ways_);
      const auto oldest = std::min_element(set.used.begin(), end);
      way = static_cast<size_t>(oldest - set.used.begin());
    }
    if (set.file[way] != nullptr) closed = Take(&set, way);
    set.hash[way] = hash;
    set.used[way] = round_.load(std::memory_order_relaxed);
    set.file[way] = std::move(file);
    size_.fetch_add(1);
  }
  WakeSweeper();
}

KeptFiles::File KeptFiles::Take(Set* set, size_t way) {
  size_.fetch_sub(1);
  return std::exchange(set->file[way], nullptr);
}

void KeptFiles::Drop(int dir_fd, const std::string& name) { DropName(dir_fd, name, nullptr); }

void KeptFiles::DropDirectory(int dir_fd) {
  // Nobody who looks at all files uses the directory after this.
  const std::lock_guard<std::mutex> lock(letting_go_);
  if (size() > 0) CloseAll(dir_fd);
}

bool KeptFiles::DropName(int dir_fd, const std::string& name, const KeptFile* only) {
  if (size() == 0) return false;
  const uint64_t hash = HashOf(dir_fd, name);
  Set& set = SetOf(hash);
  File closed;
  const std::lock_guard<std::mutex> lock(LockOf(set));
  const size_t way = WayOf(set, hash, dir_fd, name);
  if (way == kWays || (only != nullptr && set.file[way].get() != only)) return false;
  closed = Take(&set, way);
  return true;
}

bool KeptFiles::CloseAll(int dir_fd) {
  bool any = false;
  for (Set& set : sets_) {
    std::array<File, kWays> closed;
    const std::lock_guard<std::mutex> lock(LockOf(set));
    for (size_t way = 0; way < kWays; way++) {
      if (set.file[way] == nullptr) continue;
      if (dir_fd >= 0 && set.file[way]->dir_fd != dir_fd) continue;
      closed[way] = Take(&set, way);
      any = true;
    }
  }
  return any;
}

bool KeptFiles::CloseGone(uint64_t idle_before) {
  bool any = false;
  for (Set& set : sets_) any = SweepSet(&set, idle_before) || any;
  return any;
}

// Threads that come together find the same lack: what one of them closes helps all.
bool KeptFiles::LetGo(const std::function<bool()>& close, uint64_t since) {
  const std::lock_guard<std::mutex> lock(letting_go_);
  if (close()) let_go_.fetch_add(1);
  return let_go() != since;
}

bool KeptFiles::DropAll(uint64_t since) {
  return LetGo([this] { return CloseAll(-1); }, since);
}

bool KeptFiles::DropGone(uint64_t since) {
  return LetGo([this] { return CloseGone(0); }, since);
}

void KeptFiles::WakeSweeper() {
  // Either this sees it asleep, or it saw the file that has just been added.
  if (!sweeper_sleeps_.load()) return;
  try {
    const std::lock_guard<std::mutex> lock(sweeper_mutex_);
    if (!sweeper_.joinable()) sweeper_ = std::thread([this] { Sweep(); });
    sweeper_wake_.notify_one();
  } catch (const std::system_error&) {
    // There is no thread for it: nothing may stay open that nobody looks after.
    CloseAll(-1);
  }
}

void KeptFiles::Sweep() {
  std::unique_lock<std::mutex> lock(sweeper_mutex_);
  while (!ending_) {
    sweeper_sleeps_.store(true);
    sweeper_wake_.wait(lock, [this] { return ending_ || size() > 0; });
    sweeper_sleeps_.store(false);
    if (sweeper_wake_.wait_for(lock, rules_.sweep, [this] { return ending_; })) return;
    lock.unlock();
    const uint64_t round = round_.fetch_add(1, std::memory_order_relaxed) + 1;
    LetGo([&] { return CloseGone(round - std::min(round, kIdleRounds)); }, 0);
    lock.lock();
  }
}

bool KeptFiles::SweepSet(Set* set, uint64_t idle_before) {
  std::array<File, kWays> files;
  bool any = false;
  {
    const std::lock_guard<std::mutex> lock(LockOf(*set));
    for (size_t way = 0; way < ways_; way++) {
      if (set->file[way] == nullptr) continue;
      const bool idle = set->used[way] < idle_before;
      files[way] = idle ? Take(set, way) : set->file[way];
      any = any || idle;
    }
  }
  for (const File& file : files) {
    if (file != nullptr && !IsCurrent(*file)) {
      any = DropName(file->dir_fd, file->name, file.get()) || any;
    }
  }
  return any;
}

}  // namespace lmshm
