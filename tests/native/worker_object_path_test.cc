// SPDX-License-Identifier: Apache-2.0
//
// Clients' paths as text.
#include <cerrno>

#include "worker/storage/object_path.h"
#include "worker_check.hh"

using lmshm::ObjectPath;
using lmshm::RootNames;

namespace {

const RootNames kRoot({"/srv/kv", "/data//./link/"});

std::string Split(std::string_view path) {
  ObjectPath result;
  const lmshm::Status status = kRoot.Split(path, &result);
  return status.ok() ? result.directory + "|" + result.name : lmshm::ErrnoName(status.number());
}

std::string Trusted(std::string_view path) {
  ObjectPath result;
  const lmshm::Status status = lmshm::SplitTrusted(path, &result);
  return status.ok() ? result.directory + "|" + result.name : lmshm::ErrnoName(status.number());
}

}  // namespace

TEST(paths_below_the_root) {
  CHECK_EQ(Split("/srv/kv/a"), "|a");
  CHECK_EQ(Split("/srv/kv/a/b/c"), "a/b|c");
  CHECK_EQ(Split("//srv///kv/.//a/./b"), "a|b");
  CHECK_EQ(Split("/data/link/a"), "|a");
  CHECK_EQ(Split("a"), "|a");
  CHECK_EQ(Split("./a/b"), "a|b");
  CHECK_EQ(Split("a b/c d"), "a b|c d");
  CHECK_EQ(Split("..."), "|...");
  CHECK_EQ(Split("..a/b.."), "..a|b..");
}

TEST(paths_that_are_not) {
  CHECK_EQ(Split("/srv/kvx/a"), "EACCES");
  CHECK_EQ(Split("/srv/k"), "EACCES");
  CHECK_EQ(Split("/srv"), "EACCES");
  CHECK_EQ(Split("/"), "EACCES");
  CHECK_EQ(Split("/etc/passwd"), "EACCES");
  CHECK_EQ(Split("../a"), "EINVAL");
  CHECK_EQ(Split("a/.."), "EINVAL");
  CHECK_EQ(Split("a/../b"), "EINVAL");
  CHECK_EQ(Split("/srv/kv/../kv/a"), "EINVAL");
  CHECK_EQ(Split("/srv/kv/.."), "EINVAL");
}

TEST(paths_of_directories) {
  for (const char* path : {"/srv/kv", "/srv/kv/", ".", "./", "a/", "a/.", "/srv/kv/."}) {
    CHECK_EQ(Split(path), "EINVAL");
  }
}

TEST(empty_nul_and_too_long) {
  CHECK_EQ(Split(""), "EINVAL");
  CHECK_EQ(Split(std::string_view("a\0b", 3)), "EINVAL");
  CHECK_EQ(Split(std::string(255, 'n')), "|" + std::string(255, 'n'));
  CHECK_EQ(Split(std::string(256, 'n')), "ENAMETOOLONG");
  CHECK_EQ(Split(std::string(256, 'n') + "/x"), "ENAMETOOLONG");
  std::string deep;
  for (int i = 0; i < 2047; i++) deep += "d/";
  CHECK(Split(deep + "x") != "ENAMETOOLONG");  // 4,095 bytes
  CHECK_EQ(Split(deep + "xx"), "ENAMETOOLONG");
}

TEST(a_root_called_slash_or_by_an_odd_name) {
  ObjectPath result;
  CHECK_OK(RootNames({"/"}).Split("/a/b", &result));
  CHECK_EQ(result.directory + "|" + result.name, "a|b");
  // What ".." means depends on the file system; such a name is not compared with.
  CHECK_EQ(RootNames({"/srv/../x"}).Split("/srv/../x/a", &result).number(), EINVAL);
  CHECK_EQ(RootNames({"/srv/../x"}).Split("/x/a", &result).number(), EACCES);
}

TEST(trusted_paths) {
  CHECK_EQ(Trusted("/a/b/c"), "/a/b|c");
  CHECK_EQ(Trusted("/c"), "/|c");
  CHECK_EQ(Trusted("c"), ".|c");
  CHECK_EQ(Trusted("../c"), "..|c");
  CHECK_EQ(Trusted("a//c"), "a/|c");
  for (const char* path : {"", "/", "a/", ".", "..", "a/.", "a/.."}) {
    CHECK_EQ(Trusted(path), "EINVAL");
  }
  CHECK_EQ(Trusted(std::string_view("/a\0b", 4)), "EINVAL");
  CHECK_EQ(Trusted("/x/" + std::string(256, 'n')), "ENAMETOOLONG");
}

CHECK_MAIN
