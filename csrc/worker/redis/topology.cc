// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/topology.h"

#include <algorithm>
#include <cerrno>

#include "worker/redis/errors.h"
#include "worker/redis/pipe.h"

namespace lmshm {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Not more often than that, however many requests want it.
constexpr milliseconds kPause(100);
// How long one node may take to answer before the next is asked.
constexpr milliseconds kAnswer(2000);

struct SlotRange {
  size_t first = 0;
  size_t last = 0;
  Endpoint master;
  std::vector<Endpoint> replicas;
};

// One node of CLUSTER SLOTS: [host, port, id, ...]. A host that is not said is that of the server
// that answered. False: nobody can connect there.
bool ParseNode(const Reply& reply, const Endpoint& from, Endpoint* endpoint) {
  if (reply.items.size() < 2 || reply.items[1].type != ':') return false;
  const int64_t port = reply.items[1].number;
  if (port <= 0 || port > UINT16_MAX || reply.items[0].text == "?") return false;
  *endpoint = Endpoint();
  endpoint->host = reply.items[0].text.empty() ? from.host : reply.items[0].text;
  endpoint->port = static_cast<uint16_t>(port);
  return !endpoint->host.empty();
}

bool ParseRange(const Reply& reply, const Endpoint& from, SlotRange* range) {
  const std::vector<Reply>& items = reply.items;
  if (items.size() < 3 || items[0].type != ':' || items[1].type != ':') return false;
  if (items[0].number < 0 || items[1].number < items[0].number ||
      items[1].number >= static_cast<int64_t>(kSlots)) {
    return false;
  }
  range->first = static_cast<size_t>(items[0].number);
  range->last = static_cast<size_t>(items[1].number);
  if (!ParseNode(items[2], from, &range->master)) return false;
  for (size_t i = 3; i < items.size(); i++) {
    Endpoint replica;
    if (ParseNode(items[i], from, &replica)) range->replicas.push_back(std::move(replica));
  }
  return true;
}

}  // namespace

Topology::Topology(const std::vector<Endpoint>& seeds, bool cluster, const RedisLogin& login,
                   RedisCounts* counts)
    : cluster_(cluster), login_(login), counts_(counts) {
  MutexLock lock(&mutex_);
  for (const Endpoint& seed : seeds) seeds_.push_back(AtLocked(seed));
  slots_.resize(cluster ? kSlots : 1);
  if (!cluster) slots_[0] = seeds_[0];
}

Topology::Node Topology::AtLocked(const Endpoint& endpoint) {
  Node& node = nodes_[endpoint.ToString()];
  if (node == nullptr) node = std::make_shared<RedisNode>(endpoint, login_, counts_);
  return node;
}

Topology::Node Topology::At(const Endpoint& endpoint) {
  MutexLock lock(&mutex_);
  return AtLocked(endpoint);
}

Topology::Node Topology::OfSlot(uint16_t slot) const {
  MutexLock lock(&mutex_);
  return slots_[slot];
}

Topology::Node Topology::Any() const {
  MutexLock lock(&mutex_);
  for (const Node& node : slots_) {
    if (node != nullptr) return node;
  }
  return nullptr;
}

std::vector<Topology::Node> Topology::Owners() const {
  MutexLock lock(&mutex_);
  return slots_;
}

std::vector<std::pair<uint16_t, Topology::Node>> Topology::Masters() const {
  std::vector<std::pair<uint16_t, Node>> masters;
  MutexLock lock(&mutex_);
  for (size_t slot = 0; slot < slots_.size(); slot++) {
    const Node& node = slots_[slot];
    if (node == nullptr) continue;
    const auto same = [&](const auto& one) { return one.second == node; };
    if (std::none_of(masters.rbegin(), masters.rend(), same)) {
      masters.emplace_back(static_cast<uint16_t>(slot), node);
    }
  }
  return masters;
}

size_t Topology::size() const {
  MutexLock lock(&mutex_);
  return nodes_.size();
}

