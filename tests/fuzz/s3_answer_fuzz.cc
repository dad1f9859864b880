// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes what an S3 server answers: the head, a body in chunks, the XML of an error and of a list.
// The first byte of the input says into how large pieces a body is cut.
//
// Whatever comes: a head that is taken has but well-formed headers; a body is the same however it
// is cut; a failure is one printable line; a name that is taken for a key's is the name of that
// key.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "worker/base/text.h"
#include "worker/s3/http_response.h"
#include "worker/s3/s3_failure.h"
#include "worker/s3/s3_listing.h"
#include "worker/s3/s3_names.h"
#include "worker/s3/s3_record.h"

namespace {

#define HOLDS(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (0)

// What came out, and whether that was all of it.
struct Content {
  std::string text;
  bool well_formed = true;
  bool done = false;
};

Content Unchunk(std::string_view body, size_t piece) {
  lmshm::ChunkedBody chunks;
  Content content;
  while (!body.empty() && !chunks.done()) {
    const std::string_view now = body.substr(0, piece);
    size_t used = 0;
    content.well_formed = chunks.Feed(now, &content.text, &used).ok();
    if (!content.well_formed) return content;
    HOLDS(used <= now.size() && (used == now.size() || chunks.done()));
    body.remove_prefix(used);
  }
  content.done = chunks.done();
  return content;
}

void CheckNames(lmshm::S3Layout layout, const lmshm::S3ListPage& page) {
  lmshm::S3Options options;
  options.layout = layout;
  options.prefix = "p/";
  for (const std::string& name : page.names) {
    std::string key, again;
    if (!lmshm::KeyOf(options, "p/" + name, &key)) continue;
    if (!lmshm::ObjectNameOf(options, key, &again).ok()) continue;
    if (layout != lmshm::S3Layout::kLmcacheS3) HOLDS(again == "p/" + name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = std::max<size_t>(data[0], 1);
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const size_t head_size = lmshm::HttpHeadSize(input);
  lmshm::HttpResponseHead head;
  if (head_size == 0 || !lmshm::ParseHttpHead(input.substr(0, head_size), &head).ok()) return 0;
  HOLDS(head.status >= 100 && head.status <= 599);
  HOLDS(!(head.chunked && head.content_length.has_value()));
  for (const auto& [name, value] : head.headers) {
    HOLDS(!name.empty());
    for (const char c : name) HOLDS(c > ' ' && c != ':' && !(c >= 'A' && c <= 'Z'));
    HOLDS(value.find_first_of("\r\n") == std::string::npos);
  }
  lmshm::ObjectInfo info;
  const lmshm::Status record = lmshm::InfoOf(head, "k", &info);
  HOLDS(!record.ok() || info.length == head.content_length);

  std::string body(input.substr(head_size));
  if (head.chunked) {
    const Content whole = Unchunk(body, std::string::npos);
    const Content pieces = Unchunk(body, piece);
    HOLDS(whole.well_formed == pieces.well_formed && whole.done == pieces.done);
    if (whole.well_formed) HOLDS(whole.text == pieces.text);
    body = whole.text;
  }
  lmshm::S3Options options;
  const lmshm::S3Error error = lmshm::ParseS3Error(head, body);
  const lmshm::Status failure = lmshm::S3Failure(head, error, options, true, 0);
  HOLDS(!failure.ok());
  HOLDS(lmshm::IsPrintable(failure.text()));
  lmshm::S3ListPage page;
  if (lmshm::ParseS3ListPage(body, &page)) {
    for (const lmshm::S3Layout layout :
         {lmshm::S3Layout::kLmshm, lmshm::S3Layout::kPayload, lmshm::S3Layout::kLmcacheS3}) {
      CheckNames(layout, page);
    }
  }
  return 0;
}

#ifdef LMSHM_FUZZ_STANDALONE
#include "standalone_main.hh"
#endif
