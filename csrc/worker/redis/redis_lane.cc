// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/redis_lane.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "worker/remote/wait_limit.h"

namespace lmshm {

namespace {

// What is moved in one go, before answers are sent and the client is listened to.
constexpr uint64_t kTurn = 512 * 1024;
// So long a server may be silent that owes a reply which nobody wants any more. After that its
// connection is closed, and those who share it begin anew.
constexpr std::chrono::milliseconds kCancelled(100);
// Whoever calls from time to time does so sooner than this.
constexpr std::chrono::milliseconds kAway(200);

bool IsCancelled(const CancelCheck* cancel) { return cancel != nullptr && cancel->Cancelled(); }

}  // namespace

RedisLane::~RedisLane() {
  // What is under way is left in the middle, and so are its connections.
  for (const std::unique_ptr<Channel>& channel : channels_) {
    if (!channel->parts.empty()) channel->attempt.pipe->Break(ECONNABORTED);
    store_->client_.Conclude(&channel->attempt);
  }
}

std::unique_ptr<RedisLane::Part> RedisLane::PartOf(std::shared_ptr<Request> request,
                                                   const CancelCheck* cancel) {
  auto part = std::make_unique<Part>();
  request->parts++;
  part->request = std::move(request);
  part->cancel = cancel;
  return part;
}

bool RedisLane::Put(PutItem* items, size_t count, const void* who) {
  const auto request = std::make_shared<Request>();
  request->who = who;
  std::vector<std::pair<Channel*, std::unique_ptr<Part>>> parts;
  for (size_t i = 0; i < count; i++) {
    Command command;
    // What cannot be put is refused once more, by a thread.
    if (!store_->FillPut(&items[i], &command, nullptr)) return false;
    Channel* const channel = ChannelOf(command.key);
    if (channel == nullptr) return false;
    auto found = std::find_if(parts.begin(), parts.end(),
                              [&](const auto& one) { return one.first == channel; });
    if (found == parts.end()) {
      found = parts.emplace(parts.end(), channel, PartOf(request, items[i].options.cancel));
    }
    found->second->commands.push_back(std::move(command));
    found->second->puts.push_back(&items[i]);
  }
  for (auto& [channel, part] : parts) BeginOn(channel, std::move(part));
  return true;
}

bool RedisLane::Get(GetItem* item, const void* who) {
  const auto request = std::make_shared<Request>();
  request->who = who;
  std::unique_ptr<Part> part = PartOf(request, item->options.cancel);
  part->get = item;
  part->commands.resize(1);
  store_->FillGet(*item, &part->commands.front());
  return Begin(std::move(part));
}

bool RedisLane::Exists(ExistsItem* item, const void* who) {
  const auto request = std::make_shared<Request>();
  request->who = who;
  std::unique_ptr<Part> part = PartOf(request, item->cancel);
  part->exists = item;
  part->commands.resize(item->keys.size());
  for (size_t i = 0; i < item->keys.size(); i++) {
    store_->FillDigit("EXISTS", item->keys[i], &part->commands[i]);
  }
  return Begin(std::move(part));
}

// Where a key belongs to; null: there is no connection at hand.
RedisLane::Channel* RedisLane::ChannelOf(const std::string& key) {
  const Topology::Node node = store_->client_.topology().OfKey(key);
  if (node == nullptr) return nullptr;
  for (const std::unique_ptr<Channel>& channel : channels_) {
    if (channel->attempt.node == node && !node->IsOutdated(channel->attempt.connection)) {
      return channel.get();
    }
  }
  auto channel = std::make_unique<Channel>();
  if (!node->TakeIdle(&channel->attempt.connection)) return nullptr;
  channel->attempt.node = node;
  channel->attempt.pipe =
      std::make_unique<Pipe>(&channel->attempt.connection.stream, std::vector<Command*>());
  channels_.push_back(std::move(channel));
  return channels_.back().get();
}

bool RedisLane::Begin(std::unique_ptr<Part> part) {
  Channel* const channel = ChannelOf(part->commands.front().key);
  if (channel == nullptr) return false;
  // Keys of several nodes are asked for by a thread.
  for (size_t i = 1; i < part->commands.size(); i++) {
    if (ChannelOf(part->commands[i].key) != channel) return false;
  }
  BeginOn(channel, std::move(part));
  return true;
}

void RedisLane::BeginOn(Channel* channel, std::unique_ptr<Part> part) {
  const Clock::time_point now = Clock::now();
  for (const Command& command : part->commands) {
    part->bytes += command.body.size + command.space.size;
  }
  uint64_t bytes = part->bytes;
  for (const std::unique_ptr<Part>& before : channel->parts) bytes += before->bytes;
  part->begun = now;
  part->end = now + store_->client_.Stall() + std::chrono::seconds(bytes / kSlowestBytesPerSecond);
  for (Command& command : part->commands) channel->attempt.pipe->Append(&command);
  channel->parts.push_back(std::move(part));
}

bool RedisLane::Go(std::vector<Completion>* completions) {
  bool more = false;
  Excuse(Clock::now());
  for (size_t i = 0; i < channels_.size();) {
    Channel* const channel = channels_[i].get();
    Pipe* const pipe = channel->attempt.pipe.get();
    bool moved = false;
    if (!pipe->through() && pipe->error() == 0) (void)pipe->Go(&moved, &more, kTurn);
    if (moved) channel->moved = Clock::now();
    TakeReplied(channel, completions);
    if (pipe->error() == 0 && !channel->parts.empty()) {
      const int error = LookAtLimits(channel);
      if (error != 0) pipe->Break(error);
    }
    if (pipe->error() != 0) GiveUp(channel, completions);
    if (channel->parts.empty()) {
      Release(i);
    } else {
      i++;
    }
  }
  return more;
}

void RedisLane::Release(size_t at) {
  store_->client_.Conclude(&channels_[at]->attempt);
  channels_.erase(channels_.begin() + static_cast<ptrdiff_t>(at));
}

void RedisLane::TakeReplied(Channel* channel, std::vector<Completion>* completions) {
  for (size_t left = channel->attempt.pipe->DropReplied(); left > 0;) {
    Part* const first = channel->parts.front().get();
    const size_t step = std::min(left, first->commands.size() - first->replied);
    first->replied += step;
    left -= step;
    if (first->replied < first->commands.size()) return;
    Finish(*channel, first, false, completions);
    channel->parts.pop_front();
  }
}

// The thread waits elsewhere while its client takes no answers. Then replies wait here, and what
// was not sent yet is not late either.
void RedisLane::Excuse(Clock::time_point now) {
  const Clock::time_point called = std::exchange(called_, now);
  if (now - called < kAway) return;
  for (const std::unique_ptr<Channel>& channel : channels_) {
    channel->moved = std::max(channel->moved, now);
    for (const std::unique_ptr<Part>& part : channel->parts) {
      const Clock::duration away = now - std::max(called, part->begun);
      part->begun += away;
      part->end += away;
    }
  }
}

int RedisLane::LookAtLimits(Channel* channel) const {
  const Clock::time_point now = Clock::now();
  for (const std::unique_ptr<Part>& part : channel->parts) {
    if (!IsCancelled(part->cancel)) continue;
    if (part->cancelled_since == Clock::time_point()) part->cancelled_since = now;
    if (now - std::max(part->cancelled_since, channel->moved) >= kCancelled) return ECONNABORTED;
  }
  const Part& first = *channel->parts.front();
  const bool stuck = now - std::max(first.begun, channel->moved) >= store_->client_.Stall();
  return stuck || now >= first.end ? ETIMEDOUT : 0;
}

// The connection is broken.
void RedisLane::GiveUp(Channel* channel, std::vector<Completion>* completions) {
  const Clock::time_point now = Clock::now();
  const bool late = channel->attempt.pipe->error() == ETIMEDOUT;
  for (const std::unique_ptr<Part>& part : channel->parts) {
    // Who has just come has not waited yet.
    const bool excused =
        late && now - part->begun < store_->client_.Stall() / 2 && !IsCancelled(part->cancel);
    Finish(*channel, part.get(), excused, completions);
  }
  store_->client_.Conclude(&channel->attempt);
  channel->parts.clear();
}

void RedisLane::Finish(const Channel& channel, Part* part, bool excused,
                       std::vector<Completion>* completions) {
  using Next = RedisClient::Next;
  const bool cancelled = IsCancelled(part->cancel);
  bool again = false;
  for (size_t i = 0; i < part->commands.size(); i++) {
    Command& command = part->commands[i];
    const bool judged = command.outcome == Command::Outcome::kReplied || !excused;
    const bool ends =
        judged && store_->client_.Judge(channel.attempt, &command, cancelled) == Next::kEnd;
    again |= !ends;
    if (part->puts.empty()) continue;
    // An object is stored once, and one that was there is left, whatever becomes of the others.
    if (ends) {
      store_->FinishPut(command, command, part->puts[i]);
    } else {
      part->puts[i]->maybe_stored = command.MayHaveHappened();
    }
  }
  // What all of a request comes to is known when the last of its parts is over.
  Request* const request = part->request.get();
  request->again |= again;
  if (++request->ended == request->parts) completions->push_back({request->who, request->again});
  if (again) return;
  if (part->get != nullptr) store_->FinishGet(&part->commands.front(), part->get);
  if (part->exists != nullptr) {
    part->exists->done = true;
    part->exists->status =
        store_->FinishDigits("EXISTS", part->exists->keys, part->commands, &part->exists->yes);
  }
}

bool RedisLane::Withdraw(const void* who) {
  const auto is_its = [&](const std::unique_ptr<Part>& part) { return part->request->who == who; };
  size_t waiting = 0;
  const Request* request = nullptr;
  for (const std::unique_ptr<Channel>& channel : channels_) {
    const auto found = std::find_if(channel->parts.begin(), channel->parts.end(), is_its);
    if (found == channel->parts.end()) continue;
    request = (*found)->request.get();
    waiting += (*found)->commands.front().begun ? 0 : 1;  // they are sent in order
  }
  if (request == nullptr || waiting < request->parts) return false;
  for (size_t i = 0; i < channels_.size();) {
    Channel* const channel = channels_[i].get();
    const auto found = std::find_if(channel->parts.begin(), channel->parts.end(), is_its);
    if (found != channel->parts.end()) {
      for (const Command& command : (*found)->commands) channel->attempt.pipe->Withdraw(&command);
      channel->parts.erase(found);
    }
    if (channel->parts.empty()) {
      Release(i);
    } else {
      i++;
    }
  }
  return true;
}

void RedisLane::AddPolls(std::vector<pollfd>* polls) const {
  for (const std::unique_ptr<Channel>& channel : channels_) {
    if (channel->parts.empty()) continue;
    polls->push_back({channel->attempt.pipe->fd(), channel->attempt.pipe->events(), 0});
  }
}

}  // namespace lmshm
