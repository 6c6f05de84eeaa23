// SPDX-License-Identifier: MIT
// cond.cc - crcond_*.
// Invariant: each waiter sleeps on a word of its own and is woken once or not at all, in order of
// arrival. So there are no wake-ups without cause, none is stolen by a thread that came later, and
// one whose receiver is cancelled is passed on.
// Context: N.
#include <errno.h>

#include "crthreads/cleanup.h"
#include "crthreads/crthreads.h"
#include "crthreads/futex_wait.h"
#include "crthreads/wait_table.h"

namespace cr::crthreads {
namespace {

struct Wait {
  Waiter waiter;
  Cond* cond;
  Mutex* mutex;
  const timespec* abs_realtime;
  int result;
};

// Runs first when the wait is cancelled: POSIX wants the mutex held when the program's own cleanup
// handlers run, and a signal that this thread received but will not act on to reach another.
void on_cancel(void* arg) {
  auto* wait = static_cast<Wait*>(arg);
  if (!withdraw(wait->waiter) && wait->waiter.word.load(std::memory_order_relaxed) == kSignalled) {
    wake_one(*wait->cond);
  }
  mutex_lock(*wait->mutex, nullptr);
}

int sleep_until_woken(Wait& wait) {
  Waiter& w = wait.waiter;
  while (w.word.load(std::memory_order_acquire) == kWaiting) {
    const long r = futex_wait_cancellable(&w.word, kWaiting, wait.abs_realtime);
    if (r == -ETIMEDOUT) return withdraw(w) ? ETIMEDOUT : 0;
  }
  return 0;
}

}  // namespace

int cond_wait(Cond& c, Mutex& m, const timespec* abs_realtime) {
  if (abs_realtime != nullptr && !is_valid_time(*abs_realtime)) return EINVAL;
  if (m.type != CRMUTEX_NORMAL && m.owner.load(std::memory_order_relaxed) != self_id()) {
    return EPERM;
  }
  Wait wait{{}, &c, &m, abs_realtime, 0};
  enqueue(wait.waiter, c);
  mutex_unlock(m);
  pthread_cleanup_push(on_cancel, &wait);
  wait.result = sleep_until_woken(wait);
  pthread_cleanup_pop(0);
  mutex_lock(m, nullptr);
  return wait.result;
}

// A waiter counts itself before it unlocks the mutex, so whoever has held the mutex since sees it.
void cond_signal(Cond& c) {
  if (c.waiters.load(std::memory_order_acquire) != 0) wake_one(c);
}

void cond_broadcast(Cond& c) {
  if (c.waiters.load(std::memory_order_acquire) != 0) wake_all(c);
}

int cond_destroy(Cond& c) { return has_waiters(c) ? EBUSY : 0; }

}  // namespace cr::crthreads
