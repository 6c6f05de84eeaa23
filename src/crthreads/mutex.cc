// SPDX-License-Identifier: MIT
// mutex.cc - crmutex_*: the three-state futex lock of U. Drepper, "Futexes Are Tricky" (2011).
// Invariant: word != 0 while held; owner is the holder's self_id() or 0, and only the holder writes
// it, so a thread that reads its own id there does hold the mutex. After the store that frees it,
// unlock uses only the address: the next holder may destroy and free the mutex at once.
// Context: N.
#include <errno.h>

#include "crthreads/crthreads.h"
#include "crthreads/futex_wait.h"
#include "rawsys/rawsys.h"

namespace cr::crthreads {
namespace {

constexpr uint32_t kFree = 0, kHeld = 1, kWaitedFor = 2;
constexpr int kSpins = 60;  // about the length of a short critical section

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;

bool is_mine(const Mutex& m) { return m.owner.load(kRelaxed) == self_id(); }

bool try_take(Mutex& m) {
  uint32_t seen = kFree;
  return m.word.compare_exchange_strong(seen, kHeld, kAcquire, kRelaxed);
}

void note_owner(Mutex& m) {
  if (m.type == CRMUTEX_NORMAL) return;
  m.owner.store(self_id(), kRelaxed);
  m.depth = 1;
}

int enter_again(Mutex& m) {
  if (m.depth == UINT32_MAX) return EAGAIN;
  m.depth++;
  return 0;
}

int take_contended(Mutex& m, const timespec* abs_realtime) {
  for (int i = 0; i < kSpins && m.word.load(kRelaxed) != kWaitedFor; i++) {
    if (m.word.load(kRelaxed) == kFree && try_take(m)) return 0;
    rawsys::cpu_relax();
  }
  if (abs_realtime != nullptr && !is_valid_time(*abs_realtime)) return EINVAL;
  while (m.word.exchange(kWaitedFor, kAcquire) != kFree) {
    if (futex_wait(&m.word, kWaitedFor, abs_realtime) == -ETIMEDOUT) return ETIMEDOUT;
  }
  return 0;
}

}  // namespace

int mutex_init(Mutex& m, uint32_t type) {
  if (type > CRMUTEX_ERRORCHECK) return EINVAL;
  m.word.store(kFree, kRelaxed);
  m.type = type;
  m.owner.store(0, kRelaxed);
  m.depth = 0;
  return 0;
}

int mutex_lock(Mutex& m, const timespec* abs_realtime) {
  if (m.type != CRMUTEX_NORMAL && is_mine(m)) {
    return m.type == CRMUTEX_RECURSIVE ? enter_again(m) : EDEADLK;
  }
  if (!try_take(m)) {
    if (const int error = take_contended(m, abs_realtime); error != 0) return error;
  }
  note_owner(m);
  return 0;
}

int mutex_trylock(Mutex& m) {
  if (m.type == CRMUTEX_RECURSIVE && is_mine(m)) return enter_again(m);
  if (!try_take(m)) return EBUSY;
  note_owner(m);
  return 0;
}

int mutex_unlock(Mutex& m) {
  if (m.type != CRMUTEX_NORMAL) {
    if (!is_mine(m)) return EPERM;
    if (--m.depth > 0) return 0;
    m.owner.store(0, kRelaxed);
  }
  if (m.word.exchange(kFree, std::memory_order_release) == kWaitedFor) futex_wake(&m.word, 1);
  return 0;
}

int mutex_destroy(Mutex& m) { return m.word.load(kRelaxed) == kFree ? 0 : EBUSY; }

}  // namespace cr::crthreads
