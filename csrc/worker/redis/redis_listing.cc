// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/redis_listing.h"

#include <algorithm>
#include <cerrno>
#include <unordered_set>
#include <utility>

#include "worker/base/percent.h"
#include "worker/redis/errors.h"
#include "worker/storage/object_key.h"

namespace lmshm {

namespace {

// What one SCAN looks at; it blocks the server for well below a millisecond.
constexpr std::string_view kCount = "1000";
// SCANs that find nothing, before a page is given back as it is.
constexpr int kScans = 64;

}  // namespace

std::string EscapeGlob(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("*?[]^\\").find(c) != std::string_view::npos) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

RedisListing::RedisListing(RedisClient* client, std::string before, std::string prefix,
                           std::string behind)
    : client_(client),
      before_(std::move(before)),
      prefix_(std::move(prefix)),
      behind_(std::move(behind)) {
  for (auto& [slot, node] : client->topology().Masters()) {
    Part part;
    part.slot = slot;
    part.node = std::move(node);
    parts_.push_back(std::move(part));
  }
}

// What is no key of ours is left out.
void RedisListing::Keep(const std::vector<Reply>& names) {
  for (const Reply& name : names) {
    std::string_view key = name.text;
    if (key.size() < before_.size() + prefix_.size() + behind_.size()) continue;
    if (key.substr(0, before_.size()) != before_) continue;
    key = key.substr(before_.size());
    if (key.substr(0, prefix_.size()) != prefix_) continue;
    if (key.substr(key.size() - behind_.size()) != behind_) continue;
    key = key.substr(0, key.size() - behind_.size());
    if (CheckKey(key).ok()) got_.emplace_back(key);
  }
}

// One SCAN of the first part.
Status RedisListing::Scan(const CancelCheck* cancel) {
  Part& part = parts_.front();
  const Topology::Node now = client_->topology().OfSlot(part.slot);
  if (now != nullptr && now != part.node) {
    part.node = now;
    part.cursor = "0";
  }
  Command command;
  AppendCommand(
      {"SCAN", part.cursor, "MATCH", EscapeGlob(before_ + prefix_) + "*" + EscapeGlob(behind_),
       "COUNT", kCount, "TYPE", "string"},
      &command.head);
  client_->RunAt(part.node, &command, cancel);
  if (!command.status.ok()) {
    (void)client_->topology().Refresh(client_->timeout(), cancel);
    return Status::Error(command.status.number(), "list: " + command.status.text());
  }
  const std::vector<Reply>& items = command.reply.items;
  if (items.size() != 2 || items[0].text.empty()) {
    return Status::Error(EPROTO, "list: " + part.node->name() + ": that is no answer to SCAN");
  }
  Keep(items[1].items);
  part.cursor = items[0].text;
  if (part.cursor == "0") parts_.pop_front();
  return Status::OK();
}

Status RedisListing::Read(const PageLimits& limits, const CancelCheck* cancel,
                          std::vector<std::string>* keys, bool* ended) {
  for (int i = 0; i < kScans && got_.size() < limits.keys && !parts_.empty(); i++) {
    Status status = Scan(cancel);
    if (!status.ok()) return status;  // what was found is kept for the next call
  }
  std::unordered_set<std::string_view> page;
  size_t bytes = 0;
  size_t taken = 0;
  for (; taken < got_.size() && page.size() < limits.keys; taken++) {
    if (page.count(got_[taken]) > 0) continue;
    const size_t size = PercentSize(got_[taken]) + 1;
    if (bytes + size > limits.bytes) break;
    bytes += size;
    page.insert(got_[taken]);
    keys->push_back(got_[taken]);
  }
  got_.erase(got_.begin(), got_.begin() + static_cast<ptrdiff_t>(taken));
  *ended = got_.empty() && parts_.empty();
  return Status::OK();
}

}  // namespace lmshm
