// SPDX-License-Identifier: Apache-2.0
//
// What an error reply of a server means: which errno value, what usually helps, and in a cluster
// whom to ask instead. Pure functions.
#ifndef LMSHM_WORKER_REDIS_ERRORS_H_
#define LMSHM_WORKER_REDIS_ERRORS_H_

#include <cstdint>
#include <string_view>

#include "worker/base/status.h"
#include "worker/redis/reply.h"
#include "worker/remote/endpoint.h"

namespace lmshm {

// "<server>: <what it said> (<what helps>)".
Status ServerError(std::string_view server, const Reply& reply);

// Whether a node of a cluster that says so may be right a moment later, or another node will be.
bool PassesInCluster(const Reply& reply);

// "MOVED 3999 127.0.0.1:6381" and "ASK ...": the slot and who has it. An empty host is that of the
// server which said so. False for anything else.
[[nodiscard]] bool ParseRedirection(const Reply& reply, uint16_t* slot, Endpoint* endpoint);

}  // namespace lmshm

#endif  // LMSHM_WORKER_REDIS_ERRORS_H_
