// SPDX-License-Identifier: Apache-2.0
//
// Files that have more than an object's bytes: LMCache's header before them, padding behind. What
// is read is the object and nothing else, or the worker says what does not fit.
#include <sys/stat.h>
#include <sys/xattr.h>

#include "golden.hh"
#include "worker/storage/lmcache_header.h"
#include "worker_v2_fixture.hh"

namespace {

using lmshm::Attribute;
using lmshm::LmcacheHeader;
using lmshm::MakeLmcacheHeader;
using lmshm::ParseLmcacheHeader;

// As struct.pack("<%di" % len(numbers), *numbers) makes it.
std::string Packed(std::initializer_list<uint32_t> numbers) {
  std::string bytes;
  for (const uint32_t number : numbers) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(number >> shift));
  }
  return bytes;
}

std::string Described(const LmcacheHeader& header) {
  std::string text = std::to_string(header.bytes) + "+" + std::to_string(header.length);
  for (const Attribute& attribute : header.attributes) {
    text += " " + attribute.name + "=" + attribute.value;
  }
  return text;
}

std::vector<Attribute> Chunk(const char* shape, const char* dtype, const char* format) {
  return {{"shape", shape}, {"dtype", dtype}, {"format", format}};
}

// 2 x 3 x 4 x 8 numbers of two bytes.
constexpr uint64_t kBytes = 384;
const std::string kHeader = Packed({kBytes, 1, 3, 2, 3, 4, 8});
const std::string kAttributes = " dtype=bfloat16 format=KV_2LTD shape=2,3,4,8";

}  // namespace

TEST(a_header_is_what_lmcache_packs) {
  struct Row {
    uint64_t length;
    std::vector<Attribute> attributes;
    std::string header;
  };
  const Row rows[] = {
      {384, Chunk("2,3,4,8", "bfloat16", "KV_2LTD"), kHeader},
      {256, Chunk("4,2,16", "half", "KV_T2D"), Packed({256, 2, 2, 4, 2, 16, 0})},
      {512, Chunk("2,4,16", "float", "KV_2TD"), Packed({512, 3, 4, 2, 4, 16, 0})},
      {64, Chunk("1,2,4,8", "fp8_e4m3", "KV_MLA_FMT"), Packed({64, 6, 7, 1, 2, 4, 8})},
      {64, Chunk("1,2,4,8", "fp8_e5m2", "KV_MLA_FMT"), Packed({64, 6, 8, 1, 2, 4, 8})},
      {32, Chunk("2,2", "double", "EC_TD"), Packed({32, 7, 5, 2, 2, 0, 0})},
      {10, Chunk("10", "uint8", "BINARY"), Packed({10, 4, 6, 10, 0, 0, 0})},
      {384 + 64, Chunk("2,3,4,8+1,2,4,8", "bfloat16+uint8", "KV_2LTD"),
       Packed({448, 1, 3, 2, 3, 4, 8, 6, 1, 2, 4, 8})},
  };
  for (const Row& row : rows) {
    std::string made;
    REQUIRE(MakeLmcacheHeader(row.length, row.attributes, &made).ok());
    CHECK(made == row.header);
    LmcacheHeader read;
    REQUIRE(ParseLmcacheHeader(made + std::string(100, '\x7f'), &read));
    CHECK_EQ(Described(read), std::to_string(made.size()) + "+" + std::to_string(row.length) +
                                  " dtype=" + row.attributes[1].value + " format=" +
                                  row.attributes[2].value + " shape=" + row.attributes[0].value);
  }
  std::string made;
  REQUIRE(MakeLmcacheHeader(10, {}, &made).ok());
  CHECK(made == Packed({10, 4, 6, 10, 0, 0, 0}));
  // The other number of half, and None, which plain bytes may have.
  LmcacheHeader read;
  REQUIRE(ParseLmcacheHeader(Packed({256, 2, 1, 4, 2, 16, 0}), &read));
  CHECK_EQ(Described(read), "28+256 dtype=half format=KV_T2D shape=4,2,16");
  REQUIRE(ParseLmcacheHeader(Packed({10, 5, 0, 10, 0, 0, 0}), &read));
  CHECK_EQ(Described(read), "28+10 dtype=uint8 format=BINARY_BUFFER shape=10");
}

