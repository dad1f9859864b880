// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/stores.h"

#include <cerrno>
#include <chrono>
#include <thread>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr std::chrono::milliseconds kDescriptorWait(10);

}  // namespace

bool Patience::TryAgain(const Status& status) {
  const int error = status.number();
  // This process has none left, or the whole system has.
  const bool no_descriptor = error == EMFILE || error == ENFILE;
  bool again = false;
  if (left_ > 1) {
    again = no_descriptor ? files_.DropAll(before_)
                          : (error == ENOSPC || error == EDQUOT) && files_.DropGone(before_);
  }
  before_ = files_.let_go();
  if (again) {
    left_--;
  } else if (no_descriptor && waits_ > 0) {
    waits_--;
    std::this_thread::sleep_for(kDescriptorWait);
    again = true;
  }
  return again;
}

Status OneStore::Open(std::string_view directory, std::shared_ptr<ObjectStore>* store) {
  // A client that has to name one names the root.
  if (!directory.empty() && directory != ".") {
    return Status::Error(ENOTSUP,
                         "dir=" + Printable(directory.substr(0, 200)) + ": a worker in front of " +
                             store_->facts().engine +
                             " has no directories; say where keys belong with the parameter "
                             "prefix=TEXT of its --store URL");
  }
  *store = store_;
  return Status::OK();
}

}  // namespace lmshm
