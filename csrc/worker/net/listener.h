// SPDX-License-Identifier: Apache-2.0
//
// Listener: one listening socket, from its making to the removal of what it left in the file
// system.
#ifndef LMSHM_WORKER_NET_LISTENER_H_
#define LMSHM_WORKER_NET_LISTENER_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "worker/base/status.h"
#include "worker/base/unique_fd.h"
#include "worker/net/listen_address.h"

namespace lmshm {

class Listener {
 public:
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  // Closes the socket; a Unix socket's file is removed if it still is this one's.
  ~Listener();

  // Binds and listens. A Unix socket gets mode 0600, and replaces one on which nobody listens any
  // more, but nothing else. Changes the umask for a moment: call before threads exist.
  // EADDRINUSE: somebody listens there. EEXIST: the path is no socket.
  static Status Open(const ListenAddress& address, std::unique_ptr<Listener>* result);

  // Non-blocking: poll, then accept.
  int fd() const { return fd_.get(); }
  bool tcp() const { return tcp_; }

  // Its clients are let in without a secret.
  bool no_auth() const { return no_auth_; }

  // How clients reach it: "127.0.0.1:9800", "[::1]:9800", "unix:/run/lmshm.sock".
  const std::string& name() const { return name_; }

  // The directory that holds the Unix socket, -1 for TCP.
  int directory_fd() const { return directory_.get(); }

 private:
  Listener() = default;
  Status OpenTcp(const ListenAddress& address);
  Status OpenUnix(const ListenAddress& address);
  Status BindUnix(const std::string& path);
  bool IsOurs() const;

  UniqueFd fd_;
  bool tcp_ = false;
  bool no_auth_ = false;
  std::string name_;
  UniqueFd directory_;
  std::string file_;  // the socket's name in directory_; empty: nothing to remove
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_NET_LISTENER_H_
