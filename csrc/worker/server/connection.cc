// SPDX-License-Identifier: Apache-2.0
#include "worker/server/connection.h"

#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/log.h"
#include "worker/base/wake_up.h"
#include "worker/execution/pipeline.h"
#include "worker/net/outbox.h"
#include "worker/protocol/line_reader.h"
#include "worker/server/session.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr auto kAnswerDelay = std::chrono::microseconds(500);
constexpr size_t kAnswerBytes = 32 * 1024;
constexpr milliseconds kSettleSlice(500);
constexpr milliseconds kLookEvery(5);   // of a thread that cannot be woken
constexpr milliseconds kLaneEvery(50);  // limits and cancelling of what is in the lane
// Beyond the grace period; the server, where there is one, gives up before.
constexpr std::chrono::seconds kHungTime(6);

Clock::time_point After(Clock::time_point start, milliseconds limit) {
  return limit.count() == 0 ? Clock::time_point::max() : start + limit;
}

ConnectionEnd EndOf(Wire::Result result) {
  switch (result) {
    case Wire::Result::kEnd:
      return ConnectionEnd::kClosed;
    case Wire::Result::kShutdown:
      return ConnectionEnd::kShutdown;
    case Wire::Result::kTimeout:
      return ConnectionEnd::kStuck;
    case Wire::Result::kOk:
    case Wire::Result::kBroken:
      break;
  }
  return ConnectionEnd::kBroken;
}

// Tells requests of version 1, which are carried out on the connection's thread, whether somebody
// waits for their answers.
class ClientGone : public CancelCheck {
 public:
  explicit ClientGone(const Wire* wire) : wire_(wire) {}
  bool Cancelled() const override { return wire_->PeerGone(); }
  const char* Reason() const override { return "its client is gone"; }

 private:
  const Wire* const wire_;
};

// The whole of it; one object a connection, on its thread.
class Connection {
 public:
  Connection(Wire* wire, const Service& service, const std::string& peer,
             const ConnectionLimits& limits, const Shutdown& shutdown, Opening opening)
      : wire_(wire),
        limits_(limits),
        shutdown_(shutdown),
        outbox_(wire, &wake_),
        pipeline_(service.engine, &outbox_, &wake_),
        gone_(wire),
        session_(service, peer, &pipeline_, &gone_),
        text_(std::move(opening.answer)) {
    size_t space;
    char* const to = reader_.Space(&space);
    reader_.Commit(opening.input.copy(to, space));
  }

  ConnectionEnd Run() {
    ConnectionEnd end = Serve();
    if (pipeline_.open()) end = Settle(end);
    if (end == ConnectionEnd::kQuit || end == ConnectionEnd::kClosed ||
        end == ConnectionEnd::kShutdown) {
      ConnectionEnd ignored;  // the end is here either way
      if (!Flush(&ignored) && end == ConnectionEnd::kQuit) end = ignored;
    }
    return end;
  }

 private:
  // Until the client or we have had enough. Requests may still be in flight, answers unsent.
  ConnectionEnd Serve() {
    Clock::time_point heard = Clock::now();
    bool unread_lines = reader_.pending() > 0;
    ConnectionEnd end;
    if (!Flush(&end)) return end;
    for (;;) {
      const bool look = pipeline_.MustLook();  // before: what is finished later is looked at
      if (!Drain(&end)) return end;
      const bool room = pipeline_.HasRoom();
      if (room && unread_lines) {
        if (!ServeLines(&unread_lines, &end)) return end;
        continue;
      }
      if (!room && !pipeline_.AskWakeForRoom()) continue;

      const bool helped = pipeline_.open() && pipeline_.Help();
      Clock::time_point deadline = After(heard, limits_.idle);
      if (look) deadline = std::min(deadline, Clock::now() + kLookEvery);
      if (helped) deadline = Clock::time_point();  // there may be more: only have a look
      Wire::Wanted wanted;
      wanted.readable = room;
      wanted.wake_fd = wake_.fd();
      wanted.watch_gone = pipeline_.open();
      Wire::Event event;
      Wire::Result result = WaitFor(wanted, deadline, &event);
      if (result == Wire::Result::kTimeout) {
        if (helped) continue;
        if (!look && pipeline_.unfinished() == 0) return ConnectionEnd::kIdle;
        heard = Clock::now();  // who waits for an answer is not idle
        continue;
      }
      if (result != Wire::Result::kOk) return EndOf(result);
      if (event.woken) wake_.Clear();
      if (!event.readable) {
        if (event.gone) return Gone();
        if (event.other) heard = Clock::now();
        continue;
      }
      size_t space;
      char* const to = reader_.Space(&space);
      size_t got = 0;
      result = wire_->ReadNow(to, space, &got);
      if (result != Wire::Result::kOk) return EndOf(result);
      heard = Clock::now();
      reader_.Commit(got);
      unread_lines = true;
    }
  }

