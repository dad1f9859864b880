// SPDX-License-Identifier: Apache-2.0
//
// Attaching segments, and the arithmetic of ranges.
#include <cerrno>

#include "worker/base/unique_fd.h"
#include "worker/memory/attachment.h"
#include "worker_fixture.hh"

using lmshm::Attachment;
using lmshm::SharedBytes;
using lmshm::Status;

namespace {

constexpr uint64_t kMax = UINT64_MAX;

std::string Attach(const std::string& name, uint64_t size, uint64_t base = 4096,
                   const std::vector<int>& granted = {}) {
  std::unique_ptr<Attachment> attachment;
  const Status status = Attachment::Open(name, size, base, granted, &attachment);
  CHECK_EQ(status.ok(), attachment != nullptr);
  return status.ok() ? "OK" : lmshm::ErrnoName(status.number());
}

}  // namespace

TEST(ranges_inside_are_resolved) {
  TestSegment segment(8192);
  std::unique_ptr<Attachment> a;
  CHECK_OK(Attachment::Open(segment.name(), 8192, 1 << 20, {}, &a));
  REQUIRE(a != nullptr);
  SharedBytes first, bytes;
  CHECK_OK(a->Resolve(1 << 20, 8192, &first));
  CHECK_EQ(first.size, 8192u);
  CHECK_OK(a->Resolve((1 << 20) + 100, 8092, &bytes));
  CHECK_EQ(static_cast<char*>(bytes.address) - static_cast<char*>(first.address), 100);
  CHECK_EQ(bytes.size, 8092u);
  CHECK_OK(a->Resolve((1 << 20) + 8192, 0, &bytes));
  CHECK_EQ(bytes.size, 0u);
}

TEST(ranges_outside_are_refused) {
  TestSegment segment(8192);
  std::unique_ptr<Attachment> a;
  constexpr uint64_t kBase = 1 << 20;
  CHECK_OK(Attachment::Open(segment.name(), 8192, kBase, {}, &a));
  const struct {
    uint64_t address, length;
  } cases[] = {{kBase - 1, 1},
               {kBase - 1, 0},
               {kBase, 8193},
               {kBase + 1, 8192},
               {kBase + 8192, 1},
               {kBase + 8193, 0},
               {0, 0},
               {0, 8192},
               {kMax, 0},
               {kMax, 1},
               {kMax, kMax},
               {kBase, kMax},
               {kBase + 1, kMax},
               {kBase, kMax - 10},
               {kMax - 8191, 8192},
               {kBase + 4096, kMax - 4095}};
  for (const auto& c : cases) {
    SharedBytes bytes;
    CHECK_EQ(a->Resolve(c.address, c.length, &bytes).number(), ERANGE);
    CHECK(bytes.address == nullptr);
  }
}

TEST(every_boundary_of_a_range_agrees_with_arithmetic_in_128_bits) {
  TestSegment segment(4096);
  for (const uint64_t base : {uint64_t{0}, uint64_t{1}, uint64_t{4096}, kMax - 4096}) {
    std::unique_ptr<Attachment> a;
    CHECK_OK(Attachment::Open(segment.name(), 4096, base, {}, &a));
    REQUIRE(a != nullptr);
    std::vector<uint64_t> edges;
    for (const uint64_t edge : {uint64_t{0}, base, base + 4096, uint64_t{4096}, kMax}) {
      for (const uint64_t d : {uint64_t{0}, uint64_t{1}, uint64_t{2}}) {
        edges.push_back(edge + d);
        edges.push_back(edge - d);
      }
    }
    for (const uint64_t address : edges) {
      for (const uint64_t length : edges) {
        __extension__ typedef unsigned __int128 Wide;
        const bool inside = Wide{address} >= base && Wide{address} + length <= Wide{base} + 4096;
        SharedBytes bytes;
        CHECK_EQ(a->Resolve(address, length, &bytes).ok(), inside);
      }
    }
  }
}

