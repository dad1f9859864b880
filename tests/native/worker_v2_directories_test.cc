// SPDX-License-Identifier: Apache-2.0
//
// HELLO 2 dir=...: which directory a client means, who shares it, how many are open.
#include "worker/storage/directories.h"
#include "worker_process.hh"
#include "worker_v2_fixture.hh"

using lmshm::Directories;
using lmshm::ObjectDir;

namespace {

struct Root {
  explicit Root(size_t most = 16, const lmshm::KeptFilesRules& kept = {}) {
    Directories::Limits limits;
    limits.directories = most;
    limits.kept = kept;
    REQUIRE(ObjectDir::OpenConfined(dir.path(), lmshm::DetectBeneathMethod(), &root).ok());
    directories = std::make_unique<Directories>(*root, limits);
    REQUIRE(directories->Start().ok());
  }
  Directories::Store Open(const std::string& path) {
    Directories::Store store;
    const lmshm::Status status = directories->Open(path, &store);
    CHECK_OK(status);
    return store;
  }

  TempDir dir;
  std::unique_ptr<ObjectDir> root;
  std::unique_ptr<Directories> directories;
};

bool IsDirectory(const std::string& path, mode_t mode) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 07777) == mode;
}

}  // namespace

TEST(hello_names_a_directory_and_makes_it) {
  TalkV2 talk;
  TestSegment segment(4096);
  CHECK_STARTS(talk.Say("HELLO 2 dir=models/llama%208B"), "OK 2 boot=0123456789abcdef worker=");
  CHECK(IsDirectory(talk.root / "models", 0700));
  CHECK(IsDirectory(talk.root / "models/llama 8B", 0700));
  CHECK_EQ(talk.Say("1 ATTACH /" + segment.name() + " 4096 -"), "1 OK");
  CHECK_EQ(talk.Say("2 PUT k 0 3 crc=0"), "2 OK 3");
  CHECK_EQ(ReadFile(talk.root / "models/llama 8B/k.data").size(), 3u);
  CHECK_EQ(talk.Say("3 LIST 10 -"), "3 OK - k");
  CHECK_CONTAINS(talk.Say("4 INFO"), " directories=2 ");
}

TEST(a_directory_has_at_most_16_levels) {
  TalkV2 talk;
  std::string path = "1";
  for (int level = 2; level <= 17; level++) path += "/" + std::to_string(level);
  CHECK_STARTS(talk.Say("HELLO 2 dir=" + path), "ERROR ENAMETOOLONG HELLO 2: directory ");
  CHECK(!std::filesystem::exists(talk.root / "1"));
  path.resize(path.size() - 3);
  CHECK_STARTS(talk.Say("HELLO 2 dir=" + path), "OK 2 ");
  CHECK(IsDirectory(talk.root / path, 0700));
}

TEST(an_empty_name_is_the_root) {
  for (const char* hello : {"HELLO 2", "HELLO 2 dir=", "HELLO 2 dir=.", "HELLO 2 dir=./"}) {
    TalkV2 talk;
    WriteFile(talk.root / "here.data", "x");
    CHECK_STARTS(talk.Say(hello), "OK 2 ");
    CHECK_EQ(talk.Say("1 EXISTS here"), "1 OK 1");
    CHECK_CONTAINS(talk.Say("2 INFO"), " directories=1 ");
  }
  TalkV2 talk;
  CHECK_STARTS(talk.Say("HELLO 2 dir=" + talk.root.path()), "OK 2 ");
  CHECK_CONTAINS(talk.Say("2 INFO"), " directories=1 ");
}

