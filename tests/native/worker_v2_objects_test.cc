// SPDX-License-Identifier: Apache-2.0
//
// What version 2 does with objects: what is stored comes back with its attributes, and what does
// not match is said.
#include <sys/xattr.h>

#include <thread>

#include "worker/base/crc32c.h"
#include "worker_v2_fixture.hh"

namespace {

std::string CrcOf(const std::string& bytes) {
  return lmshm::Crc32cHex(lmshm::Crc32cPortable(0, bytes.data(), bytes.size()));
}

// "" when there is none.
std::string GetRecord(const std::string& path) {
  std::string value(8192, '\0');
  const ssize_t size = getxattr(path.c_str(), "user.lmshm", value.data(), value.size());
  value.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return value;
}

bool SetRecord(const std::string& path, const std::string& record) {
  return setxattr(path.c_str(), "user.lmshm", record.data(), record.size(), 0) == 0;
}

#define NEEDS_ATTRIBUTES(talk) \
  if (!(talk).has_attributes) SKIP("the temporary directory's file system has no attributes")

}  // namespace

TEST(an_object_comes_back_with_its_attributes) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(4 << 20);
  segment.FillPattern(1);
  talk.Begin(segment);
  const std::string before = segment.Bytes(4096, 1 << 20);
  const std::string crc = CrcOf(before);
  CHECK_EQ(talk.Say("2 PUT a/b@1 4096 1048576 shape=2,3 note=%20%00%FF dtype=bfloat16"),
           "2 OK 1048576 crc32c=" + crc);
  const std::string path = talk.root / "a-SEP-b@1.data";
  CHECK(ReadFile(path) == before);
  CHECK_EQ(GetRecord(path),
           "1048576 " + crc + " " + CrcOf("a/b@1") + " shape=2,3 note=%20%00\xff dtype=bfloat16");

  segment.FillPattern(2);
  const std::string beyond = segment.Bytes((2 << 20) + (1 << 20), 4096);
  const std::string stored = " crc32c=" + crc + " dtype=bfloat16 note=%20%00%FF shape=2,3";
  CHECK_EQ(talk.Say("3 GET a/b@1 2097152 2097152"), "3 OK 1048576" + stored);
  CHECK(segment.Bytes(2 << 20, 1 << 20) == before);
  CHECK(segment.Bytes((2 << 20) + (1 << 20), 4096) == beyond);
  CHECK_EQ(talk.Say("4 GET a/b@1 0 1048576 verify=0"), "4 OK 1048576" + stored);

  struct stat st;
  REQUIRE_EQ(stat(path.c_str(), &st), 0);
  const long long ms =
      static_cast<long long>(st.st_mtim.tv_sec) * 1000 + st.st_mtim.tv_nsec / 1000000;
  CHECK_EQ(talk.Say("5 STAT a/b@1"),
           "5 OK 1048576 mtime_ms=" + std::to_string(ms) +
               " disk=" + std::to_string(static_cast<long long>(st.st_blocks) * 512) + stored);
  CHECK_EQ(talk.Say("6 EXISTS a/b@1 a/b"), "6 OK 10");
  CHECK_EQ(talk.Say("7 REMOVE a/b a/b@1 a/b@1"), "7 OK 010");
  CHECK(talk.root.Names().empty());
  CHECK_STARTS(talk.Say("8 GET a/b@1 0 10"), "8 ERROR ENOENT ");
  CHECK_STARTS(talk.Say("9 STAT a/b@1"), "9 ERROR ENOENT ");
}

TEST(a_replaced_object_has_only_its_new_attributes) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(4096);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT k 0 10 old=1"), "2 OK 10 crc32c=");
  CHECK_EQ(talk.Say("3 PUT k 0 0 new=2 crc=0"), "3 OK 0");
  CHECK_EQ(talk.Say("4 GET k 0 0"), "4 OK 0 new=2");
  CHECK_EQ(talk.Say("5 PUT k 0 0"), "5 OK 0 crc32c=00000000");
  CHECK_EQ(talk.Say("6 GET k 4096 0"), "6 OK 0 crc32c=00000000");
}

