// SPDX-License-Identifier: Apache-2.0
//
// Keys and file names, and the hash that long ones need.
#include <cerrno>
#include <set>
#include <string>

#include "golden.hh"
#include "worker/base/percent.h"
#include "worker/base/sha256.h"
#include "worker/storage/object_key.h"

using lmshm::ClassifyFile;
using lmshm::FileKind;
using lmshm::ObjectKey;
using lmshm::ParseKey;
using lmshm::Sha256Hex;

// FIPS 180-4's examples, and the lengths around a block's end.
TEST(sha256_vectors) {
  CHECK_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK_EQ(Sha256Hex("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmn"
                     "opqklmnopqrlmnopqrsmnopqrstnopqrstu"),
           "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  CHECK_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQ(Sha256Hex(std::string(1000000, 'a')),
           "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK_EQ(Sha256Hex(std::string(55, 'x')),
           "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072");
  CHECK_EQ(Sha256Hex(std::string(56, 'x')),
           "04c26261370ee7541549d16dee320c723e3fd14671e66a099afe0a377c16888e");
  CHECK_EQ(Sha256Hex(std::string(63, 'x')),
           "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2");
  CHECK_EQ(Sha256Hex(std::string(64, 'x')),
           "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
  CHECK_EQ(Sha256Hex(std::string(65, 'x')),
           "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9");
  CHECK_EQ(Sha256Hex(std::string(119, 'x')),
           "000b48d4edf0fa7bee3c6236ecd2785baa5db4eeb8bb54341b029e0d9fa5fb0c");
  CHECK_EQ(Sha256Hex(std::string(120, 'x')),
           "13f05a0b594787f5ecd315edc96141bd3243203d1b7d4f0836f37308b276ba98");
}

TEST(the_golden_keys_have_the_files_that_the_file_says) {
  std::set<std::string> names;
  for (const auto& row : ReadGolden("keys.tsv")) {
    REQUIRE_EQ(row.size(), 2u);
    std::string key;
    REQUIRE(lmshm::PercentDecode(row[0], &key));
    ObjectKey file;
    const lmshm::Status status = ParseKey(key, &file);
    if (!status.ok()) {
      CHECK_EQ(lmshm::ErrnoName(status.number()), row[1]);
      continue;
    }
    CHECK_EQ(lmshm::PercentEncode(file.file_name), row[1]);
    CHECK(names.insert(file.file_name).second);
    std::string back;
    if (file.sidecar_name.empty()) {
      CHECK(ClassifyFile(file.file_name, &back) == FileKind::kPlain);
      CHECK_EQ(back, key);
    } else {
      CHECK(ClassifyFile(file.file_name, &back) == FileKind::kHashed);
      CHECK_EQ(lmshm::SidecarOf(file.file_name), file.sidecar_name);
      CHECK(ClassifyFile(file.sidecar_name, &back) == FileKind::kOther);
    }
  }
}

TEST(files_that_are_no_objects) {
  const std::string zeros(64, '0');
  std::string key = "before";
  for (const std::string& name :
       {std::string(), std::string(".data"), std::string("x"), std::string("x.key"),
        std::string("x.data.tmp"), std::string(".x.123.0123456789abcdef.tmp"),
        std::string("bad\xef\xbf\xbd.data"), std::string("bad\xff.data"), std::string("a\nb.data"),
        std::string(251, 'x') + ".data", std::string("a/b.data"), "sha256-" + zeros + ".key",
        "sha256-" + zeros}) {
    CHECK(ClassifyFile(name, &key) == FileKind::kOther);
    CHECK_EQ(key, "before");
  }
}

TEST(a_key_has_a_limit) {
  ObjectKey file;
  CHECK_OK(ParseKey(std::string(lmshm::kMaxKeyBytes, 'x'), &file));
  CHECK_EQ(ParseKey(std::string(lmshm::kMaxKeyBytes + 1, 'x'), &file).number(), ENAMETOOLONG);
}

CHECK_MAIN
