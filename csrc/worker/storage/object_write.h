// SPDX-License-Identifier: Apache-2.0
//
// ObjectWrite: an object's bytes on their way into a file that appears under its name whole or not
// at all (atomic_file.h). PUT of version 2 and WRITE of version 1 both go this way. It can be left
// in the middle, when its turn is over (work.h), and go on later, on any thread.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_WRITE_H_
#define LMSHM_WORKER_STORAGE_OBJECT_WRITE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/storage/atomic_file.h"
#include "worker/storage/object_io.h"
#include "worker/storage/quota.h"

namespace lmshm {

// Not thread safe: one thread at a time. What is given must live as long as this.
class ObjectWrite {
 public:
  // Into the file `name` (one component) in the directory `dir_fd`, in which `io` knows its way.
  // `verb` and `what` are for messages.
  ObjectWrite(int dir_fd, const std::string& name, const ObjectIo& io, SharedBytes data,
              const TransferOptions& options, std::string_view verb, std::string_view what)
      : dir_fd_(dir_fd),
        name_(name),
        io_(io),
        data_(data),
        options_(options),
        verb_(verb),
        what_(what) {}
  ObjectWrite(const ObjectWrite&) = delete;
  ObjectWrite& operator=(const ObjectWrite&) = delete;

  // Before Go(): what the file has before the bytes.
  void SetHead(std::string head) { head_ = std::move(head); }

  // Before Go(): it takes its room there, for the bytes and `beside` more, until it is published.
  // Without a directory it does not.
  void CountIn(Quota::Directory quota, uint64_t beside);

  // Goes on until all bytes are in the file, and sets `*done`, or until the turn is over; `turn`
  // may be null. ENOSPC is noticed before data is moved.
  // Room in a quota is waited for first: ENOSPC is also that it cannot be had. EEXIST, with
  // options.if_absent: there is an object. That is looked at in each turn, before anything else.
  Status Go(Turn* turn, bool* done);

  // Between Go() and Publish(): the file.
  int fd() const { return file_->fd(); }
  const Moved& moved() const { return move_->moved(); }

  // Gives it its name. EISDIR, ELOOP, EINVAL: what has that name is no object. EEXIST as above.
  // `sidecar_bytes` are stored beside it.
  Status Publish(uint64_t sidecar_bytes = 0);

  // Throws away what has been done, but keeps the room; Go() may begin again.
  void Reset();

  // A failure, in words.
  Status Explain(int error, const char* step) const;

 private:
  // EEXIST, or EISDIR, ELOOP, EINVAL: something has the name.
  Status CheckAbsent() const;
  Status Begin();
  Status WriteHead();
  // Of the whole file.
  uint64_t FileBytes() const;
  // Sets `has_room_`; if not, its turn is over.
  Status TakeRoom(const Turn* turn);

  const int dir_fd_;
  const std::string& name_;
  const ObjectIo& io_;
  const SharedBytes data_;
  TransferOptions options_;
  const std::string_view verb_;
  const std::string_view what_;
  std::string head_;
  Quota::Directory quota_;
  uint64_t beside_ = 0;
  std::optional<QuotaRoom> room_;  // must outlive the file, which takes it
  bool has_room_ = true;
  std::optional<AtomicFile> file_;
  uint64_t reserved_ = 0;
  std::optional<ObjectMove> move_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_WRITE_H_