TEST(an_object_larger_than_the_space_says_its_length) {
  TalkV2 talk;
  TestSegment segment(8192);
  segment.FillPattern(3);
  const std::string all = segment.Bytes(0, 8192);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT k 0 5000"), "2 OK 5000");
  CHECK_STARTS(talk.Say("3 GET k 0 4999"), "3 ERROR EMSGSIZE 5000 ");
  CHECK_STARTS(talk.Say("4 GET k 0 0"), "4 ERROR EMSGSIZE 5000 ");
  CHECK(segment.Bytes(0, 8192) == all);
  CHECK_STARTS(talk.Say("5 GET k 0 5000"), "5 OK 5000");
}

TEST(changed_bytes_are_noticed) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(8192);
  segment.FillPattern(4);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT k 0 5000"), "2 OK 5000");
  std::string content = ReadFile(talk.root / "k.data");
  content[4999] = static_cast<char>(content[4999] ^ 1);
  WriteFile(talk.root / "k.data", content);  // in place: the attributes stay
  CHECK_STARTS(talk.Say("3 GET k 0 8192"), "3 ERROR EBADMSG get k: its checksum is ");
  CHECK_STARTS(talk.Say("4 GET k 0 8192 verify=0"), "4 OK 5000 crc32c=");
  WriteFile(talk.root / "k.data", content.substr(0, 4999));
  CHECK_STARTS(talk.Say("5 GET k 0 8192 verify=0"), "5 ERROR EBADMSG get k: the file has 4999 ");
  CHECK_STARTS(talk.Say("6 STAT k"), "6 OK 4999 ");
}

TEST(the_file_of_another_key_is_noticed) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(8192);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT k 0 5000"), "2 OK 5000");
  REQUIRE_EQ(rename((talk.root / "k.data").c_str(), (talk.root / "other.data").c_str()), 0);
  CHECK_STARTS(talk.Say("3 GET other 0 8192"),
               "3 ERROR EBADMSG get other: the file was stored for another key");
}

TEST(a_record_that_cannot_be_read_is_a_mismatch) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(8192);
  talk.Begin(segment);
  const std::string path = talk.root / "k.data";
  const std::string check = CrcOf("k");
  WriteFile(path, "hello");
  const std::string wrong[] = {" ",
                               "5",
                               "5 -",
                               "5 - " + check + " x",
                               "5 - " + check + "  a=b",
                               "x - " + check,
                               "5 0 " + check,
                               "5 - " + check + " a=%2",
                               "5 - " + check + " A=b",
                               "-5 - " + check,
                               "5 - " + check + std::string(" a=b\0", 5),
                               std::string(3000, '1')};
  for (const std::string& record : wrong) {
    REQUIRE(SetRecord(path, record));
    CHECK_STARTS(talk.Say("2 GET k 0 8000"), "2 ERROR EBADMSG get k: its record ");
    CHECK_EQ(talk.Say("3 EXISTS k"), "3 OK 1");
  }
  REQUIRE(SetRecord(path, "5 - " + check));
  CHECK_EQ(talk.Say("4 GET k 0 8000"), "4 OK 5");
  REQUIRE(SetRecord(path, "6 - " + check));
  CHECK_STARTS(talk.Say("5 GET k 0 8000"), "5 ERROR EBADMSG get k: the file has 5 bytes");
  REQUIRE(SetRecord(path, "4 - " + check));
  const std::string before = segment.Bytes(0, 8192);
  CHECK_STARTS(talk.Say("6 GET k 0 8000"), "6 ERROR EBADMSG get k: the file has 5 bytes");
  CHECK(segment.Bytes(4, 8188) == before.substr(4));
}

TEST(attributes_of_others_do_not_matter) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(8192);
  talk.Begin(segment);
  const std::string path = talk.root / "k.data";
  WriteFile(path, "hello");
  for (const char* name : {"user.other", "user.lmshm.other", "user.lmshm.length"}) {
    REQUIRE_EQ(setxattr(path.c_str(), name, "x", 1, 0), 0);
  }
  CHECK_EQ(talk.Say("2 GET k 0 10"), "2 OK 5");
  CHECK_STARTS(talk.Say("3 STAT k"), "3 OK 5 ");
}

