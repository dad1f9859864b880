// SPDX-License-Identifier: Apache-2.0
#include "worker/file_io.h"

#include "worker/checked_io.h"

namespace lmshm {

namespace {

RangeIo Whole(SharedBytes data, const CancelCheck* cancel) {
  RangeIo range;
  range.data = data;
  range.cancel = cancel;
  return range;
}

}  // namespace

int WriteFully(int fd, SharedBytes data, const CancelCheck* cancel) {
  return WriteRange(fd, Whole(data, cancel), nullptr);
}

int ReadFully(int fd, SharedBytes data, const CancelCheck* cancel, uint64_t* done) {
  return ReadRange(fd, Whole(data, cancel), done, nullptr);
}

}  // namespace lmshm
