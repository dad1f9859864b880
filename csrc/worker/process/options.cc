// SPDX-License-Identifier: Apache-2.0
#include "worker/process/options.h"

#include <algorithm>
#include <cerrno>

#include "worker/base/text.h"
#include "worker/execution/give_way.h"
#include "worker/storage/file_access.h"
#include "worker/storage/quota.h"

namespace lmshm {

const char kHelpText[] =
    R"(Usage: lmshm-worker [OPTION]...
Moves data between a shared memory segment and files, a Redis or Valkey server, or
an S3 bucket, as told on stdin or on a socket. Without --listen it serves one client on stdin and stdout.

  --listen ADDRESS      serve any number of clients on a socket; may be repeated.
                        ADDRESS is HOST:PORT (no HOST: 127.0.0.1; PORT 0: any
                        free port), [IPV6]:PORT, unix:PATH, or a path. Once it
                        listens, it prints "LISTENING ADDRESS" on stdout.
                        Needs --root or --store.
  --root DIR            serve only files below DIR. Without it, pipe mode serves
                        every path that its user may use.
  --store URL           keep objects there: redis://[USER@]HOST[:PORT][/DB],
                        redis+unix:///PATH, redis+cluster://HOST[:PORT],...,
                        s3://BUCKET[/PREFIX]?endpoint=http://HOST:PORT, all with
                        parameters (docs/engines.md); /DIR and file:///DIR are
                        --root DIR. For protocol version 2.
  --store-secret-file FILE
                        what the store is logged in to with, mode 0600: Redis's
                        password, or for S3 lines as in ~/.aws/credentials
  --segment-fd N        clients may ATTACH the inherited descriptor N as "fd:N";
                        may be repeated
  --secret-file FILE    TCP clients must prove that they know this file's content:
                        16 to 1024 printable characters, mode 0600
  --no-auth             TCP clients need not authenticate; loopback only
  --no-auth-on ADDRESS  as --listen, for TCP clients that cannot authenticate: whoever
                        reaches this HOST:PORT may do everything. HOST is an address
                        of one network, such as that of the containers; may be
                        repeated
  --plain-auth          TCP clients may also send the secret itself (AUTH), which
                        whoever listens can read
  --max-clients N       clients at one time (default 64, or fewer where there are
                        too few descriptors; at most 4096), of which each address
                        keeps a share
  --idle-timeout S      drop a socket client that sends nothing for S seconds
                        (default 0: never)
  --io-threads N        threads that carry out the requests of all clients of
                        version 2 (default 4, with a --store that is no directory
                        16; at most 256); small ones are also carried out by a
                        client's own thread
  --nice N              nice value of these threads, 0 to 19 (default 0): all other
                        programs of the machine go first
  --max-bytes-in-flight N
                        requests of version 2 that are carried out at one time
                        move at most N bytes (default 1073741824)
  --max-bytes N         what the objects in all directories below the root may take
                        of the disk together, whoever writes them; those that were
                        used longest ago are removed to make room. 0: they are
                        counted, and there is no limit. Needs --root
  --io MODE             how objects go to and from their files: direct (past the
                        page cache, where the file system can), cached, or auto
                        (default). For protocol version 2.
  --sync WHAT           what is on the disk before a PUT is answered: none
                        (default), data, or full (also the file's name)
  --keep-open N         small objects that are got again and again stay open, at
                        most N (default 8192; 0: none), on local file systems
  --file-mode MODE      of the files that it makes (default 0600), in octal: 0640 and
                        0644 let the group, or everybody, read objects. Directories
                        that it makes can be entered by whoever can read files
  --group GROUP         of the files and directories that it makes, by name or number
  --no-sandbox          do not fence this process in with Landlock
  --log-level LEVEL     error, warn (default), info or debug, on stderr
  -h, --help            print this and exit
  -V, --version         print the version and exit

Environment: LMSHM_SECRET is used where --secret-file is not given; LMSHM_LOG
where --log-level is not; LMSHM_STORE_SECRET (Redis) or AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (S3) where --store-secret-file is not.
Exit status: 0 after QUIT, end of input, SIGTERM, SIGINT or SIGHUP; 1 failed
while serving; 2 wrong usage; 3 could not start.
)";

namespace {

constexpr uint64_t kMaxClients = 4096;
constexpr uint64_t kMaxIoThreads = 256;
constexpr uint64_t kMaxKeptFiles = 1 << 20;
constexpr uint64_t kMaxIdleSeconds = 365 * 24 * 3600;

Status Wrong(std::string text) { return Status::Error(EINVAL, std::move(text)); }

Status ParseBounded(const std::string& option, const std::string& text, uint64_t smallest,
                    uint64_t largest, uint64_t* value) {
  uint64_t parsed;
  if (ParseU64(text, &parsed) == NumberError::kNone && parsed >= smallest && parsed <= largest) {
    *value = parsed;
    return Status::OK();
  }
  return Wrong(option + " " + Printable(text) + ": expected a number from " +
               std::to_string(smallest) + " to " + std::to_string(largest));
}

using Setter = Status (*)(const std::string& option, const std::string& value, Options*);

struct OptionRule {
  const char* name;
  bool has_value;
  Setter set;
};

constexpr OptionRule kRules[] = {
    {"--listen", true,
     [](const std::string&, const std::string& value, Options* o) {
       ListenAddress address;
       Status status = ParseListenAddress(value, &address);
       if (status.ok()) o->listen.push_back(address);
       return status;
     }},
    {"--root", true,
     [](const std::string&, const std::string& value, Options* o) {
       if (value.empty()) return Wrong("--root: the directory's name is empty");
       o->root = value;
       return Status::OK();
     }},
    {"--store", true,
     [](const std::string&, const std::string& value, Options* o) {
       StoreUrl url;
       Status status = ParseStoreUrl(value, &url);
       if (!status.ok()) return Wrong("--store: " + status.text());
       o->store = std::move(url);
       o->store_text = value;
       return status;
     }},
    {"--store-secret-file", true,
     [](const std::string&, const std::string& value, Options* o) {
       if (value.empty()) return Wrong("--store-secret-file: the file's name is empty");
       o->store_secret_file = value;
       return Status::OK();
     }},
    {"--segment-fd", true,
     [](const std::string& option, const std::string& value, Options* o) {
       uint64_t fd;
       Status status = ParseBounded(option, value, 3, 1 << 20, &fd);
       if (status.ok()) o->segment_fds.push_back(static_cast<int>(fd));
       return status;
     }},
    {"--secret-file", true,
     [](const std::string&, const std::string& value, Options* o) {
       if (value.empty()) return Wrong("--secret-file: the file's name is empty");
       o->secret_file = value;
       return Status::OK();
     }},
    {"--no-auth", false,
     [](const std::string&, const std::string&, Options* o) {
       o->no_auth = true;
       return Status::OK();
     }},
    {"--no-auth-on", true,
     [](const std::string& option, const std::string& value, Options* o) {
       ListenAddress address;
       Status status = ParseListenAddress(value, &address);
       // Its text begins with the other option.
       if (!status.ok()) return Wrong(option + status.text().substr(sizeof "--listen" - 1));
       if (!address.tcp()) {
         return Wrong(option + " " + Printable(value) +
                      ": a Unix socket asks for the user, and for no secret; use --listen");
       }
       if (address.any) {
         return Wrong(option + " " + Printable(value) +
                      ": this would let in everybody on all networks; name the address of one, "
                      "such as 172.17.0.1:" +
                      std::to_string(address.port));
       }
       address.no_auth = true;
       o->listen.push_back(address);
       return Status::OK();
     }},
    {"--plain-auth", false,
     [](const std::string&, const std::string&, Options* o) {
       o->plain_auth = true;
       return Status::OK();
     }},
    {"--max-clients", true,
     [](const std::string& option, const std::string& value, Options* o) {
       uint64_t clients;
       Status status = ParseBounded(option, value, 1, kMaxClients, &clients);
       if (status.ok()) o->max_clients = clients;
       return status;
     }},
    {"--idle-timeout", true,
     [](const std::string& option, const std::string& value, Options* o) {
       return ParseBounded(option, value, 0, kMaxIdleSeconds, &o->idle_timeout_s);
     }},
    {"--io-threads", true,
     [](const std::string& option, const std::string& value, Options* o) {
       return ParseBounded(option, value, 1, kMaxIoThreads, &o->io_threads);
     }},
    {"--nice", true,
     [](const std::string& option, const std::string& value, Options* o) {
       return ParseBounded(option, value, 0, kMostNice, &o->nice);
     }},
    {"--max-bytes-in-flight", true,
     [](const std::string& option, const std::string& value, Options* o) {
       return ParseBounded(option, value, 1, INT64_MAX, &o->max_bytes_in_flight);
     }},
    {"--max-bytes", true,
     [](const std::string& option, const std::string& value, Options* o) {
       uint64_t bytes = 0;
       if (value != "0") {
         Status status = ParseBounded(option, value, kLeastQuotaBytes, INT64_MAX, &bytes);
         if (!status.ok()) return Wrong(status.text() + ", or 0 for no limit");
       }
       o->max_bytes = bytes;
       return Status::OK();
     }},
    {"--io", true,
     [](const std::string& option, const std::string& value, Options* o) {
       if (ParseIoMode(value, &o->io)) return Status::OK();
       return Wrong(option + " " + Printable(value) + ": expected auto, direct or cached");
     }},
    {"--sync", true,
     [](const std::string& option, const std::string& value, Options* o) {
       if (ParseDurability(value, &o->durability)) return Status::OK();
       return Wrong(option + " " + Printable(value) + ": expected none, data or full");
     }},
    {"--keep-open", true,
     [](const std::string& option, const std::string& value, Options* o) {
       uint64_t files;
       Status status = ParseBounded(option, value, 0, kMaxKeptFiles, &files);
       if (status.ok()) o->keep_open = files;
       return status;
     }},
    {"--file-mode", true,
     [](const std::string& option, const std::string& value, Options* o) {
       mode_t mode = 0;
       const bool octal = value.size() >= 3 && value.size() <= 5 &&
                          value.find_first_not_of("01234567") == std::string::npos;
       for (size_t i = 0; octal && i < value.size(); i++) {
         mode = mode * 8 + static_cast<mode_t>(value[i] - '0');
       }
       if (!octal || !IsFileMode(mode)) {
         return Wrong(option + " " + Printable(value) +
                      ": expected an octal mode such as 0640 or 0644; the owner reads and writes, "
                      "nobody executes, and not everybody writes");
       }
       o->file_mode = mode;
       return Status::OK();
     }},
    {"--group", true,
     [](const std::string& option, const std::string& value, Options* o) {
       if (value.empty()) return Wrong(option + ": the group's name is empty");
       o->group = value;
       return Status::OK();
     }},
    {"--no-sandbox", false,
     [](const std::string&, const std::string&, Options* o) {
       o->sandbox = false;
       return Status::OK();
     }},
    {"--log-level", true,
     [](const std::string& option, const std::string& value, Options* o) {
       if (ParseLogLevel(value, &o->log_level)) return Status::OK();
       return Wrong(option + " " + Printable(value) + ": expected error, warn, info or debug");
     }},
    {"--help", false,
     [](const std::string&, const std::string&, Options* o) {
       o->action = Options::Action::kHelp;
       return Status::OK();
     }},
    {"--version", false,
     [](const std::string&, const std::string&, Options* o) {
       o->action = Options::Action::kVersion;
       return Status::OK();
     }},
};

// How many characters must be inserted, removed or replaced to turn `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); j++) row[j] = j;
  for (size_t i = 1; i <= a.size(); i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); j++) {
      const size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

Status UnknownOption(const std::string& argument, const std::string& name) {
  if (name.empty() || name[0] != '-') {
    return Wrong("unexpected argument \"" + Printable(argument) + "\"; options begin with --");
  }
  const OptionRule* nearest = nullptr;
  size_t best = SIZE_MAX;
  for (const OptionRule& rule : kRules) {
    // More than a third of a name changed is another name. The dashes are everybody's.
    const size_t limit = std::max<size_t>(1, (std::string_view(rule.name).size() - 2) / 3);
    const size_t distance = EditDistance(name.substr(0, 64), rule.name);
    if (distance > limit || distance >= best) continue;
    best = distance;
    nearest = &rule;
  }
  std::string text = "unknown option " + Printable(name);
  if (nearest != nullptr) text += std::string("; did you mean ") + nearest->name + "?";
  return Wrong(text);
}

// A --store that is a directory is a --root.
Status TakeRootFromStore(Options* o) {
  if (!o->store.has_value()) return Status::OK();
  if (!o->root.empty()) return Wrong("--store and --root exclude each other");
  if (!o->store->directory()) return Status::OK();
  o->root = o->store->path;
  o->store.reset();
  return Status::OK();
}

// The rules of trust, and what would silently have no effect.
Status CheckTogether(const Options& o) {
  bool tcp = false;
  for (const ListenAddress& address : o.listen) {
    if (!address.tcp() || address.no_auth) continue;
    tcp = true;
    if (o.no_auth && !address.loopback) {
      return Wrong(
          "--no-auth is accepted on loopback only, and --listen " + Printable(address.text) +
          " can be reached from elsewhere; use 127.0.0.1, or --secret-file, or, for "
          "clients that cannot authenticate, --no-auth-on with the address of one network");
    }
  }
  if (!o.listen.empty() && o.root.empty() && !o.store.has_value()) {
    return Wrong(
        "a listening worker needs --root DIR, the directory that clients may use, or --store URL");
  }
  if (o.store.has_value()) {
    const char* const surplus = o.max_bytes.has_value()             ? "--max-bytes"
                                : o.keep_open.has_value()           ? "--keep-open"
                                : o.io != IoMode::kAuto             ? "--io"
                                : o.durability != Durability::kNone ? "--sync"
                                : o.file_mode != 0600               ? "--file-mode"
                                : !o.group.empty()                  ? "--group"
                                                                    : nullptr;
    if (surplus != nullptr) {
      return Wrong(std::string(surplus) + " is for directories, and --store " + o.store->scheme +
                   ":// is none");
    }
  } else if (!o.store_secret_file.empty()) {
    return Wrong("--store-secret-file is for a --store that is no directory");
  }
  if (o.max_bytes.has_value() && o.root.empty()) {
    return Wrong("--max-bytes needs --root DIR, the directory whose objects are counted");
  }
  if (o.no_auth && !o.secret_file.empty()) {
    return Wrong("--no-auth and --secret-file exclude each other");
  }
  if (o.no_auth && o.plain_auth) {
    return Wrong("--no-auth and --plain-auth exclude each other");
  }
  if (!tcp && (o.no_auth || o.plain_auth || !o.secret_file.empty())) {
    return Wrong(std::string(o.no_auth      ? "--no-auth"
                             : o.plain_auth ? "--plain-auth"
                                            : "--secret-file") +
                 " is for TCP, and no --listen HOST:PORT is given");
  }
  if (o.max_clients.has_value() && *o.max_clients < o.listen.size()) {
    return Wrong("--max-clients " + std::to_string(*o.max_clients) +
                 " is less than one for each of " + std::to_string(o.listen.size()) +
                 " --listen addresses");
  }
  if (tcp && !o.no_auth && o.secret_file.empty() && o.secret_text.empty()) {
    return Wrong(
        "TCP needs a secret: give --secret-file FILE or set LMSHM_SECRET; on loopback, "
        "--no-auth does without (clients of version 1 such as LMCache cannot send one)");
  }
  return Status::OK();
}

}  // namespace

Status ParseOptions(const std::vector<std::string>& arguments, const Environment& environment,
                    Options* options) {
  Options parsed;
  if (environment.log != nullptr && *environment.log != '\0' &&
      !ParseLogLevel(environment.log, &parsed.log_level)) {
    return Wrong("environment variable LMSHM_LOG is \"" + Printable(environment.log) +
                 "\": expected error, warn, info or debug");
  }
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    if (argument == "-h") name = "--help";
    if (argument == "-V") name = "--version";
    const auto* rule = std::find_if(std::begin(kRules), std::end(kRules),
                                    [&](const OptionRule& r) { return name == r.name; });
    if (rule == std::end(kRules)) return UnknownOption(argument, name);

    std::string value;
    if (!rule->has_value) {
      if (equals != std::string::npos) return Wrong(name + " takes no value");
    } else if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    } else {
      return Wrong(name + " needs a value");
    }
    Status status = rule->set(name, value, &parsed);
    if (!status.ok()) return status;
    if (parsed.action != Options::Action::kServe) {
      *options = parsed;
      return Status::OK();
    }
  }
  // A secret file that is given is the secret; one from the environment may be meant for others.
  if (environment.secret != nullptr && parsed.secret_file.empty() && !parsed.no_auth) {
    parsed.secret_text = environment.secret;
  }
  Status status = TakeRootFromStore(&parsed);
  if (status.ok()) status = CheckTogether(parsed);
  if (status.ok()) *options = parsed;
  return status;
}

}  // namespace lmshm