TEST(files_of_others_are_served_without_attributes) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  WriteFile(talk.root / "meta-SEP-Llama@1@0@ab@half.data", "written by LMCache");
  CHECK_EQ(talk.Say("2 GET meta/Llama@1@0@ab@half 100 18"), "2 OK 18");
  CHECK_EQ(segment.Bytes(100, 18), "written by LMCache");
  CHECK_EQ(talk.Say("3 EXISTS meta/Llama@1@0@ab@half"), "3 OK 1");
  CHECK_EQ(talk.Say("4 LIST 10 -"), "4 OK - meta/Llama@1@0@ab@half");
}

TEST(without_attributes_everything_else_works) {
  TalkV2 talk(Attributes::kNone);
  TestSegment segment(8192);
  segment.FillPattern(6);
  CHECK_CONTAINS(talk.Say("HELLO 2"), " xattr=0 window=1024 engine=");
  CHECK_EQ(talk.Say("1 ATTACH " + segment.name() + " 8192 -"), "1 OK");
  const std::string before = segment.Bytes(0, 5000);
  CHECK_EQ(talk.Say("2 PUT k 0 5000 shape=1"), "2 OK 5000 crc32c=" + CrcOf(before));
  CHECK_EQ(GetRecord(talk.root / "k.data"), "");
  segment.FillPattern(7);
  CHECK_EQ(talk.Say("3 GET k 0 8192"), "3 OK 5000");
  CHECK(segment.Bytes(0, 5000) == before);
  const std::string key(300, 'k');
  CHECK_STARTS(talk.Say("4 PUT " + key + " 0 1"), "4 OK 1 ");
  CHECK_EQ(talk.Say("5 LIST 10 - kk"), "5 OK - " + key);
}

TEST(detecting_attributes_leaves_nothing_behind) {
  const TempDir dir;
  const int fd = open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  const bool found = FactsOf(fd).attributes;
  CHECK(dir.Names().empty());
  // Says the same where nothing can be created (a superuser can everywhere).
  if (geteuid() != 0) {
    REQUIRE_EQ(chmod(dir.path().c_str(), 0500), 0);
    CHECK_EQ(FactsOf(fd).attributes, found);
    REQUIRE_EQ(chmod(dir.path().c_str(), 0700), 0);
  }
  close(fd);
  const int proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(proc >= 0);
  CHECK(!FactsOf(proc).attributes);
  close(proc);
}

TEST(too_many_attributes_for_the_file_system) {
  TalkV2 talk;
  NEEDS_ATTRIBUTES(talk);
  TestSegment segment(8192);
  talk.Begin(segment);
  const std::string answer = talk.Say("2 PUT k 0 10 a=" + std::string(4095, 'x'));
  if (check::StartsWith(answer, "2 OK ")) {
    CHECK_CONTAINS(talk.Say("3 GET k 0 10"), " a=" + std::string(4095, 'x'));
  } else {
    CHECK_STARTS(answer, "2 ERROR E2BIG put k: the file system has no room");
    CHECK(talk.root.Names().empty());
  }
}

TEST(a_key_that_is_no_file_name_has_a_sidecar) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  const std::string long_key(5000, 'x');
  for (const std::string& key : {std::string("a-SEP-b"), long_key}) {
    CHECK_STARTS(talk.Say("2 PUT " + key + " 0 10"), "2 OK 10");
    lmshm::ObjectKey file;
    CHECK_OK(lmshm::ParseKey(key, &file));
    CHECK_EQ(talk.root.Names().size(), 2u);
    CHECK_EQ(ReadFile(talk.root / file.sidecar_name), key);
    CHECK_STARTS(talk.Say("3 GET " + key + " 0 10"), "3 OK 10");
    CHECK_EQ(talk.Say("4 LIST 10 -"), "4 OK - " + key);

    // A sidecar that says something else is not believed; one that is missing is made again.
    WriteFile(talk.root / file.sidecar_name, "another-SEP-key");
    CHECK_EQ(talk.Say("5 LIST 10 -"),
             talk.has_attributes && key.size() < 1000 ? "5 OK - " + key : std::string("5 OK -"));
    REQUIRE_EQ(unlink((talk.root / file.sidecar_name).c_str()), 0);
    CHECK_STARTS(talk.Say("6 PUT " + key + " 0 10"), "6 OK 10");
    CHECK_EQ(ReadFile(talk.root / file.sidecar_name), key);

    CHECK_EQ(talk.Say("7 REMOVE " + key), "7 OK 1");
    CHECK(talk.root.Names().empty());
  }
}