TEST(the_headers_that_lmcache_made_are_made_and_read) {
  for (const auto& row : ReadGolden("lmcache_headers.tsv", 12)) {
    REQUIRE_EQ(row.size(), 5u);
    const uint64_t length = std::stoull(row[0]);
    std::string header, made;
    for (size_t i = 0; i < row[4].size(); i += 2) {
      header.push_back(static_cast<char>(std::stoi(row[4].substr(i, 2), nullptr, 16)));
    }
    const std::vector<Attribute> attributes = Chunk(row[3].c_str(), row[2].c_str(), row[1].c_str());
    REQUIRE(MakeLmcacheHeader(length, attributes, &made).ok());
    CHECK(made == header);
    LmcacheHeader read;
    REQUIRE(ParseLmcacheHeader(header, &read));
    CHECK_EQ(Described(read), std::to_string(header.size()) + "+" + row[0] + " dtype=" + row[2] +
                                  " format=" + row[1] + " shape=" + row[3]);
  }
}

TEST(what_is_no_header_is_not_taken_for_one) {
  LmcacheHeader read;
  for (const std::string& begin :
       {std::string(), std::string(28, '\0'), std::string(640, '\x01'), std::string(640, '\xff'),
        kHeader.substr(0, 27), Packed({383, 1, 3, 2, 3, 4, 8}), Packed({385, 1, 3, 2, 3, 4, 8}),
        Packed({384, 0, 3, 2, 3, 4, 8}), Packed({384, 9, 3, 2, 3, 4, 8}),
        Packed({384, 1, 0, 2, 3, 8, 8}), Packed({384, 1, 9, 2, 3, 4, 8}),
        Packed({384, 1, 3, 2, 0, 4, 8}), Packed({0, 1, 3, 0, 0, 0, 0}),
        Packed({384, 1, 3, 2, 3, 4, 4}),  // a second group is missing
        Packed({0x80000000, 1, 6, 0x8000, 0x10000, 1, 1}),
        Packed({384, 1, 3, 0x80000000, 0x80000000, 4, 96})}) {
    CHECK(!ParseLmcacheHeader(begin, &read));
  }
}

TEST(what_lmcache_has_no_header_for_is_refused_with_a_reason) {
  std::string made = "untouched";
  const auto refused = [&](uint64_t length, const std::vector<Attribute>& attributes, int error,
                           const char* part) {
    const lmshm::Status status = MakeLmcacheHeader(length, attributes, &made);
    CHECK_EQ(status.number(), error);
    CHECK_CONTAINS(status.text(), part);
    CHECK_EQ(made, "untouched");
  };
  refused(0, {}, EINVAL, "no empty objects");
  refused(uint64_t{1} << 31, {}, EFBIG, "31 bits");
  refused(383, Chunk("2,3,4,8", "bfloat16", "KV_2LTD"), EINVAL, "say 384 bytes");
  refused(8, Chunk("1,8", "int8", "EC_TD"), EINVAL, "no number for the dtype \"int8\"");
  refused(8, Chunk("8", "uint8", "UNDEFINED"), EINVAL, "no number for the format");
  refused(8, Chunk("1,1,1,1,8", "uint8", "EC_TD"), EINVAL, "one to four sizes");
  refused(8, Chunk("1,x", "uint8", "EC_TD"), EINVAL, "one to four sizes");
  refused(8, Chunk("0,8", "uint8", "EC_TD"), EINVAL, "is no size");
  refused(8, Chunk("1,8", "uint8+uint8", "EC_TD"), EINVAL, "1 shapes and 2 dtypes");
}

