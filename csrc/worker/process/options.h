// SPDX-License-Identifier: Apache-2.0
//
// The command line and the environment of lmshm-worker, as text. Looks at no file and no socket.
// docs/worker.md is for people.
#ifndef LMSHM_WORKER_PROCESS_OPTIONS_H_
#define LMSHM_WORKER_PROCESS_OPTIONS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/base/log.h"
#include "worker/base/status.h"
#include "worker/net/listen_address.h"
#include "worker/storage/io_mode.h"
#include "worker/storage/store_url.h"

namespace lmshm {

inline constexpr uint64_t kDefaultClients = 64;
inline constexpr uint64_t kDefaultKeptFiles = 8192;

struct Options {
  enum class Action { kServe, kHelp, kVersion };

  Action action = Action::kServe;
  std::vector<ListenAddress> listen;  // empty: pipe mode
  std::string root;                   // empty: none given; also of a --store that is a directory
  std::optional<StoreUrl> store;      // of --store that is none
  std::string store_text;             // as it was given
  std::string store_secret_file;
  std::vector<int> segment_fds;
  std::string secret_file;
  std::string secret_text;  // from LMSHM_SECRET
  bool no_auth = false;
  bool plain_auth = false;
  std::optional<uint64_t> max_clients;  // none: kDefaultClients, or as many as can be served
  uint64_t idle_timeout_s = 0;          // 0: none
  uint64_t io_threads = 0;              // 0: none given, see threads()
  uint64_t max_bytes_in_flight = 1 << 30;
  std::optional<uint64_t> max_bytes;  // none: objects are not counted; 0: there is no limit
  std::optional<uint64_t> keep_open;  // none: kDefaultKeptFiles
  mode_t file_mode = 0600;
  std::string group;  // a name or a number; empty: none given
  uint64_t nice = 0;
  bool sandbox = true;
  IoMode io = IoMode::kAuto;                  // where a request says nothing
  Durability durability = Durability::kNone;  // as well
  LogLevel log_level = LogLevel::kWarn;

  // That carry out requests: more where they wait for another machine.
  uint64_t threads() const { return io_threads != 0 ? io_threads : store.has_value() ? 16 : 4; }
};

// Values of the environment variables, nullptr for one that is not set.
struct Environment {
  const char* log = nullptr;     // LMSHM_LOG
  const char* secret = nullptr;  // LMSHM_SECRET
};

// Parses `arguments` (without the program's name) and checks that they make sense together,
// including the rules of trust: no listening without a root or a store, no TCP without a secret, no
// --no-auth beyond loopback. EINVAL with a text for the user on failure.
Status ParseOptions(const std::vector<std::string>& arguments, const Environment& environment,
                    Options* options);

// What --help prints.
extern const char kHelpText[];

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_OPTIONS_H_
