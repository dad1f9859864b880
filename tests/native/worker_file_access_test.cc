// SPDX-License-Identifier: Apache-2.0
//
// Who may use what a worker makes: --file-mode and --group, whatever the umask of whoever started
// it.
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker_fixture.hh"
#include "worker_process.hh"

namespace {

// A group that this process may give files to and that is not its own; -1: there is none.
gid_t OtherGroup() {
  if (geteuid() == 0) return 54321;
  gid_t groups[256];
  const int count = getgroups(256, groups);
  for (int i = 0; i < count; i++) {
    if (groups[i] != getegid()) return groups[i];
  }
  return static_cast<gid_t>(-1);
}

std::string ModeOf(const std::string& path) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) return "missing";
  char text[16];
  snprintf(text, sizeof text, "%04o", st.st_mode & 07777);
  return text;
}

gid_t GroupOf(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 ? st.st_gid : static_cast<gid_t>(-1);
}

// Files of all kinds, made by a worker with these options, where the umask is `mask`.
void MakeFiles(const TempDir& dir, std::vector<std::string> options, mode_t mask) {
  std::filesystem::create_directories(dir / "root");
  WorkerSetup setup;
  setup.arguments = {"--root", dir / "root"};
  for (std::string& option : options) setup.arguments.push_back(std::move(option));
  static mode_t mask_of_child;
  mask_of_child = mask;
  setup.before_exec = [] { umask(mask_of_child); };
  WorkerProcess worker(setup);
  TestSegment segment(8192);
  LineClient& c = worker.client();
  CHECK_EQ(c.Call(segment.AttachLine()), "OK");
  CHECK_EQ(c.Call(segment.Line("WRITE", "one.data", 0, 10)), "OK 10");
  CHECK_STARTS(c.Call("HELLO 2 dir=a/b"), "OK 2 ");
  CHECK_EQ(c.Call("1 ATTACH /" + segment.name() + " 8192 -"), "1 OK");
  CHECK_STARTS(c.Call("2 PUT k 0 10"), "2 OK 10 ");
  CHECK_STARTS(c.Call("3 PUT k 0 20"), "3 OK 20 ");
  CHECK_STARTS(c.Call("4 PUT x-SEP-y 0 20"), "4 OK 20 ");
  CHECK_STARTS(c.Call("5 GET x-SEP-y 0 20"), "5 OK 20 ");
  CHECK_EQ(c.Call("6 QUIT"), "6 OK");
  CHECK_EQ(worker.Wait(), 0);
}

std::vector<std::string> FilesOf(const TempDir& dir) {
  std::vector<std::string> files = {dir / "root/one.data", dir / "root/a/b/k.data"};
  for (const auto& entry : std::filesystem::directory_iterator(dir / "root/a/b")) {
    if (entry.path().filename() != "k.data") files.push_back(entry.path());
  }
  CHECK_EQ(files.size(), 4u);
  return files;
}

}  // namespace

TEST(files_are_their_users_alone_unless_more_is_said) {
  for (const mode_t mask : {0000, 0277}) {
    const TempDir dir;
    MakeFiles(dir, {}, mask);
    for (const std::string& file : FilesOf(dir)) CHECK_EQ(ModeOf(file), "0600");
  }
}

TEST(files_have_the_mode_that_is_said_and_directories_can_be_entered) {
  struct Row {
    const char* mode;
    const char* directory;
  };
  for (const Row& row : {Row{"0644", "0755"}, Row{"0640", "0750"}, Row{"0660", "0770"}}) {
    for (const mode_t mask : {0000, 0022, 0077, 0277}) {
      const TempDir dir;
      MakeFiles(dir, {"--file-mode", row.mode}, mask);
      for (const std::string& file : FilesOf(dir)) CHECK_EQ(ModeOf(file), row.mode);
      CHECK_EQ(ModeOf(dir / "root/a"), row.directory);
      CHECK_EQ(ModeOf(dir / "root/a/b"), row.directory);
    }
  }
}

TEST(files_and_directories_have_the_group_that_is_said) {
  const gid_t group = OtherGroup();
  if (group == static_cast<gid_t>(-1)) SKIP("this user is a member of one group only");
  const TempDir dir;
  MakeFiles(dir, {"--file-mode=0640", "--group=" + std::to_string(group)}, 0022);
  for (const std::string& file : FilesOf(dir)) {
    CHECK_EQ(ModeOf(file), "0640");
    CHECK_EQ(GroupOf(file), group);
  }
  CHECK_EQ(ModeOf(dir / "root/a"), "0750");
  CHECK_EQ(GroupOf(dir / "root/a"), group);
  CHECK_EQ(GroupOf(dir / "root/a/b"), group);
  // The root is not this worker's.
  CHECK(GroupOf(dir / "root") != group);
  CHECK(!std::filesystem::exists(dir / "root/access-test"));
}

// A directory whose set-group-ID bit hands its group down: people share directories so.
TEST(directories_below_a_shared_one_hand_its_group_down) {
  const gid_t group = OtherGroup();
  if (group == static_cast<gid_t>(-1)) SKIP("this user is a member of one group only");
  const TempDir dir;
  std::filesystem::create_directories(dir / "root");
  REQUIRE_EQ(chown((dir / "root").c_str(), static_cast<uid_t>(-1), group), 0);
  REQUIRE_EQ(chmod((dir / "root").c_str(), 02770), 0);
  MakeFiles(dir, {"--file-mode=0640"}, 0022);
  CHECK_EQ(ModeOf(dir / "root/a"), "2750");
  CHECK_EQ(ModeOf(dir / "root/a/b"), "2750");
  for (const std::string& file : FilesOf(dir)) {
    CHECK_EQ(ModeOf(file), "0640");
    CHECK_EQ(GroupOf(file), group);
  }
}

TEST(a_group_that_cannot_be_given_ends_the_start) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "root");
  WorkerSetup setup;
  setup.arguments = {"--root", dir / "root", "--group", "lmshm-no-such-group"};
  {
    WorkerProcess worker(setup);
    CHECK_EQ(worker.Wait(), 3);
    CHECK_CONTAINS(worker.Errors(), "there is no such group");
  }
  if (geteuid() != 0) SKIP("needs a superuser, who becomes another user");
  REQUIRE_EQ(chmod(dir.path().c_str(), 0755), 0);
  REQUIRE_EQ(chown((dir / "root").c_str(), 65534, 65534), 0);
  setup.arguments = {"--root", dir / "root", "--group", "54321"};
  setup.before_exec = [] {
    if (setgroups(0, nullptr) != 0 || setgid(65534) != 0 || setuid(65534) != 0) _exit(9);
  };
  WorkerProcess worker(setup);
  const int status = worker.Wait();
  const std::string errors = worker.Errors();
  if (status == 127) SKIP("another user may not execute the worker here");
  CHECK_EQ(status, 3);
  CHECK_CONTAINS(errors, "this user must be a member of that group");
}

CHECK_MAIN
