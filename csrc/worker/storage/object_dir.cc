// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_dir.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>
#include <vector>

#include "worker/base/text.h"
#include "worker/storage/file_access.h"
#include "worker/storage/file_io.h"
#include "worker/storage/object_key.h"
#include "worker/storage/object_write.h"
#include "worker/storage/sidecar.h"
#include "worker/storage/temporary_name.h"

namespace lmshm {

namespace {

Status CheckType(mode_t mode, std::string_view verb, std::string_view path) {
  return CheckObjectType(mode, ActionOn(verb, path));
}

Status Explain(int error, std::string_view verb, std::string_view path) {
  return ExplainStorage(error, ActionOn(verb, path));
}

std::string RealPath(const std::string& path) {
  char* real = realpath(path.c_str(), nullptr);
  if (real == nullptr) return std::string();
  std::string result(real);
  free(real);
  return result;
}

std::string Absolute(const std::string& path) {
  if (!path.empty() && path.front() == '/') return path;
  const std::string here = RealPath(".");
  return here.empty() ? here : here + "/" + path;
}

}  // namespace

Status ObjectDir::OpenConfined(const std::string& root, BeneathMethod method,
                               std::unique_ptr<ObjectDir>* result) {
  const std::string action = "open root " + Printable(root);
  UniqueFd fd(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return errno == ENOENT ? Status::System(ENOENT, action, "create the directory first")
                           : Status::System(errno, action);
  }
  const std::string real = RealPath(root);
  if (real.empty()) return Status::System(errno, action);
  std::vector<std::string> names = {real};
  const std::string given = Absolute(root);
  if (!given.empty()) names.push_back(given);

  std::unique_ptr<ObjectDir> dir(new ObjectDir);
  dir->root_fd_ = std::move(fd);
  dir->root_ = real;
  dir->names_ = RootNames(names);
  dir->method_ = method;
  *result = std::move(dir);
  return Status::OK();
}

std::unique_ptr<ObjectDir> ObjectDir::Unconfined() {
  return std::unique_ptr<ObjectDir>(new ObjectDir);
}

Status ObjectDir::Split(std::string_view path, ObjectPath* object) const {
  return root_fd_.valid() ? names_.Split(path, object) : SplitTrusted(path, object);
}

int ObjectDir::Open(const std::string& path, int flags, UniqueFd* fd) const {
  if (root_fd_.valid()) return OpenBeneath(root_fd_.get(), path, flags, method_, fd);
  int got;
  do {
    got = open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno;
  fd->Reset(got);
  return 0;
}

Status ObjectDir::Write(std::string_view path, SharedBytes data, const CancelCheck* cancel,
                        Quota* quota, const CancelCheck* client) const {
  ObjectPath object;
  Status status = Split(path, &object);
  if (!status.ok()) return status;

  // A trusted client's directory may be a symbolic link: "/." makes open() look behind it.
  if (IsTemporaryName(object.name) || !ObjectOfSidecar(object.name).empty()) {
    return Status::Error(EINVAL, "write " + Printable(path) +
                                     ": names like this are the worker's own, for what it has not "
                                     "finished and for long keys; choose another one");
  }
  UniqueFd dir;
  const std::string parent = root_fd_.valid() ? object.directory : object.directory + "/.";
  int error = Open(parent, O_PATH | O_DIRECTORY, &dir);
  if (error == ENOENT) {
    return Status::System(ENOENT, "open directory of " + Printable(path), "create it first");
  }
  if (error != 0) return Explain(error, "open directory of", path);

  TransferOptions options;
  options.io = IoMode::kCached;
  options.checksum = false;
  options.cancel = cancel;
  options.client = client;
  ObjectWrite write(dir.get(), object.name, io_, data, options, "write", path);
  std::string key;
  if (quota != nullptr && ClassifyFile(object.name, &key) != FileKind::kOther) {
    Quota::Directory directory;
    status = quota->Find(dir.get(), &directory);
    if (!status.ok()) return status;
    write.CountIn(std::move(directory), 0);
  }
  bool done;
  status = write.Go(nullptr, &done);
  return status.ok() ? write.Publish() : status;
}

Status ObjectDir::Read(std::string_view path, SharedBytes data, const CancelCheck* cancel,
                       uint64_t* done, Quota* quota) const {
  ObjectPath object;
  Status status = Split(path, &object);
  if (!status.ok()) return status;

  // O_NONBLOCK: opening a FIFO would wait for its writer. It has no effect on a regular file.
  UniqueFd file;
  int error = Open(object.Joined(), O_RDONLY | O_NONBLOCK | O_NOCTTY, &file);
  if (error == ENXIO) return CheckType(S_IFSOCK, "open", path);
  if (error != 0) return Explain(error, "open", path);
  struct stat st;
  if (fstat(file.get(), &st) != 0) return Explain(errno, "look at", path);
  status = CheckType(st.st_mode, "open", path);
  if (!status.ok()) return status;

  error = ReadFully(file.get(), data, cancel, done);
  if (error != 0) return Explain(error, "read", path);
  UniqueFd dir;
  Quota::Directory directory;
  if (quota != nullptr && Open(object.directory, O_PATH | O_DIRECTORY, &dir) == 0 &&
      quota->Find(dir.get(), &directory).ok()) {
    directory->Used(object.name);
  }
  return Status::OK();
}

Status ObjectDir::OpenDirectory(std::string_view path, UniqueFd* fd) const {
  std::string below;
  Status status = names_.Directory(path, &below);
  if (!status.ok()) return status;
  constexpr int kFlags = O_PATH | O_DIRECTORY;
  int error = OpenBeneath(root_fd_.get(), below, kFlags, method_, fd);
  if (error == ENOENT) error = MakeDirectories(below, fd);
  if (error != 0) return Explain(error, "open directory", path.empty() ? root_ : path);
  return status;
}

// Step by step from the root, each in the one before, which is held.
int ObjectDir::MakeDirectories(std::string_view path, UniqueFd* fd) const {
  UniqueFd held;
  int at = root_fd_.get();
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    const std::string name(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
    // For its user alone until it is as it must be.
    const bool made = mkdirat(at, name.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return errno;
    UniqueFd opened;
    int error = OpenBeneath(at, name, O_PATH | O_DIRECTORY, method_, &opened);
    if (error == 0 && made && !GetFileAccess().is_default()) {
      UniqueFd fresh;
      error = OpenBeneath(at, name, O_RDONLY | O_DIRECTORY, method_, &fresh);
      if (error == 0) {
        error = ApplyFileAccess(fresh.get(), GetFileAccess().directory_mode(), nullptr);
      }
    }
    if (error != 0) return error;
    held = std::move(opened);
    at = held.get();
  }
  *fd = std::move(held);
  return 0;
}

std::string ObjectDir::Describe() const {
  if (!root_fd_.valid()) return "any path (the parent process is trusted)";
  return Printable(root_) +
         (method_ == BeneathMethod::kOpenat2 ? " (openat2)" : " (walk: no openat2 here)");
}

}  // namespace lmshm
