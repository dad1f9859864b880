// SPDX-License-Identifier: Apache-2.0
//
// ObjectIndex: what is in one directory: how many objects, what each takes of the disk, when it was
// last used (object_table.h). It is told of what this process stores and removes, and looks at
// files for the rest.
//
// What a file takes is its blocks on the disk, in units of 4 KiB; of one that was written just now
// at least its length, because some file systems find its place on the disk later. A file with a
// long key (the sidecar) counts as part of its object, and alone while there is no object.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_INDEX_H_
#define LMSHM_WORKER_STORAGE_OBJECT_INDEX_H_

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/unique_fd.h"
#include "worker/storage/object_table.h"

namespace lmshm {

struct DiskTotals {
  std::atomic<uint64_t> blocks{0};
  std::atomic<uint64_t> objects{0};
};

// Real time, but never before what it or NextTick() said already: puts may come faster than ticks,
// and a clock may be set back.
UseTick NowTick();
// Later than all that either has said.
UseTick NextTick();
UseTick TickOf(const struct timespec& time);
// When the file was changed last. A time of modification may lie in the future, where it comes from
// another machine or a wrong clock; the change of the file itself is known then.
UseTick ChangedTick(const struct stat& st);

// What a file that was written just now takes.
uint64_t WrittenBlocks(const struct stat& st);

// Thread safe.
class ObjectIndex {
 public:
  // `dir_fd` is open for reading. `all` are the totals of all directories together, and must live
  // as long as this.
  ObjectIndex(UniqueFd dir_fd, DiskTotals* all) : fd_(std::move(dir_fd)), all_(all) {}

  int fd() const { return fd_.get(); }
  const DiskTotals& totals() const { return totals_; }
  ObjectTable& table() { return table_; }
  const ObjectTable& table() const { return table_; }

  // As ObjectTable::Update(), and keeps the totals.
  std::optional<TableObject> Update(uint64_t hash, const ObjectTable::Change& change);
  // Forgets an entry, once its file has been removed. Returns what it took.
  uint64_t Forget(uint64_t hash);

  // Looks at the object of this name as it is now. Returns the blocks of an object that somebody
  // else has stored since it was looked at last; 0 if it is what was known, or gone. `just_now`:
  // something was done to the file at this moment, so that it is as good as used.
  uint64_t Look(const std::string& name, bool just_now);

  // Calls `visit` for each name in the directory, until it returns false. `directory`: it is known
  // to be one. Returns 0 or an errno value.
  using Visit = std::function<bool(const std::string& name, bool directory)>;
  [[nodiscard]] int ReadNames(const Visit& visit) const;

  struct Counted {
    bool complete = false;
    uint64_t put_blocks = 0;         // as Look() returns them
    uint64_t temporaries = 0;        // left by writers that died, and removed
    uint64_t keys = 0;               // sidecars without an object, left and removed
    std::vector<std::string> below;  // directories in this one
  };
  // Looks at everything, and forgets what is gone. `age`: see leftovers.h. Stops early when
  // `ending` says so.
  Counted Count(std::chrono::seconds age, const std::function<bool()>& ending);

 private:
  bool LookAtFile(const std::string& name, struct stat* st) const;
  // False: something was forgotten meanwhile, and what was seen may be older than that.
  bool TryLook(const std::string& name, bool just_now, uint64_t* put);
  void Subtract(const TableObject& object);

  const UniqueFd fd_;
  DiskTotals* const all_;
  DiskTotals totals_;
  ObjectTable table_;
  std::atomic<uint64_t> forgotten_{0};
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_INDEX_H_
