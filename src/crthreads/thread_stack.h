// SPDX-License-Identifier: MIT
// thread_stack.h - stacks from the nvheap with an inaccessible guard below.
// Invariant: a stack that goes back to the heap is readable and writable in full, guard included.
// Context: N.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cr::crthreads {

inline constexpr uint64_t kMinStackBytes = 64 * 1024;

struct Stack {
  void* base;  // the guard; nullptr: none
  size_t guard_bytes, stack_bytes;
};

uint64_t default_stack_bytes();
// Both sizes are whole pages. Errors: ENOMEM, ret_stack untouched.
int make_stack(size_t stack_bytes, size_t guard_bytes, Stack* ret_stack);
void free_stack(const Stack& stack);

}  // namespace cr::crthreads
