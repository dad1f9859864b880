// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/node.h"

#include <cerrno>
#include <utility>

#include "worker/redis/errors.h"
#include "worker/redis/pipe.h"

namespace lmshm {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::chrono::seconds kIdle(60);
constexpr milliseconds kFirstPause(25);
constexpr milliseconds kLongestPause(1000);

}  // namespace

RedisConnection::RedisConnection(RedisConnection&& other) noexcept { *this = std::move(other); }

RedisConnection& RedisConnection::operator=(RedisConnection&& other) noexcept {
  if (this != &other) {
    Close();
    stream = std::move(other.stream);
    reused = other.reused;
    era = other.era;
    counts = std::exchange(other.counts, nullptr);
    idle_since = other.idle_since;
  }
  return *this;
}

void RedisConnection::Close() {
  stream.Close();
  if (counts != nullptr) counts->connections.fetch_sub(1, std::memory_order_relaxed);
  counts = nullptr;
}

RedisNode::RedisNode(Endpoint endpoint, const RedisLogin& login, RedisCounts* counts)
    : endpoint_(std::move(endpoint)),
      name_(endpoint_.ToString()),
      login_(login),
      counts_(counts),
      pause_(kFirstPause, kLongestPause) {}

bool RedisNode::TakeIdle(RedisConnection* connection) {
  for (;;) {
    RedisConnection idle;
    {
      MutexLock lock(&mutex_);
      if (idle_.empty()) return false;
      idle = std::move(idle_.back());
      idle_.pop_back();
    }
    if (!idle.stream.Quiet()) continue;
    *connection = std::move(idle);
    connection->reused = true;
    return true;
  }
}

Status RedisNode::Take(WaitLimit* limit, RedisConnection* connection) {
  if (TakeIdle(connection)) return Status::OK();
  {
    MutexLock lock(&mutex_);
    if (Clock::now() < next_try_) return down_;
  }
  RedisConnection fresh;
  Status status = Connect(limit, &fresh);
  MutexLock lock(&mutex_);
  if (status.ok()) {
    pause_.Reset();
    next_try_ = Clock::time_point();
    *connection = std::move(fresh);
  } else if (status.number() != ECANCELED) {
    counts_->failures.fetch_add(1, std::memory_order_relaxed);
    down_ = status;
    next_try_ = Clock::now() + pause_.Next();
  }
  return status;
}

void RedisNode::GiveBack(RedisConnection connection) {
  const Clock::time_point now = Clock::now();
  connection.idle_since = now;
  std::deque<RedisConnection> old;  // closed when the lock is not held any more
  MutexLock lock(&mutex_);
  if (IsOutdated(connection)) return;
  idle_.push_back(std::move(connection));
  while (now - idle_.front().idle_since > kIdle) {
    old.push_back(std::move(idle_.front()));
    idle_.pop_front();
  }
}

void RedisNode::SetOutdated(const RedisConnection& connection) {
  std::deque<RedisConnection> old;
  MutexLock lock(&mutex_);
  if (IsOutdated(connection)) return;
  era_.fetch_add(1, std::memory_order_relaxed);
  old.swap(idle_);
}

Status RedisNode::Connect(WaitLimit* limit, RedisConnection* connection) {
  const uint64_t era = era_.load(std::memory_order_relaxed);
  std::vector<SocketAddress> addresses;
  Status status = addresses_.Find(endpoint_, limit, &addresses);
  if (!status.ok()) return status;
  Stream stream;
  status = Stream::Connect(endpoint_, addresses, limit, &stream);
  if (!status.ok()) return status;
  status = LogIn(limit, &stream);
  if (!status.ok()) return status;
  connection->stream = std::move(stream);
  connection->counts = counts_;
  connection->reused = false;
  connection->era = era;
  counts_->connections.fetch_add(1, std::memory_order_relaxed);
  counts_->connects.fetch_add(1, std::memory_order_relaxed);
  return Status::OK();
}

Status RedisNode::LogIn(WaitLimit* limit, Stream* stream) const {
  Command auth;
  Command select;
  std::vector<Command*> commands;
  if (!login_.password.empty()) {
    if (login_.user.empty()) {
      AppendCommand({"AUTH", login_.password}, &auth.head);
    } else {
      AppendCommand({"AUTH", login_.user, login_.password}, &auth.head);
    }
    commands.push_back(&auth);
  }
  if (login_.db != 0) {
    AppendCommand({"SELECT", std::to_string(login_.db)}, &select.head);
    commands.push_back(&select);
  }
  if (commands.empty()) return Status::OK();
  Pipe pipe(stream, commands);
  RunPipes({&pipe}, limit);
  for (const Command* const command : commands) {
    if (command->outcome == Command::Outcome::kNone) {
      const std::string action = name_ + ": log in";
      if (pipe.error() == EPROTO) return Status::Error(EPROTO, action + ": " + pipe.why());
      return Status::System(pipe.error() == 0 ? ECONNRESET : pipe.error(), action);
    }
    if (!command->reply.IsError()) continue;
    // A server that does not know AUTH repeats what it was given, or the beginning of that.
    Reply said = command->reply;
    for (const std::string& secret : {std::string(", with args"), login_.password}) {
      const size_t at = command == &auth ? said.text.find(secret) : std::string::npos;
      if (at != std::string::npos) said.text.resize(at);
    }
    return ServerError(name_, said);
  }
  return Status::OK();
}

}  // namespace lmshm
