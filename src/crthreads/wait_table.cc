// SPDX-License-Identifier: MIT
// wait_table.cc - see wait_table.h.
// Context: N.
#include "crthreads/wait_table.h"

#include "crthreads/futex_wait.h"
#include "nvheap/futex_lock.h"

namespace cr::crthreads {
namespace {

using nvheap::LockGuard;

struct alignas(64) Queue {
  nvheap::FutexLock lock;
  uint64_t next_ticket = 0;
  Waiter* first = nullptr;
  Waiter* last = nullptr;

  void append(Waiter& w) {
    w.ticket = next_ticket++;
    w.previous = last;
    w.next = nullptr;
    (last != nullptr ? last->next : first) = &w;
    last = &w;
  }
  void remove(Waiter& w) {
    (w.previous != nullptr ? w.previous->next : first) = w.next;
    (w.next != nullptr ? w.next->previous : last) = w.previous;
  }
};

constexpr uint32_t kQueues = 256;
constinit Queue g_queues[kQueues];

Queue& queue_of(const Cond& c) {
  const uint64_t mixed = reinterpret_cast<uint64_t>(&c) * 0x9e3779b97f4a7c15u;
  return g_queues[mixed >> 56];
}
static_assert(kQueues == 1 << 8);

// Under the queue's lock. The store ends the waiter's life: afterwards only its address counts.
void release(Queue& q, Waiter& w, uint32_t reason) {
  q.remove(w);
  w.cond->waiters.fetch_sub(1, std::memory_order_relaxed);
  w.word.store(reason, std::memory_order_release);
}

}  // namespace

void enqueue(Waiter& w, Cond& c) {
  w.cond = &c;
  w.thread_id = self_id();
  Queue& q = queue_of(c);
  LockGuard guard(q.lock);
  c.waiters.fetch_add(1, std::memory_order_relaxed);
  q.append(w);
}

bool withdraw(Waiter& w) {
  Queue& q = queue_of(*w.cond);
  LockGuard guard(q.lock);
  if (w.word.load(std::memory_order_relaxed) != kWaiting) return false;
  q.remove(w);
  w.cond->waiters.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

void wake_one(const Cond& c) {
  const void* sleeper = nullptr;
  {
    Queue& q = queue_of(c);
    LockGuard guard(q.lock);
    for (Waiter* w = q.first; w != nullptr; w = w->next) {
      if (w->cond != &c) continue;
      sleeper = &w->word;
      release(q, *w, kSignalled);
      break;
    }
  }
  if (sleeper != nullptr) futex_wake(sleeper, 1);
}

// In batches, so that nobody is woken only to wait for the queue's lock. Those who came after the
// call began are left alone: the call ends even if its sleepers come back at once.
void wake_all(const Cond& c) {
  constexpr int kBatch = 32;
  Queue& q = queue_of(c);
  uint64_t end_ticket = UINT64_MAX;
  int found = kBatch;
  while (found == kBatch) {
    const void* sleepers[kBatch];
    found = 0;
    {
      LockGuard guard(q.lock);
      if (end_ticket == UINT64_MAX) end_ticket = q.next_ticket;
      Waiter* next = nullptr;
      for (Waiter* w = q.first; w != nullptr && w->ticket < end_ticket; w = next) {
        next = w->next;
        if (w->cond != &c) continue;
        sleepers[found++] = &w->word;
        release(q, *w, kBroadcast);
        if (found == kBatch) break;
      }
    }
    for (int i = 0; i < found; i++) futex_wake(sleepers[i], 1);
  }
}

bool has_waiters(const Cond& c) {
  Queue& q = queue_of(c);
  LockGuard guard(q.lock);
  for (const Waiter* w = q.first; w != nullptr; w = w->next) {
    if (w->cond == &c) return true;
  }
  return false;
}

void lock_wait_table_for_fork() {
  for (Queue& q : g_queues) q.lock.lock();
}

void unlock_wait_table_in_parent() {
  for (Queue& q : g_queues) q.lock.unlock();
}

void reset_wait_table_in_child() {
  const uint64_t me = self_id();
  for (Queue& q : g_queues) {
    Waiter* next = nullptr;
    for (Waiter* w = q.first; w != nullptr; w = next) {
      next = w->next;
      if (w->thread_id == me) continue;  // forked by a signal handler during its wait
      q.remove(*w);
      w->cond->waiters.fetch_sub(1, std::memory_order_relaxed);
    }
    q.lock.reset_in_child();
  }
}

}  // namespace cr::crthreads