std::vector<Endpoint> Topology::endpoints() const {
  std::vector<Endpoint> all;
  MutexLock lock(&mutex_);
  for (const auto& [name, node] : nodes_) all.push_back(node->endpoint());
  return all;
}

Topology::Node Topology::Moved(uint16_t slot, Endpoint endpoint, const RedisNode& from) {
  if (endpoint.host.empty()) endpoint.host = from.endpoint().host;
  MutexLock lock(&mutex_);
  Node node = AtLocked(endpoint);
  slots_[slot] = node;
  return node;
}

Status Topology::Ask(RedisNode* node, WaitLimit* limit, Reply* reply) const {
  RedisConnection connection;
  Status status = node->Take(limit, &connection);
  if (!status.ok()) return status;
  Command command;
  AppendCommand({"CLUSTER", "SLOTS"}, &command.head);
  Pipe pipe(&connection.stream, {&command});
  RunPipes({&pipe}, limit);
  if (!pipe.in_step() || command.outcome == Command::Outcome::kNone) {
    const int error = pipe.error() == 0 ? ECONNRESET : pipe.error();
    return Status::System(error, node->name() + ": CLUSTER SLOTS");
  }
  node->GiveBack(std::move(connection));
  if (command.reply.IsError()) return ServerError(node->name(), command.reply);
  *reply = std::move(command.reply);
  return Status::OK();
}

// What was known before keeps its connections.
Topology::Node Topology::Keep(const std::map<std::string, Node>& old, const Endpoint& endpoint) {
  const auto at = old.find(endpoint.ToString());
  if (at != old.end()) nodes_[at->first] = at->second;
  return AtLocked(endpoint);
}

Status Topology::Adopt(const Reply& reply, const RedisNode& from) {
  std::vector<SlotRange> ranges;
  for (const Reply& item : reply.items) {
    SlotRange range;
    if (ParseRange(item, from.endpoint(), &range)) ranges.push_back(std::move(range));
  }
  if (ranges.empty()) {
    return Status::Error(EAGAIN, from.name() +
                                     ": it knows of nobody who serves any slots (was "
                                     "the cluster created?)");
  }
  std::map<std::string, Node> old;  // closed when the lock is not held any more
  MutexLock lock(&mutex_);
  old.swap(nodes_);
  for (const Node& seed : seeds_) nodes_[seed->name()] = seed;
  std::vector<Node> slots(kSlots);
  for (const SlotRange& range : ranges) {
    const Node master = Keep(old, range.master);
    std::fill(slots.begin() + static_cast<ptrdiff_t>(range.first),
              slots.begin() + static_cast<ptrdiff_t>(range.last + 1), master);
    for (const Endpoint& replica : range.replicas) (void)Keep(old, replica);
  }
  slots_ = std::move(slots);
  return Status::OK();
}

Status Topology::Refresh(milliseconds most, const CancelCheck* cancel) {
  if (!cluster_) return Status::OK();
  std::vector<Node> nodes;
  {
    MutexLock lock(&mutex_);
    if (asking_ || Clock::now() - asked_ < kPause) return Status::OK();
    asking_ = true;
    for (const auto& [name, node] : nodes_) nodes.push_back(node);
    std::rotate(nodes.begin(), nodes.begin() + static_cast<ptrdiff_t>(turn_ % nodes.size()),
                nodes.end());
  }
  counts_->refreshes.fetch_add(1, std::memory_order_relaxed);
  const Clock::time_point end = Clock::now() + most;
  Status status = Status::System(ETIMEDOUT, "CLUSTER SLOTS");
  size_t asked = 0;
  for (const Node& node : nodes) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left.count() <= 0) break;
    asked++;
    WaitLimit limit(std::min(left, kAnswer), cancel);
    Reply reply;
    status = Ask(node.get(), &limit, &reply);
    if (status.ok()) status = Adopt(reply, *node);
    if (status.ok() || status.number() == ECANCELED) break;
  }
  MutexLock lock(&mutex_);
  asking_ = false;
  turn_ += asked;
  asked_ = Clock::now();
  return status;
}

}  // namespace lmshm
