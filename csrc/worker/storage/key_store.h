// SPDX-License-Identifier: Apache-2.0
//
// KeyStore: the ObjectStore of a directory. Each object is one regular file directly in there, with
// a record (object_record.h) and, for keys that are no file name, a sidecar (sidecar.h).
//
// There is one for each directory that clients name (directories.h). It knows nothing of clients,
// lines or segments. Each function is complete in itself: any number of them may run at a time.
// Files written by others (LMCache, version 1) have no record and are served without; what a record
// says is checked, and what does not match is EBADMSG.
#ifndef LMSHM_WORKER_STORAGE_KEY_STORE_H_
#define LMSHM_WORKER_STORAGE_KEY_STORE_H_

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/base/work.h"
#include "worker/storage/attributes.h"
#include "worker/storage/file_io.h"
#include "worker/storage/io_mode.h"
#include "worker/storage/kept_files.h"
#include "worker/storage/object_io.h"
#include "worker/storage/object_key.h"
#include "worker/storage/object_store.h"
#include "worker/storage/quota.h"
#include "worker/storage/storage_facts.h"
#include "worker/storage/stores.h"

namespace lmshm {

class ObjectGet;

// Thread safe: but for what it shares it does not change after it was made.
class KeyStore : public ObjectStore {
 public:
  // Serves the directory `dir_fd` (may be O_PATH), which stays the caller's and must live as long
  // as this. `facts`: of its file system, see ProbeStorage(). Small files stay open in `share`,
  // where the facts allow that.
  // `quota`, where there is one: the directory's, which has room for what is stored.
  KeyStore(int dir_fd, const StorageFacts& facts,
           std::shared_ptr<StoresShare> share = std::make_shared<StoresShare>(),
           Quota::Directory quota = nullptr);
  KeyStore(const KeyStore&) = delete;
  KeyStore& operator=(const KeyStore&) = delete;
  ~KeyStore() override;

  // Of ObjectStore. Put() and Get() leave an object in the middle when the turn is over.
  const StoreFacts& facts() const override { return store_facts_; }
  void Put(PutItem* items, size_t count, Turn* turn) override;
  void Get(GetItem* items, size_t count, Turn* turn) override;
  Status Stat(std::string_view key, const CancelCheck* cancel, ObjectInfo* info) override;
  Status Exists(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* yes) override;
  Status Remove(const std::vector<std::string>& keys, const CancelCheck* cancel,
                std::vector<bool>* removed) override;
  Status BeginListing(const std::string& prefix, std::unique_ptr<ObjectListing>* listing) override;
  std::string Describe() const override;

  const StorageFacts& storage() const { return facts_; }
  StoresShare& share() const { return *share_; }
  bool has_attributes() const { return facts_.attributes; }
  int dir_fd() const { return dir_fd_; }

  // One object. The errors of all of these, all of which take a key that was checked:
  //   ENOENT     no such object         EISDIR, ELOOP, EINVAL  what has its name is no object
  //   EFAULT     the shared memory is gone        ENOSPC  noticed before data is moved
  //   ECANCELED  the transfer's `cancel` said so  others  of the system call that failed
  // All block.

  // Makes the object have exactly the bytes of `data` and `attributes`; on failure the old object,
  // or none, is there. `*crc` is the checksum, unless `options` say to do without. Where the file
  // system has no attributes, none are stored. E2BIG: it has no room for these. EEXIST, with
  // options.if_absent: there is an object, and nothing was written. When only forcing the name to
  // the disk fails, the new object is there although this fails.
  Status Put(const ObjectKey& key, SharedBytes data, const std::vector<Attribute>& attributes,
             const TransferOptions& options, uint32_t* crc) const;

  // Reads the whole object into the beginning of `space`; the rest of that is untouched, on failure
  // all of it is unspecified. Sets what is stored with the object in `*info`: length, checksum and
  // attributes.
  //   EMSGSIZE  the object is larger than `space`; the text begins with its length
  //   EBADMSG   key, length or checksum are not what the record says, or it changed meanwhile
  Status Get(const ObjectKey& key, SharedBytes space, const TransferOptions& options,
             ObjectInfo* info) const;

  // Without reading the content, hence without EBADMSG for it.
  Status Stat(const ObjectKey& key, ObjectInfo* info) const;
  Status Exists(const ObjectKey& key, bool* exists) const;

  // `*removed` is false if there was no object. Removes the sidecar in either case.
  Status Remove(const ObjectKey& key, bool* removed) const;

  // The key of an object of kind kHashed: from its sidecar or its record, and only if that key
  // belongs there. ENOENT: neither says.
  Status KeyOfHashed(const std::string& file_name, std::string* key) const;

  // Begins a Get(). An object that is not small may take more than one turn: then `*rest` is set,
  // and the rest of it is to be done by ObjectGet::Go().
  Status BeginGet(ObjectKey key, SharedBytes space, const TransferOptions& options, Turn* turn,
                  ObjectInfo* info, std::unique_ptr<ObjectGet>* rest) const;

 private:
  friend class ObjectPut;
  friend class ObjectGet;

  // What is stored with a file. `has_length` is false for a file of others: then it has no record,
  // and what can be known the file itself says (ReadForeign()).
  struct Stored {
    bool has_length = false;
    uint64_t length = 0;      // of the object
    uint64_t file_bytes = 0;  // that the file must have; known where has_length is set
    uint64_t head = 0;        // bytes before the object's
    std::optional<uint32_t> crc32c;
    std::vector<Attribute> attributes;
    std::string mismatch;  // what does not fit, in words; empty: all does
  };

  static Status Changed(const std::string& action);
  static uint64_t MtimeMs(const struct stat& st);

  Status Open(const ObjectKey& key, const char* verb, UniqueFd* fd) const;
  Status ReadStored(int fd, std::string_view key, const char* verb, Stored* stored) const;
  // Of a file of others that has `file_bytes`: whether it begins with LMCache's header. It may have
  // been filled up to a multiple of `pad`.
  Status ReadForeign(int fd, std::string_view key, const char* verb, uint64_t file_bytes,
                     uint64_t pad, Stored* stored) const;
  Status GetSmall(int fd, std::string_view key, SharedBytes target, const TransferOptions& options,
                  std::optional<uint32_t> stored_crc) const;
  Status GetKept(const KeptFile& file, std::string_view key, SharedBytes space,
                 const TransferOptions& options, ObjectInfo* info) const;
  Status CheckSum(std::string_view key, const TransferOptions& options, uint32_t crc,
                  std::optional<uint32_t> stored_crc) const;

  const int dir_fd_;
  const StorageFacts facts_;
  StoreFacts store_facts_;
  const std::shared_ptr<StoresShare> share_;
  const Quota::Directory quota_;
  const bool keeps_files_;
  dev_t device_ = 0;  // the directory's file system
  const ObjectIo io_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_KEY_STORE_H_
