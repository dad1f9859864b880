// SPDX-License-Identifier: Apache-2.0
//
// ObjectStore: objects by key, whatever keeps them: a directory (key_store.h), a Redis or Valkey
// server or cluster, an S3 bucket. What is above it (requests, batches, priorities, cancelling,
// metrics, listings with cursors) knows nothing else of them.
//
// What a store cannot do its StoreFacts say, and RequestTask (execution/) does not ask for it.
// The bytes of an object go between the client's memory and the store by the kernel's calls alone;
// that memory is looked at for checksums only, and written where a directory's store copies and
// checksums in one pass (shared_bytes.h).
#ifndef LMSHM_WORKER_STORAGE_OBJECT_STORE_H_
#define LMSHM_WORKER_STORAGE_OBJECT_STORE_H_

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/memory/shared_bytes.h"
#include "worker/storage/attributes.h"
#include "worker/storage/io_mode.h"

namespace lmshm {

// What is known of an object. What a store does not know is 0 or absent.
struct ObjectInfo {
  uint64_t length = 0;                // bytes
  uint64_t mtime_ms = 0;              // since 1970
  uint64_t disk_bytes = 0;            // what it occupies
  std::optional<uint32_t> crc32c;     // where it was stored
  std::vector<Attribute> attributes;  // the client's, by name
};

// What a store can do. Does not change while it is there.
struct StoreFacts {
  std::string engine;       // "directory", "redis", "s3": a word of INFO
  bool attributes = false;  // keeps a record: length, CRC-32C and the client's attributes
  // Without `attributes`: whether it keeps these of them nevertheless: shape, dtype and format.
  bool tensor_layout = false;
  bool durability = false;  // heeds Durability; false: when data is safe is the engine's affair
  bool io_modes = false;    // heeds IoMode
  uint64_t max_object_bytes = UINT64_MAX;
  // Each call waits for another machine, or may have to: callers ask for many keys at once, and
  // never on a thread that others need.
  bool remote = false;
  // Of a batch, what it wants in one call: more than this is divided among threads.
  uint64_t part_bytes = 256 * 1024;
  size_t part_objects = 8;
};

// What an object costs beside its bytes, as bytes that could be moved in the same time: opening,
// describing and closing one; making one.
inline constexpr uint64_t kObjectCost = 16 * 1024;
inline constexpr uint64_t kNewObjectCost = 128 * 1024;

// How a put ends that has TransferOptions::if_absent and finds an object: EEXIST, and the same text
// whatever the store.
Status ThereAlready(std::string_view key);

// Something that a store has begun and goes on with in the next turn. Only for the store that made
// it.
class Unfinished {
 public:
  virtual ~Unfinished() = default;
};

// One object that is to be put. What it refers to must live until it is done; the item itself may
// be moved between turns.
struct PutItem {
  std::string_view key;  // was checked: see CheckKey()
  SharedBytes data;
  std::vector<Attribute> attributes;
  TransferOptions options;
  // Set by the store.
  bool done = false;
  Status status;        // when it is done
  uint32_t crc32c = 0;  // of a success, if options.checksum
  // By a lane, when it is not done: the object may have been stored nevertheless.
  bool maybe_stored = false;
  std::unique_ptr<Unfinished> rest;
};

// One object that is to be read into the beginning of `space`; as above.
struct GetItem {
  std::string_view key;
  SharedBytes space;
  TransferOptions options;
  // Set by the store.
  bool done = false;
  Status status;
  ObjectInfo info;  // of a success: length, checksum and attributes
  std::unique_ptr<Unfinished> rest;
};

// Keys that are looked for together; as above.
struct ExistsItem {
  std::vector<std::string> keys;
  const CancelCheck* cancel = nullptr;  // may be null
  // Set by the store.
  bool done = false;
  Status status;
  std::vector<bool> yes;  // of a success: one for each key
};

// Small requests of one client to a store that is a server: many under way at a time on one thread,
// which waits for none of them. They share connections, so those that come together leave together,
// and each is over when its own reply is there.
//
// A lane does the usual case alone. Whatever has to be waited for (a connection that is not there
// yet, a second attempt) it leaves to the store's functions that wait: it does not take an item, or
// gives it back.
//
// For one thread. Its end forgets what is under way, whose memory nobody touches from then on.
class Lane {
 public:
  virtual ~Lane() = default;

