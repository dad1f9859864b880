// SPDX-License-Identifier: Apache-2.0
//
// Whether what a worker attaches is the client's memory: identities as text, what version 2
// refuses, and what the parent's mappings tell of a client of version 1, which says nothing.
#include <cerrno>
#include <optional>
#include <string>

#include "worker/memory/parent_maps.h"
#include "worker/memory/segment_identity.h"
#include "worker_process.hh"
#include "worker_v2_fixture.hh"

using lmshm::CheckIdentity;
using lmshm::FindSharedMapping;
using lmshm::ParseIdentity;
using lmshm::SegmentIdentity;

namespace {

const std::string kBoot = "0123456789abcdef0123456789abcdef";
const std::string kOtherBoot = "ffffffffffffffffffffffffffffffff";

struct stat StatOf(const TestSegment& segment) {
  struct stat st;
  REQUIRE_EQ(fstat(segment.fd(), &st), 0);
  return st;
}

std::string IdentityOf(const TestSegment& segment) {
  const struct stat st = StatOf(segment);
  return SegmentIdentity{lmshm::KernelBoot(), st.st_dev, st.st_ino}.ToString();
}

// Gives the name of `segment` to a new file of the same size.
class NewOwner {
 public:
  explicit NewOwner(const TestSegment& segment) {
    REQUIRE_EQ(unlink(segment.path().c_str()), 0);
    fd_.Reset(open(segment.path().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    REQUIRE(fd_.valid());
    REQUIRE_EQ(ftruncate(fd_.get(), static_cast<off_t>(segment.size())), 0);
    REQUIRE_EQ(pwrite(fd_.get(), "theirs", 6, 0), 6);
  }

  // Nobody has written to it.
  bool IsUntouched() const {
    char text[12] = "";
    return pread(fd_.get(), text, sizeof text, 0) == sizeof text &&
           std::string(text, 6) == "theirs" && std::string(text + 6) == "";
  }

 private:
  lmshm::UniqueFd fd_;
};

}  // namespace

TEST(an_identity_as_text_comes_back) {
  std::optional<SegmentIdentity> identity;
  for (const std::string& text :
       {kBoot + ":0:0", kBoot + ":18446744073709551615:18446744073709551615",
        std::string("-:26:7")}) {
    REQUIRE(ParseIdentity(text, &identity));
    REQUIRE(identity.has_value());
    CHECK_EQ(identity->ToString(), text);
  }
  const std::string kept = identity->ToString();
  for (const std::string& bad :
       {std::string(), std::string("--"), std::string("-:1"), std::string("-:1:"),
        std::string("-::1"), std::string(":1:1"), std::string("-:1:1:1"), std::string("-:1:1 "),
        std::string("-:+1:1"), std::string("-:1:-1"), std::string("-:18446744073709551616:1"),
        kBoot.substr(1) + ":1:1", kBoot + "0:1:1", "G" + kBoot.substr(1) + ":1:1"}) {
    if (ParseIdentity(bad, &identity)) check::Fail(__FILE__, __LINE__, bad);
    CHECK_EQ(identity->ToString(), kept);
  }
  CHECK(ParseIdentity("-", &identity));
  CHECK(!identity.has_value());
}

TEST(this_kernel_has_a_boot_id) {
  std::optional<SegmentIdentity> identity;
  CHECK(lmshm::KernelBoot() != "-");
  CHECK(ParseIdentity(lmshm::KernelBoot() + ":1:1", &identity));
}

TEST(boot_device_and_inode_must_all_be_the_same) {
  struct stat st = {};
  st.st_dev = 26;
  st.st_ino = 7;
  CHECK_OK(CheckIdentity({kBoot, 26, 7}, "/kv", st, kBoot));
  CHECK_OK(CheckIdentity({"-", 26, 7}, "/kv", st, kBoot));
  CHECK_OK(CheckIdentity({kBoot, 26, 7}, "/kv", st, "-"));
  const struct {
    SegmentIdentity claimed;
    std::string name, boot, reason;
  } wrong[] = {
      {{kBoot, 26, 7}, "/kv", kOtherBoot, "different machines"},
      {{kBoot, 26, 8}, "/kv", kBoot, "attach it again and open a new connector"},
      {{"-", 26, 8}, "/kv", kBoot, "the name now leads to another segment"},
      {{kBoot, 27, 7}, "/kv", kBoot, "different /dev/shm: share it between the containers"},
      {{kBoot, 27, 7}, "/kv", "-", "different /dev/shm"},
      {{kBoot, 26, 8}, "fd:3", kBoot, "the descriptor is of another file"},
      {{kBoot, 27, 7}, "fd:3", kBoot, "the descriptor is of another file"},
  };
  for (const auto& one : wrong) {
    const lmshm::Status status = CheckIdentity(one.claimed, one.name, st, one.boot);
    CHECK_EQ(status.number(), ESTALE);
    CHECK_CONTAINS(status.text(), "attach " + one.name + ": ");
    CHECK_CONTAINS(status.text(), one.claimed.ToString());
    CHECK_CONTAINS(status.text(), one.boot + ":26:7");
    CHECK_CONTAINS(status.text(), one.reason);
  }
}

TEST(version_2_attaches_the_file_that_was_said_and_no_other) {
  TalkV2 talk;
  TestSegment segment(8192), other(8192);
  const std::string words = " ATTACH " + segment.name() + " 8192 ";
  talk.Say("HELLO 2");
  CHECK_EQ(talk.Say("1" + words + IdentityOf(segment)), "1 OK");
  std::memset(segment.data(), 'o', 8192);
  CHECK_STARTS(talk.Say("2 PUT ours 0 8192"), "2 OK ");
  CHECK_STARTS(talk.Say("3" + words + IdentityOf(other)), "3 ERROR ESTALE attach ");

  NewOwner owner(segment);
  CHECK_STARTS(talk.Say("4" + words + IdentityOf(segment)), "4 ERROR ESTALE attach ");
  // What was attached stays, and is the first.
  CHECK_STARTS(talk.Say("5 GET ours 0 8192"), "5 OK 8192");
  CHECK(owner.IsUntouched());
  std::memset(segment.data(), 'p', 8192);
  CHECK_STARTS(talk.Say("6 PUT again 0 8192"), "6 OK ");
  CHECK_EQ(ReadFile(talk.root / "again.data"), std::string(8192, 'p'));
  // Typed by hand: whatever has the name.
  CHECK_EQ(talk.Say("7" + words + "-"), "7 OK");
  CHECK_STARTS(talk.Say("8 PUT by_hand 0 6"), "8 OK ");
  CHECK_EQ(ReadFile(talk.root / "by_hand.data"), "theirs");
}

// ------------------------------------------------------------ clients that do not say it

TEST(lines_of_the_list_of_mappings) {
  uint64_t device = 1, inode = 2;
  const std::string shared = "7f00-8000 rw-s 00001000 00:1a 4711      /dev/shm/k v";
  CHECK(!FindSharedMapping(shared, 0x7eff, &device, &inode));
  CHECK(!FindSharedMapping(shared, 0x8000, &device, &inode));
  CHECK_EQ(device, 1u);
  CHECK(FindSharedMapping(shared, 0x7f00, &device, &inode));
  CHECK(FindSharedMapping(shared, 0x7fff, &device, &inode));
  CHECK_EQ(device, 26u);
  CHECK_EQ(inode, 4711u);
  for (const char* other :
       {"", "x", "7f00-8000", "7f00-8000 rw-p 00000000 00:1a 4711 /usr/lib/libc.so.6",
        "7f00-8000 rw-p 00000000 00:00 0", "7f00-8000 rw-s 00000000 00:00 0 anonymous",
        "7f00-8000 rw-s 00000000 00:1a"}) {
    CHECK(!FindSharedMapping(other, 0x7f00, &device, &inode));
  }
}

TEST(in_pipe_mode_the_parents_mapping_tells_which_file_is_meant) {
  const TempDir dir;
  TestSegment segment(8192);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, std::vector<std::string>{"--root", dir.path()}}) {
    WorkerSetup setup;
    setup.arguments = arguments;
    WorkerProcess worker(setup);
    LineClient& c = worker.client();
    CHECK_EQ(c.Call(segment.AttachLine()), "OK");
    std::memset(segment.data(), 'o', 8192);
    {
      TestSegment moved(8192);
      const std::string line = moved.AttachLine();
      const NewOwner owner(moved);
      CHECK_STARTS(c.Call(line), "ERROR ESTALE attach /" + moved.name());
      CHECK(owner.IsUntouched());
      // No memory of the parent's is there: what was accepted always is.
      const std::string start = "ATTACH /" + moved.name() + " 8192 ";
      CHECK_EQ(c.Call(start + "0"), "OK");
      void* const mine =
          mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      REQUIRE(mine != MAP_FAILED);
      CHECK_EQ(c.Call(start + std::to_string(reinterpret_cast<uintptr_t>(mine))), "OK");
      munmap(mine, 8192);
    }
    CHECK_EQ(c.Call(segment.AttachLine()), "OK");
    CHECK_EQ(c.Call(segment.Line("WRITE", dir / "f", 0, 8192)), "OK 8192");
    CHECK_EQ(ReadFile(dir / "f"), std::string(8192, 'o'));
    c.CloseOut();
    CHECK_EQ(worker.Wait(), 0);
  }
}

TEST(a_worker_that_listens_knows_nothing_of_its_clients_mappings) {
  const TempDir dir;
  WorkerSetup setup;
  setup.arguments = {"--listen", "unix:" + (dir / "s"), "--root", dir.path()};
  WorkerProcess worker(setup);
  worker.Listening();
  LineClient c = ConnectUnix(dir / "s");
  TestSegment segment(8192);
  const NewOwner owner(segment);
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");  // as with LMCache's worker
}

CHECK_MAIN
