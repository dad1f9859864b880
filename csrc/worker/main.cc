// SPDX-License-Identifier: Apache-2.0
//
// lmshm-worker: moves data between shared memory and files, or servers that keep objects, for
// processes that do not want to.
//
// This file only puts the parts together, in the order that matters: everything that needs wide
// rights first (the root, the secret, the sockets), then the fence, then threads and clients.
//
//     base/        values, text, hashes, logging, cancelling                    <- nothing
//     memory/      a client's segment: mapped, proven to be the right one       <- base
//     storage/     objects by key, files of one directory; knows no client      <- base, memory
//     protocol/    lines to requests, results to lines; pure text               <- the three above
//     net/         sockets, and answers on their way out                        <- base
//     remote/      connections to servers that keep objects                     <- base
//     redis/       an ObjectStore: Redis and Valkey         <- base, memory, storage, remote
//     s3/          an ObjectStore: S3                       <- base, memory, storage, remote
//     execution/   whose turn it is, and what a request does                    <- all above
//     server/      connections, logins, sessions of either version              <- all above
//     process/     options, descriptors, which store, the fence                 <- all above
//
// `npm run check -- layout` holds these arrows.
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "include/lmshm.h"
#include "worker/base/crc32c.h"
#include "worker/base/heap.h"
#include "worker/base/log.h"
#include "worker/base/random.h"
#include "worker/base/shutdown.h"
#include "worker/base/text.h"
#include "worker/base/wake_up.h"
#include "worker/execution/engine.h"
#include "worker/memory/parent_maps.h"
#include "worker/memory/segment_identity.h"
#include "worker/net/listener.h"
#include "worker/net/secret.h"
#include "worker/net/wire.h"
#include "worker/process/descriptors.h"
#include "worker/process/make_store.h"
#include "worker/process/options.h"
#include "worker/process/sandbox.h"
#include "worker/process/store_secrets.h"
#include "worker/server/connection.h"
#include "worker/server/server.h"
#include "worker/server/service.h"
#include "worker/storage/atomic_file.h"
#include "worker/storage/beneath.h"
#include "worker/storage/directories.h"
#include "worker/storage/file_access.h"
#include "worker/storage/object_dir.h"
#include "worker/storage/quota.h"
#include "worker/storage/stores.h"

namespace {

using lmshm::Log;
using lmshm::LogLevel;
using lmshm::Options;
using lmshm::Service;
using lmshm::Shutdown;
using lmshm::Status;

enum ExitCode { kExitOk = 0, kExitFailed = 1, kExitUsage = 2, kExitCannotStart = 3 };

constexpr std::chrono::seconds kSendPatience(30);
constexpr std::chrono::seconds kAnnouncePatience(10);

// Descriptors 0 to 2 must be open: what is opened next would be taken for stdin, stdout or stderr.
bool OpenMissingStandardDescriptors() {
  for (int fd = 0; fd <= 2; fd++) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    if (open("/dev/null", O_RDWR) != fd) return false;
  }
  return true;
}

int Usage(const Status& status) {
  fprintf(stderr, "lmshm-worker: %s\nTry \"lmshm-worker --help\".\n", status.text().c_str());
  return kExitUsage;
}

int CannotStart(const Status& status) {
  Log(LogLevel::kError, "cannot start: " + status.ToString());
  return kExitCannotStart;
}

// Copies the secret away and overwrites it where other processes of this user could read it
// (/proc/PID/environ).
void TakeSecretFromEnvironment(std::string* copy, bool* present) {
  char* const value = getenv("LMSHM_SECRET");
  *present = value != nullptr;
  if (value == nullptr) return;
  *copy = value;
  memset(value, 0, strlen(value));
  unsetenv("LMSHM_SECRET");
}

