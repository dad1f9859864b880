// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/pipe.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::string_view kAsking = "*1\r\n$6\r\nASKING\r\n";
constexpr size_t kParts = 64;
// What one call sends or receives: while a checksum is computed it should stay in the cache.
constexpr uint64_t kSummedBytes = 256 * 1024;
constexpr uint64_t kPlainBytes = 1 << 20;
constexpr size_t kReadBytes = 64 * 1024;
// To read that and throw it away costs less than a new connection.
constexpr uint64_t kMostSkipped = 1 << 20;
// The shortest line that announces a string: "$0\r\n".
constexpr size_t kLeastLine = 4;
constexpr size_t kLineEnd = 2;

std::string Shown(std::string_view text) {
  std::string shown;
  AppendPrintable(text, 80, &shown);
  return shown;
}

iovec Part(const char* bytes, uint64_t size) {
  return {const_cast<char*>(bytes), static_cast<size_t>(size)};
}

char* At(SharedBytes memory, uint64_t offset) {
  return static_cast<char*>(memory.address) + offset;
}

}  // namespace

void Command::Reset() {
  if (if_absent && MayHaveHappened()) {
    if_absent = false;
    head[1]--;  // "*4\r\n": how many words there are
    rest.resize(rest.size() - kIfAbsent.size());
  }
  outcome = Outcome::kNone;
  status = Status::OK();
  reply = Reply();
  value = ValueHead();
  length = 0;
  crc32c = 0;
  begun = false;
  sent = false;
  asking = false;
  summed = 0;
  ending.clear();
}

Pipe::Pipe(Stream* stream, std::vector<Command*> commands)
    : stream_(stream), commands_(std::move(commands)), least_head_(kLeastHeadBytes) {
  for (Command* const command : commands_) {
    if (command->asking) command->head.insert(0, kAsking);
  }
  CountPayloads();
}

void Pipe::CountPayloads() {
  payloads_ = 0;
  for (size_t i = 0; i < commands_.size(); i++) {
    const Command::Want want = commands_[i]->want;
    if (want != Command::Want::kReply) payloads_ = i + 1;
    if (want == Command::Want::kPayload) least_head_ = 0;
  }
}

// What was read until now came before anything that this command may bring: it is sent later.
void Pipe::Append(Command* command) {
  commands_.push_back(command);
  if (command->want != Command::Want::kReply) payloads_ = commands_.size();
  if (command->want == Command::Want::kPayload) least_head_ = 0;
}

bool Pipe::Withdraw(const Command* command) {
  for (size_t i = sending_; i < commands_.size(); i++) {
    if (commands_[i] != command) continue;
    if (command->begun) return false;
    commands_.erase(commands_.begin() + static_cast<ptrdiff_t>(i));
    CountPayloads();
    return true;
  }
  return false;
}

size_t Pipe::DropReplied() {
  const size_t count = reading_;
  commands_.erase(commands_.begin(), commands_.begin() + static_cast<ptrdiff_t>(count));
  payloads_ -= std::min(payloads_, count);
  sending_ -= std::min(sending_, count);  // one more was answered than sent: then it is broken
  reading_ = 0;
  return count;
}

Pipe::~Pipe() {
  for (Command* const command : commands_) {
    if (command->asking) command->head.erase(0, kAsking.size());
  }
}

bool Pipe::Go(bool* moved, bool* more, uint64_t turn) {
  uint64_t bytes = 0;
  int sent = 0;
  while (error_ == 0 && sent == 0 && sending_ < commands_.size() && bytes < turn) {
    sent = Send(&bytes);
  }
  const bool failed = sent != 0 && sent != EAGAIN;
  int received = 0;
  // Also when sending failed: perhaps the server has said why, before it closed.
  while (error_ == 0 && received == 0 && !through() && bytes < 2 * turn && sent != EFAULT) {
    received = Receive(&bytes);
  }
  if (failed && !through()) Break(sent);
  if (received != 0 && received != EAGAIN) Break(received);
  if (bytes > 0) *moved = true;
  if (error_ != 0 || through()) return false;
  if (received == 0 || (sent == 0 && sending_ < commands_.size())) *more = true;
  return true;
}

short Pipe::events() const {
  return static_cast<short>(POLLIN | (sending_ < commands_.size() ? POLLOUT : 0));
}

// ---------------------------------------------------------------------------------- sending

uint64_t Pipe::PartSize() const {
  const Command& command = *commands_[sending_];
  if (part_ == 0) return command.head.size();
  return part_ == 1 ? command.body.size : command.ending.size();
}

