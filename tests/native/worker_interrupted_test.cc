// SPDX-License-Identifier: Apache-2.0
//
// The worker killed at each of its system calls while it serves a request, and each of them made to
// fail. After every one: an answered OK is true; every object is the whole old one, the whole new
// one, or was to be removed; LIST shows these and nothing else; what is left beside them is removed
// by the collection of a worker that starts; and the segment is as it was.
#include <sys/mman.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "interrupt.hh"
#include "trace.hh"
#include "worker/storage/key_listing.h"
#include "worker/storage/key_store.h"
#include "worker/storage/storage_facts.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

constexpr size_t kBytes = 300 * 1000;  // of an object: over several pages, not whole ones
constexpr size_t kSegmentBytes = 1 << 20;
constexpr unsigned kOld = 7, kNew = 99;

std::string Pattern(unsigned seed) {
  std::string bytes(kBytes, '\0');
  for (size_t i = 0; i < kBytes; i++)
    bytes[i] = static_cast<char>((i * 131 + i / 251 + seed) & 0xff);
  return bytes;
}

struct Scenario {
  std::string name;
  std::string verb;
  std::string key;
  bool existing = false;
  std::string sync = "none";
  std::string io = "auto";
  bool if_absent = false;
};

struct Found {
  bool exists = false;
  std::string bytes;
  std::vector<std::string> listed;
};

// As a worker that starts anew would find it.
Found Look(int root_fd, const std::string& key) {
  Found found;
  lmshm::KeyStore store(root_fd, FactsOf(root_fd));
  std::string bytes(kSegmentBytes, '\0');
  lmshm::ObjectInfo info;
  lmshm::TransferOptions options;
  options.checksum = true;
  const lmshm::Status status = store.Get(Key(key), {bytes.data(), bytes.size()}, options, &info);
  if (status.number() != ENOENT) CHECK_OK(status);
  found.exists = status.ok();
  if (found.exists) CHECK(info.crc32c.has_value());
  found.bytes = bytes.substr(0, info.length);
  lmshm::OpenListings open(4);
  lmshm::KeyListings listing(&store, &open);
  lmshm::ListRequest request;
  request.limit = 100;
  request.max_bytes = 60000;
  lmshm::ListPage page;
  CHECK_OK(listing.List(request, nullptr, &page));
  found.listed = page.keys;
  return found;
}

// A worker that starts, a while later, and collects until `names` are left.
void StartAnew(const TempDir& dir, size_t names) {
  const struct timespec old[2] = {{1000000, 0}, {1000000, 0}};
  for (const std::string& name : dir.Names()) {
    utimensat(AT_FDCWD, (dir / name).c_str(), old, AT_SYMLINK_NOFOLLOW);
  }
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path(), "--io-threads", "1"};
  WorkerProcess worker(setup);
  CHECK_STARTS(worker.client().Call("HELLO 2"), "OK 2 ");
  for (int i = 0; i < 4000 && dir.Names().size() != names; i++) usleep(5000);
}

void CheckDirectory(const Scenario& s, const TempDir& dir, const std::string& answer) {
  const lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(root.valid());
  const Found found = Look(root.get(), s.key);
  const bool ok = check::StartsWith(answer, "1 OK");
  const bool is_old = found.exists && found.bytes == Pattern(kOld);
  const bool is_new = found.exists && found.bytes == Pattern(kNew);
  if (s.verb == "PUT") {
    // A failure that is told has stored nothing, unless it is of what came after: fsync() of the
    // directory.
    const bool untouched = s.existing ? is_old : !found.exists;
    const bool told = check::StartsWith(answer, "1 ERROR") && s.sync == "none";
    CHECK(ok ? is_new : untouched || (is_new && !told));
  } else if (s.verb == "REMOVE") {
    CHECK(!found.exists || (!ok && is_old));
  } else {
    CHECK(is_old);
  }
  CHECK_EQ(found.listed.size(), found.exists ? 1u : 0u);
  for (const std::string& key : found.listed) CHECK_EQ(key, s.key);

  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(s.key, &names));
  const bool sidecar = !names.sidecar_name.empty();
  const size_t expected = found.exists ? (sidecar ? 2u : 1u) : 0u;
  StartAnew(dir, expected);
  CHECK_EQ(dir.Names().size(), expected);
  for (const std::string& name : dir.Names()) {
    if (name != names.file_name && name != names.sidecar_name) {
      check::Fail(__FILE__, __LINE__, "left behind: " + name);
    }
  }
  // And it goes on.
  const lmshm::KeyStore store(root.get(), FactsOf(root.get()));
  std::string bytes = Pattern(kNew);
  CHECK_OK(
      store.Put(Key(s.key), {bytes.data(), bytes.size()}, {}, lmshm::TransferOptions(), nullptr));
  bool removed = false;
  CHECK_OK(store.Remove(Key(s.key), &removed));
  CHECK(removed);
  CHECK(dir.Names().empty());
}

