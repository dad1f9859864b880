// SPDX-License-Identifier: Apache-2.0
//
// Sandbox: fences that this process puts around itself, with Landlock, once all that needs wider
// rights (opening the root, binding sockets) is done. A second wall: the first is that requests
// are checked. Where the kernel has no Landlock, or an older one, there are fewer fences.
#ifndef LMSHM_WORKER_PROCESS_SANDBOX_H_
#define LMSHM_WORKER_PROCESS_SANDBOX_H_

#include <string>
#include <vector>

#include "worker/base/status.h"

namespace lmshm {

struct SandboxRules {
  int root_fd = -1;                 // below it: read, write, create, remove files, create
                                    // directories; -1: below /, without directories
  std::vector<int> socket_dir_fds;  // in it: remove files (our socket, at the end)
};

// Fences in the calling thread and the threads it will create: call before there are others, and
// once. Never again: execute a program, gain privileges; where the kernel can: open or create
// files other than SandboxRules' and those of /dev/shm, bind or connect TCP sockets, connect to
// abstract Unix sockets of, or send signals to, other processes.
//
// `*fences` is set to what is up, in words, also on failure. EOPNOTSUPP: this kernel or container
// has no Landlock, and only no_new_privs is up.
Status EnterSandbox(const SandboxRules& rules, std::string* fences);

}  // namespace lmshm

#endif  // LMSHM_WORKER_PROCESS_SANDBOX_H_