TEST(after_a_directory_that_cannot_be_had_another_may_be_tried) {
  TalkV2 talk;
  WriteFile(talk.root / "file", "x");
  REQUIRE_EQ(symlink("/tmp", (talk.root / "link").c_str()), 0);
  REQUIRE_EQ(symlink("link", (talk.root / "chain").c_str()), 0);
  const auto refused = [&](const std::string& dir, const char* name) {
    CHECK_STARTS(talk.Say("HELLO 2 dir=" + dir), std::string("ERROR ") + name + " HELLO 2: ");
    CHECK_EQ(talk.Say("PING"), "OK");
  };
  refused("/etc", "EXDEV");
  refused(talk.root.path() + "x", "EXDEV");
  refused("/", "EXDEV");
  refused("..", "EINVAL");
  refused("a/../b", "EINVAL");
  refused(talk.root.path() + "/../x", "EINVAL");
  refused("a%00b", "EINVAL");
  refused("link", "ELOOP");
  refused("link/below", "ELOOP");
  refused("chain", "ELOOP");
  refused("file", "ENOTDIR");
  refused("file/below", "ENOTDIR");
  refused(std::string(256, 'n'), "ENAMETOOLONG");
  CHECK_EQ(talk.root.Names().size(), 3u);
  if (geteuid() != 0) {
    REQUIRE_EQ(mkdir((talk.root / "closed").c_str(), 0500), 0);
    refused("closed/below", "EACCES");
  }
  CHECK_STARTS(talk.Say("HELLO 2 dir=good"), "OK 2 ");
}

TEST(the_same_holds_where_there_is_no_openat2) {
  TempDir dir;
  std::unique_ptr<ObjectDir> root;
  REQUIRE(ObjectDir::OpenConfined(dir.path(), lmshm::BeneathMethod::kWalk, &root).ok());
  REQUIRE_EQ(symlink("/tmp", (dir / "link").c_str()), 0);
  WriteFile(dir / "file", "x");
  lmshm::UniqueFd fd;
  CHECK_OK(root->OpenDirectory("a/b/c", &fd));
  CHECK(IsDirectory(dir / "a/b/c", 0700));
  CHECK_OK(root->OpenDirectory("", &fd));
  CHECK_EQ(root->OpenDirectory("link", &fd).number(), ELOOP);
  CHECK_EQ(root->OpenDirectory("link/x", &fd).number(), ELOOP);
  CHECK_EQ(root->OpenDirectory("file/x", &fd).number(), ENOTDIR);
  CHECK_EQ(root->OpenDirectory("file", &fd).number(), ENOTDIR);
}

TEST(whoever_names_the_same_directory_shares_its_store) {
  Root root;
  const Directories::Store store = root.Open("a/b");
  CHECK(root.Open("a/b") == store);
  CHECK(root.Open("./a//b/") == store);
  CHECK(root.Open(root.dir / "a/b") == store);
  CHECK(root.Open("a") != store);
  CHECK_EQ(root.directories->size(), 3u);  // the root is one
  CHECK(root.Open("").get() == &root.directories->root());
  // Another directory of the same name is another one.
  REQUIRE_EQ(rename((root.dir / "a/b").c_str(), (root.dir / "a/moved").c_str()), 0);
  CHECK(root.Open("a/b") != store);
  CHECK(root.Open("a/moved") == store);
}

TEST(directories_that_nobody_uses_are_let_go_first) {
  Root root(4);  // with the root
  Directories::Store a = root.Open("a");
  Directories::Store b = root.Open("b");
  root.Open("c");
  const std::weak_ptr<const lmshm::KeyStore> unused = root.Open("c");
  Directories::Store d = root.Open("d");
  // At most until what is left in it has been collected.
  for (int i = 0; i < 4000 && !unused.expired(); i++) usleep(5000);
  CHECK(unused.expired());
  Directories::Store none;
  const lmshm::Status status = root.directories->Open("e", &none);
  CHECK_EQ(status.number(), EMFILE);
  CHECK_CONTAINS(status.text(), "4 directories");
  CHECK_EQ(root.directories->size(), 4u);
  CHECK(root.Open("a") == a);
  b.reset();
  CHECK_OK(root.directories->Open("e", &none));
  CHECK_EQ(root.directories->size(), 4u);
}

TEST(too_many_directories_are_an_error_of_hello) {
  TempDir dir;
  std::unique_ptr<ObjectDir> root;
  REQUIRE(ObjectDir::OpenConfined(dir.path(), lmshm::DetectBeneathMethod(), &root).ok());
  Directories::Limits limits;
  limits.directories = 2;
  const std::unique_ptr<Directories> directories =
      OpenDirectories(*root, Attributes::kDetect, limits);
  lmshm::Service service;
  service.stores = directories.get();
  const auto say = [](lmshm::Session* session, const std::string& line) {
    std::string answer;
    session->Handle(line, &answer);
    return answer;
  };
  auto first = std::make_unique<lmshm::Session>(service, "first");
  lmshm::Session second(service, "second");
  CHECK_STARTS(say(first.get(), "HELLO 2 dir=a"), "OK 2 ");
  CHECK_STARTS(say(&second, "HELLO 2 dir=b"), "ERROR EMFILE HELLO 2: ");
  first.reset();
  CHECK_STARTS(say(&second, "HELLO 2 dir=b"), "OK 2 ");
}

