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
// So long a reply is waited for that nobody wants any more. After that its connection is closed,
// and those who share it begin anew.
constexpr std::chrono::milliseconds kCancelled(100);
// Whoever calls from time to time does so sooner than this.
constexpr std::chrono::milliseconds kAway(200);

bool IsCancelled(const CancelCheck* cancel) { return cancel != nullptr && cancel->Cancelled(); }

}  // namespace

RedisLane::~RedisLane() {
  // What is under way is left in the middle, and so are its connections.
  for (const std::unique_ptr<Track>& track : tracks_) {
    if (!track->rides.empty()) track->attempt.pipe->Break(ECONNABORTED);
    store_->client_.Conclude(&track->attempt);
  }
}

std::unique_ptr<RedisLane::Ride> RedisLane::RideOf(std::shared_ptr<Trip> trip,
                                                   const CancelCheck* cancel) {
  auto ride = std::make_unique<Ride>();
  trip->rides++;
  ride->trip = std::move(trip);
  ride->cancel = cancel;
  return ride;
}

bool RedisLane::Put(PutItem* items, size_t count, const void* who) {
  const auto trip = std::make_shared<Trip>();
  trip->who = who;
  std::vector<std::pair<Track*, std::unique_ptr<Ride>>> rides;
  for (size_t i = 0; i < count; i++) {
    Command command;
    // What cannot be put is refused once more, by a thread.
    if (!store_->FillPut(&items[i], &command, nullptr)) return false;
    Track* const track = TrackOf(command.key);
    if (track == nullptr) return false;
    auto found = std::find_if(rides.begin(), rides.end(),
                              [&](const auto& one) { return one.first == track; });
    if (found == rides.end()) {
      found = rides.emplace(rides.end(), track, RideOf(trip, items[i].options.cancel));
    }
    found->second->commands.push_back(std::move(command));
    found->second->puts.push_back(&items[i]);
  }
  for (auto& [track, ride] : rides) BeginOn(track, std::move(ride));
  return true;
}

bool RedisLane::Get(GetItem* item, const void* who) {
  const auto trip = std::make_shared<Trip>();
  trip->who = who;
  std::unique_ptr<Ride> ride = RideOf(trip, item->options.cancel);
  ride->get = item;
  ride->commands.resize(1);
  store_->FillGet(*item, &ride->commands.front());
  return Begin(std::move(ride));
}

bool RedisLane::Exists(ExistsItem* item, const void* who) {
  const auto trip = std::make_shared<Trip>();
  trip->who = who;
  std::unique_ptr<Ride> ride = RideOf(trip, item->cancel);
  ride->exists = item;
  ride->commands.resize(item->keys.size());
  for (size_t i = 0; i < item->keys.size(); i++) {
    store_->FillDigit("EXISTS", item->keys[i], &ride->commands[i]);
  }
  return Begin(std::move(ride));
}

// Where a key belongs to; null: there is no connection at hand.
RedisLane::Track* RedisLane::TrackOf(const std::string& key) {
  const Topology::Node node = store_->client_.topology().OfKey(key);
  if (node == nullptr) return nullptr;
  for (const std::unique_ptr<Track>& track : tracks_) {
    if (track->attempt.node == node && !node->IsOutdated(track->attempt.connection)) {
      return track.get();
    }
  }
  auto track = std::make_unique<Track>();
  if (!node->TakeIdle(&track->attempt.connection)) return nullptr;
  track->attempt.node = node;
  track->attempt.pipe =
      std::make_unique<Pipe>(&track->attempt.connection.stream, std::vector<Command*>());
  tracks_.push_back(std::move(track));
  return tracks_.back().get();
}

bool RedisLane::Begin(std::unique_ptr<Ride> ride) {
  Track* const track = TrackOf(ride->commands.front().key);
  if (track == nullptr) return false;
  // Keys of several nodes are asked for by a thread.
  for (size_t i = 1; i < ride->commands.size(); i++) {
    if (TrackOf(ride->commands[i].key) != track) return false;
  }
  BeginOn(track, std::move(ride));
  return true;
}

void RedisLane::BeginOn(Track* track, std::unique_ptr<Ride> ride) {
  const Clock::time_point now = Clock::now();
  for (const Command& command : ride->commands) {
    ride->bytes += command.body.size + command.space.size;
  }
  uint64_t bytes = ride->bytes;
  for (const std::unique_ptr<Ride>& before : track->rides) bytes += before->bytes;
  ride->begun = now;
  ride->end = now + store_->client_.Stall() + std::chrono::seconds(bytes / kSlowestBytesPerSecond);
  for (Command& command : ride->commands) track->attempt.pipe->Append(&command);
  track->rides.push_back(std::move(ride));
}

bool RedisLane::Go(std::vector<Over>* over) {
  bool more = false;
  Excuse(Clock::now());
  for (size_t i = 0; i < tracks_.size();) {
    Track* const track = tracks_[i].get();
    Pipe* const pipe = track->attempt.pipe.get();
    bool moved = false;
    if (!pipe->through() && pipe->error() == 0) (void)pipe->Go(&moved, &more, kTurn);
    if (moved) track->moved = Clock::now();
    TakeReplied(track, over);
    if (pipe->error() == 0 && !track->rides.empty()) {
      const int error = LookAtLimits(track);
      if (error != 0) pipe->Break(error);
    }
    if (pipe->error() != 0) GiveUp(track, over);
    if (track->rides.empty()) {
      Leave(i);
    } else {
      i++;
    }
  }
  return more;
}