Status CheckSegmentDescriptors(const std::vector<int>& fds) {
  for (const int fd : fds) {
    const std::string action = "--segment-fd " + std::to_string(fd);
    struct stat st;
    if (fstat(fd, &st) != 0) {
      return Status::System(errno, action, "the parent process must leave it open");
    }
    if (!S_ISREG(st.st_mode)) {
      return Status::Error(EINVAL, action + ": not a shared memory segment");
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return Status::System(errno, action);
  }
  return Status::OK();
}

// By name or number. Asks the system, so it comes before the fence.
Status FindGroup(const std::string& text, gid_t* group) {
  uint64_t number;
  if (lmshm::ParseU64(text, &number) == lmshm::NumberError::kNone && number < UINT32_MAX) {
    *group = static_cast<gid_t>(number);
    return Status::OK();
  }
  const struct group* const found = getgrnam(text.c_str());
  if (found == nullptr) {
    return Status::Error(ENOENT, "--group " + lmshm::Printable(text) + ": there is no such group");
  }
  *group = found->gr_gid;
  return Status::OK();
}

Status ChooseFileAccess(const Options& options) {
  lmshm::FileAccess access;
  access.mode = options.file_mode;
  if (!options.group.empty()) {
    gid_t group = 0;
    Status status = FindGroup(options.group, &group);
    if (!status.ok()) return status;
    access.group = group;
  }
  lmshm::SetFileAccess(access);
  return Status::OK();
}

// Whether files can be given that access, by trying.
Status TryFileAccess(const Options& options, const lmshm::ObjectDir* objects) {
  if (options.group.empty() || objects == nullptr || objects->root_fd() < 0) return Status::OK();
  lmshm::AtomicFile probe;
  const int error = probe.Create(objects->root_fd(), "access-test");
  if (error == 0) return Status::OK();
  const std::string action = "--group " + lmshm::Printable(options.group) + ": give it a file";
  return error == EPERM ? Status::System(error, action, "this user must be a member of that group")
                        : Status::System(error, action);
}

// `*objects` stays null where no files are served.
Status OpenStorage(const Options& options, std::unique_ptr<lmshm::ObjectDir>* objects) {
  if (options.store.has_value()) return Status::OK();
  if (options.root.empty()) {
    *objects = lmshm::ObjectDir::Unconfined();
    return Status::OK();
  }
  return lmshm::ObjectDir::OpenConfined(options.root, lmshm::DetectBeneathMethod(), objects);
}

// For the clients that were asked for, or as many as can be. `secret`: there is one.
Status PlanDescriptors(const Options& options, bool secret, lmshm::DescriptorShares* shares) {
  lmshm::DescriptorNeeds needs;
  needs.limit = lmshm::RaiseDescriptorLimit();
  needs.own = lmshm::CountDescriptors(needs.limit);
  needs.sockets = !options.listen.empty();
  if (needs.sockets) {
    needs.clients = options.max_clients;
    needs.usual_clients = lmshm::kDefaultClients;
    needs.listeners = options.listen.size();
  }
  for (const lmshm::ListenAddress& address : options.listen)
    needs.logins |= secret && address.tcp() && !address.no_auth;
  needs.threads = options.threads();
  needs.directories = !options.root.empty();
  needs.listings = options.store.has_value();
  needs.quota = options.max_bytes.has_value();
  Status status = lmshm::ShareDescriptors(needs, shares);
  if (!status.ok()) return status;
  lmshm::WakeUp::SetLimit(shares->wakes);
  if (needs.sockets && !needs.clients.has_value() && shares->clients < needs.usual_clients) {
    Log(LogLevel::kWarn, "only " + std::to_string(shares->clients) + " clients instead of " +
                             std::to_string(needs.usual_clients) + ": this process may have " +
                             std::to_string(needs.limit) +
                             " descriptors (RLIMIT_NOFILE, \"ulimit -n\")");
  }
  return status;
}

Status StartQuota(const Options& options, const lmshm::ObjectDir& objects,
                  const lmshm::DescriptorShares& shares, std::unique_ptr<lmshm::Quota>* quota,
                  Service* service) {
  if (!options.max_bytes.has_value()) return Status::OK();
  lmshm::QuotaRules rules;
  if (*options.max_bytes > 0) rules.max_bytes = *options.max_bytes;
  rules.directories = shares.counted;
  *quota = std::make_unique<lmshm::Quota>(objects.root_fd(), rules);
  service->quota = quota->get();
  return (*quota)->Start();
}

// What version 2 of the protocol needs: a store, or directories to keep keys in. `*stores` stays
// null where there is neither.
Status OpenStores(const Options& options, const lmshm::ObjectDir* objects,
                  std::unique_ptr<lmshm::ObjectStore> store, const lmshm::DescriptorShares& shares,
                  std::unique_ptr<lmshm::Stores>* stores, Service* service) {
  Status status = lmshm::RandomDigits(16, "choose a boot id", &service->boot_id);
  if (!status.ok() || (objects != nullptr && objects->root_fd() < 0)) return status;
  Log(LogLevel::kInfo, "version 2: boot " + service->boot_id + ", checksums by " +
                           lmshm::Crc32cMethod() +
                           ", io: " + std::string(lmshm::IoModeName(options.io)) +
                           ", sync: " + std::string(lmshm::DurabilityName(options.durability)));
  if (store != nullptr) {
    *stores = std::make_unique<lmshm::OneStore>(std::move(store), shares.listings);
    service->stores = stores->get();
    return status;
  }
  lmshm::Directories::Limits limits;
  limits.directories = shares.directories;
  limits.listings = shares.listings;
  limits.kept.limit = std::min(options.keep_open.value_or(lmshm::kDefaultKeptFiles), shares.kept);
  auto directories =
      std::make_unique<lmshm::Directories>(*objects, limits, lmshm::ProbeStorage, service->quota);
  status = directories->Start();
  if (!status.ok()) return status;
  *stores = std::move(directories);
  service->stores = stores->get();
  return status;
}

Status OpenSecret(const Options& options, std::unique_ptr<lmshm::Secret>* secret) {
  if (!options.secret_file.empty()) return lmshm::Secret::FromFile(options.secret_file, secret);
  if (options.secret_text.empty()) return Status::OK();
  return lmshm::Secret::FromText(options.secret_text, "LMSHM_SECRET", secret);
}

void Fence(const Options& options, const lmshm::ObjectDir* objects, const lmshm::MadeStore& made,
           const std::vector<std::unique_ptr<lmshm::Listener>>& listeners) {
  if (!options.sandbox) {
    Log(LogLevel::kInfo, "fences: none (--no-sandbox)");
    return;
  }
  lmshm::SandboxRules rules;
  rules.files = objects != nullptr;
  rules.root_fd = objects == nullptr ? -1 : objects->root_fd();
  rules.ports = made.ports;
  rules.looks_up_names = made.looks_up_names;
  for (const auto& listener : listeners) {
    if (listener->directory_fd() >= 0) rules.socket_dir_fds.push_back(listener->directory_fd());
  }
  std::string fences;
  const Status status = lmshm::EnterSandbox(rules, &fences);
  Log(LogLevel::kInfo, "fences: " + fences);
  if (status.ok()) return;
  const bool absent = status.number() == EOPNOTSUPP;
  Log(absent ? LogLevel::kInfo : LogLevel::kWarn, "fewer fences: " + status.ToString());
}

int ServePipe(const Service& service, const Shutdown& shutdown) {
  lmshm::Wire wire(STDIN_FILENO, STDOUT_FILENO, shutdown);
  // No limits: the parent may take its time, and this process ends when the parent does.
  const lmshm::ConnectionEnd end =
      lmshm::ServeClient(&wire, service, "parent", lmshm::ConnectionLimits(), shutdown);
  std::string text = std::string("end: ") + lmshm::ConnectionEndText(end);
  if (end != lmshm::ConnectionEnd::kBroken) {
    Log(LogLevel::kInfo, text);
    return kExitOk;
  }
  Log(LogLevel::kError, text + ": " + lmshm::ErrnoName(wire.error()));
  return kExitFailed;
}

int ServeSockets(const Service& service, const lmshm::Secret* secret, const Options& options,
                 const lmshm::DescriptorShares& shares,
                 std::vector<std::unique_ptr<lmshm::Listener>>* listeners,
                 const Shutdown& shutdown) {
  lmshm::ServerLimits limits;
  limits.clients = shares.clients;
  limits.pending_logins = shares.logins;
  limits.lingering = shares.lingering;
  limits.connection.idle = std::chrono::seconds(options.idle_timeout_s);
  limits.connection.send = kSendPatience;
  // Whoever started this may wait for it, or may not read it at all.
  for (const auto& listener : *listeners) {
    lmshm::Wire announcement(-1, STDOUT_FILENO, shutdown);
    const auto ignored =
        announcement.Write("LISTENING " + listener->name() + "\n", kAnnouncePatience);
    (void)ignored;
    Log(LogLevel::kInfo, "listening on " + listener->name());
    if (!listener->no_auth()) continue;
    Log(LogLevel::kWarn,
        listener->name() +
            " asks nobody for a secret (--no-auth-on): every process that reaches this address can "
            "read, replace and remove all objects below the root, and use this user's segments in "
            "/dev/shm");
  }
  lmshm::LoginRules login;
  login.secret = secret;
  login.plain = options.plain_auth;
  lmshm::Server server(service, login, limits, shutdown);
  const Status status = server.Run(*listeners);
  listeners->clear();  // removes the sockets' files
  if (status.ok()) {
    Log(LogLevel::kInfo, "end: asked to by a signal");
    return kExitOk;
  }
  Log(LogLevel::kError, "end: " + status.ToString());
  // A thread may still be at work; it must not see what it uses destroyed.
  _exit(kExitFailed);
}

}  // namespace

