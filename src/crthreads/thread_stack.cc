// SPDX-License-Identifier: MIT
// thread_stack.cc - see thread_stack.h.
// Context: N.
#include "crthreads/thread_stack.h"

#include <errno.h>
#include <sys/resource.h>

#include <atomic>

#include "base/base.h"
#include "crthreads/crthreads.h"
#include "nvheap/nvheap.h"
#include "rawsys/rawsys.h"

namespace cr::crthreads {
namespace {

constexpr uint64_t kUnlimitedStackBytes = 8u << 20;  // what libc takes for an infinite limit
constinit std::atomic<uint64_t> g_default_stack_bytes{0};

bool protect(const Stack& s, int protection) {
  return rawsys::sys_mprotect(reinterpret_cast<uint64_t>(s.base), s.guard_bytes, protection) == 0;
}

}  // namespace

void set_default_stack_bytes(uint64_t bytes) {
  g_default_stack_bytes.store(bytes, std::memory_order_relaxed);
}

uint64_t default_stack_bytes() {
  if (const uint64_t set = g_default_stack_bytes.load(std::memory_order_relaxed); set != 0) {
    return set;
  }
  rlimit64 limit{};
  const bool known = rawsys::sys(__NR_prlimit64, 0, RLIMIT_STACK, nullptr, &limit) == 0;
  if (!known || limit.rlim_cur == RLIM64_INFINITY) return kUnlimitedStackBytes;
  return limit.rlim_cur;
}

int make_stack(size_t stack_bytes, size_t guard_bytes, Stack* ret_stack) {
  size_t total = 0;
  if (__builtin_add_overflow(stack_bytes, guard_bytes, &total)) return ENOMEM;
  const Stack s{nvheap::alloc_stack(total), guard_bytes, stack_bytes};
  if (s.base == nullptr) return ENOMEM;
  if (!protect(s, PROT_NONE)) {
    free_stack(s);
    return ENOMEM;
  }
  *ret_stack = s;
  return 0;
}

void free_stack(const Stack& s) {
  if (s.base == nullptr) return;
  // With vm.max_map_count used up it can fail. Then losing the stack is the lesser evil: the heap
  // must never hand out a page that cannot be touched.
  if (!protect(s, PROT_READ | PROT_WRITE)) return;
  nvheap::free_stack(s.base);
}

}  // namespace cr::crthreads
