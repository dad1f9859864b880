// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/errors.h"

#include <cerrno>
#include <string>

#include "worker/base/text.h"
#include "worker/redis/slots.h"

namespace lmshm {

namespace {

struct Meaning {
  std::string_view word;  // of the reply, or
  std::string_view part;  // what it contains
  int number;
  std::string_view hint;
};

// The first that fits.
constexpr Meaning kMeanings[] = {
    {"OOM", "", ENOSPC,
     "it has reached its maxmemory: raise that, or set a maxmemory-policy that evicts"},
    {"LOADING", "", EAGAIN, "it is reading its data after a start; try again"},
    {"READONLY", "", EAGAIN, "it is a replica: give the address of the master"},
    {"MISCONF", "", EAGAIN, "it cannot save its data, and refuses writes: see its log"},
    {"NOREPLICAS", "", EAGAIN, "it refuses writes until enough replicas are connected"},
    {"MASTERDOWN", "", EAGAIN, "its master cannot be reached"},
    {"CLUSTERDOWN", "", EAGAIN, "nobody serves some of the slots now"},
    {"TRYAGAIN", "", EAGAIN, "the slot is moving"},
    {"BUSY", "", EAGAIN, "a script keeps it busy"},
    {"MOVED", "", EOPNOTSUPP, "it belongs to a cluster: say redis+cluster:// instead of redis://"},
    {"ASK", "", EOPNOTSUPP, "it belongs to a cluster: say redis+cluster:// instead of redis://"},
    {"NOAUTH", "", EACCES,
     "it wants a password: give one in the file of --store-secret-file or in LMSHM_STORE_SECRET"},
    {"WRONGPASS", "", EACCES, "user or password are wrong"},
    {"NOPERM", "", EACCES, "the user may not do that: see ACL SETUSER"},
    {"DENIED", "", EACCES, "it serves its own machine alone: set a password, or protected-mode no"},
    {"WRONGTYPE", "", EINVAL, "what has this key is no string"},
    {"", "cluster support disabled", EOPNOTSUPP,
     "it belongs to no cluster: say redis:// instead of redis+cluster://"},
    {"", "max number of clients", EAGAIN, "raise its maxclients"},
    {"", "unauthenticated", EACCES,
     "it wants a password: give one in the file of --store-secret-file or in LMSHM_STORE_SECRET"},
    {"", "invalid bulk length", EFBIG, "larger than its proto-max-bulk-len"},
    {"", "maximum allowed size", EFBIG, "larger than its proto-max-bulk-len"},
    {"", "invalid password", EACCES, "the password is wrong"},
    {"", "AUTH", EACCES, "it has no password for that user: give none, or set one there"},
    {"", "DB index", EINVAL, "see its setting \"databases\""},
    {"", "SELECT is not allowed", EINVAL, "a cluster has database 0 alone"},
};

bool Fits(const Meaning& meaning, const Reply& reply) {
  if (!meaning.word.empty()) return reply.ErrorWord() == meaning.word;
  return reply.text.find(meaning.part) != std::string::npos;
}

}  // namespace

Status ServerError(std::string_view server, const Reply& reply) {
  std::string text(server);
  text.append(": ").append(Printable(reply.text));
  for (const Meaning& meaning : kMeanings) {
    if (!Fits(meaning, reply)) continue;
    return Status::Error(meaning.number, text.append(" (").append(meaning.hint).append(")"));
  }
  return Status::Error(EPROTO, std::move(text));
}

bool PassesInCluster(const Reply& reply) {
  for (const std::string_view word :
       {"TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "READONLY"}) {
    if (reply.ErrorWord() == word) return true;
  }
  return false;
}

bool ParseRedirection(const Reply& reply, uint16_t* slot, Endpoint* endpoint) {
  const std::string_view word = reply.ErrorWord();
  if (word != "MOVED" && word != "ASK") return false;
  std::string_view text = std::string_view(reply.text).substr(word.size());
  if (!text.empty()) text.remove_prefix(1);
  const size_t space = text.find(' ');
  uint64_t number = 0;
  if (space == std::string_view::npos ||
      ParseU64(text.substr(0, space), &number) != NumberError::kNone || number >= kSlots) {
    return false;
  }
  *slot = static_cast<uint16_t>(number);
  text = text.substr(space + 1);
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos ||
      ParseU64(text.substr(colon + 1), &number) != NumberError::kNone || number == 0 ||
      number > UINT16_MAX) {
    return false;
  }
  *endpoint = Endpoint();
  endpoint->host = std::string(text.substr(0, colon));
  endpoint->port = static_cast<uint16_t>(number);
  return true;
}

}  // namespace lmshm
