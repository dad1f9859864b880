// SPDX-License-Identifier: Apache-2.0
//
// Pipe: commands through one connection, one behind the other without waiting for replies, written
// and read at the same time, so that neither side's buffers can be full for ever.
//
// A payload goes from the client's memory to the socket and from the socket into it; only the
// kernel touches that memory, but for checksums. To that end never more is read than what certainly
// comes before the next payload: the line of the reply, and the head of the value.
//
// An error reply keeps the pipe in step. What cannot be a reply, or a payload that was left in the
// middle, does not: then the pipe is broken, and its connection must be closed.
#ifndef LMSHM_WORKER_REDIS_PIPE_H_
#define LMSHM_WORKER_REDIS_PIPE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/status.h"
#include "worker/memory/shared_bytes.h"
#include "worker/redis/reply.h"
#include "worker/redis/value_record.h"
#include "worker/remote/stream.h"
#include "worker/remote/wait_limit.h"

namespace lmshm {

// The last word of a SET that is for keys that are not there.
inline constexpr std::string_view kIfAbsent = "$2\r\nNX\r\n";

// One command, and what came back. Everything up to `outcome` is said by who wants it done.
struct Command {
  std::string key;  // decides which node of a cluster is asked; empty: any
  // What is sent: `head`, then `body`, then the tail of a value if `tag` says so, then `rest`.
  std::string head;
  SharedBytes body;
  bool tailed = false;
  uint32_t tag = 0;
  bool checksum = false;  // of the body, while it is sent
  std::string rest;
  // It must not be sent twice: removals.
  bool once = false;
  // `rest` ends with kIfAbsent, which `head` counts. What may have been carried out is sent again
  // without: it would find itself.
  bool if_absent = false;

  enum class Want {
    kReply,    // into `reply`
    kValue,    // a value with head and tail: its payload into `space`
    kPayload,  // a string: all of it into `space`
  };
  Want want = Want::kReply;
  SharedBytes space;
  bool verify = false;  // the payload against the checksum of a value

  // What came of it.
  enum class Outcome {
    kNone,     // nothing yet, or the connection broke first: `status` says how
    kReplied,  // `reply` is it; of a value or payload that came: '$'. Or `status` is why not.
  };
  Outcome outcome = Outcome::kNone;
  Status status;
  Reply reply;
  ValueHead value;      // kValue
  uint64_t length = 0;  // of the payload that came, or that there is no room for
  uint32_t crc32c = 0;  // of what was sent, if `checksum`

  // While it is under way.
  bool begun = false;   // some of it was sent
  bool sent = false;    // all of it was
  bool asking = false;  // ASKING goes before it: the slot is not yet the node's own
  uint64_t summed = 0;  // bytes of the body that crc32c is of
  std::string ending;   // tail and rest

  // As if it had never been sent.
  void Reset();
  // Whether all of it was sent (a server carries out nothing of which a byte is missing), and no
  // error says that it was not carried out.
  bool MayHaveHappened() const { return sent && (outcome == Outcome::kNone || !reply.IsError()); }
};

// What one pipe moves before others have their turn, and before anybody asks whether to go on.
inline constexpr uint64_t kPipeTurn = 4 << 20;

// Not thread safe.
class Pipe {
 public:
  // All must outlive this.
  Pipe(Stream* stream, std::vector<Command*> commands);
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe();

  // One more, behind the others; it need not be new, and must not say `asking`. The pipe may be
  // through; it must not be broken.
  void Append(Command* command);
  // Takes out one of which nothing was sent; false: some was.
  bool Withdraw(const Command* command);
  // Lets go of the commands that have their replies; returns how many these were.
  size_t DropReplied();

  // Does what can be done without waiting, and leaves off when about `turn` bytes have moved in a
  // direction. `*moved` is set if something was, `*more` if there is more. False: it is through, or
  // broken.
  bool Go(bool* moved, bool* more, uint64_t turn = kPipeTurn);
  // What to wait for, for poll().
  short events() const;
  int fd() const { return stream_->fd(); }

  bool through() const { return reading_ == commands_.size(); }
  // Of the commands that it has, how many are sent whole.
  size_t sent() const { return sending_; }
  // Whether its connection can be used for others.
  bool in_step() const {
    return through() && error_ == 0 && sending_ == commands_.size() && begin_ == end_;
  }
  // Errno value that broke it; 0: nothing did. EPROTO: what came is no reply. ECONNABORTED: given
  // up, because the rest of a reply is not worth reading or the server does not read any more.
  int error() const { return error_; }
  const std::string& why() const { return why_; }  // in words, for EPROTO
  // The command whose reply is being read.
  const Command* reading() const { return through() ? nullptr : commands_[reading_]; }
  void Break(int error) {
    if (error_ == 0) error_ = error;
  }

 private:
  enum class Stage { kReply, kHead, kBody, kTail, kSkip };

  int Send(uint64_t* bytes);
  int Receive(uint64_t* bytes);
  void CountPayloads();
  size_t Gather(iovec* parts, uint64_t* bytes);
  void Sent(uint64_t bytes);
  uint64_t PartSize() const;
  bool Parse();
  bool ParseFirst(Command* command);
  bool ParseHeadOf(Command* command);
  bool ParseEnd(Command* command);
  bool Skip();
  bool Bad(std::string why);
  void Done(Status status);
  void SkipRest(uint64_t bytes, Status status);
  size_t Ahead(size_t at) const;
  size_t EndBytes() const;
  int ReceiveInto(SharedBytes direct, size_t before, size_t behind, size_t* received);
  std::string_view Buffered() const { return {buffer_.data() + begin_, end_ - begin_}; }

  Stream* const stream_;
  std::vector<Command*> commands_;
  int error_ = 0;
  std::string why_;

  // Sending: which command, which part of it (head, body, tail and rest), and how far.
  size_t sending_ = 0;
  int part_ = 0;
  uint64_t sent_ = 0;

  // Receiving.
  size_t reading_ = 0;
  Stage stage_ = Stage::kReply;
  bool asked_ = false;   // the reply to ASKING has come
  size_t payloads_ = 0;  // commands up to the last that wants a payload
  size_t least_head_;    // before each of these payloads, behind the line of its reply
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  uint64_t value_bytes_ = 0;  // of the string that is being read
  uint64_t got_ = 0;          // of the payload
  uint32_t crc_ = 0;          // of that
  uint64_t skip_ = 0;
  Status skipped_;  // what the command gets when that is done
};

// Goes on with all of `pipes` until they are through or broken, or the limit is over: then those
// that are not through are broken with ETIMEDOUT or ECANCELED.
void RunPipes(const std::vector<Pipe*>& pipes, WaitLimit* limit);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_PIPE_H_
