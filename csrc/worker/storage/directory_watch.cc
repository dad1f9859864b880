// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/directory_watch.h"

#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace lmshm {

namespace {

constexpr uint32_t kEvents = IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM;

}  // namespace

DirectoryWatch::DirectoryWatch() : fd_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {}

bool DirectoryWatch::Add(int dir_fd, void* owner) {
  if (!fd_.valid()) return false;
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", dir_fd);
  const MutexLock lock(&owners_mutex_);
  const int watch = inotify_add_watch(fd_.get(), path, kEvents | IN_ONLYDIR);
  if (watch < 0) return false;
  owners_[watch] = owner;
  return true;
}

void DirectoryWatch::Remove(void* owner) {
  const MutexLock draining(&draining_);
  const MutexLock lock(&owners_mutex_);
  for (auto at = owners_.begin(); at != owners_.end();) {
    if (at->second != owner) {
      ++at;
      continue;
    }
    inotify_rm_watch(fd_.get(), at->first);
    at = owners_.erase(at);
  }
}

bool DirectoryWatch::Drain(size_t most_bytes, const Handler& handler, bool* more) {
  *more = false;
  if (!fd_.valid()) return true;
  const MutexLock draining(&draining_);
  bool complete = true;
  int there = 0;
  if (ioctl(fd_.get(), FIONREAD, &there) != 0) there = 0;
  const auto bytes = static_cast<size_t>(std::max(there, 0));
  *more = bytes > most_bytes;
  size_t left = std::min(bytes, most_bytes);
  alignas(struct inotify_event) char buffer[16 * 1024];
  while (left > 0) {
    const ssize_t got = read(fd_.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    left -= std::min(left, static_cast<size_t>(got));
    for (const char* at = buffer; at < buffer + got;) {
      const auto* const event = reinterpret_cast<const struct inotify_event*>(at);
      at += sizeof *event + event->len;
      if ((event->mask & IN_Q_OVERFLOW) != 0) complete = false;
      if (event->len == 0) continue;
      void* owner = nullptr;
      {
        const MutexLock lock(&owners_mutex_);
        const auto found = owners_.find(event->wd);
        if (found != owners_.end()) owner = found->second;
      }
      const What what = (event->mask & IN_ISDIR) != 0    ? What::kDirectory
                        : (event->mask & IN_CREATE) != 0 ? What::kMade
                                                         : What::kChanged;
      if (owner != nullptr) handler(owner, event->name, what);
    }
  }
  return complete;
}

}  // namespace lmshm
