// SPDX-License-Identifier: MIT
// thread_record.cc - the table of threads: records, adoption, reaping, fork.
// Invariant: as thread_record.h. Context: N.
#include "crthreads/thread_record.h"

#include <limits.h>

#include <atomic>

#include "crthreads/crthreads.h"
#include "crthreads/futex_wait.h"
#include "crthreads/thread_stack.h"
#include "crthreads/wait_table.h"
#include "nvheap/nvheap.h"

namespace cr::crthreads {
namespace {

using nvheap::LockGuard;

constexpr uint64_t kMagic = 0x6461657268547243;  // "CrThread"
constexpr uint32_t kRecordsPerBatch = 32;

constinit nvheap::FutexLock g_table_lock;
// The lists begin and end here; all under g_table_lock.
constinit crthread* g_all = nullptr;
constinit crthread* g_first_free = nullptr;
constinit crthread* g_last_free = nullptr;
constinit crthread* g_to_reap = nullptr;

constinit nvheap::FutexLock g_ready_lock;
constinit std::atomic<bool> g_ready{false};
pthread_key_t g_adopted_key;  // its destructor runs when an adopted thread ends

// Raised when the last pin of a record goes: an adopted thread that ends waits for that.
constinit std::atomic<uint32_t> g_unpinned{0};

constinit std::atomic<uint64_t> g_next_id{1};
constinit thread_local uint64_t t_id [[gnu::tls_model("initial-exec")]] = 0;
constinit thread_local crthread* t_self [[gnu::tls_model("initial-exec")]] = nullptr;
constinit thread_local int t_destructor_rounds [[gnu::tls_model("initial-exec")]] = 0;

void append_free(crthread* t) {
  t->state = ThreadState::kFree;
  t->next = nullptr;
  (g_last_free != nullptr ? g_last_free->next : g_first_free) = t;
  g_last_free = t;
}

bool add_free_records() {
  auto* batch = static_cast<crthread*>(nvheap::allocate_zeroed(kRecordsPerBatch, sizeof(crthread)));
  if (batch == nullptr) return false;
  for (uint32_t i = 0; i < kRecordsPerBatch; i++) {
    batch[i].magic = kMagic;
    append_free(&batch[i]);
  }
  return true;
}

// Takes the record out of the table; the caller gives the stack back.
Stack retire_locked(crthread* t) {
  const Stack stack = t->stack;
  (t->previous_all != nullptr ? t->previous_all->next_all : g_all) = t->next_all;
  if (t->next_all != nullptr) t->next_all->previous_all = t->previous_all;
  append_free(t);
  return stack;
}

// At the end of an adopted thread. Other destructors of the same thread may still ask for self():
// ours comes back in each round and acts in the last one.
void on_adopted_end(void* record) {
  auto* t = static_cast<crthread*>(record);
  if (++t_destructor_rounds < PTHREAD_DESTRUCTOR_ITERATIONS &&
      pthread_setspecific(g_adopted_key, t) == 0) {
    return;
  }
  for (;;) {
    const uint32_t seen = g_unpinned.load(std::memory_order_acquire);
    {
      LockGuard guard(g_table_lock);
      t->state = ThreadState::kEnding;  // no new pins
      if (t->pins == 0) break;
    }
    futex_wait(&g_unpinned, seen, nullptr);
  }
  t_self = nullptr;
  release_record(t);
}

void before_fork() {
  g_ready_lock.lock();
  g_table_lock.lock();
  lock_wait_table_for_fork();
}
void after_fork_in_parent() {
  unlock_wait_table_in_parent();
  g_table_lock.unlock();
  g_ready_lock.unlock();
}
// The other threads are not here. Their stacks are kept until the next reap(): the program may be
// in the middle of a function that has pointers into them.
void after_fork_in_child() {
  reset_wait_table_in_child();
  crthread* next = nullptr;
  g_to_reap = nullptr;
  for (crthread* t = g_all; t != nullptr; t = next) {
    next = t->next_all;
    t->pins = 0;
    t->joiner = t->joining = nullptr;
    if (t == t_self) continue;
    t->state = ThreadState::kOrphan;
    push_to_reap(t);
  }
  g_table_lock.reset_in_child();
  g_ready_lock.reset_in_child();
}
// After nvheap's (101), so that in "before" the table's lock is taken before the heap's.
__attribute__((constructor(102))) void set_fork_handlers() {
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

// Takes the threads that are certainly gone off the list of those to reap.
crthread* take_gone_locked() {
  crthread* gone = nullptr;
  crthread** link = &g_to_reap;
  while (*link != nullptr) {
    crthread* t = *link;
    const bool is_gone = t->state == ThreadState::kOrphan ||
                         (t != t_self && pthread_tryjoin_np(t->handle, nullptr) == 0);
    if (!is_gone) {
      link = &t->next;
      continue;
    }
    *link = t->next;
    t->state = ThreadState::kJoined;
    t->next = gone;
    gone = t;
  }
  return gone;
}

}  // namespace

uint64_t self_id() {
  if (t_id == 0) t_id = g_next_id.fetch_add(1, std::memory_order_relaxed);
  return t_id;
}

nvheap::FutexLock& table_lock() { return g_table_lock; }

bool ensure_ready() {
  if (g_ready.load(std::memory_order_acquire)) return true;
  LockGuard guard(g_ready_lock);
  if (g_ready.load(std::memory_order_relaxed)) return true;
  if (!nvheap::init(0)) return false;
  if (pthread_key_create(&g_adopted_key, on_adopted_end) != 0) return false;
  g_ready.store(true, std::memory_order_release);
  return true;
}

crthread* new_record(const Stack& stack) {
  LockGuard guard(g_table_lock);
  if (g_first_free == nullptr && !add_free_records()) return nullptr;
  crthread* t = g_first_free;
  g_first_free = t->next;
  if (g_first_free == nullptr) g_last_free = nullptr;
  *t = crthread{};
  t->magic = kMagic;
  t->state = ThreadState::kRunning;
  t->adopted = t->detached = stack.base == nullptr;
  t->stack = stack;
  t->next_all = g_all;
  if (g_all != nullptr) g_all->previous_all = t;
  g_all = t;
  return t;
}

void release_record(crthread* t) {
  Stack stack{};
  {
    LockGuard guard(g_table_lock);
    t->released = true;
    if (t->pins != 0) return;
    stack = retire_locked(t);
  }
  free_stack(stack);
}

void unpin(crthread* t) {
  Stack stack{};
  {
    LockGuard guard(g_table_lock);
    if (--t->pins != 0) return;
    if (t->released) stack = retire_locked(t);
    g_unpinned.fetch_add(1, std::memory_order_release);
  }
  futex_wake(&g_unpinned, kWakeAll);
  free_stack(stack);
}

bool is_valid(const crthread* t) {
  return t != nullptr && t->magic == kMagic &&
         (t->state == ThreadState::kRunning || t->state == ThreadState::kEnding);
}

crthread* self_or_null() { return t_self; }
void set_self(crthread* t) { t_self = t; }

void push_to_reap(crthread* t) {
  t->next = g_to_reap;
  g_to_reap = t;
}

void reap() {
  crthread* gone = nullptr;
  {
    LockGuard guard(g_table_lock);
    gone = take_gone_locked();
  }
  while (gone != nullptr) {
    crthread* next = gone->next;
    release_record(gone);
    gone = next;
  }
}

crthread_t self() {
  if (t_self != nullptr) return t_self;
  // After the last round of destructors nothing would end the adoption.
  if (t_destructor_rounds >= PTHREAD_DESTRUCTOR_ITERATIONS || !ensure_ready()) return nullptr;
  crthread* t = new_record(Stack{});
  if (t == nullptr) return nullptr;
  t->handle = pthread_self();
  if (pthread_setspecific(g_adopted_key, t) != 0) {
    release_record(t);
    return nullptr;
  }
  t_self = t;
  return t;
}

}  // namespace cr::crthreads
