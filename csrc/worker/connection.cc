// SPDX-License-Identifier: Apache-2.0
#include "worker/connection.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "worker/line_reader.h"

namespace lmshm {

namespace {

using std::chrono::milliseconds;

constexpr auto kAnswerDelay = std::chrono::microseconds(500);
constexpr size_t kAnswerBytes = 32 * 1024;
constexpr milliseconds kRejectDelay(500);  // makes guessing slow

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

// Answers on their way out.
class Answers {
 public:
  Answers(Wire* wire, milliseconds patience) : wire_(wire), patience_(patience) {}

  // To append to.
  std::string* text() { return &text_; }

  Wire::Result Flush() {
    oldest_ = Clock::time_point();
    if (text_.empty()) return Wire::Result::kOk;
    const Wire::Result result = wire_->Write(text_, patience_);
    text_.clear();
    return result;
  }

  // Call after each answer; `begun` is when its request was begun.
  Wire::Result FlushIfDue(Clock::time_point begun) {
    if (oldest_ == Clock::time_point()) oldest_ = begun;
    if (text_.size() < kAnswerBytes && Clock::now() - oldest_ < kAnswerDelay) {
      return Wire::Result::kOk;
    }
    return Flush();
  }

 private:
  Wire* const wire_;
  const milliseconds patience_;
  std::string text_;
  Clock::time_point oldest_;  // when the first unsent answer's request was begun
};

// Carries out the complete lines in `reader`. True if the connection goes on, else `*end` is set.
bool ServeLines(LineReader* reader, Conversation* session, Answers* answers, Wire* wire,
                const Shutdown& shutdown, ConnectionEnd* end) {
  for (;;) {
    std::string_view line;
    const LineReader::Event event = reader->Next(&line);
    if (event == LineReader::Event::kNone) break;
    if (shutdown.requested()) {
      *end = ConnectionEnd::kShutdown;
      const Wire::Result ignored = answers->Flush();
      (void)ignored;  // the end is near either way
      return false;
    }
    const Clock::time_point begun = Clock::now();
    Conversation::Next next = Conversation::Next::kContinue;
    if (event == LineReader::Event::kTooLong) {
      session->HandleTooLong(answers->text());
    } else {
      next = session->Handle(line, answers->text());
    }
    if (next == Conversation::Next::kReject) wire->Sleep(kRejectDelay);
    const Wire::Result sent =
        next == Conversation::Next::kContinue ? answers->FlushIfDue(begun) : answers->Flush();
    if (sent != Wire::Result::kOk) {
      *end = EndOf(sent);
      return false;
    }
    if (next == Conversation::Next::kContinue) continue;
    *end = next == Conversation::Next::kQuit ? ConnectionEnd::kQuit : ConnectionEnd::kRejected;
    return false;
  }
  const Wire::Result sent = answers->Flush();
  if (sent != Wire::Result::kOk) *end = EndOf(sent);
  return sent == Wire::Result::kOk;
}

}  // namespace

const char* ConnectionEndText(ConnectionEnd end) {
  switch (end) {
    case ConnectionEnd::kQuit:
      return "the client said QUIT";
    case ConnectionEnd::kClosed:
      return "the client closed the connection";
    case ConnectionEnd::kShutdown:
      return "the worker ends";
    case ConnectionEnd::kRejected:
      return "the client did not authenticate";
    case ConnectionEnd::kIdle:
      return "the client was idle for too long";
    case ConnectionEnd::kStuck:
      return "the client did not take its answers";
    case ConnectionEnd::kBroken:
      break;
  }
  return "the connection broke";
}

ConnectionEnd ServeConnection(Wire* wire, Conversation* session, const ConnectionLimits& limits,
                              const Shutdown& shutdown) {
  LineReader reader;
  Answers answers(wire, limits.send);
  const Clock::time_point login_deadline = After(Clock::now(), limits.login);
  Clock::time_point heard = Clock::now();
  for (;;) {
    Clock::time_point deadline = After(heard, limits.idle);
    if (!session->authenticated()) deadline = std::min(deadline, login_deadline);
    size_t space;
    char* const to = reader.Space(&space);
    size_t got = 0;
    const Wire::Result result = wire->Read(to, space, deadline, &got);
    // Also when there is something to read: who keeps talking does not get more time to log in.
    if (!session->authenticated() && Clock::now() >= login_deadline) {
      return ConnectionEnd::kRejected;
    }
    if (result == Wire::Result::kTimeout) return ConnectionEnd::kIdle;
    if (result != Wire::Result::kOk) return EndOf(result);
    heard = Clock::now();
    reader.Commit(got);
    ConnectionEnd end;
    if (!ServeLines(&reader, session, &answers, wire, shutdown, &end)) return end;
  }
}

}  // namespace lmshm
