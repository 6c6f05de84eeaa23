// SPDX-License-Identifier: MIT
// thread_record.h - struct crthread and the table of all of them.
// Invariant: records are never given back to the heap, only used again, oldest first; so looking
// at a record through an old crthread_t is safe, and its state says that it is free. All fields are
// read and written under table_lock(), except by a record's only owner (create before the thread
// starts, release after it is gone) start/arg/name, which do not change while it runs, and
// value/has_value, which the thread writes and join reads after its end.
// Context: N. Lock order: table_lock, then the nvheap's locks. Nothing that can run program code or
// take libc's locks (pthread_create, pthread_join, pthread_cancel) is called under table_lock; the
// one exception is pthread_tryjoin_np of a thread that has ended.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>

#include "checkpoint_restore.h"
#include "crthreads/thread_stack.h"
#include "nvheap/futex_lock.h"

namespace cr::crthreads {

enum class ThreadState : uint32_t {
  kFree = 0,  // not in use
  kRunning,   // from before pthread_create until its start function has ended
  kEnding,    // runs destructors, or is gone; its pthread is not yet joined
  kJoined,    // its pthread is joined; whoever did that will release the record
  kOrphan,    // of a thread that fork did not copy into this process: its stack may still be read
};

inline constexpr size_t kNameBytes = 16;

}  // namespace cr::crthreads

struct crthread {
  uint64_t magic;
  cr::crthreads::ThreadState state;
  bool adopted;  // made by others (main, a plain pthread): we neither join it nor own its stack
  bool detached;
  bool released;  // but still pinned: the last unpin makes the record free
  uint32_t pins;  // pthread_cancel calls under way: `handle` and the stack must stay
  pthread_t handle;
  crthread* joiner;   // who is in join() for it
  crthread* joining;  // for whom it is in join()
  cr::crthreads::Stack stack;
  void* (*start)(void*);
  void* arg;
  void* value;                           // what start returned or gave to crthread_exit,
  bool has_value;                        // if it did
  char name[cr::crthreads::kNameBytes];  // "": inherited
  crthread* next_all;
  crthread* previous_all;
  crthread* next;  // in the free list, or in the list of threads to reap
};

namespace cr::crthreads {

nvheap::FutexLock& table_lock();

// Makes what all calls need, once. False: no memory.
[[nodiscard]] bool ensure_ready();

// A record in the table, state kRunning, all else zero; nullptr: no memory. With no stack it is one
// of an adopted thread.
crthread* new_record(const Stack& stack);
// The thread is gone and joined (or never began): gives back its stack and its record, now or when
// the last pin goes. Called once. Not under table_lock.
void release_record(crthread* t);
// Ends a pin taken under table_lock by pins++. Not under table_lock.
void unpin(crthread* t);

// Under table_lock: does t name a thread that is running, or can still be joined or reaped?
bool is_valid(const crthread* t);

// The calling thread's record, or nullptr if it has none (no adoption).
crthread* self_or_null();
void set_self(crthread* t);

// Under table_lock: its start function has ended and nobody will join it: to be reaped.
void push_to_reap(crthread* t);

}  // namespace cr::crthreads
