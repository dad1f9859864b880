// SPDX-License-Identifier: Apache-2.0
//
// The parser of version 2's requests, and percent-coding.
#include <cerrno>
#include <string>

#include "golden.hh"
#include "worker/base/percent.h"
#include "worker/protocol/request_v2.h"

using lmshm::ParseRequestV2;
using lmshm::PercentDecode;
using lmshm::PercentEncode;
using lmshm::RequestV2;
using lmshm::Verb;

namespace {

void Add(const std::string& name, const std::string& value, std::string* text) {
  text->append(" ").append(name).append("=").append(value);
}

void AddPriority(const RequestV2& r, std::string* text) {
  if (r.priority != lmshm::Priority::kNormal)
    Add("prio", r.priority == lmshm::Priority::kHigh ? "high" : "low", text);
}

void AddItem(const RequestV2& r, const lmshm::TransferItem& item, bool first, std::string* text) {
  if (!first) text->append(" ;");
  const bool put = r.verb == Verb::kPut;
  Add("key", PercentEncode(item.key), text);
  Add("offset", std::to_string(item.offset), text);
  Add(put ? "length" : "capacity", std::to_string(item.size), text);
  Add(put ? "crc" : "verify", item.checksum ? "1" : "0", text);
  if (item.io.has_value()) Add("io", std::string(IoModeName(*item.io)), text);
  if (item.sync.has_value()) Add("sync", std::string(DurabilityName(*item.sync)), text);
  if (item.lmcache_header) Add("head", "lmcache", text);
  if (item.pad_log2 != 0) Add("pad", std::to_string(1u << item.pad_log2), text);
  if (item.if_absent) Add("if", "absent", text);
  if (first) AddPriority(r, text);
  for (const lmshm::Attribute& attribute : Attributes(item)) {
    Add("attr." + attribute.name, PercentEncode(attribute.value), text);
  }
}

// As the golden file's second column has it.
std::string Describe(const RequestV2& r) {
  std::string text = "id=" + std::to_string(r.id) + " verb=" + std::string(VerbName(r.verb));
  for (std::string_view keys = r.keys; !keys.empty();)
    Add("key", PercentEncode(lmshm::TakeKey(&keys)), &text);
  switch (r.verb) {
    case Verb::kAttach:
      Add("shm_name", PercentEncode(r.text), &text);
      Add("size", std::to_string(r.number), &text);
      Add("identity", r.identity.has_value() ? r.identity->ToString() : "-", &text);
      break;
    case Verb::kPut:
    case Verb::kGet:
      for (const lmshm::TransferItem& item : r.items) {
        AddItem(r, item, &item == &r.items.front(), &text);
      }
      break;
    case Verb::kList:
      Add("limit", std::to_string(r.number), &text);
      Add("cursor", PercentEncode(r.text), &text);
      Add("prefix", PercentEncode(r.prefix), &text);
      AddPriority(r, &text);
      break;
    case Verb::kCancel:
      Add("request", std::to_string(r.number), &text);
      break;
    case Verb::kStat:
      AddPriority(r, &text);
      break;
    default:
      break;
  }
  return text;
}

}  // namespace

TEST(the_golden_requests_mean_what_the_file_says) {
  for (const auto& row : ReadGolden("v2_requests.tsv")) {
    REQUIRE_EQ(row.size(), 3u);
    RequestV2 request;
    request.id = 99;
    request.text = "untouched";
    const lmshm::Status status = ParseRequestV2(row[0], &request);
    std::string got;
    if (status.ok()) {
      got = Describe(request);
    } else {
      got = "id=" + std::to_string(request.id) + " error=" + lmshm::ErrnoName(status.number());
      CHECK_EQ(request.text, "untouched");
      CHECK(!status.text().empty());
    }
    if (got != row[1]) check::Fail(__FILE__, __LINE__, row[0].substr(0, 200));
    CHECK_EQ(got, row[1]);
  }
}

TEST(what_tabs_and_line_endings_do_to_a_request) {
  RequestV2 request;
  for (const char* line : {"1\tPING", "1 PING\t", "1 PING\r", "1 STAT a\tb", "1 STAT \x7f"}) {
    CHECK_EQ(ParseRequestV2(line, &request).number(), EINVAL);
  }
  CHECK_EQ(ParseRequestV2(std::string("1 STAT a\0b", 10), &request).number(), EINVAL);
}

TEST(percent_coding_comes_back) {
  std::string all;
  for (int c = 0; c < 256; c++) all.push_back(static_cast<char>(c));
  const std::string coded = PercentEncode(all);
  CHECK_EQ(coded.size(), lmshm::PercentSize(all));
  for (const char c : coded) CHECK(c > ' ' && c <= '~');
  std::string back;
  REQUIRE(PercentDecode(coded, &back));
  CHECK(back == all);
  CHECK_EQ(PercentEncode("azAZ09-._~@/:+=,"), "azAZ09-._~@/:+=,");
  CHECK_EQ(PercentEncode(" %\x01\xff!"), "%20%25%01%FF%21");
  REQUIRE(PercentDecode("", &back));
  CHECK_EQ(back, "");
}

TEST(percent_decoding_refuses_and_leaves_the_result_alone) {
  std::string back = "before";
  for (const char* bad : {"%", "%4", "a%", "%%41", "%g0", "%0g", "% 1", "a b", "\x01", "\x7f",
                          "\x80", "\xc3\xa9", "%-1", "%+1"}) {
    CHECK(!PercentDecode(bad, &back));
    CHECK_EQ(back, "before");
  }
}

CHECK_MAIN
