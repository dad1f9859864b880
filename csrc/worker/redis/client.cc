// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/client.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "worker/redis/errors.h"
#include "worker/remote/backoff.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

// Once a node of a cluster has been silent for so long, others are asked who has its slots now.
constexpr milliseconds kLeastStall(1000);
// Redirections and dead connections that are followed without a pause.
constexpr int kAtOnce = 5;
// How long a node may take at least until it lets us in, when those before it took all the time.
constexpr milliseconds kLeastTake(250);
// Attempts to reach a server that is alone and breaks off.
constexpr int kTries = 3;

bool IsGone(SharedBytes memory) {
  uint32_t ignored = 0;
  return memory.size > 0 && SharedCrc32c(memory, &ignored) != 0;
}

}  // namespace

// What one node is asked in one attempt.
struct RedisClient::Group : Attempt {
  bool asking = false;
  std::vector<Command*> commands;
};

RedisClient::RedisClient(RedisClientOptions options)
    : options_(std::move(options)),
      topology_(options_.seeds, options_.cluster, options_.login, &counts_) {}

milliseconds RedisClient::Stall() const {
  if (!options_.cluster) return options_.timeout;
  return std::min(options_.timeout, std::max(kLeastStall, options_.timeout / 3));
}

Status RedisClient::Start(const CancelCheck* cancel) {
  if (options_.cluster) return topology_.Refresh(options_.timeout, cancel);
  WaitLimit limit(options_.timeout, cancel);
  const Topology::Node node = topology_.Any();
  RedisConnection connection;
  Status status = node->Take(&limit, &connection);
  if (status.ok()) node->GiveBack(std::move(connection));
  return status;
}

// Sends each group through a connection of its own, all at the same time.
void RedisClient::Try(std::vector<Group>* groups, const CancelCheck* cancel) {
  uint64_t bytes = 0;
  std::vector<Pipe*> pipes;
  // Not so long for each of them: many may be silent.
  const WaitLimit takes(Stall(), cancel);
  for (Group& group : *groups) {
    // What an earlier attempt was told (ASK, MOVED) is not told again by one that reaches nobody.
    for (Command* const command : group.commands) command->Reset();
    if (group.node == nullptr) {
      group.status = Status::Error(EAGAIN, "nobody in the cluster serves the slot of this key");
      continue;
    }
    WaitLimit limit(std::max(takes.Left(), kLeastTake), cancel);
    group.status = group.node->Take(&limit, &group.connection);
    if (!group.status.ok()) continue;
    for (Command* const command : group.commands) {
      command->asking = group.asking;
      bytes += command->body.size + command->space.size;
    }
    group.pipe = std::make_unique<Pipe>(&group.connection.stream, group.commands);
    pipes.push_back(group.pipe.get());
  }
  WaitLimit limit(Stall(), cancel, bytes);
  if (!pipes.empty()) RunPipes(pipes, &limit);
}

RedisClient::Next RedisClient::JudgeReply(const Attempt& attempt, Command* command) {
  if (!command->status.ok()) return Next::kEnd;
  const Reply& reply = command->reply;
  if (!reply.IsError()) return Next::kEnd;
  command->status = ServerError(attempt.node->name(), reply);
  if (!options_.cluster) {
    // Perhaps its name now stands for another server, which is the master.
    if (reply.ErrorWord() == "READONLY") attempt.node->SetOutdated(attempt.connection);
    return Next::kEnd;
  }
  uint16_t slot;
  Endpoint endpoint;
  if (ParseRedirection(reply, &slot, &endpoint)) {
    counts_.redirections.fetch_add(1, std::memory_order_relaxed);
    if (reply.ErrorWord() == "MOVED") {
      (void)topology_.Moved(slot, std::move(endpoint), *attempt.node);
    }
    return Next::kAtOnce;
  }
  return PassesInCluster(reply) ? Next::kLater : Next::kEnd;
}

RedisClient::Next RedisClient::JudgeBroken(const Attempt& attempt, Command* command,
                                           bool cancelled) {
  const std::string& name = attempt.node->name();
  const Pipe& pipe = *attempt.pipe;
  const int error = pipe.error() == 0 ? ECONNRESET : pipe.error();
  if (cancelled) {
    command->status = Status::Error(ECANCELED, name + ": given up");
    return Next::kEnd;
  }
  if (error == EFAULT && (IsGone(command->body) || IsGone(command->space))) {
    command->status = Status::System(
        EFAULT, name,
        "the shared memory is shorter than when it was attached, or its file system is full: "
        "recreate the segment and ATTACH again");
    return Next::kEnd;
  }
  if (error == EPROTO) {
    command->status =
        Status::Error(EPROTO, name + ": " + pipe.why() + " (is that a Redis or Valkey server?)");
    if (pipe.reading() == command) return Next::kEnd;
  } else if (error == ETIMEDOUT) {
    command->status = Status::System(
        ETIMEDOUT, name,
        "no answer in " + std::to_string(Stall().count()) + " ms; see the parameter \"timeout\"");
  } else if (error != ECONNABORTED && error != EFAULT) {
    command->status = Status::System(error, name + ": the connection broke");
  }
  if (command->once && command->sent) {
    command->status = Status::Error(
        error, command->status.text() + "; whether the object was removed is not known");
    return Next::kEnd;
  }
  if (error == ETIMEDOUT) return options_.cluster ? Next::kLater : Next::kEnd;
  const bool at_once = attempt.connection.reused || error == ECONNABORTED || error == EFAULT;
  return at_once ? Next::kAtOnce : Next::kLater;
}

