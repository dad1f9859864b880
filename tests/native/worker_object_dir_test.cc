// SPDX-License-Identifier: Apache-2.0
//
// Objects in a directory: whole, atomic, and nowhere else.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <new>
#include <thread>

#include "worker/storage/object_dir.h"
#include "worker_fixture.hh"

using lmshm::BeneathMethod;
using lmshm::ObjectDir;
using lmshm::SharedBytes;
using lmshm::Status;

namespace {

SharedBytes Bytes(std::string& text) { return {text.data(), text.size()}; }

std::string Write(const ObjectDir& dir, const std::string& path, std::string text) {
  const Status status = dir.Write(path, Bytes(text), nullptr);
  return status.ok() ? "OK" : lmshm::ErrnoName(status.number());
}

// The object's content as far as `room` goes, or the errno name.
std::string Read(const ObjectDir& dir, const std::string& path, size_t room = 4096) {
  std::string text(room, '?');
  uint64_t done = 0;
  const Status status = dir.Read(path, Bytes(text), nullptr, &done);
  if (!status.ok()) return lmshm::ErrnoName(status.number());
  CHECK(text.substr(done) == std::string(room - done, '?'));  // nothing beyond is touched
  return text.substr(0, done);
}

std::unique_ptr<ObjectDir> Confined(const std::string& root,
                                    BeneathMethod method = lmshm::DetectBeneathMethod()) {
  std::unique_ptr<ObjectDir> dir;
  CHECK_OK(ObjectDir::OpenConfined(root, method, &dir));
  REQUIRE(dir != nullptr);
  return dir;
}

class Never : public lmshm::CancelCheck {
 public:
  bool Cancelled() const override { return true; }
};

}  // namespace

TEST(what_is_written_is_read) {
  const TempDir temp;
  std::filesystem::create_directory(temp / "sub");
  std::unique_ptr<ObjectDir> confined = Confined(temp.path());
  std::unique_ptr<ObjectDir> open = ObjectDir::Unconfined();
  for (const ObjectDir* dir : {confined.get(), open.get()}) {
    for (const std::string& path : {temp / "a", temp / "sub/b", temp / "with space"}) {
      CHECK_EQ(Write(*dir, path, "first and longer"), "OK");
      CHECK_EQ(Read(*dir, path), "first and longer");
      CHECK_EQ(Write(*dir, path, "second"), "OK");
      CHECK_EQ(Read(*dir, path), "second");
      CHECK_EQ(ReadFile(path), "second");
      CHECK_EQ(Read(*dir, path, 3), "sec");
      CHECK_EQ(Read(*dir, path, 0), "");
      CHECK_EQ(Write(*dir, path, ""), "OK");
      CHECK_EQ(Read(*dir, path), "");
    }
  }
  CHECK_EQ(Write(*confined, "relative", "r"), "OK");
  CHECK_EQ(ReadFile(temp / "relative"), "r");
  CHECK_EQ(temp.Names().size(), 4u);  // a, sub, "with space", relative: no temporary is left
}

TEST(files_are_private_whatever_the_umask) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  for (const mode_t mask : {mode_t{0}, mode_t{022}, mode_t{0777}}) {
    const mode_t old = umask(mask);
    const std::string result = Write(*dir, "f", "x");
    umask(old);
    CHECK_EQ(result, "OK");
    struct stat st;
    REQUIRE_EQ(stat((temp / "f").c_str(), &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0600u);
  }
}

TEST(nothing_outside_the_root_is_reached) {
  const TempDir temp;
  namespace fs = std::filesystem;
  fs::create_directories(temp / "root/sub");
  fs::create_directories(temp / "root2");
  WriteFile(temp / "secret", "secret");
  fs::create_symlink("../secret", temp / "root/link");
  fs::create_symlink("..", temp / "root/up");
  fs::create_symlink(temp.path(), temp / "root/sub/absolute");
  for (const BeneathMethod method : {lmshm::DetectBeneathMethod(), BeneathMethod::kWalk}) {
    const std::unique_ptr<ObjectDir> dir = Confined(temp / "root", method);
    for (const std::string& path :
         {std::string("../secret"), std::string("sub/../../secret"), temp / "secret",
          temp / "root/../secret", temp / "root2/x", std::string("link"), std::string("up/secret"),
          temp / "root/sub/absolute/secret", std::string("/etc/passwd")}) {
      const std::string read = Read(*dir, path);
      CHECK(read == "EACCES" || read == "EINVAL" || read == "ELOOP");
      const std::string written = Write(*dir, path, "gotcha");
      CHECK(written == "EACCES" || written == "EINVAL" || written == "ELOOP");
    }
  }
  CHECK_EQ(ReadFile(temp / "secret"), "secret");
  CHECK(fs::is_symlink(temp / "root/link"));
  CHECK_EQ(temp.Names().size(), 3u);
  CHECK_EQ(fs::is_empty(temp / "root2"), true);
}