// As many of what comes next as one call should take. 0: a body is gone.
size_t Pipe::Gather(iovec* parts, uint64_t* bytes) {
  size_t count = 0;
  int part = part_;
  uint64_t from = sent_;
  for (size_t i = sending_; i < commands_.size() && count + 3 <= kParts; i++, part = 0, from = 0) {
    Command& command = *commands_[i];
    const uint64_t most = command.checksum ? kSummedBytes : kPlainBytes;
    if (*bytes >= most) break;
    if (part == 0) {
      parts[count++] = Part(command.head.data() + from, command.head.size() - from);
      *bytes += command.head.size() - from;
      from = 0;
      part = 1;
    }
    if (part == 1) {
      const uint64_t size = std::min(command.body.size - from, most);
      if (size > 0) {
        if (command.checksum && command.summed < from + size) {
          const SharedBytes piece = {At(command.body, command.summed),
                                     from + size - command.summed};
          if (SharedCrc32c(piece, &command.crc32c) != 0) return 0;
          command.summed = from + size;
        }
        parts[count++] = Part(At(command.body, from), size);
        *bytes += size;
      }
      if (from + size < command.body.size) break;
      if (command.ending.empty()) {
        if (command.tailed) {
          command.ending = FormatTail(command.tag, command.checksum ? &command.crc32c : nullptr);
        }
        command.ending.append(command.rest);
      }
      from = 0;
    }
    if (from == command.ending.size()) continue;
    parts[count++] = Part(command.ending.data() + from, command.ending.size() - from);
    *bytes += command.ending.size() - from;
  }
  return count;
}

void Pipe::Sent(uint64_t bytes) {
  while (bytes > 0) {
    commands_[sending_]->begun = true;
    const uint64_t step = std::min(bytes, PartSize() - sent_);
    sent_ += step;
    bytes -= step;
    while (sending_ < commands_.size() && sent_ == PartSize()) {
      sent_ = 0;
      if (++part_ < 3) continue;
      part_ = 0;
      commands_[sending_++]->sent = true;
    }
  }
}

// One call: 0; EAGAIN, that was all that goes now; or why not.
int Pipe::Send(uint64_t* bytes) {
  iovec parts[kParts];
  uint64_t wanted = 0;
  const size_t count = Gather(parts, &wanted);
  if (count == 0) return EFAULT;
  size_t sent = 0;
  const int error = stream_->SendSome(parts, count, &sent);
  if (error != 0) return error;
  *bytes += sent;
  Sent(sent);
  return sent < wanted ? EAGAIN : 0;
}

// -------------------------------------------------------------------------------- receiving

bool Pipe::Bad(std::string why) {
  error_ = EPROTO;
  why_ = std::move(why);
  return false;
}

void Pipe::Done(Status status) {
  Command* const command = commands_[reading_];
  if (reading_ >= sending_) {
    // A server that refuses what it has not read to the end says so and closes.
    if (reading_ > sending_ || !command->begun || !command->reply.IsError()) {
      Bad("a reply that nothing was asked for");
      return;
    }
    Break(ECONNABORTED);
  }
  reading_++;
  command->outcome = Command::Outcome::kReplied;
  command->status = std::move(status);
  stage_ = Stage::kReply;
  asked_ = false;
}

// The command fails, and so many bytes of its reply are still to come.
void Pipe::SkipRest(uint64_t bytes, Status status) {
  if (bytes > kMostSkipped) {
    Done(std::move(status));
    Break(ECONNABORTED);
    return;
  }
  skip_ = bytes;
  skipped_ = std::move(status);
  stage_ = Stage::kSkip;
}

// How many bytes behind the end of a reply, or of the buffered part `at` of one, come before a
// payload that command `at` or a later one may bring.
size_t Pipe::Ahead(size_t at) const {
  return at >= payloads_ ? kReadBytes : kLeastLine + least_head_;
}

size_t Pipe::EndBytes() const {
  return kLineEnd + (commands_[reading_]->want == Command::Want::kValue ? kTailBytes : 0);
}

