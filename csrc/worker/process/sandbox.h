// SPDX-License-Identifier: Apache-2.0
//
// Sandbox: fences that this process puts around itself, with Landlock, once all that needs wider
// rights (opening the root, binding sockets) is done. A second wall: the first is that requests
// are checked. Where the kernel has no Landlock, or an older one, there are fewer fences.
#ifndef LMSHM_WORKER_PROCESS_SANDBOX_H_
#define LMSHM_WORKER_PROCESS_SANDBOX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/base/status.h"

namespace lmshm {

struct SandboxRules {
  bool files = true;                // false: none, whatever `root_fd` is
  int root_fd = -1;                 // below it: read, write, create, remove files, create
                                    // directories; -1: below /, without directories
  std::vector<int> socket_dir_fds;  // in it: remove files (our socket, at the end)
  // Of TCP, that it may connect to.
  std::vector<uint16_t> ports;
  // Names are looked up: the files that say how may be read, and port 53 may be connected to.
  bool looks_up_names = false;
};

// Fences in the calling thread and the threads it will create: call before there are others, and
// once. Never again: execute a program, gain privileges; where the kernel can: open or create
// files other than SandboxRules' and those of /dev/shm, bind TCP sockets, connect them to other
// ports than SandboxRules', connect to abstract Unix sockets of, or send signals to, other
// processes.
//
// `*fences` is set to what is up, in words, also on failure. EOPNOTSUPP: this kernel or container
// has no Landlock, and only no_new_privs is up.
Status EnterSandbox(const SandboxRules& rules, std::string* fences);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_SANDBOX_H_
