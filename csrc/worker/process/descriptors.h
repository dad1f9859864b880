// SPDX-License-Identifier: Apache-2.0
//
// How the descriptors that this process may have are shared out, once, at the start: so that
// whoever is connected can be served, whatever the others do.
//
// First what the worker itself has, a socket for each client, a few for connections that are no
// clients (yet), and what the requests at work need at least. Of what is left, in this order: an
// eventfd for each client's thread (one without is not woken, it looks from time to time), more
// connections that are no clients, directories beside the root, listings, files of requests that
// wait for their next turn and of batches, and half of the rest for files that stay open.
#ifndef LMSHM_WORKER_PROCESS_DESCRIPTORS_H_
#define LMSHM_WORKER_PROCESS_DESCRIPTORS_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "worker/base/status.h"

namespace lmshm {

struct DescriptorNeeds {
  uint64_t limit = 0;               // that this process may have
  uint64_t own = 0;                 // that it has before the first client, all in all
  bool sockets = true;              // clients have some
  bool logins = false;              // clients must log in before they are any
  uint64_t listeners = 1;           // addresses; each keeps a place for a client of its own
  std::optional<uint64_t> clients;  // that were asked for
  uint64_t usual_clients = 1;       // if nobody asks
  uint64_t threads = 1;             // that carry out requests
  bool directories = false;         // clients may have some below the root
  bool listings = false;            // without them: of a store that needs no descriptors for these
  bool quota = false;               // which are counted
};

struct DescriptorShares {
  uint64_t clients = 1;
  uint64_t lingering = 0;  // connections that are refused, and told why
  uint64_t logins = 0;     // connections that have not logged in
  uint64_t wakes = 0;
  uint64_t directories = 1;   // that are open at one time
  uint64_t listings = 0;      // that wait for their next page
  uint64_t counted = 0;       // directories in the account of a quota
  uint64_t begun = 1;         // requests that have been begun, see EngineLimits
  uint64_t open_objects = 1;  // of a batch, see RequestContext
  uint64_t kept = 0;          // files that may stay open
};

// EMFILE: these clients cannot be served, or, where no number was asked for, not even one of each
// listener. Of fewer than the usual ones the caller should tell.
Status ShareDescriptors(const DescriptorNeeds& needs, DescriptorShares* shares);

// Raises the limit of this process as far as it may, and returns it.
uint64_t RaiseDescriptorLimit();

// How many this process has open.
uint64_t CountDescriptors(uint64_t limit);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_DESCRIPTORS_H_