void RedisLane::Leave(size_t at) {
  store_->client_.Conclude(&tracks_[at]->attempt);
  tracks_.erase(tracks_.begin() + static_cast<ptrdiff_t>(at));
}

void RedisLane::TakeReplied(Track* track, std::vector<Over>* over) {
  for (size_t left = track->attempt.pipe->DropReplied(); left > 0;) {
    Ride* const first = track->rides.front().get();
    const size_t step = std::min(left, first->commands.size() - first->replied);
    first->replied += step;
    left -= step;
    if (first->replied < first->commands.size()) return;
    Finish(*track, first, false, over);
    track->rides.pop_front();
  }
}

// The thread waits elsewhere while its client takes no answers. Then replies wait here, and what
// was not sent yet is not late either.
void RedisLane::Excuse(Clock::time_point now) {
  const Clock::time_point called = std::exchange(called_, now);
  if (now - called < kAway) return;
  for (const std::unique_ptr<Track>& track : tracks_) {
    track->moved = std::max(track->moved, now);
    for (const std::unique_ptr<Ride>& ride : track->rides) {
      const Clock::duration away = now - std::max(called, ride->begun);
      ride->begun += away;
      ride->end += away;
    }
  }
}

int RedisLane::LookAtLimits(Track* track) const {
  const Clock::time_point now = Clock::now();
  for (const std::unique_ptr<Ride>& ride : track->rides) {
    if (!IsCancelled(ride->cancel)) continue;
    if (ride->cancelled_since == Clock::time_point()) ride->cancelled_since = now;
    if (now - ride->cancelled_since >= kCancelled) return ECONNABORTED;
  }
  const Ride& first = *track->rides.front();
  const bool stuck = now - std::max(first.begun, track->moved) >= store_->client_.Stall();
  return stuck || now >= first.end ? ETIMEDOUT : 0;
}

// The connection is broken.
void RedisLane::GiveUp(Track* track, std::vector<Over>* over) {
  const Clock::time_point now = Clock::now();
  const bool late = track->attempt.pipe->error() == ETIMEDOUT;
  for (const std::unique_ptr<Ride>& ride : track->rides) {
    // Who has just come has not waited yet.
    const bool excused =
        late && now - ride->begun < store_->client_.Stall() / 2 && !IsCancelled(ride->cancel);
    Finish(*track, ride.get(), excused, over);
  }
  store_->client_.Conclude(&track->attempt);
  track->rides.clear();
}

void RedisLane::Finish(const Track& track, Ride* ride, bool excused, std::vector<Over>* over) {
  using Next = RedisClient::Next;
  const bool cancelled = IsCancelled(ride->cancel);
  bool again = false;
  for (size_t i = 0; i < ride->commands.size(); i++) {
    Command& command = ride->commands[i];
    const bool judged = command.outcome == Command::Outcome::kReplied || !excused;
    const bool ends =
        judged && store_->client_.Judge(track.attempt, &command, cancelled) == Next::kEnd;
    again |= !ends;
    if (ride->puts.empty()) continue;
    // An object is stored once, and one that was there is left, whatever becomes of the others.
    if (ends) {
      store_->FinishPut(command, command, ride->puts[i]);
    } else {
      ride->puts[i]->perhaps = command.MayHaveHappened();
    }
  }
  // What all of a trip comes to is known when the last of its rides is over.
  Trip* const trip = ride->trip.get();
  trip->again |= again;
  if (++trip->over == trip->rides) over->push_back({trip->who, trip->again});
  if (again) return;
  if (ride->get != nullptr) store_->FinishGet(&ride->commands.front(), ride->get);
  if (ride->exists != nullptr) {
    ride->exists->done = true;
    ride->exists->status =
        store_->FinishDigits("EXISTS", ride->exists->keys, ride->commands, &ride->exists->yes);
  }
}

bool RedisLane::Withdraw(const void* who) {
  const auto is_its = [&](const std::unique_ptr<Ride>& ride) { return ride->trip->who == who; };
  size_t waiting = 0;
  const Trip* trip = nullptr;
  for (const std::unique_ptr<Track>& track : tracks_) {
    const auto found = std::find_if(track->rides.begin(), track->rides.end(), is_its);
    if (found == track->rides.end()) continue;
    trip = (*found)->trip.get();
    waiting += (*found)->commands.front().begun ? 0 : 1;  // they are sent in order
  }
  if (trip == nullptr || waiting < trip->rides) return false;
  for (size_t i = 0; i < tracks_.size();) {
    Track* const track = tracks_[i].get();
    const auto found = std::find_if(track->rides.begin(), track->rides.end(), is_its);
    if (found != track->rides.end()) {
      for (const Command& command : (*found)->commands) track->attempt.pipe->Withdraw(&command);
      track->rides.erase(found);
    }
    if (track->rides.empty()) {
      Leave(i);
    } else {
      i++;
    }
  }
  return true;
}

void RedisLane::AddPolls(std::vector<pollfd>* polls) const {
  for (const std::unique_ptr<Track>& track : tracks_) {
    if (track->rides.empty()) continue;
    polls->push_back({track->attempt.pipe->fd(), track->attempt.pipe->events(), 0});
  }
}

}  // namespace lmshm
