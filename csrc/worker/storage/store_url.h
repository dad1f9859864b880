// SPDX-License-Identifier: Apache-2.0
//
// StoreUrl: what --store says, taken apart, and the secrets that go with it. Pure functions.
//
//     /dir or file:///dir                                          a directory
//     redis://[user@]host[:port][/db][?name=value&...]             one server
//     redis+unix:///path/of/socket[?db=n&...]
//     redis+cluster://host[:port],host[:port]...[?...]             any nodes of a cluster
//     s3://bucket[/prefix][?endpoint=URL&region=...&path_style=...]
//
// "valkey" in place of "redis" is the same. rediss:// is what TLS would be. User, path and values
// are percent-decoded; a directory that does not begin with a scheme is as it is. A password is
// refused: the command line of a process is public.
#ifndef LMSHM_WORKER_STORAGE_STORE_URL_H_
#define LMSHM_WORKER_STORAGE_STORE_URL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/status.h"

namespace lmshm {

struct StoreHost {
  std::string name;   // a name, an IPv4 address, or an IPv6 address without brackets
  uint16_t port = 0;  // 0: none given
};

struct StoreUrl {
  std::string scheme;            // "file", "redis", "redis+unix", "redis+cluster", "rediss", "s3"
  std::string user;              // empty: none
  std::vector<StoreHost> hosts;  // of s3: one, the bucket
  std::string path;              // without the slash after the host; of unix and file:// absolute
  std::vector<std::pair<std::string, std::string>> parameters;  // in their order, each name once

  bool directory() const { return scheme == "file"; }
};

// EINVAL with a text for the user: no such form, an unknown scheme, a password, a port that is
// none, a parameter that comes twice. Texts repeat nothing that might be part of a password. Which
// parameters there are the engine checks. `*url` is set on success only.
Status ParseStoreUrl(std::string_view text, StoreUrl* url);

// What a store logs in with: from a file or the environment, never from the command line. Never
// logged, and not part of any message.
struct StoreSecrets {
  std::string user;           // Redis: of AUTH, where the URL names none. S3: the access key id
  std::string password;       // Redis. S3: the secret access key
  std::string session_token;  // S3
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_STORE_URL_H_