TEST(files_stay_open_within_one_bound_for_all_directories) {
  lmshm::KeptFilesRules kept;
  kept.limit = 16;
  kept.settled = std::chrono::milliseconds(0);
  Root root(16, kept);
  std::string memory = "12345";
  const lmshm::SharedBytes bytes = {memory.data(), memory.size()};
  if (!root.directories->root().storage().tells_changes) SKIP("not on this file system");
  if (!root.directories->root().has_attributes()) SKIP("no attributes on this file system");
  const lmshm::KeptFiles& files = root.directories->share().kept_files;
  std::vector<Directories::Store> stores;
  for (int d = 0; d < 8; d++) {
    stores.push_back(root.Open("d" + std::to_string(d)));
    for (int i = 0; i < 8; i++) {
      const std::string key = std::to_string(i);
      uint32_t crc = 0;
      memory[0] = static_cast<char>('0' + d);
      CHECK_OK(stores.back()->Put(Key(key), bytes, {}, {}, &crc));
      lmshm::ObjectInfo info;
      for (int again = 0; again < 3; again++) {
        CHECK_OK(stores.back()->Get(Key(key), bytes, {}, &info));
        CHECK_EQ(memory[0], static_cast<char>('0' + d));  // and not another directory's
      }
    }
    CHECK(files.size() > 0 && files.size() <= 16);
  }
  CHECK(files.found() > 0);
  // What is let go of keeps nothing open.
  stores.clear();
  for (int d = 0; d < 16; d++) root.Open("e" + std::to_string(d));
  CHECK_EQ(files.size(), 0u);
}

TEST(a_worker_in_its_fence_serves_the_directories_of_its_clients) {
  TempDir root;
  TestSegment segment(4096);
  const std::string socket = root.path() + ".sock";
  WorkerSetup setup;
  setup.arguments = {"--root", root.path(), "--listen", "unix:" + socket};
  WorkerProcess worker(setup);
  CHECK_EQ(worker.Listening(), "unix:" + socket);
  LineClient one = ConnectUnix(socket);
  LineClient two = ConnectUnix(socket);
  LineClient other = ConnectUnix(socket);
  CHECK_STARTS(one.Call("HELLO 2 dir=/etc"), "ERROR EXDEV HELLO 2: ");
  CHECK_STARTS(one.Call("HELLO 2 dir=new/one"), "OK 2 ");
  CHECK_STARTS(two.Call("HELLO 2 dir=" + root.path() + "/new/one"), "OK 2 ");
  CHECK_STARTS(other.Call("HELLO 2"), "OK 2 ");
  CHECK_EQ(one.Call("1 ATTACH /" + segment.name() + " 4096 -"), "1 OK");
  const std::string hashed(300, 'k');  // with a sidecar
  CHECK_STARTS(one.Call("2 PUT k 0 3"), "2 OK 3");
  CHECK_STARTS(one.Call("3 PUT k 0 4"), "3 OK 4");
  CHECK_STARTS(one.Call("4 PUT " + hashed + " 0 3 sync=full"), "4 OK 3");
  CHECK_EQ(two.Call("1 EXISTS k " + hashed), "1 OK 11");
  CHECK_EQ(other.Call("1 EXISTS k " + hashed), "1 OK 00");
  CHECK_CONTAINS(other.Call("2 INFO"), " directories=2 ");
  CHECK_EQ(two.Call("2 REMOVE k"), "2 OK 1");
  CHECK_EQ(one.Call("5 EXISTS k"), "5 OK 0");
}

TEST(a_worker_on_a_pipe_serves_a_directory_below_its_root) {
  TempDir root;
  WorkerSetup setup;
  setup.arguments = {"--root", root.path()};
  WorkerProcess worker(setup);
  CHECK_STARTS(worker.client().Call("HELLO 2 dir=../x"), "ERROR EINVAL HELLO 2: ");
  CHECK_STARTS(worker.client().Call("HELLO 2 dir=x/y"), "OK 2 ");
  CHECK(IsDirectory(root / "x/y", 0700));
}

CHECK_MAIN
