// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_listing.h"

#include <algorithm>
#include <cerrno>

#include "worker/base/percent.h"
#include "worker/s3/s3_names.h"
#include "worker/s3/signature.h"
#include "worker/s3/xml.h"

namespace lmshm {

namespace {

// S3 never gives more at once. Fewer than the second are not worth a request.
constexpr size_t kMostNames = 1000;
constexpr size_t kFewestNames = 100;

}  // namespace

bool ParseS3ListPage(std::string_view document, S3ListPage* page) {
  *page = S3ListPage();
  XmlElement root;
  if (!ParseXml(document, &root) || root.name != "ListBucketResult") return false;
  for (const XmlElement& element : root.children) {
    if (element.name != "Contents") continue;
    const XmlElement* const name = element.Child("Key");
    if (name == nullptr) return false;
    page->names.push_back(name->text);
  }
  const std::string& truncated = root.TextOf("IsTruncated");
  if (truncated == "true") page->next = root.TextOf("NextContinuationToken");
  return truncated == "false" || !page->next.empty();
}

Status S3Listing::Fetch(size_t most, const CancelCheck* cancel) {
  S3Request request;
  request.method = "GET";
  if (!next_.empty()) request.query = "continuation-token=" + UriEncode(next_, false) + "&";
  request.query += "list-type=2&max-keys=" + std::to_string(most) +
                   "&prefix=" + UriEncode(ObjectNamesOf(client_->options(), prefix_), false);
  S3Answer answer;
  const Status status = client_->Perform(request, cancel, nullptr, &answer);
  if (!status.ok()) return status;
  S3ListPage page;
  if (!ParseS3ListPage(answer.text, &page)) {
    return Status::Error(EPROTO, "the server's list of the bucket is none that S3 would give");
  }
  if (!page.next.empty() && page.next == next_) {
    return Status::Error(EPROTO, "the server's list of the bucket goes in a circle");
  }
  for (const std::string& name : page.names) {
    std::string key;
    if (KeyOf(client_->options(), name, &key)) keys_.push_back(std::move(key));
  }
  next_ = std::move(page.next);
  fetched_all_ = next_.empty();
  return status;
}

Status S3Listing::Read(const PageLimits& limits, const CancelCheck* cancel,
                       std::vector<std::string>* keys, bool* ended) {
  *ended = false;
  if (keys_.empty() && !fetched_all_) {
    const Status status = Fetch(std::clamp(limits.keys, kFewestNames, kMostNames), cancel);
    if (!status.ok()) {
      return Status::Error(status.number(), "list: " + status.text());
    }
  }
  size_t bytes = 0;
  for (size_t count = 0; count < limits.keys && !keys_.empty(); count++) {
    bytes += PercentSize(keys_.front()) + 1;
    if (count > 0 && bytes > limits.bytes) break;
    keys->push_back(std::move(keys_.front()));
    keys_.pop_front();
  }
  *ended = keys_.empty() && fetched_all_;
  return Status::OK();
}

}  // namespace lmshm
