// SPDX-License-Identifier: Apache-2.0
//
// The two threads of a quota at moments that a test cannot wait for: the one that counts is held in
// a directory while others store something, and the one that evicts finds nothing that it may
// remove.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "worker/storage/quota.h"
#include "worker_fixture.hh"

using lmshm::kBlockBytes;
using lmshm::Quota;
using lmshm::QuotaRoom;
using lmshm::QuotaRules;
using lmshm::Status;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Opening a directory named "slow" takes until `gate_open`.
std::atomic<bool> gate_open{true};
std::atomic<bool> somebody_waits{false};
// Removing an object fails while `refuse`, the first time after a second.
std::atomic<bool> refuse{false};
std::atomic<int> refusals{0};

void Pause() { std::this_thread::sleep_for(milliseconds(5)); }

// Whether `condition` comes true within a minute.
template <typename Condition>
bool Comes(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    Pause();
  }
  return true;
}

std::string Block(size_t count) { return std::string(count * kBlockBytes, 'x'); }

struct Root {
  explicit Root(uint64_t blocks, QuotaRules rules = QuotaRules())
      : fd(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    REQUIRE(fd.valid());
    rules.max_bytes = blocks * kBlockBytes;
    quota = std::make_unique<Quota>(fd.get(), rules);
  }
  void Start() {
    CHECK_OK(quota->Start());
    CHECK_OK(quota->Find(fd.get(), &directory));
  }
  void MakeDirectory(const std::string& name) const {
    REQUIRE(std::filesystem::create_directory(dir / name));
  }
  uint64_t used() const { return quota->stats().used_bytes; }

  TempDir dir;
  lmshm::UniqueFd fd;
  std::unique_ptr<Quota> quota;
  Quota::Directory directory;
};

Status Take(QuotaRoom* room) {
  for (bool taken = false; !taken;) {
    Status status = room->Take(milliseconds(50), &taken);
    if (!status.ok()) return status;
  }
  return Status::OK();
}

}  // namespace

// Instead of the C library's, for all of this program.
extern "C" int openat(int dir_fd, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  while (std::strcmp(path, "slow") == 0 && !gate_open) {
    somebody_waits = true;
    Pause();
  }
  return static_cast<int>(syscall(SYS_openat, dir_fd, path, flags, mode));
}

extern "C" int unlinkat(int dir_fd, const char* path, int flags) noexcept {
  if (refuse && std::strstr(path, ".data") != nullptr) {
    if (refusals == 0) std::this_thread::sleep_for(seconds(1));
    refusals++;
    errno = EACCES;
    return -1;
  }
  return static_cast<int>(syscall(SYS_unlinkat, dir_fd, path, flags));
}

TEST(what_appears_while_everything_is_counted_is_counted_afterwards) {
  Root root(1000);
  for (const char* name : {"read", "slow", "slow/deep"}) root.MakeDirectory(name);
  WriteFile(root.dir / "slow/there.data", Block(1));
  WriteFile(root.dir / "slow/deep/there.data", Block(2));
  // While there is another worker, each put hears of what others did.
  QuotaRules rules;
  rules.max_bytes = 1000 * kBlockBytes;
  Quota other(root.fd.get(), rules);
  CHECK_OK(other.Start());
  other.Recount();
  gate_open = false;
  somebody_waits = false;
  root.Start();
  REQUIRE(Comes([] { return somebody_waits.load(); }));
  CHECK(!root.quota->stats().counted);

  // By others: in the root, in a directory that was there, and in new ones.
  WriteFile(root.dir / "late.data", Block(4));
  WriteFile(root.dir / "read/late.data", Block(8));
  WriteFile(root.dir / "slow/late.data", Block(16));
  root.MakeDirectory("new");
  WriteFile(root.dir / "new/late.data", Block(32));
  root.MakeDirectory("new/deep");
  WriteFile(root.dir / "new/deep/late.data", Block(64));
  // One that a client names meanwhile.
  root.MakeDirectory("named");
  WriteFile(root.dir / "named/late.data", Block(128));
  const lmshm::UniqueFd named(open((root.dir / "named").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  Quota::Directory directory;
  CHECK_OK(root.quota->Find(named.get(), &directory));
  {
    QuotaRoom room(root.directory, "never.data", kBlockBytes);
    CHECK_OK(Take(&room));
  }

  gate_open = true;
  CHECK(Comes([&] { return root.quota->stats().counted; }));
  const uint64_t all = 255 * kBlockBytes;
  const bool complete = Comes([&] { return root.used() == all; });
  CHECK(complete);
  if (!complete) CHECK_EQ(root.used(), all);
  CHECK_EQ(directory->bytes(), 128 * kBlockBytes);
}

TEST(a_put_that_begins_to_wait_ends_the_pause_after_a_failed_attempt) {
  QuotaRules rules;
  rules.patience = seconds(4);  // the pause after an attempt of a second is 5
  Root root(400, rules);
  for (int i = 0; i < 380; i++) WriteFile(root.dir / (std::to_string(i) + ".data"), Block(1));
  root.Start();
  root.quota->Recount();
  CHECK(root.quota->WaitUntilIdle(seconds(60)));
  CHECK_EQ(root.used(), 380 * kBlockBytes);

  refusals = 0;
  refuse = true;
  // As long as something is being written nobody is refused for a failed attempt.
  QuotaRoom written(root.directory, "written.data", 10 * kBlockBytes);
  CHECK_OK(Take(&written));
  QuotaRoom first(root.directory, "first.data", 20 * kBlockBytes);
  Status status = Status::OK();
  std::thread waiting([&] { status = Take(&first); });
  CHECK(Comes([] { return refusals > 0; }));
  // Until the attempt is over.
  for (int before = 0; before != refusals;) {
    before = refusals;
    std::this_thread::sleep_for(milliseconds(200));
  }
  refuse = false;
  QuotaRoom second(root.directory, "second.data", kBlockBytes);
  CHECK_OK(Take(&second));
  waiting.join();
  CHECK_OK(status);
  CHECK(root.quota->stats().evictions > 0);
}

CHECK_MAIN