  // Waits, and goes on with what the lane has under way.
  Wire::Result WaitFor(Wire::Wanted wanted, Clock::time_point deadline, Wire::Event* event) {
    polls_.clear();
    const bool lane = pipeline_.AddLanePolls(&polls_);
    if (lane) {
      wanted.others = &polls_;
      deadline = std::min(deadline,
                          pipeline_.lane_more() ? Clock::time_point() : Clock::now() + kLaneEvery);
    }
    Wire::Result result = wire_->Wait(wanted, deadline, event);
    if (!lane) return result;
    if (result == Wire::Result::kTimeout) {
      // Not the client's: it waits for an answer.
      *event = Wire::Event();
      event->other = true;
      result = Wire::Result::kOk;
    }
    if (event->other || pipeline_.lane_more()) pipeline_.GoLane();
    return result;
  }

  // Says the complete lines in `reader_`, as many as there is room for. True if the connection goes
  // on, else `*end` is set.
  bool ServeLines(bool* unread_lines, ConnectionEnd* end) {
    while (pipeline_.HasRoom()) {
      std::string_view line;
      const LineReader::Event event = reader_.Next(&line);
      if (event == LineReader::Event::kNone) {
        *unread_lines = false;
        break;
      }
      if (shutdown_.requested()) {
        *end = ConnectionEnd::kShutdown;
        return false;
      }
      const Clock::time_point begun = Clock::now();
      const size_t before = text_.size();
      AfterAnswer next = AfterAnswer::kContinue;
      if (event == LineReader::Event::kTooLong) {
        session_.HandleTooLong(&text_);
      } else {
        next = session_.Handle(line, &text_);
      }
      if (next == AfterAnswer::kContinue) {
        if (text_.size() > before && !FlushIfDue(begun, end)) return false;
        continue;
      }
      *end = ConnectionEnd::kQuit;
      if (pipeline_.open()) {
        // Its answer comes after all others.
        last_words_ = text_.substr(before);
        text_.resize(before);
      }
      return false;
    }
    // Whoever waits for one of these waits for less than what is to be done now.
    if (!Flush(end)) return false;
    pipeline_.Go();
    return true;
  }

  // `begun` is when the request was begun whose answer has just been appended to `text_`.
  bool FlushIfDue(Clock::time_point begun, ConnectionEnd* end) {
    if (oldest_ == Clock::time_point()) oldest_ = begun;
    if (text_.size() < kAnswerBytes && Clock::now() - oldest_ < kAnswerDelay) return true;
    return Flush(end);
  }

  bool Flush(ConnectionEnd* end) {
    oldest_ = Clock::time_point();
    if (outbox_.Add(text_) && pipeline_.open()) pipeline_.Resume();
    text_.clear();
    return Drain(end);
  }

  // Waits until the client has taken what is on its way. False, and `*end`, if it does not.
  bool Drain(ConnectionEnd* end) {
    *end = ConnectionEnd::kBroken;
    if (wire_->broken()) return false;
    if (!outbox_.stalled()) return true;
    uint64_t sent = outbox_.sent();
    Clock::time_point deadline = After(Clock::now(), limits_.send);
    while (outbox_.stalled() && !wire_->broken()) {
      const Wire::Result result = wire_->WaitForPeer(deadline);
      if (result != Wire::Result::kOk) {
        *end = EndOf(result);
        return false;
      }
      outbox_.Pump();
      if (outbox_.sent() == sent) continue;
      sent = outbox_.sent();
      deadline = After(Clock::now(), limits_.send);
    }
    if (pipeline_.open()) pipeline_.Resume();
    return !wire_->broken();
  }

