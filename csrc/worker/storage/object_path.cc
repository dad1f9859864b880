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

Status RootNames::Split(std::string_view path, ObjectPath* result) const {
  Status status = CheckText(path);
  if (!status.ok()) return status;

  const std::vector<std::string_view> components = Components(path);
  for (const std::string_view component : components) {
    if (component == "..") {
      return Status::Error(EINVAL,
                           "path " + Printable(path) + " contains \"..\", which is not served");
    }
    status = CheckComponent(component, path);
    if (!status.ok()) return status;
  }

  size_t skip = 0;
  if (path.front() == '/') {
    bool below = false;
    for (const std::vector<std::string>& name : names_) {
      if (!StartsWith(components, name)) continue;
      below = true;
      skip = name.size();
      break;
    }
    if (!below) {
      return Status::Error(EACCES,
                           "path " + Printable(path) + " is not below this worker's --root");
    }
  }
  // A path that ends in a slash or in "/." asks for a directory, which is never an object.
  const bool directory_like = path.back() == '/' || path == "." ||
                              (path.size() > 1 && path.substr(path.size() - 2) == "/.");
  if (components.size() == skip || directory_like) {
    return Status::Error(EINVAL, "path " + Printable(path) + " names a directory, not an object");
  }

  result->directory.clear();
  for (size_t i = skip; i + 1 < components.size(); i++) {
    if (!result->directory.empty()) result->directory += '/';
    result->directory += components[i];
  }
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
