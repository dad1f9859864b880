// SPDX-License-Identifier: Apache-2.0
//
// Starting up, or refusing to: exit statuses and what is said.
#include "include/lmshm.h"
#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

struct Outcome {
  int status;
  std::string out, err;
};

Outcome Run(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
  WorkerSetup setup;
  setup.arguments = std::move(arguments);
  setup.environment = std::move(environment);
  WorkerProcess worker(setup);
  worker.client().CloseOut();
  Outcome outcome;
  for (;;) {
    const std::string line = worker.client().Line();
    if (line == "<end>" || line == "<timeout>") break;
    outcome.out += line + "\n";
  }
  outcome.status = worker.Wait();
  outcome.err = worker.Errors();
  return outcome;
}

void CheckRefused(const Outcome& outcome, int status, const std::string& why) {
  CHECK_EQ(outcome.status, status);
  CHECK_EQ(outcome.out, "");
  CHECK_CONTAINS(outcome.err, why);
}

}  // namespace

TEST(version_and_help) {
  for (const char* option : {"--version", "-V"}) {
    const Outcome outcome = Run({option});
    CHECK_EQ(outcome.status, 0);
    CHECK_EQ(outcome.out, std::string("lmshm-worker ") + LMSHM_VERSION + "\n");
    CHECK_EQ(outcome.err, "");
  }
  for (const char* option : {"--help", "-h"}) {
    const Outcome outcome = Run({option});
    CHECK_EQ(outcome.status, 0);
    CHECK_STARTS(outcome.out, "Usage: lmshm-worker");
    CHECK_EQ(outcome.err, "");
  }
}

TEST(every_option_is_in_the_help) {
  const std::string help = Run({"--help"}).out;
  for (const char* option :
       {"--listen", "--root", "--segment-fd", "--secret-file", "--no-auth", "--plain-auth",
        "--no-auth-on", "--file-mode", "--group", "--max-clients", "--idle-timeout", "--no-sandbox",
        "--log-level", "--help", "--version", "LMSHM_SECRET", "LMSHM_LOG", "Exit status"}) {
    CHECK_CONTAINS(help, option);
  }
}

TEST(wrong_usage_is_status_2_with_a_hint) {
  CheckRefused(Run({"--bogus"}), 2, "unknown option --bogus");
  CheckRefused(Run({"--bogus"}), 2, "--help");
  CheckRefused(Run({"--listn", "x"}), 2, "did you mean --listen?");
  CheckRefused(Run({"--listen"}), 2, "needs a value");
  CheckRefused(Run({"--listen", "nowhere"}), 2, "expected HOST:PORT");
  CheckRefused(Run({}, {"LMSHM_LOG=loud"}), 2, "LMSHM_LOG");
}

TEST(unsafe_ways_to_listen_are_refused) {
  const TempDir dir;
  const std::string root = "--root=" + dir.path();
  CheckRefused(Run({"--listen=127.0.0.1:0", "--no-auth"}), 2, "needs --root");
  CheckRefused(Run({"--listen=unix:" + (dir / "s")}), 2, "needs --root");
  CheckRefused(Run({"--listen=127.0.0.1:0", root}), 2, "needs a secret");
  CheckRefused(Run({"--listen=0.0.0.0:0", root}), 2, "needs a secret");
  CheckRefused(Run({"--listen=0.0.0.0:0", root, "--no-auth"}), 2, "loopback only");
  CheckRefused(Run({"--listen=[::]:0", root, "--no-auth"}), 2, "loopback only");
  CHECK(dir.Names().empty());
}

TEST(what_cannot_be_opened_is_status_3) {
  const TempDir dir;
  WriteFile(dir / "file", "");
  WriteFile(dir / "open", "correct-horse-battery", 0644);
  WriteFile(dir / "short", "short");
  const std::string root = "--root=" + dir.path();
  CheckRefused(Run({"--root", dir / "none"}), 3, "ENOENT open root");
  CheckRefused(Run({"--root", dir / "file"}), 3, "ENOTDIR open root");
  CheckRefused(Run({"--segment-fd", "77"}), 3, "--segment-fd 77");
  CheckRefused(Run({"--listen=:0", root, "--secret-file=" + (dir / "none")}), 3, "ENOENT");
  CheckRefused(Run({"--listen=:0", root, "--secret-file=" + (dir / "open")}), 3, "chmod 600");
  CheckRefused(Run({"--listen=:0", root, "--secret-file=" + (dir / "short")}), 3, "16 to 1024");
  CheckRefused(Run({"--listen=:0", root}, {"LMSHM_SECRET=short"}), 3, "LMSHM_SECRET");
  CheckRefused(Run({"--listen=unix:" + (dir / "no/s"), root}), 3, "ENOENT");
  CheckRefused(Run({"--listen=192.0.2.1:0", root}, {"LMSHM_SECRET=correct-horse-battery"}), 3,
               "EADDRNOTAVAIL");
}

TEST(a_descriptor_that_is_no_memory_cannot_be_granted) {
  WorkerSetup setup;
  setup.arguments = {"--segment-fd=3"};
  setup.before_exec = [] { dup2(0, 3); };
  WorkerProcess worker(setup);
  CHECK_EQ(worker.Wait(), 3);
  CHECK_CONTAINS(worker.Errors(), "not a shared memory segment");
}

TEST(a_failed_start_removes_the_socket_it_had_made) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "root");
  CheckRefused(Run({"--listen=unix:" + (dir / "s"), "--listen=unix:" + (dir / "no/s"),
                    "--root=" + (dir / "root")}),
               3, "ENOENT");
  CHECK_EQ(dir.Names().size(), 1u);
}

TEST(it_is_quiet_unless_asked) {
  CHECK_EQ(Run({}).err, "");
  const std::string err = Run({"--log-level=info"}).err;
  CHECK_CONTAINS(err, "fences: ");
  CHECK_CONTAINS(err, " info lmshm-worker[");
  CHECK_CONTAINS(Run({}, {"LMSHM_LOG=info"}).err, "fences: ");
}

CHECK_MAIN
