// SPDX-License-Identifier: Apache-2.0
//
// DirectoryWatch: what other processes do in some directories, as the kernel tells it (inotify).
// One descriptor for all of them. Directories are watched by descriptor, not by path: one that is
// renamed or mounted over stays watched.
//
// The kernel puts an event into the queue before the call that caused it returns. So who empties
// the queue knows all that was done until then. The queue is limited (16,384 events by default);
// when it overflows, events are lost, and the directories have to be read again.
#ifndef LMSHM_WORKER_STORAGE_DIRECTORY_WATCH_H_
#define LMSHM_WORKER_STORAGE_DIRECTORY_WATCH_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <string>

#include "worker/base/mutex.h"
#include "worker/base/unique_fd.h"

namespace lmshm {

// Thread safe.
class DirectoryWatch {
 public:
  // Without inotify nothing can be watched.
  DirectoryWatch();
  DirectoryWatch(const DirectoryWatch&) = delete;
  DirectoryWatch& operator=(const DirectoryWatch&) = delete;

  // Watches the directory `dir_fd` (may be O_PATH) from now on. `owner` is handed back with its
  // events. False if that is not possible.
  bool Add(int dir_fd, void* owner);
  // No events of that are handed on after this; not from a handler.
  void Remove(void* owner);

  // Readable while there are events; -1 without inotify.
  int fd() const { return fd_.get(); }

  enum class What {
    kMade,       // a file has this name, which was nobody's before
    kChanged,    // a file was replaced, renamed, written or removed
    kDirectory,  // something happened to a directory of this name
  };
  using Handler = std::function<void(void* owner, const std::string& name, What what)>;
  // Hands on the events that there are when it begins, at most `most_bytes` of them: others may
  // make more all the time. False if some were lost. `*more`: some are left. One thread at a time:
  // another waits for its turn.
  bool Drain(size_t most_bytes, const Handler& handler, bool* more);

 private:
  UniqueFd fd_;
  Mutex draining_;  // taken before the other
  Mutex owners_mutex_;
  std::map<int, void*> owners_ GUARDED_BY(owners_mutex_);  // by watch
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_DIRECTORY_WATCH_H_
