// SPDX-License-Identifier: Apache-2.0
//
// ObjectPath: a client's path as text, cut into the directory to open and the name in it.
//
// This is the textual half of confinement; the other half (symbolic links, races) is the kernel's
// and lives in beneath.h. Nothing here looks at a file system.
#ifndef LMSHM_WORKER_STORAGE_OBJECT_PATH_H_
#define LMSHM_WORKER_STORAGE_OBJECT_PATH_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"

namespace lmshm {

// How far below the root a client's directory may be; a quota counts no deeper.
inline constexpr size_t kMaxDirectoryDepth = 16;

struct ObjectPath {
  std::string directory;  // see the functions
  std::string name;       // one component, neither "." nor ".."

  // Both together.
  std::string Joined() const;
};

// What a root directory is called: its name as given and its real path, both absolute. A client
// may use either.
class RootNames {
 public:
  // `names` are absolute paths. One that contains ".." is ignored: what it means depends on the
  // file system.
  explicit RootNames(const std::vector<std::string>& names);

  // Cuts `path`, which is absolute and below one of the names, or relative to the root.
  // `result->directory` is relative to the root: no leading slash, no ".", no "..", no empty
  // component; "" is the root itself.
  //   EINVAL        empty, a NUL byte, a ".." component, or the root itself
  //   EACCES        absolute and not below the root
  //   ENAMETOOLONG  over 4,095 bytes, or a component over 255
  Status Split(std::string_view path, ObjectPath* result) const;

  // The same for a directory: `*result` is as `ObjectPath::directory`. "" is the root itself, and
  // so is its name.
  //   EINVAL, ENAMETOOLONG  as above, but for the root; ENAMETOOLONG also: it is deeper than
  //                         kMaxDirectoryDepth
  //   EXDEV                 absolute and not below the root, nor the root
  Status Directory(std::string_view path, std::string* result) const;

 private:
  // What of `path` is below the root; `outside` is the error where it is not below it.
  Status Below(std::string_view path, int outside, std::vector<std::string_view>* components) const;

  std::vector<std::vector<std::string>> names_;  // components
};

// Cuts a path of a trusted client without reading anything into it: `result->directory` is what
// is before the last slash ("." for nothing, "/" for the root directory).
//   EINVAL        empty, a NUL byte, or a last component that is empty, "." or ".."
//   ENAMETOOLONG  as above
Status SplitTrusted(std::string_view path, ObjectPath* result);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_PATH_H_
