// SPDX-License-Identifier: MIT
// crthreads.h - threads on nvheap stacks, and sync objects that survive a restore.
// Invariant: nothing here stores a kernel thread id. Who owns what is recorded by crthread objects
// and by self_id(), which are memory and come back with it; so all of it works on when a restored
// thread has a new id. Every wait is a loop around a futex word that says by its value whether to
// wait on, and every timeout is an absolute time, so a wait may be begun anew at any moment.
// Context: N, except where said. Functions return 0 or an error number unless said otherwise.
// Doc: include/checkpoint_restore.h is the contract; docs/ARCHITECTURE.md, "CR-threads".
#pragma once

#include <time.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "checkpoint_restore.h"

namespace cr::crthreads {

// ---- threads -----------------------------------------------------------------------------------

int create(crthread_t* ret_thread, const crthread_attr_t* attr, void* (*start)(void*), void* arg);
int join(crthread_t thread, void** ret_value);
int detach(crthread_t thread);
[[noreturn]] void exit_thread(void* value);
crthread_t self();  // nullptr: no memory
int cancel(crthread_t thread);

// Stack of threads made without a size; 0: RLIMIT_STACK's soft limit, or 8 MiB if that is infinite.
void set_default_stack_bytes(uint64_t bytes);

// Give back the stacks of detached threads that are gone. Also done by create, join and detach and
// at the end of each CR-thread.
void reap();

// Number of the calling thread in this process: never 0 and never used twice. Async-signal-safe.
uint64_t self_id();

// ---- sync objects: what the opaque storage of the C API holds. All zero is the initial state. --

struct Mutex {
  std::atomic<uint32_t> word;   // 0 free, 1 held, 2 held and somebody may wait
  uint32_t type;                // enum crmutex_type
  std::atomic<uint64_t> owner;  // self_id() of the holder; not kept for CRMUTEX_NORMAL
  uint32_t depth;               // CRMUTEX_RECURSIVE: how often the owner holds it
};

struct Cond {
  std::atomic<uint32_t> waiters;  // how many records in the wait table name this object
};

struct Sem {
  std::atomic<uint64_t> state;  // low half: the value, a futex word; high half: threads that wait
};

struct Barrier {
  std::atomic<uint64_t> entered;  // since init
  std::atomic<uint64_t> rounds;   // complete ones since init; the low half is a futex word
  std::atomic<uint64_t> left;     // since init; bit 63: somebody waits in destroy. Futex: low half
  uint32_t count;
};

int mutex_init(Mutex& m, uint32_t type);
int mutex_lock(Mutex& m, const timespec* abs_realtime);  // nullptr: without limit
int mutex_trylock(Mutex& m);
int mutex_unlock(Mutex& m);
int mutex_destroy(Mutex& m);

int cond_wait(Cond& c, Mutex& m, const timespec* abs_realtime);
void cond_signal(Cond& c);
void cond_broadcast(Cond& c);
int cond_destroy(Cond& c);

int sem_init(Sem& s, uint32_t value);
int sem_wait(Sem& s, const timespec* abs_realtime);
int sem_trywait(Sem& s);
int sem_post(Sem& s);  // async-signal-safe
int sem_value(const Sem& s);

int barrier_init(Barrier& b, uint32_t count);
int barrier_wait(Barrier& b);  // 0, in one thread of each round CRBARRIER_SERIAL_THREAD; EINVAL
int barrier_destroy(Barrier& b);

}  // namespace cr::crthreads