RedisClient::Next RedisClient::Judge(const Attempt& attempt, Command* command, bool cancelled) {
  if (attempt.pipe == nullptr) {
    command->status = attempt.status;
    if (cancelled || attempt.status.number() == ECANCELED) return Next::kEnd;
    // What keeps us out does not change by waiting.
    const int error = attempt.status.number();
    return options_.cluster && error != EACCES ? Next::kLater : Next::kEnd;
  }
  if (command->outcome == Command::Outcome::kReplied) return JudgeReply(attempt, command);
  return JudgeBroken(attempt, command, cancelled);
}

void RedisClient::Conclude(Attempt* attempt) {
  if (attempt->pipe == nullptr) return;
  const bool in_step = attempt->pipe->in_step();
  if (!in_step && attempt->pipe->error() != ECONNABORTED) {
    counts_.failures.fetch_add(1, std::memory_order_relaxed);
  }
  attempt->pipe.reset();
  if (in_step) {
    attempt->node->GiveBack(std::move(attempt->connection));
  } else {
    attempt->connection.Close();
  }
}

void RedisClient::Run(const std::vector<Command*>& commands, const CancelCheck* cancel) {
  WaitLimit limit(options_.timeout, cancel);
  Backoff pause(milliseconds(20), milliseconds(500));
  std::vector<Command*> left = commands;
  // Where ASK says that a command goes next.
  std::vector<std::pair<Command*, Topology::Node>> asked;
  int at_once = 0;
  int later = 0;
  while (!left.empty()) {
    std::vector<Group> groups;
    for (Command* const command : left) {
      const auto ask = std::find_if(asked.begin(), asked.end(),
                                    [&](const auto& one) { return one.first == command; });
      const bool asking = ask != asked.end();
      const Topology::Node node = asking ? ask->second : topology_.OfKey(command->key);
      auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& one) {
        return one.node == node && one.asking == asking;
      });
      if (group == groups.end()) {
        group = groups.emplace(groups.end());
        group->node = node;
        group->asking = asking;
      }
      group->commands.push_back(command);
    }
    left.clear();
    asked.clear();
    Try(&groups, cancel);

    const bool cancelled = cancel != nullptr && cancel->Cancelled();
    bool wait = false;
    bool refresh = false;
    for (Group& group : groups) {
      for (Command* const command : group.commands) {
        const Next next = Judge(group, command, cancelled);
        if (next == Next::kEnd) continue;
        left.push_back(command);
        wait |= next == Next::kLater;
        refresh |= next == Next::kLater;
        uint16_t slot;
        Endpoint endpoint;
        if (command->reply.ErrorWord() == "ASK" &&
            ParseRedirection(command->reply, &slot, &endpoint)) {
          if (endpoint.host.empty()) endpoint.host = group.node->endpoint().host;
          asked.emplace_back(command, topology_.At(endpoint));
        }
        refresh |= command->reply.ErrorWord() == "MOVED";
      }
      Conclude(&group);
    }
    if (left.empty() || cancelled) break;
    if (wait && !options_.cluster && ++later >= kTries) break;
    if (!wait && ++at_once > kAtOnce) wait = true;
    if (wait && limit.Sleep(pause.Next()) != 0) break;
    if (limit.Left().count() == 0) break;
    if (refresh) (void)topology_.Refresh(std::min(Stall(), limit.Left()), cancel);
  }
  for (Command* const command : left) {
    if (command->status.ok()) command->status = Status::Error(ETIMEDOUT, "it came to nothing");
  }
}

void RedisClient::RunAt(const Topology::Node& node, Command* command, const CancelCheck* cancel) {
  for (int i = 0; i < kTries; i++) {
    std::vector<Group> groups(1);
    groups[0].node = node;
    groups[0].commands.push_back(command);
    Try(&groups, cancel);
    Group& group = groups[0];
    const Next next = Judge(group, command, cancel != nullptr && cancel->Cancelled());
    const bool reused = group.connection.reused;
    Conclude(&group);
    if (next != Next::kAtOnce || !reused) return;
  }
}

}  // namespace lmshm