TEST(the_root_may_be_given_through_a_symbolic_link) {
  const TempDir temp;
  std::filesystem::create_directory(temp / "real");
  std::filesystem::create_directory_symlink("real", temp / "alias");
  const std::unique_ptr<ObjectDir> dir = Confined(temp / "alias");
  CHECK_EQ(Write(*dir, temp / "alias/a", "1"), "OK");
  CHECK_EQ(Write(*dir, temp / "real/b", "2"), "OK");
  CHECK_EQ(ReadFile(temp / "real/a") + ReadFile(temp / "real/b"), "12");
  // What the root is called may change; the directory that was opened stays the root.
  std::filesystem::remove(temp / "alias");
  std::filesystem::create_directory(temp / "alias");
  CHECK_EQ(Read(*dir, temp / "alias/a"), "1");
}

TEST(only_regular_files_are_objects) {
  const TempDir temp;
  namespace fs = std::filesystem;
  fs::create_directory(temp / "dir");
  WriteFile(temp / "file", "content");
  fs::create_symlink("file", temp / "link");
  REQUIRE_EQ(mkfifo((temp / "fifo").c_str(), 0600), 0);
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", (temp / "socket").c_str());
  const lmshm::UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);

  const std::unique_ptr<ObjectDir> confined = Confined(temp.path());
  const std::unique_ptr<ObjectDir> open = ObjectDir::Unconfined();
  for (const ObjectDir* dir : {confined.get(), open.get()}) {
    const struct {
      const char* name;
      const char* error;
    } cases[] = {{"dir", "EISDIR"}, {"link", "ELOOP"}, {"fifo", "EINVAL"}, {"socket", "EINVAL"}};
    for (const auto& c : cases) {
      CHECK_EQ(Read(*dir, temp / c.name), c.error);
      CHECK_EQ(Write(*dir, temp / c.name, "x"), c.error);
    }
    CHECK_EQ(Read(*dir, temp / "file/x"), "ENOTDIR");
    CHECK_EQ(Write(*dir, temp / "file/x", "x"), "ENOTDIR");
  }
  CHECK_EQ(Read(*open, "/dev/null"), "EINVAL");
  CHECK_EQ(Write(*open, "/dev/null", "x"), "EINVAL");
  CHECK_EQ(temp.Names().size(), 5u);
  CHECK_EQ(ReadFile(temp / "file"), "content");
}

TEST(directories_are_never_made) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  std::string text = "x";
  const Status status = dir->Write(temp / "no/such", Bytes(text), nullptr);
  CHECK_EQ(status.number(), ENOENT);
  CHECK_CONTAINS(status.text(), "create it first");
  CHECK_EQ(Read(*dir, temp / "no/such"), "ENOENT");
  CHECK_EQ(Read(*dir, temp / "such"), "ENOENT");
  CHECK(temp.Names().empty());
}

TEST(a_trusted_client_may_use_links_to_directories) {
  const TempDir temp;
  std::filesystem::create_directory(temp / "real");
  std::filesystem::create_directory_symlink("real", temp / "alias");
  const std::unique_ptr<ObjectDir> dir = ObjectDir::Unconfined();
  CHECK_EQ(Write(*dir, temp / "alias/a", "1"), "OK");
  CHECK_EQ(Read(*dir, temp / "alias/a"), "1");
  CHECK_EQ(Read(*dir, temp / "real/../alias/a"), "1");
}

TEST(the_longest_names_work) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  // Three-byte characters: a stem cut inside one would not be UTF-8.
  std::string wide;
  for (int i = 0; i < 85; i++) wide += "\xe6\x97\xa5";
  for (const std::string& name : {std::string(255, 'n'), wide, "a" + wide.substr(3)}) {
    CHECK_EQ(Write(*dir, name, name), "OK");
    CHECK_EQ(Read(*dir, name), name);
  }
  CHECK_EQ(temp.Names().size(), 3u);
}

TEST(a_failed_write_leaves_the_old_object_and_no_temporary) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  CHECK_EQ(Write(*dir, "f", "old"), "OK");

  // Memory that ends: the kernel finds out, not this process.
  TestSegment segment(1 << 20);
  REQUIRE_EQ(ftruncate(segment.fd(), 100 * 1024), 0);
  const SharedBytes cut = {segment.data(), segment.size()};
  Status status = dir->Write("f", cut, nullptr);
  CHECK_EQ(status.number(), EFAULT);
  CHECK_CONTAINS(status.text(), "ATTACH again");

  // Cancelled.
  std::string text(100, 'x');
  const Never cancel;
  CHECK_EQ(dir->Write("f", Bytes(text), &cancel).number(), ECANCELED);
  uint64_t done;
  CHECK_EQ(dir->Read("f", Bytes(text), &cancel, &done).number(), ECANCELED);

  // A file size limit: EFBIG, given that SIGXFSZ is ignored.
  struct rlimit old_limit;
  getrlimit(RLIMIT_FSIZE, &old_limit);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit = {1 << 20, old_limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  std::string large(2 << 20, 'l');
  CHECK_EQ(Write(*dir, "f", large), "EFBIG");
  setrlimit(RLIMIT_FSIZE, &old_limit);

  CHECK_EQ(Read(*dir, "f"), "old");
  CHECK_EQ(temp.Names().size(), 1u);
}