TEST(a_segment_is_attached_by_name_with_or_without_a_slash) {
  TestSegment segment(10000);
  CHECK_EQ(Attach(segment.name(), 10000), "OK");
  CHECK_EQ(Attach("/" + segment.name(), 1), "OK");
}

TEST(never_more_than_the_segment_has) {
  TestSegment segment(10000);
  CHECK_EQ(Attach(segment.name(), 10001), "ERANGE");
  CHECK_EQ(Attach(segment.name(), kMax, 0), "ERANGE");
  CHECK_EQ(Attach(segment.name(), 0), "EINVAL");
  CHECK_EQ(Attach(segment.name(), 10000, kMax - 9999), "ERANGE");  // ends beyond 2^64 - 1
  CHECK_EQ(Attach(segment.name(), 10000, kMax - 10000), "OK");
}

TEST(names_that_are_no_segment_names) {
  TestSegment segment(4096);
  for (const std::string& name :
       {std::string(), std::string("/"), std::string("."), std::string(".."), std::string("/.."),
        "//" + segment.name(), "./" + segment.name(), std::string("../shm/") + segment.name(),
        std::string("a/b"), std::string("../../etc/passwd"), std::string("a\0b", 3)}) {
    CHECK_EQ(Attach(name, 1), "EINVAL");
  }
  CHECK_EQ(Attach(std::string(255, 'n'), 1), "ENAMETOOLONG");
  CHECK_EQ(Attach(segment.name() + "_no", 1), "ENOENT");
}

TEST(things_in_dev_shm_that_are_no_segments) {
  const std::string base = "lmshm_test_" + std::to_string(getpid()) + "_odd";
  const std::string path = "/dev/shm/" + base;
  TestSegment segment(4096);
  REQUIRE_EQ(symlink(segment.name().c_str(), path.c_str()), 0);
  CHECK_EQ(Attach(base, 1), "EINVAL");
  unlink(path.c_str());
  REQUIRE_EQ(mkfifo(path.c_str(), 0600), 0);
  CHECK_EQ(Attach(base, 1), "EINVAL");
  unlink(path.c_str());
  REQUIRE_EQ(mkdir(path.c_str(), 0700), 0);
  CHECK_EQ(Attach(base, 1), "EINVAL");
  rmdir(path.c_str());
}

TEST(a_segment_of_another_user_is_refused) {
  if (geteuid() != 0) SKIP("only root can make a file for another user");
  TestSegment segment(4096);
  REQUIRE_EQ(chown(segment.path().c_str(), 65534, 65534), 0);
  CHECK_EQ(Attach(segment.name(), 4096), "EACCES");
}

TEST(only_granted_descriptors_are_attached) {
  const lmshm::UniqueFd memory(memfd_create("lmshm_test", MFD_CLOEXEC));
  REQUIRE(memory.valid());
  REQUIRE_EQ(ftruncate(memory.get(), 8192), 0);
  const std::string name = "fd:" + std::to_string(memory.get());
  CHECK_EQ(Attach(name, 8192, 0, {memory.get()}), "OK");
  CHECK_EQ(Attach(name, 8193, 0, {memory.get()}), "ERANGE");
  CHECK_EQ(Attach(name, 8192, 0, {}), "EACCES");
  CHECK_EQ(Attach(name, 8192, 0, {memory.get() + 1}), "EACCES");
  CHECK_EQ(Attach("/" + name, 8192, 0, {memory.get()}), "ENOENT");  // a name like any other
  for (const char* bad : {"fd:", "fd:x", "fd:-1", "fd:3 ", "fd:99999999999999999999"}) {
    CHECK_EQ(Attach(bad, 1, 0, {3}), "EINVAL");
  }
}

TEST(a_failed_attach_keeps_the_former_one) {
  TestSegment segment(4096);
  std::unique_ptr<Attachment> a;
  CHECK_OK(Attachment::Open(segment.name(), 4096, 0, {}, &a));
  const Attachment* const before = a.get();
  CHECK(!Attachment::Open(segment.name(), 4097, 0, {}, &a).ok());
  CHECK(a.get() == before);
}

CHECK_MAIN
