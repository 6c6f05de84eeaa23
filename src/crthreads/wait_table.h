// SPDX-License-Identifier: MIT
// wait_table.h - who waits for which condition variable: a fixed table of queues hashed by the
// object's address, outside the objects (the idea of the kernel's futex table and of WebKit's
// "parking lot").
// Invariant: a waiter is in its queue exactly while its word is kWaiting, both change only under
// the queue's lock, and the Cond is touched only while a waiter for it is queued. So a condition
// variable may be destroyed as soon as its last waiter has been woken, and a waiter that leaves (by
// timeout or cancellation) knows for certain whether it was woken.
// Context: N.
#pragma once

#include <atomic>
#include <cstdint>

#include "crthreads/crthreads.h"

namespace cr::crthreads {

inline constexpr uint32_t kWaiting = 0, kSignalled = 1, kBroadcast = 2;

// On the stack of the thread that waits.
struct Waiter {
  std::atomic<uint32_t> word{kWaiting};  // the futex it sleeps on
  Cond* cond = nullptr;
  Waiter* next = nullptr;
  Waiter* previous = nullptr;
  uint64_t ticket = 0;     // order of arrival in its queue
  uint64_t thread_id = 0;  // self_id()
};

void enqueue(Waiter& w, Cond& c);
// Takes the waiter out if it still waits; false: it has been woken before.
bool withdraw(Waiter& w);
// Wakes the waiter that has waited longest. May be called for a Cond that no longer exists.
void wake_one(const Cond& c);
void wake_all(const Cond& c);
bool has_waiters(const Cond& c);

// fork: the child keeps only the waits of the thread that forked.
void lock_wait_table_for_fork();
void unlock_wait_table_in_parent();
void reset_wait_table_in_child();

}  // namespace cr::crthreads
