// SPDX-License-Identifier: MIT
// futex_wait.h - waiting on a futex word, with deadline and cancellation.
// Invariant: deadlines are absolute CLOCK_REALTIME times (FUTEX_WAIT_BITSET), so that a wait that a
// checkpoint interrupted can be begun anew with the same arguments and ends at the same time.
// Context: N.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>

namespace cr::crthreads {

// POSIX: EINVAL for these, but only if the call would have to wait.
inline bool is_valid_time(const timespec& t) { return t.tv_nsec >= 0 && t.tv_nsec < 1000000000; }

// Waits while *word == expected. Returns 0 (also without cause), -EAGAIN (another value),
// -ETIMEDOUT, -EINTR (a signal handler ran). `word` is 32 bits of memory. abs_realtime: a valid
// time, or nullptr.
long futex_wait(const void* word, uint32_t expected, const timespec* abs_realtime);
// The same, and a cancellation point: it acts on a cancellation at any moment during the wait, even
// if the wait has just been ended by a wake-up, so the caller's cleanup handler must pass that on.
long futex_wait_cancellable(const void* word, uint32_t expected, const timespec* abs_realtime);

inline constexpr int kWakeAll = 0x7fffffff;
// Async-signal-safe. The word may have been freed meanwhile: only its address is used.
void futex_wake(const void* word, int threads);

}  // namespace cr::crthreads
