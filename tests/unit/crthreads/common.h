// SPDX-License-Identifier: MIT
// common.h - what the tests of CR-threads share.
// Invariant: helpers used in threads other than the test's own report by return value; cr_assert is
// only for the test's thread.
// Context: N.
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "checkpoint_restore.h"

namespace cr_test {

// ThreadSanitizer: does not understand asynchronous cancellation, forbids new threads after a fork,
// delays signals until the next intercepted call, and wants large stacks.
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
inline constexpr uint64_t kSmallStackBytes = 1 << 20;
#else
#define UNDER_TSAN 0
inline constexpr uint64_t kSmallStackBytes = 64 * 1024;
#endif
// AddressSanitizer: takes writes below the frame for overruns, and its allocator's locks are left
// held in the child of a fork.
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif

inline timespec from_now_ms(int64_t ms) {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  int64_t ns = t.tv_sec * 1000000000ll + t.tv_nsec + ms * 1000000;
  return {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
}
inline double now_s() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
inline void sleep_ms(int ms) { usleep(static_cast<useconds_t>(ms) * 1000); }

using Start = void* (*)(void*);

inline crthread_t start(Start f, void* arg = nullptr) {
  crthread_t t = nullptr;
  cr_assert_eq(crthread_create(&t, nullptr, f, arg), 0);
  return t;
}
inline void* join(crthread_t t) {
  void* value = nullptr;
  cr_assert_eq(crthread_join(t, &value), 0);
  return value;
}

// Makes a signal that interrupts system calls; for tests of waits that are begun anew.
inline void set_handler(int signal_number, void (*handler)(int), int flags) {
  struct sigaction act {};
  act.sa_handler = handler;
  act.sa_flags = flags;
  sigaction(signal_number, &act, nullptr);
}

}  // namespace cr_test