bool Pipe::ParseFirst(Command* command) {
  size_t used = 0;
  if (command->asking && !asked_) {
    Reply ignored;  // an error here is repeated by the command itself
    const Parsed parsed = ParseReply(Buffered(), &used, &ignored);
    if (parsed == Parsed::kBad) return Bad("\"" + Shown(Buffered()) + "\" is no reply");
    if (parsed == Parsed::kMore) return false;
    begin_ += used;
    asked_ = true;
    return true;
  }
  if (command->want == Command::Want::kReply) {
    const Parsed parsed = ParseReply(Buffered(), &used, &command->reply);
    if (parsed == Parsed::kBad) return Bad("\"" + Shown(Buffered()) + "\" is no reply");
    if (parsed == Parsed::kMore) return false;
    begin_ += used;
    Done(Status::OK());
    return true;
  }
  std::string_view line;
  const Parsed parsed = ParseLine(Buffered(), &used, &line);
  if (parsed == Parsed::kMore) return false;
  const bool whole = parsed == Parsed::kWhole && !line.empty();
  if (whole && line[0] == '-') {
    (void)ParseReply(Buffered(), &used, &command->reply);
    begin_ += used;
    Done(Status::OK());
    return true;
  }
  int64_t size = 0;
  if (!whole || line[0] != '$' || !ParseNumber(line, &size) || size < -1) {
    return Bad("\"" + Shown(Buffered()) + "\" is no string");
  }
  begin_ += used;
  command->reply.type = size < 0 ? '_' : '$';
  if (size < 0) {
    Done(Status::OK());
    return true;
  }
  value_bytes_ = static_cast<uint64_t>(size);
  got_ = 0;
  crc_ = 0;
  if (command->want == Command::Want::kPayload) {
    command->length = value_bytes_;
    if (value_bytes_ > command->space.size) {
      SkipRest(value_bytes_ + kLineEnd, Status::Error(EMSGSIZE, ""));
    } else {
      stage_ = value_bytes_ > 0 ? Stage::kBody : Stage::kTail;
    }
  } else if (value_bytes_ < kLeastHeadBytes + kTailBytes) {
    SkipRest(value_bytes_ + kLineEnd, Status::Error(EINVAL, ""));
  } else {
    stage_ = Stage::kHead;
  }
  return true;
}

bool Pipe::ParseHeadOf(Command* command) {
  ValueHead& value = command->value;
  const std::string_view text = Buffered();
  if (text.size() < kHeadFixedBytes) return false;
  const uint64_t rest = value_bytes_ + kLineEnd;
  if (!ParseHeadFixed(text, &value)) {
    SkipRest(rest, Status::Error(EINVAL, ""));
    return true;
  }
  command->length = value.payload_bytes;
  const uint64_t around = value.head_bytes + kTailBytes;
  if (value_bytes_ < around || value_bytes_ - around != value.payload_bytes) {
    SkipRest(rest, Status::Error(EBADMSG, "the value has " + std::to_string(value_bytes_) +
                                              " bytes, and its head says otherwise"));
    return true;
  }
  if (value.payload_bytes > command->space.size) {
    SkipRest(rest, Status::Error(EMSGSIZE, ""));
    return true;
  }
  if (text.size() < value.head_bytes) return false;
  if (!ParseHead(text, &value)) {
    SkipRest(rest - got_, Status::Error(EBADMSG, "the head of the value is damaged"));
    return true;
  }
  begin_ += value.head_bytes;
  stage_ = got_ < command->length ? Stage::kBody : Stage::kTail;
  return true;
}

bool Pipe::ParseEnd(Command* command) {
  const std::string_view text = Buffered();
  if (text.size() < EndBytes()) return false;
  if (text.substr(EndBytes() - kLineEnd, kLineEnd) != "\r\n") {
    return Bad("a value is longer than the reply says");
  }
  Status status;
  if (command->want == Command::Want::kValue) {
    std::optional<uint32_t>* const stored = &command->value.record.crc32c;
    if (!ParseTail(text.substr(0, kTailBytes), command->value.tag, stored)) {
      status = Status::Error(EBADMSG, "the tail of the value is not that of its head");
    } else if (command->verify && stored->has_value() && **stored != crc_) {
      status = Status::Error(EBADMSG, "the checksum is not that of what was stored");
    }
  }
  begin_ += EndBytes();
  Done(std::move(status));
  return true;
}

bool Pipe::Skip() {
  const size_t step = static_cast<size_t>(std::min<uint64_t>(skip_, Buffered().size()));
  begin_ += step;
  skip_ -= step;
  if (skip_ > 0) return false;
  Done(std::move(skipped_));
  return true;
}

// One step; false: it needs more, or the pipe is broken.
bool Pipe::Parse() {
  Command* const command = commands_[reading_];
  switch (stage_) {
    case Stage::kReply:
      return !Buffered().empty() && ParseFirst(command);
    case Stage::kHead:
      return ParseHeadOf(command);
    case Stage::kBody:
      if (got_ < command->length) return false;
      stage_ = Stage::kTail;
      return true;
    case Stage::kTail:
      return ParseEnd(command);
    default:
      return Skip();
  }
}

