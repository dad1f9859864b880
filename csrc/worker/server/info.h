// SPDX-License-Identifier: Apache-2.0
//
// The answer to INFO: what a worker is set to, what it found out about its store, what it is doing
// and what it has done. For people and for graphs; programs may rely on single words of it.
#ifndef LMSHM_WORKER_SERVER_INFO_H_
#define LMSHM_WORKER_SERVER_INFO_H_

#include <string>

#include "worker/server/service.h"

namespace lmshm {

// Words `name=value`, each with a space before it. `store` is the client's. Thread safe.
std::string DescribeService(const Service& service, const ObjectStore& store);

}  // namespace lmshm

#endif  // LMSHM_WORKER_SERVER_INFO_H_
