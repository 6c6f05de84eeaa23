// SPDX-License-Identifier: MIT
// sem.cc - crsem_*: value and number of waiters in one 64-bit word.
// Invariant: post changes the word once and afterwards uses only its address, so the semaphore may
// be destroyed by the thread that the post lets through. Whoever was woken and does not take the
// value wakes another.
// Context: N; sem_post also in signal handlers.
#include <errno.h>
#include <limits.h>

#include "crthreads/cleanup.h"
#include "crthreads/crthreads.h"
#include "crthreads/futex_wait.h"

namespace cr::crthreads {
namespace {

constexpr uint64_t kOneWaiter = uint64_t{1} << 32;
constexpr uint32_t kMaxValue = INT_MAX;  // as SEM_VALUE_MAX

constexpr uint32_t value_of(uint64_t state) { return static_cast<uint32_t>(state); }
constexpr uint32_t waiters_of(uint64_t state) { return static_cast<uint32_t>(state >> 32); }

// The futex word: the half of `state` that holds the value.
const void* value_word(const Sem& s) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  return &s.state;
}

bool take(Sem& s, uint64_t also_subtract) {
  uint64_t seen = s.state.load(std::memory_order_relaxed);
  while (value_of(seen) > 0) {
    if (s.state.compare_exchange_weak(seen, seen - 1 - also_subtract, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

// This thread waits no longer, without having taken the value. A wake-up it may have received must
// not be lost while there is a value to take.
void stop_waiting(Sem& s) {
  const uint64_t now = s.state.fetch_sub(kOneWaiter, std::memory_order_relaxed) - kOneWaiter;
  if (value_of(now) > 0 && waiters_of(now) > 0) futex_wake(value_word(s), 1);
}
void on_cancel(void* sem) { stop_waiting(*static_cast<Sem*>(sem)); }

int wait_counted(Sem& s, const timespec* abs_realtime) {
  while (!take(s, kOneWaiter)) {
    const long r = futex_wait_cancellable(value_word(s), 0, abs_realtime);
    if (r == -EINTR || r == -ETIMEDOUT) {
      stop_waiting(s);
      return static_cast<int>(-r);
    }
  }
  return 0;
}

}  // namespace

int sem_init(Sem& s, uint32_t value) {
  if (value > kMaxValue) return EINVAL;
  s.state.store(value, std::memory_order_relaxed);
  return 0;
}

int sem_wait(Sem& s, const timespec* abs_realtime) {
  pthread_testcancel();  // a cancellation point even if it need not wait
  if (take(s, 0)) return 0;
  if (abs_realtime != nullptr && !is_valid_time(*abs_realtime)) return EINVAL;
  struct {
    Sem* sem;
    int result;
  } wait{&s, 0};  // its address is taken: not in a register that a cancellation could clobber
  s.state.fetch_add(kOneWaiter, std::memory_order_relaxed);
  pthread_cleanup_push(on_cancel, wait.sem);
  wait.result = wait_counted(s, abs_realtime);
  pthread_cleanup_pop(0);
  return wait.result;
}

int sem_trywait(Sem& s) { return take(s, 0) ? 0 : EAGAIN; }

int sem_post(Sem& s) {
  const void* word = value_word(s);
  uint64_t seen = s.state.load(std::memory_order_relaxed);
  do {
    if (value_of(seen) >= kMaxValue) return EOVERFLOW;
  } while (!s.state.compare_exchange_weak(seen, seen + 1, std::memory_order_release,
                                          std::memory_order_relaxed));
  if (waiters_of(seen) > 0) futex_wake(word, 1);
  return 0;
}

int sem_value(const Sem& s) {
  return static_cast<int>(value_of(s.state.load(std::memory_order_relaxed)));
}

}  // namespace cr::crthreads
