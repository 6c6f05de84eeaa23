// SPDX-License-Identifier: MIT
// semaphores.cc - the C library's calls of System V semaphores: notes which sets the program knows,
// and what the kernel would undo at its end.
// Invariant: to the caller each is the C library's. The lock is never held across a call.
// Context: N, H (with all signals blocked in the short sections).
// Doc: docs/ARCHITECTURE.md, "System V semaphores".
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/sem.h>

#include "control/control.h"
#include "format/semaphores.h"
#include "rawsys/rawsys.h"

#define CR_EXPORT __attribute__((visibility("default")))

namespace {

using namespace cr::format;
using cr::rawsys::is_error;
using cr::rawsys::sys;

SemaphoreTable& table() { return cr::control::semaphores(); }

// For a few instructions. Signals are blocked: a handler may use semaphores too.
class Locked {
 public:
  Locked() {
    const uint64_t all = ~uint64_t{0};
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof(all));
    const auto pid = static_cast<int32_t>(cr::rawsys::sys_getpid());
    for (;;) {
      uint32_t holder = 0;
      if (take(&holder, static_cast<uint32_t>(pid))) break;
      // A thread of the parent's, which did not come along with fork.
      if (holder != static_cast<uint32_t>(pid) && take(&holder, static_cast<uint32_t>(pid))) break;
      sys(__NR_sched_yield);
    }
    if (table().owner == pid) return;
    table().owner = pid;  // a child of fork
    table().adjustment_count = 0;
    for (UndoCall& c : table().calls) c = {};
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() {
    __atomic_store_n(&table().lock, 0u, __ATOMIC_RELEASE);
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof(before_));
  }

 private:
  static bool take(uint32_t* holder, uint32_t pid) {
    return __atomic_compare_exchange_n(&table().lock, holder, pid, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
  }
  uint64_t before_ = 0;
};

void know(int set) {
  const Locked locked;
  SemaphoreTable& t = table();
  for (uint32_t i = 0; i < t.set_count; i++) {
    if (t.sets[i] == set) return;
  }
  if (t.set_count == kMostSemaphoreSets) {
    t.overflowed = 1;
    return;
  }
  t.sets[t.set_count] = set;
  __atomic_store_n(&t.set_count, t.set_count + 1, __ATOMIC_RELEASE);
}

void adjust(SemaphoreTable& t, int set, uint16_t number, int by) {
  for (uint32_t i = 0; i < t.adjustment_count; i++) {
    SemaphoreAdjustment& a = t.adjustments[i];
    if (a.set != set || a.number != number) continue;
    a.adjust = static_cast<int16_t>(a.adjust + by);
    if (a.adjust == 0) a = t.adjustments[--t.adjustment_count];
    return;
  }
  if (by == 0) return;
  if (t.adjustment_count == kMostAdjustments) {
    t.overflowed = 1;
    return;
  }
  t.adjustments[t.adjustment_count++] = {set, number, static_cast<int16_t>(by)};
}

// number: -1 for all of the set. Setting a value takes every process's adjustments away.
void forget_adjustments(int set, int number) {
  const Locked locked;
  SemaphoreTable& t = table();
  for (uint32_t i = t.adjustment_count; i-- > 0;) {
    const SemaphoreAdjustment& a = t.adjustments[i];
    if (a.set == set && (number < 0 || a.number == number)) {
      t.adjustments[i] = t.adjustments[--t.adjustment_count];
    }
  }
}

void forget(int set) {
  forget_adjustments(set, -1);
  const Locked locked;
  SemaphoreTable& t = table();
  for (uint32_t i = 0; i < t.set_count; i++) {
    if (t.sets[i] != set) continue;
    t.sets[i] = t.sets[t.set_count - 1];
    t.set_count--;
    return;
  }
}

// Lives while a call with SEM_UNDO is under way.
class UndoingCall {
 public:
  UndoingCall() {
    const Locked locked;
    for (UndoCall*& c = call_; c < table().calls + kMostUndoCalls; c++) {
      if (c->frame != 0) continue;
      c->tid = static_cast<int32_t>(cr::rawsys::sys_gettid());
      c->frame = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
      return;
    }
    call_ = nullptr;  // so many threads at once: the agent may not notice this one
  }
  UndoingCall(const UndoingCall&) = delete;
  UndoingCall& operator=(const UndoingCall&) = delete;
  ~UndoingCall() {
    if (call_ != nullptr) *call_ = {};
  }
  void done(int set, const sembuf* ops, size_t count) {
    const Locked locked;
    for (size_t i = 0; i < count; i++) {
      if ((ops[i].sem_flg & SEM_UNDO) != 0) adjust(table(), set, ops[i].sem_num, -ops[i].sem_op);
    }
    if (call_ != nullptr) *call_ = {};
    call_ = nullptr;
  }

 private:
  UndoCall* call_ = table().calls;
};

int answer(long r) {
  if (!is_error(r)) return static_cast<int>(r);
  errno = static_cast<int>(-r);
  return -1;
}

int operate(int set, const sembuf* ops, size_t count, const timespec* timeout) {
  const auto call = [&] { return sys(__NR_semtimedop, set, ops, count, timeout); };
  bool undone = false;
  // What cannot be read the kernel refuses; its limit is some hundreds.
  constexpr size_t kMost = 500;
  for (size_t i = 0; ops != nullptr && i < count && count <= kMost; i++) {
    undone = undone || (ops[i].sem_flg & SEM_UNDO) != 0;
  }
  if (!undone) return answer(call());
  UndoingCall under_way;
  const long r = call();
  if (!is_error(r)) under_way.done(set, ops, count);
  return answer(r);
}

}  // namespace

extern "C" {

CR_EXPORT int semget(key_t key, int count, int flags) {
  const long set = sys(__NR_semget, key, count, flags);
  if (!is_error(set)) know(static_cast<int>(set));
  return answer(set);
}

CR_EXPORT int semop(int set, sembuf* ops, size_t count) {
  return operate(set, ops, count, nullptr);
}

CR_EXPORT int semtimedop(int set, sembuf* ops, size_t count, const timespec* timeout) {
  return operate(set, ops, count, timeout);
}

CR_EXPORT int semctl(int set, int number, int command, ...) {
  va_list more;
  va_start(more, command);
  const uint64_t argument = va_arg(more, uint64_t);  // union semun: a pointer, or an int
  va_end(more);
  const long r = sys(__NR_semctl, set, number, command, argument);
  if (!is_error(r) && command == IPC_RMID) forget(set);
  if (!is_error(r) && command == SETALL) forget_adjustments(set, -1);
  if (!is_error(r) && command == SETVAL) forget_adjustments(set, number);
  return answer(r);
}

}  // extern "C"
