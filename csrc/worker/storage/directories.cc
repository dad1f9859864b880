// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/directories.h"

#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "worker/base/log.h"
#include "worker/base/text.h"
#include "worker/base/words.h"
#include "worker/storage/leftovers.h"
#include "worker/storage/storage_facts.h"

namespace lmshm {

namespace {

// Nobody takes that long from creating a file to locking it.
constexpr std::chrono::seconds kLeftoverAge(60);

}  // namespace

Directories::Directories(const ObjectDir& root, const Limits& limits, Probe probe, Quota* quota)
    : root_(root),
      most_(limits.directories),
      probe_(probe),
      quota_(quota),
      share_(std::make_shared<StoresShare>(limits.kept)),
      listings_(limits.listings) {}

Directories::~Directories() {
  {
    const MutexLock lock(&mutex_);
    ending_.store(true);
  }
  collector_wake_.SignalAll();
  if (collector_.joinable()) collector_.join();
}

Status Directories::Start() {
  try {
    collector_ = std::thread([this] { CollectorMain(); });
  } catch (const std::system_error& error) {
    return Status::Error(EAGAIN, std::string("start a thread that collects: ") + error.what());
  }
  {
    const MutexLock lock(&mutex_);
    while (!collecting_) collector_wake_.Wait(&mutex_);
  }
  return Open("", &root_store_);
}

size_t Directories::size() const {
  const MutexLock lock(&mutex_);
  return open_.size();
}

Directories::Store Directories::Find(const struct stat& st) {
  for (auto at = open_.begin(); at != open_.end(); ++at) {
    if ((*at)->device != st.st_dev || (*at)->inode != st.st_ino) continue;
    open_.splice(open_.end(), open_, at);
    return Store(open_.back(), &open_.back()->store);
  }
  return nullptr;
}

bool Directories::MakeRoom() { return open_.size() < most_ || LetGo(); }

bool Directories::LetGo() {
  for (auto at = open_.begin(); at != open_.end(); ++at) {
    // New users come only through the list, whose lock is held. The collector is none: at worst one
    // directory more stays open until it has gone through it.
    if (at->use_count() > (at->get() == collected_ ? 2 : 1)) continue;
    open_.erase(at);
    return true;
  }
  return false;
}

Status Directories::Open(std::string_view path, Store* store) {
  UniqueFd fd;
  Status status = share_->WithSpareRoom([&] { return root_.OpenDirectory(path, &fd); });
  if (!status.ok()) return status;
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Status::System(errno, "look at " + Printable(path));
  {
    const MutexLock lock(&mutex_);
    *store = Find(st);
    if (*store != nullptr) return status;
  }
  // Without the lock: a slow file system delays those who want it, and nobody else.
  StorageFacts facts;
  status = share_->WithSpareRoom([&] {
    const int error = probe_(fd.get(), &facts);
    return error == 0 ? Status::OK() : Status::System(error, "look at " + Printable(path));
  });
  if (!status.ok()) return status;
  Quota::Directory counted;
  if (quota_ != nullptr) {
    status = quota_->Find(fd.get(), &counted);
    // One that stays open without a user keeps its place in the account, too.
    while (status.number() == EMFILE) {
      {
        const MutexLock lock(&mutex_);
        if (!LetGo()) break;
      }
      status = quota_->Find(fd.get(), &counted);
    }
  }
  if (!status.ok()) return status;
  auto directory = std::make_shared<Directory>(std::move(fd), facts, share_, std::move(counted));
  directory->device = st.st_dev;
  directory->inode = st.st_ino;
  const MutexLock lock(&mutex_);
  *store = Find(st);  // somebody else may have been faster
  if (*store != nullptr) return status;
  if (!MakeRoom()) {
    return Status::Error(EMFILE, "clients use " + std::to_string(open_.size()) +
                                     " directories already, as many as this worker may have open; "
                                     "use fewer, or raise its limit of descriptors (ulimit -n)");
  }
  Log(LogLevel::kInfo, "directory " + Printable(path.empty() ? "of the root" : path) + ": " +
                           facts.file_system + ", " + (facts.attributes ? "with" : "without") +
                           " attributes, past the page cache: " + DescribeDirect(facts));
  *store = Store(directory, &directory->store);
  open_.push_back(directory);
  if (quota_ != nullptr) return status;
  to_collect_.push_back(std::move(directory));
  collector_wake_.SignalAll();
  return status;
}

Status Directories::Open(std::string_view path, std::shared_ptr<ObjectStore>* store) {
  Store opened;
  Status status = Open(path, &opened);
  if (status.ok()) *store = std::move(opened);
  return status;
}

std::string Directories::Describe() const {
  Words words;
  words.Add("directories", size());
  words.Add("kept_open", share_->kept_files.size());
  words.Add("gets_kept", share_->kept_files.found());
  words.Add("puts_direct", share_->metrics.puts_direct);
  words.Add("puts_cached", share_->metrics.puts_cached);
  words.Add("gets_direct", share_->metrics.gets_direct);
  words.Add("gets_cached", share_->metrics.gets_cached);
  words.Add("fallbacks", share_->metrics.fallbacks());
  const std::string reason = share_->metrics.fallback_reason();
  if (!reason.empty()) words.Add("fallback_reason", reason);
  return words.Take();
}

void Directories::CollectorMain() {
  const MutexLock lock(&mutex_);
  collecting_ = true;
  collector_wake_.SignalAll();
  for (;;) {
    while (!ending_.load() && to_collect_.empty()) collector_wake_.Wait(&mutex_);
    if (ending_.load()) return;
    const std::shared_ptr<Directory> directory = to_collect_.front().lock();
    to_collect_.pop_front();
    if (directory == nullptr) continue;
    collected_ = directory.get();
    mutex_.Unlock();
    const Leftovers left = RemoveLeftovers(directory->fd.get(), kLeftoverAge, this);
    if (left.temporaries + left.sidecars > 0) {
      Log(LogLevel::kInfo, "removed what dead writers left: " + std::to_string(left.temporaries) +
                               " temporaries, " + std::to_string(left.sidecars) +
                               " keys without an object");
    }
    mutex_.Lock();
    collected_ = nullptr;
  }
}

}  // namespace lmshm
