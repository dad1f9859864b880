// SPDX-License-Identifier: Apache-2.0
//
// What a durable put has forced to the disk when it is answered, and in which order: told from the
// worker's system calls.
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "trace.hh"
#include "worker/storage/object_key.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

// "sync FILE", "name FILE" (it gets its name), "remove FILE", "answer"; FILE without its directory.
std::vector<std::string> CallsOf(const std::string& request, const TempDir& dir,
                                 const TestSegment& segment) {
  WorkerSetup setup;
  setup.arguments = {"--root", dir.path(), "--io-threads", "1"};
  WorkerProcess worker(setup);
  CHECK_STARTS(worker.client().Call("HELLO 2"), "OK 2 ");
  const std::string size = std::to_string(segment.size());
  CHECK_STARTS(worker.client().Call("9 ATTACH " + segment.name() + " " + size + " -"), "9 OK");
  Tracer tracer(worker.pid());
  if (!tracer.Attach()) SKIP("ptrace is not allowed");
  std::string answer;
  std::thread client([&] {
    answer = worker.client().Call(request);
    kill(worker.pid(), SIGKILL);
  });
  std::vector<std::string> calls;
  tracer.Run([&](const TracedCall& call) -> TraceAction {
    const auto argument = [&](size_t i) { return call.arguments[i]; };
    if (!call.entry && call.result != 0) return {};
    switch (call.number) {
      case SYS_fsync:
      case SYS_fdatasync: {
        if (!call.entry) break;
        std::string file = tracer.File(static_cast<int>(argument(0)));
        if (file == dir.path()) file = "the directory";
        calls.push_back("sync " + file.substr(file.rfind('/') + 1));
        break;
      }
      case SYS_linkat:
        if (!call.entry) calls.push_back("name " + tracer.Text(argument(3)));
        break;
#if defined(SYS_renameat)
      case SYS_renameat:
#endif
      case SYS_renameat2:
        if (!call.entry) calls.push_back("name " + tracer.Text(argument(3)));
        break;
    }
    return {};
  });
  client.join();
  worker.Reaped();
  CHECK_STARTS(answer, "1 OK");
  return calls;
}

// Where `call` is at or after `from`; the end if it is not.
size_t Find(const std::vector<std::string>& calls, const std::string& call, size_t from = 0) {
  size_t at = from;
  while (at < calls.size() && calls[at] != call) at++;
  if (at == calls.size()) {
    std::string all;
    for (const std::string& one : calls) all += "\n#   " + one;
    check::Fail(__FILE__, __LINE__, "no \"" + call + "\" after " + std::to_string(from) + all);
  }
  return at;
}

}  // namespace

TEST(a_durable_put_of_a_long_key_has_the_key_on_the_disk_too) {
  const TempDir dir;
  TestSegment segment(1 << 16);
  const std::string key(300, 'k');
  lmshm::ObjectKey names;
  CHECK_OK(lmshm::ParseKey(key, &names));
  const std::string request = "1 PUT " + key + " 0 10000 sync=";
  // A put that nothing was asked of makes it; those after it keep it.
  REQUIRE(CallsOf(request + "none", dir, segment).size() > 0);
  for (const std::string sync : {"full", "data"}) {
    const std::vector<std::string> calls = CallsOf(request + sync, dir, segment);
    const size_t key_synced = Find(calls, "sync " + names.sidecar_name);
    const size_t named = Find(calls, "name " + names.file_name, key_synced);
    if (sync == "full") Find(calls, "sync the directory", named);
  }
  // One that is made by the put: its content comes before its name, and that before the object's.
  REQUIRE_EQ(unlink((dir / names.sidecar_name).c_str()), 0);
  REQUIRE_EQ(unlink((dir / names.file_name).c_str()), 0);
  const std::vector<std::string> calls = CallsOf(request + "full", dir, segment);
  const size_t key_named = Find(calls, "name " + names.sidecar_name);
  CHECK(key_named >= 2 && check::StartsWith(calls[key_named - 1], "sync .sha256-"));
  const size_t named = Find(calls, "name " + names.file_name, key_named);
  CHECK(calls.front() != "name " + names.file_name && check::StartsWith(calls.front(), "sync "));
  Find(calls, "sync the directory", named);
}

CHECK_MAIN
