// SPDX-License-Identifier: Apache-2.0
#include "worker/server/pending_logins.h"

#include <sys/socket.h>

#include <cerrno>
#include <iterator>
#include <utility>

#include "worker/base/log.h"
#include "worker/protocol/answer.h"

namespace lmshm {

namespace {

std::string ErrorLine(int number, std::string text) {
  std::string line;
  AppendError(Status::Error(number, std::move(text)), &line);
  return line;
}

}  // namespace

void PendingLogins::Add(UniqueFd socket, std::string peer, size_t listener) {
  if (pending_.size() >= most_) DropOldest();
  pending_.emplace_back(std::move(socket), std::move(peer), listener, rules_);
}

bool PendingLogins::DropOldest() {
  if (pending_.empty()) return false;
  const Place oldest = pending_.begin();
  // Not lingering: descriptors are short.
  const std::string line = ErrorLine(ECONNRESET,
                                     "others came, and this connection had not authenticated for "
                                     "longest; try again");
  const ssize_t ignored =
      send(oldest->socket.get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)ignored;
  warnings_.Say(oldest->peer + ": ended: it had not authenticated, and others came");
  pending_.erase(oldest);
  return true;
}

void PendingLogins::AppendTo(std::vector<struct pollfd>* polled) const {
  for (const Pending& one : pending_) polled->push_back({one.socket.get(), POLLIN, 0});
}

Clock::time_point PendingLogins::deadline() const {
  return pending_.empty() ? Clock::time_point::max() : pending_.front().deadline;
}

void PendingLogins::Serve(const struct pollfd* polled, const Admit& admit) {
  const Clock::time_point now = Clock::now();
  for (Place place = pending_.begin(); place != pending_.end(); polled++) {
    const Place next = std::next(place);
    if (now >= place->deadline) {
      const std::string limit = std::to_string(kLoginTime.count()) + " s";
      End(place, ErrorLine(ETIMEDOUT, "not authenticated within " + limit),
          "it did not authenticate within " + limit);
    } else if (polled->revents != 0) {
      ServeOne(place, admit);
    }
    place = next;
  }
}

// One piece of what came, so that nobody keeps the others waiting.
void PendingLogins::ServeOne(Place place, const Admit& admit) {
  size_t space;
  char* const to = place->reader.Space(&space);
  const ssize_t n = recv(place->socket.get(), to, space, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    End(place, "", "it went away before it had authenticated");
    return;
  }
  place->reader.Commit(static_cast<size_t>(n));
  for (;;) {
    std::string_view line;
    switch (place->reader.Next(&line)) {
      case LineReader::Event::kNone:
        return;
      case LineReader::Event::kTooLong:
        End(place, ErrorLine(E2BIG, "too long a line before authenticating"),
            "it sent too long a line before it had authenticated");
        return;
      case LineReader::Event::kLine:
        if (Hear(place, line, admit)) return;
    }
  }
}

bool PendingLogins::Hear(Place place, std::string_view line, const Admit& admit) {
  std::string answer;
  switch (place->login.Handle(line, &answer)) {
    case Login::Next::kContinue: {
      const ssize_t sent =
          send(place->socket.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent == static_cast<ssize_t>(answer.size())) return false;
      End(place, "", "it did not take its answers before it had authenticated");
      return true;
    }
    case Login::Next::kEnd:
      if (place->login.wrong()) warnings_.Say(place->peer + ": wrong secret");
      End(place, answer,
          place->login.wrong() ? "it does not know the secret" : "it was not let in");
      return true;
    case Login::Next::kProven:
      break;
  }
  Opening opening;
  opening.answer = std::move(answer);
  opening.input = place->reader.Rest();
  const Status admitted = admit(place->listener, place->peer, &place->socket, std::move(opening));
  if (admitted.ok()) {
    pending_.erase(place);
    return true;
  }
  std::string refusal;
  AppendError(admitted, &refusal);
  End(place, refusal, admitted.ToString());
  return true;
}

void PendingLogins::End(Place place, std::string_view last_words, const std::string& why) {
  Log(LogLevel::kInfo, place->peer + ": ended: " + why);
  lingering_->Add(std::move(place->socket), last_words);
  pending_.erase(place);
}

}  // namespace lmshm