TEST(what_is_no_regular_file_is_no_object) {
  TalkV2 talk;
  TestSegment segment(8192);
  talk.Begin(segment);
  REQUIRE_EQ(mkdir((talk.root / "dir.data").c_str(), 0700), 0);
  REQUIRE_EQ(mkfifo((talk.root / "fifo.data").c_str(), 0600), 0);
  REQUIRE_EQ(symlink("/etc/passwd", (talk.root / "link.data").c_str()), 0);
  CHECK_EQ(talk.Say("2 EXISTS dir fifo link"), "2 OK 000");
  CHECK_EQ(talk.Say("3 REMOVE dir fifo link"), "3 OK 000");
  CHECK_EQ(talk.Say("4 LIST 10 -"), "4 OK -");
  CHECK_STARTS(talk.Say("5 GET dir 0 10"), "5 ERROR EISDIR ");
  CHECK_STARTS(talk.Say("5 GET fifo 0 10"), "5 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("5 GET link 0 10"), "5 ERROR ELOOP ");
  CHECK_STARTS(talk.Say("6 PUT dir 0 10"), "6 ERROR EISDIR ");
  CHECK_STARTS(talk.Say("6 PUT fifo 0 10"), "6 ERROR EINVAL ");
  CHECK_STARTS(talk.Say("6 PUT link 0 10"), "6 ERROR ELOOP ");
  CHECK_EQ(talk.root.Names().size(), 3u);
}

TEST(a_segment_that_shrinks_is_survived) {
  TalkV2 talk;
  TestSegment segment(1 << 20);
  segment.FillPattern(8);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT f 0 1048576"), "2 OK 1048576");
  REQUIRE_EQ(ftruncate(segment.fd(), 600000), 0);
  for (const char* option : {"", " crc=0"}) {
    CHECK_STARTS(talk.Say(std::string("3 PUT g 0 1048576") + option), "3 ERROR EFAULT ");
  }
  for (const char* option : {"", " verify=0"}) {
    CHECK_STARTS(talk.Say(std::string("4 GET f 0 1048576") + option), "4 ERROR EFAULT ");
  }
  REQUIRE_EQ(ftruncate(segment.fd(), 1 << 20), 0);
  CHECK_STARTS(talk.Say("5 GET f 0 1048576"), "5 OK 1048576");
  CHECK_EQ(talk.root.Names().size(), 1u);
}

// Whole objects only, whatever happens at the same time, each with the attributes it came with.
TEST(concurrent_writers_and_readers_see_whole_objects) {
  TempDir root;
  std::unique_ptr<lmshm::ObjectDir> objects;
  CHECK_OK(lmshm::ObjectDir::OpenConfined(root.path(), lmshm::DetectBeneathMethod(), &objects));
  const std::unique_ptr<lmshm::Directories> directories = OpenDirectories(*objects);
  lmshm::Service service;
  service.objects = objects.get();
  service.stores = directories.get();
  TestSegment segment(4 << 16);
  const std::string key(300, 'k');  // with a sidecar
  std::string wrong[4];
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      lmshm::Session session(service, "test");
      const auto say = [&](const std::string& line) {
        std::string answer;
        session.Handle(line, &answer);
        return answer;
      };
      say("HELLO 2");
      say("1 ATTACH " + segment.name() + " " + std::to_string(segment.size()) + " -");
      const std::string offset = std::to_string(t << 16);
      for (int i = 0; i < 100; i++) {
        std::string answer;
        if (t == 3) {
          answer =
              i % 10 == 0 ? say("9 REMOVE " + key) : say("9 GET " + key + " " + offset + " 65536");
          if (answer.compare(0, 15, "9 ERROR ENOENT ") == 0) continue;
        } else {
          const size_t length = 1000 * (t + 1) + static_cast<size_t>(i);
          std::memset(segment.data() + (t << 16), static_cast<int>('a' + t), length);
          answer = say("9 PUT " + key + " " + offset + " " + std::to_string(length) +
                       " writer=" + std::to_string(t));
        }
        if (answer.compare(0, 5, "9 OK ") != 0) wrong[t] = answer;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : wrong) CHECK_EQ(text, "");
  for (const std::string& name : root.Names()) CHECK(name.find(".tmp") == std::string::npos);
}

CHECK_MAIN