std::string RequestOf(const Scenario& s, const TestSegment& segment) {
  if (s.verb == "ATTACH") {
    return "1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -";
  }
  if (s.verb == "REMOVE") return "1 REMOVE " + s.key;
  const std::string range = " 0 " + std::to_string(s.verb == "GET" ? kSegmentBytes : kBytes);
  return "1 " + s.verb + " " + s.key + range + (s.verb == "PUT" ? " sync=" + s.sync : "") +
         (s.if_absent ? " if=absent" : "");
}

bool Run(const Scenario& s, const Interruption& what) {
  const TempDir dir;
  TestSegment segment(kSegmentBytes);
  if (s.existing) {
    const lmshm::UniqueFd root(open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const lmshm::KeyStore store(root.get(), FactsOf(root.get()));
    std::string bytes = Pattern(kOld);
    lmshm::TransferOptions options;
    options.checksum = true;
    REQUIRE(store.Put(Key(s.key), {bytes.data(), bytes.size()}, {}, options, nullptr).ok());
  }
  const std::string sent = Pattern(kNew);
  memcpy(segment.data(), sent.data(), sent.size());

  WorkerSetup setup;
  setup.arguments = {"--root", dir.path(), "--io-threads", "1", "--io=" + s.io};
  WorkerProcess worker(setup);
  CHECK_STARTS(worker.client().Call("HELLO 2"), "OK 2 ");
  if (s.verb != "ATTACH") {
    const std::string size = std::to_string(segment.size());
    CHECK_STARTS(worker.client().Call("9 ATTACH " + segment.name() + " " + size + " -"), "9 OK");
  }
  Tracer tracer(worker.pid());
  if (!tracer.Attach()) SKIP("ptrace is not allowed");
  Interrupter interrupter(what);
  std::string answer;
  std::thread client([&] {
    answer = worker.client().Call(RequestOf(s, segment));
    kill(worker.pid(), SIGKILL);
  });
  const int status = tracer.Run([&](const TracedCall& call) { return interrupter.OnCall(call); });
  client.join();
  worker.Reaped();
  // Nobody waited in vain, and the worker did not end by itself unless its way to the client
  // failed.
  CHECK(answer != "<timeout>");
  if (!WIFSIGNALED(status)) CHECK(what.kind == Interruption::kFail);
  if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
    check::Fail(__FILE__, __LINE__,
                "the worker crashed: signal " + std::to_string(WTERMSIG(status)));
  }
  if (what.kind != Interruption::kFail || !interrupter.done()) {
    CHECK(interrupter.done() || check::StartsWith(answer, "1 OK"));
  }

  if (s.verb == "GET" && check::StartsWith(answer, "1 OK")) {
    CHECK(segment.Bytes(0, kBytes) == Pattern(kOld));
  } else if (s.verb != "GET") {
    CHECK(segment.Bytes(0, kBytes) == sent);
  }
  CheckDirectory(s, dir, answer);
  CHECK_EQ(access(segment.path().c_str(), F_OK), 0);
  if (check::Failures() > 0) {
    std::cout << "# call number " << interrupter.number() << ", answer \"" << answer.substr(0, 200)
              << "\"" << std::endl;
  }
  return interrupter.reached();
}

const std::string kShort = "short";
const std::string kLong(1100, 'k');  // too long for its record, too: only the sidecar has it

void Interrupt(const Scenario& s, unsigned every) {
  InterruptEach(s.name, every, [&](const Interruption& what) { return Run(s, what); });
}

}  // namespace

TEST(put_that_is_interrupted_leaves_the_old_object_the_new_one_or_none) {
  Interrupt({"put", "PUT", kShort}, 3);
  Interrupt({"put over another", "PUT", kShort, true, "none", "direct"}, 4);
  Interrupt({"durable put over another", "PUT", kShort, true, "full"}, 4);
  Interrupt({"put if absent", "PUT", kShort, false, "none", "auto", true}, 3);
}

TEST(put_of_a_long_key_that_is_interrupted_leaves_no_key_without_an_object) {
  Interrupt({"put of a long key", "PUT", kLong}, 1);
  Interrupt({"put of a long key over another", "PUT", kLong, true, "data"}, 4);
  Interrupt({"durable put of a long key", "PUT", kLong, false, "full"}, 4);
}

TEST(remove_that_is_interrupted_leaves_the_object_or_nothing) {
  Interrupt({"remove", "REMOVE", kShort, true}, 2);
  Interrupt({"remove of a long key", "REMOVE", kLong, true}, 1);
}

TEST(get_and_attach_that_are_interrupted_change_nothing) {
  Interrupt({"get", "GET", kShort, true}, 4);
  Interrupt({"get past the page cache", "GET", kLong, true, "none", "direct"}, 4);
  Interrupt({"attach", "ATTACH", kShort, true}, 4);
}

CHECK_MAIN