TEST(a_file_of_lmcache_comes_without_its_header_and_with_its_shape) {
  for (const Attributes mode : {Attributes::kDetect, Attributes::kNone}) {
    TalkV2 talk(mode);
    TestSegment segment(4096);
    segment.FillPattern(1);
    talk.Begin(segment);
    const std::string payload = segment.Bytes(1024, kBytes);
    WriteFile(talk.root / "with.data", kHeader + payload);
    WriteFile(talk.root / "without.data", payload);
    CHECK_EQ(talk.Say("2 GET with 0 384"), "2 OK 384" + kAttributes);
    CHECK(segment.Bytes(0, kBytes) == payload);
    CHECK_EQ(talk.Say("3 GET without 0 1000"), "3 OK 384");
    CHECK(segment.Bytes(0, kBytes) == payload);
    CHECK_EQ(talk.Say("4 GET with 2048 384 io=direct ; without 3072 384"),
             "4 OK 384" + kAttributes + " ; 384");
    CHECK(segment.Bytes(2048, kBytes) == payload);
    CHECK_STARTS(talk.Say("5 GET with 0 383"), "5 ERROR EMSGSIZE 384 bytes in the object");
    const std::string stat = talk.Say("6 STAT with");
    CHECK_STARTS(stat, "6 OK 384 mtime_ms=");
    CHECK_EQ(stat.substr(stat.size() - kAttributes.size()), kAttributes);
  }
}

TEST(a_header_with_another_length_behind_it_is_never_payload) {
  TalkV2 talk;
  TestSegment segment(4096);
  talk.Begin(segment);
  for (const size_t bytes : {size_t{0}, size_t{383}, size_t{385}}) {
    WriteFile(talk.root / "k.data", kHeader + std::string(bytes, 'x'));
    const std::string why =
        "LMCache's header says that 384 bytes follow it, and they are " + std::to_string(bytes);
    CHECK_CONTAINS(talk.Say("2 GET k 0 4096"), why);
    CHECK_STARTS(talk.Say("3 GET k 0 4096"), "3 ERROR EBADMSG ");
    CHECK_STARTS(talk.Say("4 STAT k"), "4 ERROR EBADMSG ");
  }
}

TEST(a_header_that_contradicts_itself_is_never_payload) {
  TalkV2 talk;
  TestSegment segment(4096);
  talk.Begin(segment);
  for (const std::string& header :
       {Packed({100, 1, 3, 2, 3, 4, 8}), Packed({100, 4, 0, 77, 0, 0, 0}),
        Packed({100, 1, 3, 2, 3, 4, 8, 6, 1, 2, 4, 8})}) {
    WriteFile(talk.root / "k.data", header + std::string(100, 'x'));
    CHECK_CONTAINS(talk.Say("2 GET k 0 4096"), "ERROR EBADMSG get k: LMCache's header says other");
    CHECK_STARTS(talk.Say("3 STAT k"), "3 ERROR EBADMSG ");
    // With another number of bytes behind it, it could be anything.
    WriteFile(talk.root / "k.data", header + std::string(101, 'x'));
    CHECK_STARTS(talk.Say("4 GET k 0 4096"), "4 OK " + std::to_string(header.size() + 101));
  }
}

