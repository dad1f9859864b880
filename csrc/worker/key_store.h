// SPDX-License-Identifier: Apache-2.0
//
// KeyStore: objects by key, as protocol version 2 sees them: one regular file each directly below
// the root, with attributes (attributes.h) and, for keys that are no file name, a sidecar
// (object_key.h).
//
// It knows nothing of clients, lines or segments. Each function is complete in itself: any number
// of them may run at a time. Files written by others (LMCache, version 1) have no attributes and
// are served without; what an attribute says is checked, and what does not match is EBADMSG.
#ifndef LMSHM_WORKER_KEY_STORE_H_
#define LMSHM_WORKER_KEY_STORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/attributes.h"
#include "worker/cancel.h"
#include "worker/file_io.h"
#include "worker/object_key.h"
#include "worker/status.h"
#include "worker/unique_fd.h"

namespace lmshm {

struct ObjectInfo {
  uint64_t length = 0;                // bytes
  uint64_t mtime_ms = 0;              // since 1970
  uint64_t disk_bytes = 0;            // what it occupies
  std::optional<uint32_t> crc32c;     // where it was stored
  std::vector<Attribute> attributes;  // the client's, by name
};

// Thread safe: it does not change after it was made.
class KeyStore {
 public:
  // Serves the directory `root_fd` (may be O_PATH), which stays the caller's and must live as long
  // as this. `attributes`: whether its file system has them, see DetectAttributes().
  KeyStore(int root_fd, bool attributes) : root_fd_(root_fd), attributes_(attributes) {}
  KeyStore(const KeyStore&) = delete;
  KeyStore& operator=(const KeyStore&) = delete;

  bool has_attributes() const { return attributes_; }
  int root_fd() const { return root_fd_; }

  // The errors of all of these, beside those of FindKeyFile():
  //   ENOENT     no such object         EISDIR, ELOOP, EINVAL  what has its name is no object
  //   EFAULT     the shared memory is gone        ENOSPC  noticed before data is moved
  //   ECANCELED  `cancel` (may be null) said so   others  of the system call that failed
  // All block.

  // Makes the object have exactly the bytes of `data` and `attributes`; on failure the old object,
  // or none, is there. `crc` null: no checksum is computed or stored. Where the file system has no
  // attributes, none are stored. E2BIG: it has no room for these.
  Status Put(std::string_view key, SharedBytes data, const std::vector<Attribute>& attributes,
             const CancelCheck* cancel, uint32_t* crc) const;

  // Reads the whole object into the beginning of `space`; the rest of that is untouched, on failure
  // all of it is unspecified. `verify`: compute the checksum and compare.
  //   EMSGSIZE  the object is larger than `space`; the text begins with its length
  //   EBADMSG   key, length or checksum are not what the attributes say, or it changed meanwhile
  Status Get(std::string_view key, SharedBytes space, bool verify, const CancelCheck* cancel,
             ObjectInfo* info) const;

  // Without reading the content, hence without EBADMSG.
  Status Stat(std::string_view key, ObjectInfo* info) const;
  Status Exists(std::string_view key, bool* exists) const;

  // `*removed` is false if there was no object. Removes the sidecar in either case.
  Status Remove(std::string_view key, bool* removed) const;

  // The key of an object of kind kHashed: from its sidecar or its attribute, and only if that key
  // belongs there. False if neither says.
  bool KeyOfHashed(const std::string& file_name, std::string* key) const;

 private:
  Status Open(std::string_view key, const KeyFile& file, const char* verb, UniqueFd* fd,
              ObjectInfo* info) const;
  // Splits what is stored with the file into the client's and ours. `checks` as key and length.
  Status ReadAttributes(int fd, std::string_view key, const char* verb, ObjectInfo* info,
                        std::vector<Attribute>* ours) const;
  int StoreSidecar(const KeyFile& file, std::string_view key) const;
  std::string ReadSidecar(const std::string& name) const;

  const int root_fd_;
  const bool attributes_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_KEY_STORE_H_
