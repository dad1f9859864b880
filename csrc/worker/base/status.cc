// SPDX-License-Identifier: Apache-2.0
#include "worker/base/status.h"

#include <cerrno>
#include <system_error>

namespace lmshm {

std::string ErrnoName(int number) {
  // Aliases (EWOULDBLOCK, EDEADLOCK, ENOTSUP) have the number of another name and are left out.
#define LMSHM_NAME(name) \
  case name:             \
    return #name
  switch (number) {
    LMSHM_NAME(EPERM);
    LMSHM_NAME(ENOENT);
    LMSHM_NAME(ESRCH);
    LMSHM_NAME(EINTR);
    LMSHM_NAME(EIO);
    LMSHM_NAME(ENXIO);
    LMSHM_NAME(E2BIG);
    LMSHM_NAME(EBADF);
    LMSHM_NAME(ECHILD);
    LMSHM_NAME(EAGAIN);
    LMSHM_NAME(ENOMEM);
    LMSHM_NAME(EACCES);
    LMSHM_NAME(EFAULT);
    LMSHM_NAME(EBUSY);
    LMSHM_NAME(EEXIST);
    LMSHM_NAME(EXDEV);
    LMSHM_NAME(ENODEV);
    LMSHM_NAME(ENOTDIR);
    LMSHM_NAME(EISDIR);
    LMSHM_NAME(EINVAL);
    LMSHM_NAME(ENFILE);
    LMSHM_NAME(EMFILE);
    LMSHM_NAME(ENOTTY);
    LMSHM_NAME(ETXTBSY);
    LMSHM_NAME(EFBIG);
    LMSHM_NAME(ENOSPC);
    LMSHM_NAME(ESPIPE);
    LMSHM_NAME(EROFS);
    LMSHM_NAME(EMLINK);
    LMSHM_NAME(EPIPE);
    LMSHM_NAME(EDOM);
    LMSHM_NAME(ERANGE);
    LMSHM_NAME(EDEADLK);
    LMSHM_NAME(ENAMETOOLONG);
    LMSHM_NAME(ENOLCK);
    LMSHM_NAME(ENOSYS);
    LMSHM_NAME(ENOTEMPTY);
    LMSHM_NAME(ELOOP);
    LMSHM_NAME(ENODATA);
    LMSHM_NAME(ENOLINK);
    LMSHM_NAME(EPROTO);
    LMSHM_NAME(EBADMSG);
    LMSHM_NAME(EOVERFLOW);
    LMSHM_NAME(EILSEQ);
    LMSHM_NAME(EUSERS);
    LMSHM_NAME(ENOTSOCK);
    LMSHM_NAME(EMSGSIZE);
    LMSHM_NAME(EPROTONOSUPPORT);
    LMSHM_NAME(ENOTSUP);  // the same number as EOPNOTSUPP
    LMSHM_NAME(EAFNOSUPPORT);
    LMSHM_NAME(EADDRINUSE);
    LMSHM_NAME(EADDRNOTAVAIL);
    LMSHM_NAME(ENETDOWN);
    LMSHM_NAME(ENETUNREACH);
    LMSHM_NAME(ECONNABORTED);
    LMSHM_NAME(ECONNRESET);
    LMSHM_NAME(ENOBUFS);
    LMSHM_NAME(EISCONN);
    LMSHM_NAME(ENOTCONN);
    LMSHM_NAME(ETIMEDOUT);
    LMSHM_NAME(ECONNREFUSED);
    LMSHM_NAME(EHOSTDOWN);
    LMSHM_NAME(EHOSTUNREACH);
    LMSHM_NAME(EALREADY);
    LMSHM_NAME(EINPROGRESS);
    LMSHM_NAME(ESTALE);
    LMSHM_NAME(EUCLEAN);
    LMSHM_NAME(EREMOTEIO);
    LMSHM_NAME(EDQUOT);
    LMSHM_NAME(ENOMEDIUM);
    LMSHM_NAME(ECANCELED);
    LMSHM_NAME(ENOKEY);
    LMSHM_NAME(EKEYEXPIRED);
    LMSHM_NAME(EHWPOISON);
    default:
      return "E" + std::to_string(number);
  }
#undef LMSHM_NAME
}

Status Status::System(int number, std::string_view action) {
  std::string text(action);
  text += ": ";
  text += std::system_category().message(number);
  return Status(number, std::move(text));
}

Status Status::System(int number, std::string_view action, std::string_view hint) {
  Status status = System(number, action);
  status.text_ += " (";
  status.text_ += hint;
  status.text_ += ")";
  return status;
}

std::string Status::ToString() const {
  if (ok()) return "OK";
  return ErrnoName(number_) + " " + text_;
}

}  // namespace lmshm