TEST(a_put_with_a_header_is_a_file_of_lmcache) {
  for (const Attributes mode : {Attributes::kDetect, Attributes::kNone}) {
    TalkV2 talk(mode);
    TestSegment segment(4096);
    segment.FillPattern(2);
    talk.Begin(segment);
    const std::string payload = segment.Bytes(0, kBytes);
    CHECK_STARTS(talk.Say("2 PUT k 0 384 head=lmcache shape=2,3,4,8 dtype=bfloat16 format=KV_2LTD"),
                 "2 OK 384 crc32c=");
    CHECK(ReadFile(talk.root / "k.data") == kHeader + payload);
    segment.FillPattern(3);
    const std::string got = talk.Say("3 GET k 1024 384");
    CHECK_STARTS(got, talk.has_attributes ? "3 OK 384 crc32c=" : "3 OK 384 dtype=");
    CHECK_EQ(got.substr(got.size() - kAttributes.size()), kAttributes);
    CHECK(segment.Bytes(1024, kBytes) == payload);
    CHECK_STARTS(talk.Say("4 STAT k"), "4 OK 384 ");
    // What is put over it without one is without one.
    CHECK_STARTS(talk.Say("5 PUT k 0 384"), "5 OK 384 ");
    CHECK(ReadFile(talk.root / "k.data") == segment.Bytes(0, kBytes));
    // Nothing is written where no header can be.
    CHECK_CONTAINS(talk.Say("6 PUT m 0 384 head=lmcache shape=2,3,4 dtype=half format=KV_2TD"),
                   "ERROR EINVAL put m: LMCache's header: shape and dtype say 48 bytes");
    CHECK_CONTAINS(talk.Say("7 PUT m 0 1 head=lmcache ; n 0 0 head=lmcache"), "-EINVAL");
    CHECK_EQ(talk.Say("8 EXISTS m n"), "8 OK 10");
    CHECK(ReadFile(talk.root / "m.data") == Packed({1, 4, 6, 1, 0, 0, 0}) + segment.Bytes(0, 1));
  }
}

TEST(a_payload_that_looks_like_a_header_stays_a_payload_where_there_is_a_record) {
  TalkV2 talk;
  if (!talk.has_attributes) SKIP("the temporary directory's file system has no attributes");
  TestSegment segment(4096);
  talk.Begin(segment);
  WriteFile(talk.root / "file.data", kHeader + std::string(kBytes, 'x'));
  CHECK_STARTS(talk.Say("2 GET file 28 384"), "2 OK 384 ");
  const std::string copy = kHeader + std::string(kBytes, 'x');
  memcpy(segment.data(), copy.data(), copy.size());
  CHECK_STARTS(talk.Say("3 PUT k 0 412"), "3 OK 412 ");
  CHECK_STARTS(talk.Say("4 GET k 1024 412"), "4 OK 412 ");
  CHECK(segment.Bytes(1024, 412) == copy);
}

TEST(a_file_that_does_not_fit_its_record_is_said_with_header_and_padding) {
  TalkV2 talk;
  if (!talk.has_attributes) SKIP("the temporary directory's file system has no attributes");
  TestSegment segment(8192);
  talk.Begin(segment);
  CHECK_STARTS(talk.Say("2 PUT k 0 100 head=lmcache pad=512"), "2 OK 100 ");
  const std::string path = talk.root / "k.data";
  CHECK_EQ(ReadFile(path).size(), 512u);
  CHECK_STARTS(talk.Say("3 GET k 4096 4096"), "3 OK 100 ");
  REQUIRE_EQ(truncate(path.c_str(), 128), 0);
  CHECK_CONTAINS(talk.Say("4 GET k 4096 4096"),
                 "EBADMSG get k: the file has 128 bytes, and was stored with 512");
  REQUIRE_EQ(truncate(path.c_str(), 513), 0);
  CHECK_STARTS(talk.Say("5 GET k 4096 4096"), "5 ERROR EBADMSG ");
  CHECK_STARTS(talk.Say("6 STAT k"), "6 OK 513 ");
}

