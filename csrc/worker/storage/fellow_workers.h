// SPDX-License-Identifier: Apache-2.0
//
// FellowWorkers: how many other processes of this machine keep a quota of the same directory, and
// whose turn it is to make room in it. By locks of the kernel on the directory, which end with
// their holder: nothing is written anywhere, and nothing is left behind.
//
// - Being there: a shared lock (of the open file, F_OFD_SETLK) of one byte at a random place. Who
//   asks for a conflicting lock is told of one of those of others; its place parts the range in two
//   that are asked for again. Alone, this is one system call.
// - Making room: flock(), held by one at a time.
#ifndef LMSHM_WORKER_STORAGE_FELLOW_WORKERS_H_
#define LMSHM_WORKER_STORAGE_FELLOW_WORKERS_H_

#include <cstddef>
#include <cstdint>

namespace lmshm {

// Thread safe.
class FellowWorkers {
 public:
  // `dir_fd` is open for reading, stays the caller's and must live as long as this. Where the file
  // system has no such locks, this process takes itself to be alone.
  explicit FellowWorkers(int dir_fd);

  // How many others there are, at most kMost.
  size_t Count() const { return CountIn(0, kPlaces, 0); }
  static constexpr size_t kMost = 64;

  // False if somebody else is making room.
  bool LockRoom() const;
  void UnlockRoom() const;

 private:
  static constexpr int64_t kPlaces = int64_t{1} << 40;
  size_t CountIn(int64_t from, int64_t to, size_t known) const;

  const int dir_fd_;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_FELLOW_WORKERS_H_
