// SPDX-License-Identifier: Apache-2.0
//
// Sidecars: the file beside an object whose name does not say its key, which has the key
// (object_key.h).
//
// An object must not be without one, or it cannot be listed, and none should be left without an
// object. So storing and removing take turns, over all processes, with a lock (flock) on the
// sidecar: whoever stores holds it shared from before the object appears until it has, whoever
// removes holds it alone. A sidecar's content never changes.
//
// A kill leaves one without an object: after it was made and before the object has its name, or
// after the object was removed. Any put or remove of the key takes it over, and so does
// leftovers.h. A kill leaves an object without a sidecar only after somebody who asks for no lock
// has removed that in the moment in between: then its record (object_record.h) says the key.
#ifndef LMSHM_WORKER_STORAGE_SIDECAR_H_
#define LMSHM_WORKER_STORAGE_SIDECAR_H_

#include <string>
#include <string_view>

#include "worker/base/unique_fd.h"

namespace lmshm {

// Reads its content. Returns 0 or an errno value; ENOENT also when it is no regular file.
int ReadSidecar(int dir_fd, const std::string& name, std::string* key);

// One sidecar for as long as its object is being stored or removed. Not thread safe.
class Sidecar {
 public:
  // Nothing is done for an empty `name`: the key needs none. Both stay the caller's and must live
  // as long as this.
  Sidecar(int dir_fd, const std::string& name, const std::string& object_name)
      : dir_fd_(dir_fd), name_(name), object_name_(object_name) {}
  Sidecar(const Sidecar&) = delete;
  Sidecar& operator=(const Sidecar&) = delete;
  // After Store(): if there is no object, the sidecar is removed again.
  ~Sidecar();

  // Makes sure that it is there, and that nobody removes it while this lives. `sync`: also that its
  // content is on the disk, whoever made it, and before its name if it is made here. Its name is
  // there when the directory was forced to the disk later. Returns 0 or an errno value.
  [[nodiscard]] int Store(std::string_view key, bool sync);

  // After the object has appeared: makes it again if somebody who asks for no lock has removed it.
  [[nodiscard]] int Confirm(std::string_view key, bool sync);

  // Waits until nobody is storing the object, and keeps others from it while this lives.
  void LockForRemoval();

  // Removes it. Returns 0, also if there is none, or an errno value.
  [[nodiscard]] int Remove();

  // Removes it if there is no object and nobody is storing one. Whether it was removed.
  bool RemoveOrphan();

 private:
  bool Open();
  bool Lock(int how);
  bool HasObject() const;
  bool IsCurrent() const;
  int Write(std::string_view key, bool sync);

  const int dir_fd_;
  const std::string& name_;
  const std::string& object_name_;
  UniqueFd fd_;
  bool settled_ = true;  // what is there may stay
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_SIDECAR_H_
