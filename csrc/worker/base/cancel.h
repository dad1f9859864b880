// SPDX-License-Identifier: Apache-2.0
//
// CancelCheck: how long work learns that it must stop. Asked between pieces of a transfer, from
// any thread.
#ifndef LMSHM_WORKER_BASE_CANCEL_H_
#define LMSHM_WORKER_BASE_CANCEL_H_

namespace lmshm {

class CancelCheck {
 public:
  virtual ~CancelCheck() = default;

  // True once the work must end as soon as it can; stays true.
  virtual bool Cancelled() const = 0;

  // Why, for the answer to the client, once Cancelled().
  virtual const char* Reason() const { return "the worker is ending"; }
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_BASE_CANCEL_H_
