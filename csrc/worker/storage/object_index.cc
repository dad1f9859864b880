// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_index.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>

#include "worker/storage/leftovers.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

constexpr uint64_t kStatBlockBytes = 512;

struct CloseDirectory {
  void operator()(DIR* dir) const { closedir(dir); }
};

std::atomic<UseTick> last_tick{0};

UseTick RealTick() {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return TickOf(now);
}

uint64_t BlocksOnDisk(const struct stat& st) {
  return BlocksOf(static_cast<uint64_t>(st.st_blocks) * kStatBlockBytes);
}

}  // namespace

UseTick TickOf(const struct timespec& time) {
  if (time.tv_sec <= 0) return 1;
  return static_cast<UseTick>(time.tv_sec) * 1000 * kTicksPerMs +
         static_cast<UseTick>(time.tv_nsec) * kTicksPerMs / 1000000;
}

UseTick NowTick() {
  UseTick last = last_tick.load();
  const UseTick now = RealTick();
  while (now > last && !last_tick.compare_exchange_weak(last, now)) {
  }
  return std::max(now, last);
}

UseTick NextTick() {
  UseTick last = last_tick.load();
  UseTick next;
  do {
    next = std::max(RealTick(), last + 1);
  } while (!last_tick.compare_exchange_weak(last, next));
  return next;
}

UseTick ChangedTick(const struct stat& st) {
  const UseTick now = NowTick();
  const UseTick modified = TickOf(st.st_mtim);
  return modified <= now ? modified : std::min(TickOf(st.st_ctim), now);
}

uint64_t WrittenBlocks(const struct stat& st) {
  return std::max({BlocksOnDisk(st), BlocksOf(static_cast<uint64_t>(st.st_size)), uint64_t{1}});
}

std::optional<TableObject> ObjectIndex::Update(uint64_t hash, const ObjectTable::Change& change) {
  std::optional<TableObject> after;
  const auto before = table_.Update(hash, [&](std::optional<TableObject>* object) {
    change(object);
    if (object->has_value())
      (*object)->blocks = std::min((*object)->blocks, ObjectTable::kMaxBlocks);
    after = *object;
  });
  // Modulo 2^64, so that several that are under way add up in any order.
  const uint64_t blocks = (after ? after->blocks : 0) - (before ? before->blocks : 0);
  const uint64_t objects = (after && !after->lone ? 1u : 0u) - uint64_t{before && !before->lone};
  for (DiskTotals* const totals : {&totals_, all_}) {
    if (blocks != 0) totals->blocks.fetch_add(blocks);
    if (objects != 0) totals->objects.fetch_add(objects);
  }
  return before;
}

void ObjectIndex::Subtract(const TableObject& object) {
  for (DiskTotals* const totals : {&totals_, all_}) {
    totals->blocks.fetch_sub(object.blocks);
    if (!object.lone) totals->objects.fetch_sub(1);
  }
}

uint64_t ObjectIndex::Forget(uint64_t hash) {
  forgotten_.fetch_add(1);  // before the entry is locked, see TryLook()
  const auto before = Update(hash, [](std::optional<TableObject>* object) { object->reset(); });
  return before ? before->blocks : 0;
}

bool ObjectIndex::LookAtFile(const std::string& name, struct stat* st) const {
  return fstatat(fd_.get(), name.c_str(), st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
}

uint64_t ObjectIndex::Look(const std::string& name, bool just_now) {
  std::string ignored;
  if (ClassifyFile(name, &ignored) == FileKind::kOther) return 0;
  constexpr int kAttempts = 8;
  uint64_t put = 0;
  for (int attempt = 0; attempt < kAttempts && !TryLook(name, just_now, &put); attempt++) {
  }
  return put;
}

bool ObjectIndex::TryLook(const std::string& name, bool just_now, uint64_t* put) {
  const uint64_t forgotten = forgotten_.load();
  const UseTick looked = NowTick();
  const uint64_t hash = ObjectTable::HashOf(name);
  struct stat object;
  struct stat sidecar;
  const bool there = LookAtFile(name, &object);
  uint64_t sidecar_blocks = 0;
  if (IsHashedName(name)) {
    const std::string sidecar_name = SidecarOf(name);
    const bool has_sidecar = LookAtFile(sidecar_name, &sidecar);
    if (has_sidecar) sidecar_blocks = BlocksOnDisk(sidecar);
    Update(ObjectTable::HashOf(sidecar_name), [&](std::optional<TableObject>* entry) {
      if (there || !has_sidecar) return entry->reset();
      *entry = TableObject();
      (*entry)->blocks = sidecar_blocks;
      (*entry)->used = TickOf(sidecar.st_mtim);
      (*entry)->lone = true;
    });
  }
  const uint64_t blocks = there ? BlocksOnDisk(object) + sidecar_blocks : 0;
  const UseTick changed = there ? ChangedTick(object) : 0;
  const UseTick read = there ? TickOf(object.st_atim) : 0;
  const UseTick used = std::min(read <= looked ? std::max(read, changed) : changed, looked);
  bool current = true;
  Update(hash, [&](std::optional<TableObject>* entry) {
    if (entry->has_value() && (*entry)->used > looked) return;  // younger than this look
    if (!there) return entry->reset();
    current = forgotten_.load() == forgotten;
    if (!current) return;
    if (!entry->has_value() || changed > (*entry)->used) {
      *entry = TableObject();
      (*entry)->put = true;
      (*entry)->used = just_now ? looked : used;
      *put = blocks;
    } else if (used > (*entry)->used) {
      (*entry)->used = used;
      (*entry)->put = false;
    }
    (*entry)->blocks = blocks;
  });
  return current;
}

int ObjectIndex::ReadNames(const Visit& visit) const {
  UniqueFd fd(openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno;
  const std::unique_ptr<DIR, CloseDirectory> dir(fdopendir(fd.get()));
  if (dir == nullptr) return errno;
  fd.Release();  // dir's now
  std::string name;
  for (;;) {
    errno = 0;
    const struct dirent* const entry = readdir(dir.get());
    if (entry == nullptr) return errno;
    name = entry->d_name;
    if (name == "." || name == "..") continue;
    bool directory = entry->d_type == DT_DIR;
    if (entry->d_type == DT_UNKNOWN) {
      struct stat st;
      directory =
          fstatat(fd_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
    }
    if (!visit(name, directory)) return ECANCELED;
  }
}

ObjectIndex::Counted ObjectIndex::Count(std::chrono::seconds age,
                                        const std::function<bool()>& ending) {
  Counted counted;
  table_.BeginRound();
  size_t read = 0;
  const int error = ReadNames([&](const std::string& name, bool directory) {
    if (++read % 256 == 0 && ending()) return false;
    if (directory) {
      counted.below.push_back(name);
      return true;
    }
    const Leftover left = RemoveIfLeftover(fd_.get(), name, age);
    if (left == Leftover::kTemporary) counted.temporaries++;
    if (left == Leftover::kSidecar) counted.keys++;
    const std::string object = ObjectOfSidecar(name);
    // With its object, unless there is none.
    struct stat st;
    if (!object.empty() && LookAtFile(object, &st)) return true;
    counted.put_blocks += Look(object.empty() ? name : object, false);
    return true;
  });
  counted.complete = error == 0;
  if (counted.complete) table_.RemoveUnseen([&](const TableObject& object) { Subtract(object); });
  return counted;
}

}  // namespace lmshm