  // Begins with an item, or with several, which must live until all are over or the lane's end;
  // `who` names them. False: they must be done otherwise. Nothing was sent then, and what cannot be
  // put may be marked done. What was begun is sent by Go().
  virtual bool Put(PutItem* items, size_t count, const void* who) = 0;
  virtual bool Get(GetItem* item, const void* who) = 0;
  virtual bool Exists(ExistsItem* item, const void* who) = 0;

  struct Completion {
    const void* who = nullptr;
    bool again = false;  // what is not done of it must be done from its beginning otherwise
  };
  // Does what can be done without waiting, for a moment at most, and appends what is over. Also to
  // be called from time to time: it looks at limits and cancelling. True: there is more to do.
  virtual bool Go(std::vector<Completion>* completions) = 0;

  // Takes back an item of which nothing was sent yet. False: some was, so it goes on, if it was
  // cancelled for a short time.
  virtual bool Withdraw(const void* who) = 0;

  // Appends what poll() has to wait for. Nothing: nothing is under way.
  virtual void AddPolls(std::vector<pollfd>* polls) const = 0;
};

// What is wanted of a listing at a time: it stops when it has so much, and may have a little more.
struct PageLimits {
  size_t keys = 0;   // at least 1
  size_t bytes = 0;  // of the keys, percent-encoded, with a space before each
};

// A listing in the middle. Not thread safe.
class ObjectListing {
 public:
  virtual ~ObjectListing() = default;

  // Appends the next keys to `keys`, perhaps none; `*ended` says that there are no more. After a
  // failure it can be asked again, and goes on behind what it has appended. `cancel` may be null.
  // Blocks.
  virtual Status Read(const PageLimits& limits, const CancelCheck* cancel,
                      std::vector<std::string>* keys, bool* ended) = 0;
};

// Thread safe: any number of calls at a time. Each blocks, and each wait in it has a limit: a store
// that does not answer is ETIMEDOUT, one that cannot be reached ECONNREFUSED, EHOSTUNREACH or what
// the system call said, one that refuses to let us in EACCES, one that is full ENOSPC, one that is
// read-only or loading EAGAIN. The text says which server it is and what usually helps.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  virtual const StoreFacts& facts() const = 0;

  // The errors of one object, beside these:
  //   ENOENT     no such object (a miss)          EISDIR, ELOOP, EINVAL  what has its name is none
  //   EFAULT     the shared memory is gone        EFBIG  larger than the store takes
  //   ECANCELED  options.cancel said so           E2BIG  no room for its attributes
  //   EMSGSIZE   larger than the space (GET); the text begins with its length in decimal
  //   EBADMSG    what came back is not what was stored: checksum, length or key
  //   EEXIST     options.if_absent, and there is an object: it stays as it is (that is no failure)

  // Goes on with all items that are not done, until they are or, where a store can leave work in
  // the middle, until the turn is over; `turn` may be null. An object that is put is there whole,
  // with its attributes, or not at all; when a put fails the old object or none is there, but
  // after ETIMEDOUT and broken connections perhaps the new one. Of `space` beyond the object
  // nothing is touched by a directory; other stores say where they do otherwise. After a failed
  // get all of it is unspecified.
  virtual void Put(PutItem* items, size_t count, Turn* turn) = 0;
  virtual void Get(GetItem* items, size_t count, Turn* turn) = 0;

  // Without reading the content. ENOENT: a miss.
  virtual Status Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) = 0;

  // Here `yes` and `removed` have one place for each key, at first false. On failure nothing is
  // known.
  virtual Status Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                        std::vector<bool>* yes) = 0;
  // False for one that was not there. After a failure some may be removed.
  virtual Status Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                        std::vector<bool>* removed) = 0;

  // A listing of all keys that begin with `prefix`. An object that is there all the time is listed,
  // once (a store that can list it twice says so).
  virtual Status BeginListing(const std::string& prefix,
                              std::unique_ptr<ObjectListing>* listing) = 0;

  // Null: this store has none. It must not outlive the store.
  virtual std::unique_ptr<Lane> OpenLane() { return nullptr; }

  // Words for INFO, ` name=value` each (percent-coded): what only this engine has to tell.
  virtual std::string Describe() const { return ""; }
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_STORE_H_
