// SPDX-License-Identifier: MIT
// thread.cc - crthread_*: POSIX threads on nvheap stacks.
// Invariant: the pthread under a CR-thread is joinable as long as it exists, also of a detached
// one:
// only a successful (try)join proves that the kernel is done with the stack. detach() merely marks
// the thread, and later calls reap those that are gone.
// Context: N.
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/base.h"
#include "crthreads/cleanup.h"
#include "crthreads/crthreads.h"
#include "crthreads/thread_record.h"
#include "crthreads/thread_stack.h"
#include "rawsys/rawsys.h"

namespace cr::crthreads {
namespace {

using nvheap::LockGuard;

// The start function has returned, called exit or been cancelled. Destructors of thread-specific
// data run after this, still on the stack.
void on_start_ended(void* arg) {
  auto* t = static_cast<crthread*>(arg);
  {
    LockGuard guard(table_lock());
    t->state = ThreadState::kEnding;
    if (t->detached) push_to_reap(t);
  }
  reap();
}

void keep_value(crthread* t, void* value) {
  t->value = value;
  t->has_value = true;
}

void* run_thread(void* arg) {
  auto* t = static_cast<crthread*>(arg);
  set_self(t);
  if (t->name[0] != 0) rawsys::sys(__NR_prctl, PR_SET_NAME, t->name, 0, 0, 0);
  pthread_cleanup_push(on_start_ended, t);
  keep_value(t, t->start(t->arg));
  pthread_cleanup_pop(1);
  return nullptr;
}

struct Options {
  size_t stack_bytes, guard_bytes;
  bool detached;
  char name[kNameBytes];
};

bool round_to_pages(uint64_t bytes, size_t* ret_bytes) {
  if (bytes > UINT64_MAX - kPageSize) return false;
  *ret_bytes = page_ceil(bytes);
  return true;
}

// Programs compiled with an older, shorter attribute pass its size; what is missing is zero.
int read_attributes(const crthread_attr_t* attr, Options* ret_options) {
  crthread_attr_t a{};
  if (attr != nullptr) {
    if (attr->size < offsetof(crthread_attr_t, stack_bytes) || attr->size > sizeof(a)) {
      return EINVAL;
    }
    memcpy(&a, attr, attr->size);
  }
  if (a.detached > 1) return EINVAL;
  Options o{};
  o.detached = a.detached != 0;
  if (a.stack_bytes == 0) a.stack_bytes = default_stack_bytes();
  if (a.stack_bytes < kMinStackBytes) a.stack_bytes = kMinStackBytes;
  if (a.guard_bytes == 0) a.guard_bytes = kPageSize;
  if (!round_to_pages(a.stack_bytes, &o.stack_bytes)) return EINVAL;
  if (!round_to_pages(a.guard_bytes, &o.guard_bytes)) return EINVAL;
  if (a.name != nullptr) {
    const size_t length = strnlen(a.name, kNameBytes);
    if (length == kNameBytes) return EINVAL;
    memcpy(o.name, a.name, length);
  }
  *ret_options = o;
  return 0;
}

int start_pthread(crthread* t) {
  pthread_attr_t attr;
  if (const int error = pthread_attr_init(&attr); error != 0) return error;
  const Stack& s = t->stack;
  int error =
      pthread_attr_setstack(&attr, static_cast<char*>(s.base) + s.guard_bytes, s.stack_bytes);
  // libc writes the handle before the thread begins to run, so the thread, and whoever gets its
  // record from it, finds it set. Once started, a detached thread's record may be gone at once.
  if (error == 0) error = pthread_create(&t->handle, &attr, run_thread, t);
  pthread_attr_destroy(&attr);
  return error;
}

// Under table_lock. Would waiting for `target` close a circle of threads that wait for each other?
bool would_deadlock(const crthread* me, const crthread* target) {
  for (const crthread* t = target; t != nullptr; t = t->joining) {
    if (t == me) return true;
  }
  return false;
}

struct Joining {
  crthread* me;
  crthread* target;
  void* value;
  int error;
};

// Once joined, nobody may join, detach or reap it again.
void end_joining(const Joining& j, bool joined) {
  LockGuard guard(table_lock());
  j.target->joiner = nullptr;
  j.me->joining = nullptr;
  if (joined) j.target->state = ThreadState::kJoined;
}
void on_join_cancelled(void* arg) { end_joining(*static_cast<Joining*>(arg), false); }

int begin_joining(const Joining& j) {
  LockGuard guard(table_lock());
  if (!is_valid(j.target)) return ESRCH;
  if (would_deadlock(j.me, j.target)) return EDEADLK;
  if (j.target->detached || j.target->joiner != nullptr) return EINVAL;
  j.target->joiner = j.me;
  j.me->joining = j.target;
  return 0;
}

}  // namespace

int create(crthread_t* ret_thread, const crthread_attr_t* attr, void* (*start)(void*), void* arg) {
  if (ret_thread == nullptr || start == nullptr) return EINVAL;
  Options options;
  if (const int error = read_attributes(attr, &options); error != 0) return error;
  if (!ensure_ready()) return ENOMEM;
  reap();
  Stack stack;
  const int error = make_stack(options.stack_bytes, options.guard_bytes, &stack);
  if (error != 0) return error;
  crthread* t = new_record(stack);
  if (t == nullptr) {
    free_stack(stack);
    return ENOMEM;
  }
  t->detached = options.detached;
  t->start = start;
  t->arg = arg;
  memcpy(t->name, options.name, sizeof(t->name));
  // The new thread may look for itself in *ret_thread, as many programs let it.
  crthread_t before = *ret_thread;
  *ret_thread = t;
  const int create_error = start_pthread(t);
  if (create_error != 0) {
    *ret_thread = before;
    release_record(t);
  }
  return create_error;
}

int join(crthread_t thread, void** ret_value) {
  pthread_testcancel();
  Joining j{self(), thread, nullptr, 0};
  if (j.me == nullptr) return ENOMEM;
  if (const int error = begin_joining(j); error != 0) return error;
  pthread_cleanup_push(on_join_cancelled, &j);
  j.error = pthread_join(thread->handle, &j.value);
  pthread_cleanup_pop(0);
  end_joining(j, j.error == 0);
  if (j.error != 0) return j.error;
  // A cancellation that comes after start has returned can replace libc's value (seen with glibc
  // 2.36); then nobody could tell whether the thread did its work.
  if (ret_value != nullptr) *ret_value = thread->has_value ? thread->value : j.value;
  release_record(thread);
  reap();
  return 0;
}

int detach(crthread_t thread) {
  {
    LockGuard guard(table_lock());
    if (!is_valid(thread)) return ESRCH;
    if (thread->detached || thread->joiner != nullptr) return EINVAL;
    thread->detached = true;
    if (thread->state == ThreadState::kEnding) push_to_reap(thread);
  }
  reap();
  return 0;
}

void exit_thread(void* value) {
  if (crthread* t = self_or_null(); t != nullptr && !t->adopted) keep_value(t, value);
  pthread_exit(value);
}

int cancel(crthread_t thread) {
  if (thread == nullptr) return ESRCH;
  // It may not return then, so nothing may be held.
  if (thread == self_or_null()) return pthread_cancel(pthread_self());
  {
    LockGuard guard(table_lock());
    if (!is_valid(thread)) return ESRCH;
    if (thread->state == ThreadState::kEnding) return 0;  // too late to matter
    thread->pins++;
  }
  const int error = pthread_cancel(thread->handle);
  unpin(thread);
  return error;
}

}  // namespace cr::crthreads