int main(int argc, char** argv) {
  if (!OpenMissingStandardDescriptors()) return kExitCannotStart;
  lmshm::StoreEnvironment store_environment = lmshm::TakeStoreEnvironment();
  std::string secret_text;
  bool secret_present;
  TakeSecretFromEnvironment(&secret_text, &secret_present);
  lmshm::Environment environment;
  environment.log = getenv("LMSHM_LOG");
  environment.secret = secret_present ? secret_text.c_str() : nullptr;
  Options options;
  Status status = lmshm::ParseOptions(
      std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc), environment, &options);
  if (!status.ok()) return Usage(status);
  if (options.action == Options::Action::kHelp) {
    return fputs(lmshm::kHelpText, stdout) < 0 || fflush(stdout) != 0 ? kExitFailed : kExitOk;
  }
  if (options.action == Options::Action::kVersion) {
    return puts("lmshm-worker " LMSHM_VERSION) < 0 || fflush(stdout) != 0 ? kExitFailed : kExitOk;
  }
  lmshm::SetLogLevel(options.log_level);
  lmshm::BoundHeaps();

  Shutdown& shutdown = Shutdown::Get();
  status = shutdown.Install();
  if (!status.ok()) return CannotStart(status);
  status = CheckSegmentDescriptors(options.segment_fds);
  if (!status.ok()) return CannotStart(status);
  std::unique_ptr<lmshm::ObjectDir> objects;
  status = ChooseFileAccess(options);
  if (status.ok()) status = OpenStorage(options, &objects);
  if (status.ok()) status = TryFileAccess(options, objects.get());
  if (!status.ok()) return CannotStart(status);
  lmshm::StoreSecrets store_secrets;
  if (options.store.has_value()) {
    status = lmshm::FindStoreSecrets(*options.store, options.store_secret_file, &store_environment,
                                     &store_secrets);
    if (!status.ok()) return CannotStart(status);
  }
  std::unique_ptr<lmshm::Secret> secret;
  status = OpenSecret(options, &secret);
  if (!status.ok()) return CannotStart(status);
  std::vector<std::unique_ptr<lmshm::Listener>> listeners;
  for (const lmshm::ListenAddress& address : options.listen) {
    std::unique_ptr<lmshm::Listener> listener;
    status = lmshm::Listener::Open(address, &listener);
    if (!status.ok()) return CannotStart(status);
    listeners.push_back(std::move(listener));
  }

  const std::string kernel_boot = lmshm::KernelBoot();
  std::unique_ptr<lmshm::ParentMaps> parent;
  if (listeners.empty()) parent = lmshm::ParentMaps::Open();
  lmshm::DescriptorShares shares;
  status = PlanDescriptors(options, secret != nullptr, &shares);
  if (!status.ok()) return CannotStart(status);
  lmshm::MadeStore made;
  if (options.store.has_value()) {
    lmshm::StoreLimits limits;
    limits.threads = options.threads();
    status = lmshm::MakeStore(*options.store, store_secrets, limits, &shutdown, &made);
    if (!status.ok()) return CannotStart(status);
  }
  Log(LogLevel::kInfo,
      "lmshm-worker " LMSHM_VERSION ", serving " +
          (objects == nullptr ? lmshm::Printable(options.store_text) : objects->Describe()));
  Fence(options, objects.get(), made, listeners);
  Service service;
  service.objects = objects.get();
  service.segment_fds = options.segment_fds;
  service.kernel_boot = kernel_boot;
  service.parent = parent.get();
  service.cancel = &shutdown;
  std::unique_ptr<lmshm::Quota> quota;
  if (objects != nullptr) status = StartQuota(options, *objects, shares, &quota, &service);
  if (!status.ok()) return CannotStart(status);
  std::unique_ptr<lmshm::Stores> stores;
  status = OpenStores(options, objects.get(), std::move(made.store), shares, &stores, &service);
  if (!status.ok()) return CannotStart(status);
  service.io = options.io;
  service.sync = options.durability;
  service.open_objects = shares.open_objects;
  // After the fence, which later threads inherit.
  std::unique_ptr<lmshm::Engine> engine;
  if (stores != nullptr) {
    lmshm::EngineLimits limits;
    limits.threads = options.threads();
    limits.bytes = options.max_bytes_in_flight;
    limits.begun = shares.begun;
    limits.nice = static_cast<int>(options.nice);
    engine = std::make_unique<lmshm::Engine>(limits);
    status = engine->Start();
    if (!status.ok()) return CannotStart(status);
    service.engine = engine.get();
  }
  return listeners.empty()
             ? ServePipe(service, shutdown)
             : ServeSockets(service, secret.get(), options, shares, &listeners, shutdown);
}
