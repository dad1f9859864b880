// SPDX-License-Identifier: Apache-2.0
//
// What a store logs in with, from where it may come: a file, or the environment.
#ifndef LMSHM_WORKER_PROCESS_STORE_SECRETS_H_
#define LMSHM_WORKER_PROCESS_STORE_SECRETS_H_

#include <string>
#include <string_view>

#include "worker/base/status.h"
#include "worker/storage/store_url.h"

namespace lmshm {

// Takes LMSHM_STORE_SECRET and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN out of
// the environment and overwrites them where other processes of this user could read them
// (/proc/PID/environ). Before there are threads.
struct StoreEnvironment {
  std::string secret;
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;
};
StoreEnvironment TakeStoreEnvironment();

// What `content`, of --store-secret-file, says: for Redis the password, one line; for S3 lines as
// ~/.aws/credentials has them (aws_access_key_id = ..., of the section [default], or of none).
// EINVAL: it is not that. `source` names it; texts contain nothing of it.
Status ParseStoreSecrets(std::string_view scheme, std::string_view content,
                         const std::string& source, StoreSecrets* secrets);

// For the store at `url`: from the file `path`, or, where that is empty, from `environment`, which
// is wiped. A store may need none.
Status FindStoreSecrets(const StoreUrl& url, const std::string& path, StoreEnvironment* environment,
                        StoreSecrets* secrets);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_STORE_SECRETS_H_
