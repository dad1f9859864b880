// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/object_path.h"

#include <cerrno>
#include <cstddef>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxPathBytes = 4095;      // PATH_MAX less its NUL
constexpr size_t kMaxComponentBytes = 255;  // NAME_MAX

Status CheckText(std::string_view path) {
  if (path.empty()) return Status::Error(EINVAL, "the path is empty");
  if (path.find('\0') != std::string_view::npos) {
    return Status::Error(EINVAL, "path " + Printable(path) + " contains a NUL byte");
  }
  if (path.size() > kMaxPathBytes) {
    return Status::Error(ENAMETOOLONG, "the path has " + std::to_string(path.size()) +
                                           " bytes, more than " + std::to_string(kMaxPathBytes));
  }
  return Status::OK();
}

Status CheckComponent(std::string_view component, std::string_view path) {
  if (component.size() <= kMaxComponentBytes) return Status::OK();
  return Status::Error(ENAMETOOLONG, "path " + Printable(path) + ": a name of " +
                                         std::to_string(component.size()) + " bytes, more than " +
                                         std::to_string(kMaxComponentBytes));
}

// The components of `path` without empty ones and ".".
std::vector<std::string_view> Components(std::string_view path) {
  std::vector<std::string_view> result;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view component = path.substr(0, slash);
    if (!component.empty() && component != ".") result.push_back(component);
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return result;
}

bool StartsWith(const std::vector<std::string_view>& path, const std::vector<std::string>& root) {
  if (path.size() < root.size()) return false;
  for (size_t i = 0; i < root.size(); i++) {
    if (path[i] != root[i]) return false;
  }
  return true;
}

// The first `count`, with slashes between them.
std::string Join(const std::vector<std::string_view>& components, size_t count) {
  std::string path;
  for (size_t i = 0; i < count; i++) {
    if (i > 0) path += '/';
    path += components[i];
  }
  return path;
}

}  // namespace

std::string ObjectPath::Joined() const {
  if (directory.empty()) return name;
  return directory.back() == '/' ? directory + name : directory + "/" + name;
}

RootNames::RootNames(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    std::vector<std::string> components;
    bool usable = true;
    for (const std::string_view component : Components(name)) {
      if (component == "..") usable = false;
      components.emplace_back(component);
    }
    if (usable) names_.push_back(std::move(components));
  }
}

Status RootNames::Below(std::string_view path, int outside,
                        std::vector<std::string_view>* components) const {
  Status status = CheckText(path);
  if (!status.ok()) return status;

  *components = Components(path);
  for (const std::string_view component : *components) {
    if (component == "..") {
      return Status::Error(EINVAL,
                           "path " + Printable(path) + " contains \"..\", which is not served");
    }
    status = CheckComponent(component, path);
    if (!status.ok()) return status;
  }

  if (path.front() != '/') return status;
  for (const std::vector<std::string>& name : names_) {
    if (!StartsWith(*components, name)) continue;
    components->erase(components->begin(),
                      components->begin() + static_cast<ptrdiff_t>(name.size()));
    return status;
  }
  return Status::Error(outside, "path " + Printable(path) + " is not below this worker's --root");
}

Status RootNames::Directory(std::string_view path, std::string* result) const {
  result->clear();
  if (path.empty()) return Status::OK();
  std::vector<std::string_view> components;
  Status status = Below(path, EXDEV, &components);
  if (!status.ok()) return status;
  if (components.size() > kMaxDirectoryDepth) {
    return Status::Error(ENAMETOOLONG, "directory " + Printable(path) + " is " +
                                           std::to_string(components.size()) +
                                           " levels below this worker's --root, of at most " +
                                           std::to_string(kMaxDirectoryDepth));
  }
  *result = Join(components, components.size());
  return status;
}

Status RootNames::Split(std::string_view path, ObjectPath* result) const {
  std::vector<std::string_view> components;
  Status status = Below(path, EACCES, &components);
  if (!status.ok()) return status;
  // A path that ends in a slash or in "/." asks for a directory, which is never an object.
  const bool directory_like = path.back() == '/' || path == "." ||
                              (path.size() > 1 && path.substr(path.size() - 2) == "/.");
  if (components.empty() || directory_like) {
    return Status::Error(EINVAL, "path " + Printable(path) + " names a directory, not an object");
  }

  result->directory = Join(components, components.size() - 1);
  result->name = components.back();
  return Status::OK();
}

Status SplitTrusted(std::string_view path, ObjectPath* result) {
  Status status = CheckText(path);
  if (!status.ok()) return status;
  const size_t slash = path.rfind('/');
  const std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") {
    return Status::Error(EINVAL, "path " + Printable(path) + " names a directory, not an object");
  }
  status = CheckComponent(name, path);
  if (!status.ok()) return status;
  if (slash == std::string_view::npos) {
    result->directory = ".";
  } else {
    result->directory = slash == 0 ? "/" : std::string(path.substr(0, slash));
  }
  result->name = name;
  return Status::OK();
}

}  // namespace lmshm