// Into the buffer `before`, then `direct`, then the buffer again, up to `behind`. `before` and
// `direct` may be empty.
int Pipe::ReceiveInto(SharedBytes direct, size_t before, size_t behind, size_t* received) {
  if (begin_ > 0) {
    memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const size_t room = end_ + before + behind;
  if (buffer_.size() < room) buffer_.resize(std::max(room, kReadBytes));
  iovec parts[3];
  size_t count = 0;
  if (before > 0) parts[count++] = Part(buffer_.data() + end_, before);
  if (direct.size > 0) parts[count++] = Part(At(direct, 0), direct.size);
  if (behind > 0) parts[count++] = Part(buffer_.data() + end_ + before, behind);
  const int error = stream_->ReceiveSome(parts, count, received);
  if (error != 0) return error;
  const size_t first = std::min(*received, before);
  const auto second = static_cast<size_t>(std::min<uint64_t>(*received - first, direct.size));
  end_ += *received - second;
  if (second == 0) return 0;
  Command* const command = commands_[reading_];
  if (command->want == Command::Want::kValue && command->verify) {
    const SharedBytes piece = {direct.address, second};
    if (SharedCrc32c(piece, &crc_) != 0) return EFAULT;
  }
  got_ += second;
  return 0;
}

// Parses what is there, then one call, and again: 0; EAGAIN, that was all that there is now; or
// why not.
int Pipe::Receive(uint64_t* bytes) {
  while (error_ == 0 && !through() && Parse()) {
  }
  if (error_ != 0) return error_;
  if (through()) return 0;
  const Command& command = *commands_[reading_];
  const size_t buffered = Buffered().size();
  SharedBytes direct;
  size_t before = 0;
  size_t behind = 0;
  switch (stage_) {
    case Stage::kReply:
      if (reading_ >= payloads_) {
        before = std::max(kReadBytes, buffered);  // long replies: not parsed again for each piece
      } else {
        // The rest of this line has at least its end.
        const bool half_end = buffered > 0 && buffer_[end_ - 1] == '\r';
        const size_t least = half_end ? 1 : kLineEnd;
        before = least_head_ + std::max(least, kLeastLine - std::min(buffered, kLeastLine));
      }
      break;
    case Stage::kHead:
      if (buffered < kHeadFixedBytes) {
        before = kLeastHeadBytes - buffered;
        break;
      }
      before = command.value.head_bytes - buffered;
      [[fallthrough]];
    case Stage::kBody: {
      const uint64_t most = command.verify ? kSummedBytes : kPlainBytes;
      direct = {At(command.space, got_), std::min(command.length - got_, most)};
      if (got_ + direct.size == command.length) behind = EndBytes() + Ahead(reading_ + 1);
      break;
    }
    case Stage::kTail:
      before = EndBytes() - buffered + Ahead(reading_ + 1);
      break;
    case Stage::kSkip:
      before = static_cast<size_t>(std::min<uint64_t>(skip_, kReadBytes));
      break;
  }
  size_t received = 0;
  const int error = ReceiveInto(direct, before, behind, &received);
  if (error != 0) return error;
  *bytes += received;
  while (error_ == 0 && !through() && Parse()) {
  }
  if (error_ != 0) return error_;
  // What may come behind the payload is asked for in advance, and seldom there.
  return received < before + direct.size ? EAGAIN : 0;
}

// ---------------------------------------------------------------------------------- several

void RunPipes(const std::vector<Pipe*>& pipes, WaitLimit* limit) {
  std::vector<pollfd> waiting;
  for (;;) {
    bool moved = false;
    bool more = false;
    waiting.clear();
    for (Pipe* const pipe : pipes) {
      if (!pipe->through() && pipe->error() == 0 && pipe->Go(&moved, &more)) {
        waiting.push_back({pipe->fd(), pipe->events(), 0});
      }
    }
    if (waiting.empty()) return;
    if (moved) limit->Progress();
    int error = 0;
    if (!more) {
      error = limit->Wait(waiting.data(), waiting.size());
    } else if (limit->Cancelled()) {
      error = ECANCELED;
    } else if (limit->Left().count() == 0) {
      error = ETIMEDOUT;
    }
    if (error == 0) continue;
    for (Pipe* const pipe : pipes) {
      if (!pipe->through()) pipe->Break(error);
    }
    return;
  }
}

}  // namespace lmshm
