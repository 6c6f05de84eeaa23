// SPDX-License-Identifier: MIT
// futex_wait.cc - see futex_wait.h.
// Invariant: the cancellation type is asynchronous only around the one system call.
// Context: N.
#include "crthreads/futex_wait.h"

#include <pthread.h>

#include "rawsys/rawsys.h"

namespace cr::crthreads {

// Frames that a cancellation unwinds. AddressSanitizer does not hear of that and would find their
// marks on the stack later.
#define CR_UNWOUND_BY_CANCELLATION __attribute__((no_sanitize_address))

CR_UNWOUND_BY_CANCELLATION
long futex_wait(const void* word, uint32_t expected, const timespec* abs_realtime) {
  timespec limit{};
  if (abs_realtime != nullptr) {
    limit = *abs_realtime;
    if (limit.tv_sec < 0) limit = timespec{0, 0};  // long ago; the kernel would say EINVAL
  }
  return rawsys::sys_futex(word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME,
                           expected, abs_realtime != nullptr ? &limit : nullptr, nullptr,
                           FUTEX_BITSET_MATCH_ANY);
}

// With deferred cancellation a request that arrives between a check and the system call would be
// seen only after the wait. Asynchronous cancellation has no such gap, and nothing here needs
// undoing when the stack is unwound.
CR_UNWOUND_BY_CANCELLATION
long futex_wait_cancellable(const void* word, uint32_t expected, const timespec* abs_realtime) {
  int old_type = PTHREAD_CANCEL_DEFERRED;
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old_type);
  const long result = futex_wait(word, expected, abs_realtime);
  pthread_setcanceltype(old_type, nullptr);
  return result;
}

void futex_wake(const void* word, int threads) {
  rawsys::sys_futex(word, FUTEX_WAKE_PRIVATE, static_cast<uint32_t>(threads));
}

}  // namespace cr::crthreads
