// SPDX-License-Identifier: Apache-2.0
#include "worker/memory/shared_bytes.h"

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <type_traits>

#include "worker/base/crc32c.h"

namespace lmshm {

namespace {

// ThreadSanitizer has handlers run with all signals blocked, whatever they ask for.
#if defined(__SANITIZE_THREAD__)
constexpr int kSaveMask = 1;
#else
constexpr int kSaveMask = 0;
#endif

struct Guard {
  uintptr_t begin;
  uintptr_t end;
  sigjmp_buf back;
};

// Set while the guarded loop of this thread runs. Read by the handler, on the same thread.
thread_local Guard* volatile current_guard = nullptr;

struct sigaction previous_action;

void OnSigbus(int number, siginfo_t* info, void*) {
  Guard* const guard = current_guard;
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  const bool fault = info->si_code > 0;  // else somebody sent the signal
  if (guard != nullptr && fault && at >= guard->begin && at < guard->end) {
    siglongjmp(guard->back, 1);
  }
  // Not ours. Upon return the access is tried again, under whatever was in force before.
  sigaction(SIGBUS, &previous_action, nullptr);
  if (!fault) raise(number);
}

bool Install() {
  struct sigaction action = {};
  action.sa_sigaction = OnSigbus;
  // The mask stays as it is, so that the jump out of the handler need not restore it, and entering
  // the guard is no system call.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, &previous_action) == 0;
}

// Has `*result` = look(data, *result), unless some of the memory is gone. `look` must own nothing.
template <typename Result, typename Look>
int Guarded(SharedBytes data, const Look& look, Result* result) {
  static_assert(std::is_trivially_destructible_v<Look>);
  static const bool installed = Install();
  if (!installed) return ENOSYS;
  Guard guard;
  guard.begin = reinterpret_cast<uintptr_t>(data.address);
  guard.end = guard.begin + data.size;
  // No object with a destructor lives between here and the jump.
  if (sigsetjmp(guard.back, kSaveMask) != 0) {
    current_guard = nullptr;
    return EFAULT;
  }
  current_guard = &guard;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  const Result after = look(data, *result);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  current_guard = nullptr;
  *result = after;
  return 0;
}

}  // namespace

int SharedCrc32c(SharedBytes data, uint32_t* crc) {
  return Guarded<uint32_t>(
      data,
      [](SharedBytes bytes, uint32_t before) { return Crc32c(before, bytes.address, bytes.size); },
      crc);
}

int SharedCopyCrc32c(const void* from, SharedBytes data, uint32_t* crc) {
  return Guarded<uint32_t>(
      data,
      [from](SharedBytes bytes, uint32_t before) {
        return Crc32cCopy(before, bytes.address, from, bytes.size);
      },
      crc);
}

int SharedSha256(SharedBytes data, Sha256Digest* digest) {
  return Guarded<Sha256Digest>(
      data,
      [](SharedBytes bytes, Sha256Digest) {
        return Sha256({static_cast<const char*>(bytes.address), static_cast<size_t>(bytes.size)});
      },
      digest);
}

}  // namespace lmshm