TEST(a_directory_without_rights) {
  const TempDir temp;
  std::filesystem::create_directory(temp / "sub");
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  REQUIRE_EQ(chmod((temp / "sub").c_str(), 0500), 0);
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {  // root may write everywhere, so be somebody else
    if (geteuid() == 0 && (chmod(temp.path().c_str(), 0755) != 0 ||
                           chown((temp / "sub").c_str(), 65534, 65534) != 0 || setgid(65534) != 0 ||
                           setuid(65534) != 0)) {
      _exit(2);
    }
    std::string text = "x";
    const Status status = dir->Write("sub/f", Bytes(text), nullptr);
    _exit(status.number() == EACCES ? 0 : 1);
  }
  int status;
  REQUIRE_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(status, 0);
  REQUIRE_EQ(chmod((temp / "sub").c_str(), 0700), 0);
}

TEST(reading_into_memory_that_ends) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  CHECK_EQ(Write(*dir, "f", std::string(1 << 20, 'x')), "OK");
  TestSegment segment(1 << 20);
  REQUIRE_EQ(ftruncate(segment.fd(), 0), 0);
  uint64_t done;
  const SharedBytes cut = {segment.data(), segment.size()};
  CHECK_EQ(dir->Read("f", cut, nullptr, &done).number(), EFAULT);
}

TEST(a_root_that_is_none) {
  const TempDir temp;
  WriteFile(temp / "file", "");
  std::unique_ptr<ObjectDir> dir;
  CHECK_EQ(ObjectDir::OpenConfined(temp / "no", BeneathMethod::kWalk, &dir).number(), ENOENT);
  CHECK_EQ(ObjectDir::OpenConfined(temp / "file", BeneathMethod::kWalk, &dir).number(), ENOTDIR);
  CHECK(dir == nullptr);
}

TEST(readers_see_whole_objects_while_writers_race) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  const std::string one(300 * 1000, '1'), two(500 * 1000, '2');
  CHECK_EQ(Write(*dir, "f", one), "OK");
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> writers;
  for (const std::string* content : {&one, &two}) {
    writers.emplace_back([&, content] {
      std::string mine = *content;
      while (!stop) {
        if (!dir->Write("f", Bytes(mine), nullptr).ok()) bad++;
      }
    });
  }
  for (int i = 0; i < 300; i++) {
    std::string text(600 * 1000, '?');
    uint64_t done = 0;
    if (!dir->Read("f", Bytes(text), nullptr, &done).ok()) bad++;
    text.resize(done);
    if (text != one && text != two) bad++;
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  CHECK_EQ(bad.load(), 0);
  CHECK_EQ(temp.Names().size(), 1u);
}

TEST(a_writer_that_is_killed_leaves_an_old_object_or_a_new_one) {
  const TempDir temp;
  const std::unique_ptr<ObjectDir> dir = Confined(temp.path());
  constexpr size_t kBytes = 4 << 20;
  CHECK_EQ(Write(*dir, "f", std::string(kBytes, 'A')), "OK");
  void* const shared = mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(shared != MAP_FAILED);
  auto* const written = new (shared) std::atomic<int>(0);
  bool seen_new = false;
  for (int round = 0; round < 40; round++) {
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      std::string content(kBytes - static_cast<size_t>(round), static_cast<char>('B' + round % 20));
      for (;;) {
        if (!dir->Write("f", Bytes(content), nullptr).ok()) _exit(1);
        written->fetch_add(1);
      }
    }
    // However busy the machine is, some are killed in their first write and some in a later one.
    const int before = written->load();
    for (int ms = 0; round % 4 == 3 && written->load() == before && ms < 20000; ms++) {
      usleep(1000);
    }
    usleep(static_cast<useconds_t>(3000 + round * 700));
    kill(pid, SIGKILL);
    int status;
    REQUIRE_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));

    std::string text(kBytes + 1, '?');
    uint64_t done = 0;
    CHECK_OK(dir->Read("f", Bytes(text), nullptr, &done));
    text.resize(done);
    REQUIRE(!text.empty());
    CHECK(text == std::string(text.size(), text[0]));  // of one writer
    const size_t writer = static_cast<size_t>(text[0] == 'A' ? 0 : text[0] - 'B');
    CHECK(text[0] == 'A' ? done == kBytes : (kBytes - done) % 20 == writer);  // and whole
    if (text[0] != 'A') seen_new = true;
    for (const std::string& name : temp.Names()) {
      if (name == "f") continue;
      CHECK(check::StartsWith(name, ".f." + std::to_string(pid) + "."));
      CHECK_EQ(name.substr(name.size() - 4), ".tmp");
      std::filesystem::remove(temp / name);
    }
  }
  CHECK(seen_new);
  munmap(shared, sizeof(std::atomic<int>));
}

CHECK_MAIN