  ConnectionEnd Gone() {
    wire_->SetBroken(EPIPE);
    return ConnectionEnd::kBroken;
  }

  // Until none of the client's requests is in flight. Its answers are sent while it takes them.
  ConnectionEnd Settle(ConnectionEnd end) {
    const bool ending = shutdown_.requested();
    bool listens = end == ConnectionEnd::kQuit || end == ConnectionEnd::kClosed ||
                   end == ConnectionEnd::kShutdown || end == ConnectionEnd::kIdle;
    if (!listens) {
      pipeline_.Abandon();
    } else if (!ending) {
      pipeline_.Go();
    }
    Clock::time_point give_up = Clock::time_point::max();
    while (pipeline_.AskWake(0)) {
      ConnectionEnd why;
      if (listens && !Drain(&why)) {
        // It went away, or takes nothing. After QUIT or the end of its input that was to be
        // expected.
        if (why == ConnectionEnd::kStuck) end = why;
        listens = false;
        pipeline_.Abandon();
      }
      if (shutdown_.requested() && give_up == Clock::time_point::max()) {
        pipeline_.Drop();  // what is at work is finished, within the grace period
        give_up = Clock::now() + std::chrono::seconds(kGraceSeconds) + kHungTime;
      }
      if (Clock::now() >= give_up) {
        Log(LogLevel::kError, "requests did not end although they were cancelled; ending at once");
        _exit(1);  // they still use memory: nothing may be taken from under them
      }
      if (listens && pipeline_.Help()) continue;
      Wire::Wanted wanted;
      wanted.wake_fd = wake_.fd();
      wanted.watch_gone = listens;
      wanted.heed_shutdown = give_up == Clock::time_point::max();
      Wire::Event event;
      const Wire::Result result =
          WaitFor(wanted, Clock::now() + (wake_.fd() < 0 ? kLookEvery : kSettleSlice), &event);
      if (result == Wire::Result::kBroken) wire_->SetBroken(wire_->error());
      if (event.woken) wake_.Clear();
      if (event.gone) wire_->SetBroken(EPIPE);
    }
    pipeline_.Close();
    outbox_.Add(text_);
    text_ = std::move(last_words_);
    return end;
  }

  Wire* const wire_;
  const ConnectionLimits& limits_;
  const Shutdown& shutdown_;
  LineReader reader_;
  std::string last_words_;  // the answer to QUIT
  std::vector<pollfd> polls_;
  WakeUp wake_;
  Outbox outbox_;
  Pipeline pipeline_;
  const ClientGone gone_;
  Session session_;
  std::string text_;          // answers of this thread that are not in the outbox yet
  Clock::time_point oldest_;  // when the first of these was begun
};

}  // namespace

const char* ConnectionEndText(ConnectionEnd end) {
  switch (end) {
    case ConnectionEnd::kQuit:
      return "the client said QUIT";
    case ConnectionEnd::kClosed:
      return "the client closed the connection";
    case ConnectionEnd::kShutdown:
      return "the worker ends";
    case ConnectionEnd::kIdle:
      return "the client was idle for too long";
    case ConnectionEnd::kStuck:
      return "the client did not take its answers";
    case ConnectionEnd::kBroken:
      break;
  }
  return "the connection broke";
}

ConnectionEnd ServeClient(Wire* wire, const Service& service, const std::string& peer,
                          const ConnectionLimits& limits, const Shutdown& shutdown,
                          Opening opening) {
  if (service.metrics() != nullptr) service.metrics()->clients.fetch_add(1);
  const ConnectionEnd end =
      Connection(wire, service, peer, limits, shutdown, std::move(opening)).Run();
  if (service.metrics() != nullptr) service.metrics()->clients.fetch_sub(1);
  return end;
}

}  // namespace lmshm
