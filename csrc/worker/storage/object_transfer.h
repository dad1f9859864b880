// SPDX-License-Identifier: Apache-2.0
//
// ObjectPut and ObjectGet: one object on its way into a KeyStore, or out of it. Both can be left in
// the middle, when their turn is over (work.h), and go on later, on any thread; so nobody waits for
// a thread until a very large object has been moved. What a reader sees does not change by that: an
// object has no name before it is complete (atomic_file.h), and of one that is read an open file is
// held.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_TRANSFER_H_
#define LMSHM_WORKER_STORAGE_OBJECT_TRANSFER_H_

#include <sys/stat.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/base/work.h"
#include "worker/storage/key_store.h"
#include "worker/storage/object_io.h"
#include "worker/storage/object_key.h"
#include "worker/storage/object_write.h"

namespace lmshm {

// Not thread safe: one thread at a time. What is given must live as long as this.
class ObjectPut : public Unfinished {
 public:
  ObjectPut(const KeyStore& store, ObjectKey key, SharedBytes data,
            std::vector<Attribute> attributes, const TransferOptions& options);
  ObjectPut(const ObjectPut&) = delete;
  ObjectPut& operator=(const ObjectPut&) = delete;

  // Goes on until the object is there, and sets `*done`, or until the turn is over; `turn` may be
  // null. Fails as KeyStore::Put() does, and sets `*done` then.
  Status Go(Turn* turn, bool* done);

  // Once it is there, and if a checksum was asked for.
  uint32_t crc32c() const { return write_.moved().crc32c; }

 private:
  Status Begin();
  // What is left to do once all bytes are in the file.
  Status Finish();

  const KeyStore& store_;
  const ObjectKey key_;
  const SharedBytes data_;
  const std::vector<Attribute> attributes_;
  const TransferOptions options_;
  ObjectWrite write_;
  uint64_t head_bytes_ = 0;
  bool begun_ = false;
  uint64_t sidecar_bytes_ = 0;
  Patience patience_;
};

// Of an object that is not small: see KeyStore::BeginGet(). As above.
class ObjectGet : public Unfinished {
 public:
  // `fd` was opened for `key`, and has `space` for its bytes; `before` is what fstat() says.
  ObjectGet(const KeyStore& store, std::string_view key, UniqueFd fd, SharedBytes space,
            const TransferOptions& options, KeyStore::Stored stored, const struct stat& before);
  ObjectGet(const ObjectGet&) = delete;
  ObjectGet& operator=(const ObjectGet&) = delete;

  // Goes on until the object has been read, and sets `*done` and `*info`, or until the turn is
  // over. Fails as KeyStore::Get() does, and sets `*done` then.
  Status Go(Turn* turn, bool* done, ObjectInfo* info);

 private:
  Status Finish(ObjectInfo* info);

  const KeyStore& store_;
  const std::string_view key_;
  const UniqueFd fd_;
  const TransferOptions options_;
  KeyStore::Stored stored_;
  const struct stat before_;
  ObjectMove move_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_TRANSFER_H_
