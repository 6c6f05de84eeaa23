// SPDX-License-Identifier: MIT
// futex_lock.h - the small lock of nvheap and crthreads: one 32-bit word, zero when free.
// Invariant: the word holds no thread id (ids may change over a restore) and the lock allocates
// nothing, so it may lie in the heap range and in zero-initialised storage. It is the three-state
// lock of U. Drepper, "Futexes Are Tricky" (2011), section 6: 0 free, 1 held, 2 held and somebody
// may wait.
// Context: N. Not async-signal-safe: a handler that interrupts the holder would wait for ever.
#pragma once

#include <atomic>
#include <cstdint>

#include "rawsys/rawsys.h"

namespace cr::nvheap {

class FutexLock {
 public:
  constexpr FutexLock() = default;
  FutexLock(const FutexLock&) = delete;
  FutexLock& operator=(const FutexLock&) = delete;

  void lock() {
    uint32_t seen = kFree;
    if (word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
      return;
    }
    lock_contended();
  }

  [[nodiscard]] bool try_lock() {
    uint32_t seen = kFree;
    return word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire,
                                         std::memory_order_relaxed);
  }

  void unlock() {
    if (word_.exchange(kFree, std::memory_order_release) == kWaitedFor) {
      rawsys::sys_futex(&word_, FUTEX_WAKE_PRIVATE, 1);
    }
  }

  // In a fork child, whose only thread is the one that forked: the lock is free and has no waiters.
  void reset_in_child() { word_.store(kFree, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kWaitedFor = 2;
  // Critical sections here last some tens of ns: a short spin is cheaper than two system calls.
  static constexpr int kSpins = 100;

  void lock_contended() {
    for (int i = 0; i < kSpins; i++) {
      uint32_t seen = word_.load(std::memory_order_relaxed);
      if (seen == kFree && word_.compare_exchange_weak(seen, kHeld, std::memory_order_acquire,
                                                       std::memory_order_relaxed)) {
        return;
      }
      if (seen == kWaitedFor) break;  // others sleep already: spinning would only steal
      rawsys::cpu_relax();
    }
    while (word_.exchange(kWaitedFor, std::memory_order_acquire) != kFree) {
      rawsys::sys_futex(&word_, FUTEX_WAIT_PRIVATE, kWaitedFor);
    }
  }

  std::atomic<uint32_t> word_{kFree};
};
static_assert(sizeof(FutexLock) == 4);

// The thread holds all locks of the heap (for a fork, say), and may use it all the same.
inline constinit thread_local bool t_holds_heap = false;

// A lock of the heap's own.
class HeapLock {
 public:
  void lock() {
    if (!t_holds_heap) lock_.lock();
  }
  [[nodiscard]] bool try_lock() { return t_holds_heap || lock_.try_lock(); }
  void unlock() {
    if (!t_holds_heap) lock_.unlock();
  }
  void reset_in_child() { lock_.reset_in_child(); }

 private:
  FutexLock lock_;
};
static_assert(sizeof(HeapLock) == 4);

template <typename Lock>
class LockGuard {
 public:
  explicit LockGuard(Lock& lock) : lock_(lock) { lock_.lock(); }
  ~LockGuard() { lock_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Lock& lock_;
};

}  // namespace cr::nvheap