TEST(a_header_says_the_length_of_what_is_padded) {
  for (const Attributes mode : {Attributes::kDetect, Attributes::kNone}) {
    TalkV2 talk(mode);
    TestSegment segment(8192);
    segment.FillPattern(5);
    talk.Begin(segment);
    const std::string payload = segment.Bytes(0, kBytes);
    WriteFile(talk.root / "plain.data", kHeader + payload);
    CHECK_EQ(talk.Say("2 GET plain 4096 4096 pad=512"), "2 OK 384" + kAttributes);
    CHECK(segment.Bytes(4096, kBytes) == payload);
    CHECK_STARTS(
        talk.Say("3 PUT k 0 384 head=lmcache pad=512 shape=2,3,4,8 dtype=bfloat16 format=KV_2LTD"),
        "3 OK 384 ");
    CHECK_EQ(ReadFile(talk.root / "k.data").size(), 512u);
    CHECK_STARTS(talk.Say("4 GET k 4096 4096 pad=512"), "4 OK 384 ");
    CHECK(segment.Bytes(4096, kBytes) == payload);
    CHECK_STARTS(talk.Say("5 STAT k"), "5 OK 384 ");
    if (talk.has_attributes && mode == Attributes::kDetect) {
      CHECK_STARTS(talk.Say("6 GET k 4096 4096"), "6 OK 384 ");
    } else {
      CHECK_STARTS(talk.Say("6 GET k 4096 4096"), "6 ERROR EBADMSG ");
    }
  }
}

TEST(padding_is_cut_off_and_put_on) {
  for (const Attributes mode : {Attributes::kDetect, Attributes::kNone}) {
    TalkV2 talk(mode);
    TestSegment segment(3 << 20);
    segment.FillPattern(4);
    talk.Begin(segment);
    const std::string payload = segment.Bytes(0, 5000);
    WriteFile(talk.root / "padded.data", payload + std::string(8192 - 5000, '\x5a'));
    WriteFile(talk.root / "exact.data", payload);
    const std::string beyond = segment.Bytes((1 << 20) + 5000, 4096);
    CHECK_EQ(talk.Say("2 GET padded 1048576 5000 pad=4096"), "2 OK 5000");
    CHECK(segment.Bytes(1 << 20, 5000) == payload);
    CHECK(segment.Bytes((1 << 20) + 5000, 4096) == beyond);
    CHECK_EQ(talk.Say("3 GET exact 1048576 5000 pad=4096"), "3 OK 5000");
    // Without the word the file is what it is.
    CHECK_STARTS(talk.Say("4 GET padded 0 5000"), "4 ERROR EMSGSIZE 8192 ");
    CHECK_EQ(talk.Say("5 GET padded 1048576 8192"), "5 OK 8192");
    // What cannot be told from padding is not served.
    CHECK_STARTS(talk.Say("6 GET padded 0 9000 pad=4096"), "6 ERROR EBADMSG ");
    CHECK_STARTS(talk.Say("7 GET padded 0 4000 pad=4096"), "7 ERROR EBADMSG ");
    CHECK_STARTS(talk.Say("8 GET exact 0 4999 pad=4096"), "8 ERROR EBADMSG ");

    CHECK_STARTS(talk.Say("9 PUT ours 0 5000 pad=4096"), "9 OK 5000 ");
    CHECK(ReadFile(talk.root / "ours.data") == segment.Bytes(0, 5000) + std::string(3192, '\0'));
    CHECK_STARTS(talk.Say("10 GET ours 1048576 5000 pad=4096"), "10 OK 5000");
    CHECK(segment.Bytes(1 << 20, 5000) == segment.Bytes(0, 5000));
    if (talk.has_attributes) CHECK_STARTS(talk.Say("11 GET ours 0 9999"), "11 OK 5000 ");
    const size_t large = (1 << 20) + 4096 + 1;
    CHECK_STARTS(talk.Say("12 PUT large 0 " + std::to_string(large) + " pad=4096 io=direct"),
                 "12 OK ");
    const std::string file = ReadFile(talk.root / "large.data");
    REQUIRE_EQ(file.size(), size_t{(1 << 20) + 8192});
    CHECK(file.substr(0, large) == segment.Bytes(0, large));
    CHECK(file.substr(large) == std::string(4095, '\0'));
  }
}

CHECK_MAIN
