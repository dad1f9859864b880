// SPDX-License-Identifier: Apache-2.0
//
// KeptFiles: small objects that are read again and again stay open, with what is stored with them.
// Opening, asking for the attribute and closing are more than half of what reading 4 KiB costs.
//
// A kept file is as good as one that is opened anew, because its name is looked up before each use
// (fstatat): it must lead to the same inode, and that must not have changed since before anything
// was read of it. An inode's number is not given to another file while it is open. That writing to
// a file, cutting it and setting its attributes change the time of its last change holds for the
// file systems in StorageFacts::tells_changes, and for files that were last changed more than a
// clock's tick before they were looked at (KeptFilesRules::settled); others are not kept.
//
// A file is kept from the second time on that it is read within a while: reading many once costs
// nothing and displaces none. Who removes an object expects its space back: a thread of its own
// looks at all kept files once a second, and closes those that are gone, and those that nobody has
// asked for in a while. So an idle worker keeps none.
//
// One for all directories of a worker: the bound on how many stay open is the process's.
#ifndef LMSHM_WORKER_STORAGE_KEPT_FILES_H_
#define LMSHM_WORKER_STORAGE_KEPT_FILES_H_

#include <sys/stat.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker/storage/attributes.h"

namespace lmshm {

// Which file it is, and when anything of it was changed last.
struct FileState {
  dev_t device = 0;
  ino_t inode = 0;
  struct timespec changed = {};
};

// What was found out about a file when it was opened. Does not change.
struct KeptFile {
  UniqueFd fd;                        // for reading at positions only: threads share it
  FileState state;                    // before anything was read of it
  uint64_t length = 0;                // of the object, bytes
  std::optional<uint32_t> crc32c;     // of its content
  int dir_fd = -1;                    // where it is
  std::string name;                   // in there
  std::vector<Attribute> attributes;  // the client's, by name
};

struct KeptFilesRules {
  size_t limit = 0;  // files; 0: none is kept
  // What has been changed within this time is not kept: the coarsest clock ticks by the second.
  std::chrono::milliseconds settled{2000};
  // So often all are looked at; ten times as long one stays that nobody asks for.
  std::chrono::milliseconds sweep{1000};
};

// Thread safe.
class KeptFiles {
 public:
  using File = std::shared_ptr<const KeptFile>;

  explicit KeptFiles(const KeptFilesRules& rules);
  KeptFiles(const KeptFiles&) = delete;
  KeptFiles& operator=(const KeptFiles&) = delete;
  ~KeptFiles();

  // In all of these `dir_fd` is the file's directory, always by the same number; DropDirectory()
  // comes before it is closed.

  // The file of that name, if it is kept and still what its name means. Else null.
  File Find(int dir_fd, const std::string& name);

  // Whether a file that is not kept has been asked for before, so that keeping it is worth the
  // while; remembers that it was asked for now.
  bool Wants(int dir_fd, const std::string& name);

  // The state of a file from which nothing has been read yet; nothing if it cannot be kept, being
  // no regular file, on another file system than `device`, or having changed only just.
  std::optional<FileState> Look(int fd, dev_t device) const;

  // Keeps a file that has been read after it was looked at; not one whose attributes take more than
  // 512 bytes of memory.
  void Keep(std::shared_ptr<const KeptFile> file);

  // Closes it, if it is kept, as soon as nobody reads it any more.
  void Drop(int dir_fd, const std::string& name);

  // Closes all files of a directory.
  void DropDirectory(int dir_fd);

  // Closes all of them; or those that are not what their names mean any more. False if none has
  // been closed since let_go() was `since`, by whomever: who lacked what they take need not try
  // again.
  uint64_t let_go() const { return let_go_.load(); }
  bool DropAll(uint64_t since);
  bool DropGone(uint64_t since);

  // How many are kept, and how often Find() found one.
  size_t size() const { return size_.load(); }
  uint64_t found() const { return found_.load(std::memory_order_relaxed); }

 private:
  // Where a file may be, by its name's hash. Of several the one that was used longest ago gives
  // way.
  static constexpr size_t kWays = 8;
  struct Set {
    std::array<uint64_t, kWays> hash = {};
    std::array<uint64_t, kWays> used = {};  // the round of the sweeper in which it was, last
    std::array<File, kWays> file;           // null: nothing is here
  };
  static constexpr size_t kLocks = 64;

  // Whether it is what it was when it was looked at, and what its name means.
  bool IsCurrent(const KeptFile& file) const;

  Set& SetOf(uint64_t hash) { return sets_[hash % sets_.size()]; }
  std::mutex& LockOf(const Set& set) {
    return locks_[static_cast<size_t>(&set - sets_.data()) % kLocks];
  }
  // The way of that name, with the set's lock held; kWays if it is not there.
  static size_t WayOf(const Set& set, uint64_t hash, int dir_fd, const std::string& name);
  // What was there, to be closed when the lock is not held any more.
  File Take(Set* set, size_t way);
  // `only`: if it is this file; null: whichever it is. False if it was not there.
  bool DropName(int dir_fd, const std::string& name, const KeptFile* only);
  // Of all sets, those of one directory, or of all (-1). True if one was closed.
  bool CloseAll(int dir_fd);
  bool CloseGone(uint64_t idle_before);
  bool LetGo(const std::function<bool()>& close, uint64_t since);
  void WakeSweeper();
  void Sweep();
  // Closes those that are gone, and those that were not used since `idle_before`. False if there
  // was none.
  bool SweepSet(Set* set, uint64_t idle_before);

  const KeptFilesRules rules_;
  const size_t ways_;  // of a set, that are used
  std::vector<Set> sets_;
  std::array<std::mutex, kLocks> locks_;
  // Hashes of names that were asked for lately, by some of their bits.
  std::vector<std::atomic<uint64_t>> asked_;
  std::atomic<size_t> size_{0};
  std::atomic<uint64_t> found_{0};
  std::atomic<uint64_t> round_{0};
  std::mutex letting_go_;  // held until what was dropped is closed
  std::atomic<uint64_t> let_go_{0};

  std::mutex sweeper_mutex_;  // guards sweeper_ and ending_
  std::condition_variable sweeper_wake_;
  std::atomic<bool> sweeper_sleeps_{true};  // until there is something to sweep
  std::thread sweeper_;                     // started for the first file
  bool ending_ = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_KEPT_FILES_H_
