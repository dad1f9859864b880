// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/redis_listing.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
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
// Of a slot that has gone to another node each time.
constexpr int kReads = 4;

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
      behind_(std::move(behind)),
      left_(client->topology().Owners().size(), kReads) {}

// The next master: one that has slots that are not read.
Status RedisListing::Choose(const CancelCheck* cancel) {
  Topology& topology = client_->topology();
  Status status = topology.Refresh(client_->timeout(), cancel);
  const std::vector<Topology::Node> owners = topology.Owners();
  Part part;
  for (size_t slot = 0; slot < owners.size(); slot++) {
    if (left_[slot] == 0) continue;
    if (owners[slot] == nullptr) {
      if (status.ok()) {
        status = Status::Error(
            EAGAIN, "nobody in the cluster serves slot " + std::to_string(slot) + " now");
      }
      return Status::Error(status.number(), "list: " + status.text());
    }
    if (part.node == nullptr) part.node = owners[slot];
    if (part.node == owners[slot]) part.slots.push_back(slot);
  }
  all_read_ = part.node == nullptr;
  part_ = std::move(part);
  return Status::OK();
}

// The master is read. What it does not have any more may have gone before its turn.
void RedisListing::Finish(const CancelCheck* cancel) {
  (void)client_->topology().Refresh(client_->timeout(), cancel);
  const std::vector<Topology::Node> owners = client_->topology().Owners();
  for (const size_t slot : part_.slots) {
    left_[slot] = owners[slot] == part_.node ? 0 : left_[slot] - 1;
  }
  part_ = Part();
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

// One SCAN.
Status RedisListing::Scan(const CancelCheck* cancel) {
  if (part_.node == nullptr) {
    Status status = Choose(cancel);
    if (!status.ok() || all_read_) return status;
  }
  Command command;
  AppendCommand(
      {"SCAN", part_.cursor, "MATCH", EscapeGlob(before_ + prefix_) + "*" + EscapeGlob(behind_),
       "COUNT", kCount, "TYPE", "string"},
      &command.head);
  client_->RunAt(part_.node, &command, cancel);
  if (!command.status.ok()) {
    (void)client_->topology().Refresh(client_->timeout(), cancel);
    // Has another taken its place?
    const std::vector<Topology::Node> owners = client_->topology().Owners();
    if (std::find(owners.begin(), owners.end(), part_.node) == owners.end()) part_ = Part();
    return Status::Error(command.status.number(), "list: " + command.status.text());
  }
  const std::vector<Reply>& items = command.reply.items;
  if (items.size() != 2 || items[0].text.empty()) {
    return Status::Error(EPROTO, "list: " + part_.node->name() + ": that is no answer to SCAN");
  }
  Keep(items[1].items);
  part_.cursor = items[0].text;
  if (part_.cursor == "0") Finish(cancel);
  return Status::OK();
}

Status RedisListing::Read(const PageLimits& limits, const CancelCheck* cancel,
                          std::vector<std::string>* keys, bool* ended) {
  // A server that is slow gets as much time for a page as for anything else.
  const auto end = std::chrono::steady_clock::now() + client_->timeout();
  for (int i = 0; i < kScans && got_.size() < limits.keys && !all_read_; i++) {
    if (i > 0 && std::chrono::steady_clock::now() >= end) break;
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
  *ended = got_.empty() && all_read_;
  return Status::OK();
}

}  // namespace lmshm
