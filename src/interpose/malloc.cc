// SPDX-License-Identifier: MIT
// malloc.cc - malloc and its family for the whole program, from an nvheap of their own: not the one
// of crmalloc, so that a block of one that is given to the other is noticed.
// Invariant: to the caller each function is the C library's: results, errno, corner cases. No call
// needs anything but the heap and the C library's own malloc, so that they work before
// constructors, in children of fork and while threads end.
// Context: N. Doc: docs/ARCHITECTURE.md, "Interposed malloc".
#include "interpose/malloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose/mode.h"
#include "rawsys/rawsys.h"

#define CR_EXPORT __attribute__((visibility("default")))

extern "C" {
// The C library's own malloc, by names that nobody interposes.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* __libc_valloc(size_t);
void* __libc_pvalloc(size_t);
void __libc_free(void*);
// The lock of the list of all streams, which fork() takes. Weak: it is not needed but for forks of
// programs with threads.
[[gnu::weak]] void _IO_list_lock(void);
[[gnu::weak]] void _IO_list_unlock(void);
[[gnu::weak]] void _IO_list_resetlock(void);
// The constructors of this library's second copy of the heap.
using Constructor = void (*)();
[[gnu::visibility("hidden")]] extern Constructor __start_cr_own_heap_init[];
[[gnu::visibility("hidden")]] extern Constructor __stop_cr_own_heap_init[];
}

namespace cr::interpose {

constinit HeapRange g_range;

namespace {

// fork() runs the handlers of pthread_atfork, and then takes the lock of the list of streams. So it
// would hold the heap's locks while it waits for a thread that flushes all streams, which waits for
// one that allocates a stream's buffer, which waits for the heap. Therefore the list comes first.
void lock_streams() {
  if (_IO_list_lock != nullptr && _IO_list_resetlock != nullptr) _IO_list_lock();
}
void unlock_streams() {
  if (_IO_list_unlock != nullptr && _IO_list_resetlock != nullptr) _IO_list_unlock();
}
void reset_streams() {
  if (_IO_list_resetlock != nullptr) _IO_list_resetlock();
}

// A preloaded library's constructors run after those of the libraries that the program names. What
// these register by pthread_atfork would then run while the heap is locked already ("before"
// handlers run in reverse order), and it may allocate. So the constructors of this copy of the heap
// (OWN_HEAP_O in the Makefile), which register its handlers, are called at the first allocation.
void construct_heap() {
  static constinit std::atomic<bool> done{false};
  if (done.exchange(true)) return;
  for (Constructor* c = __start_cr_own_heap_init; c != __stop_cr_own_heap_init; c++) (*c)();
  (void)pthread_atfork(lock_streams, unlock_streams, reset_streams);
}

// Makes the heap at the first call. False: there is none, the C library's malloc has to do.
bool start() {
  static constinit std::atomic<bool> none{false};
  if (active()) return true;
  if (none.load(std::memory_order_relaxed)) return false;
  const int saved_errno = errno;
  constexpr uint32_t kMallocStep = 16;  // far above the places of crmalloc's heap
  nvheap::set_first_step(kMallocStep);
  const bool made = mode() != Mode::kEngine && nvheap::init(0);
  if (made) construct_heap();
  errno = saved_errno;
  if (!made) {
    none.store(true, std::memory_order_relaxed);
    return false;
  }
  g_heap_word = nvheap::directory_word();
  const nvheap::RangeInfo range = nvheap::range_info();
  g_range.begin.store(range.begin, std::memory_order_relaxed);
  g_range.bytes.store(range.end - range.begin, std::memory_order_release);
  return true;
}

constexpr bool is_power_of_two(size_t n) { return n != 0 && (n & (n - 1)) == 0; }

size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// As memalign of the C library: the alignment may be anything, and is rounded up.
void* aligned(size_t align_bytes, size_t bytes) {
  if (!is_power_of_two(align_bytes)) {
    constexpr size_t kMost = SIZE_MAX / 2 + 1;
    if (align_bytes > kMost) {
      errno = EINVAL;
      return nullptr;
    }
    size_t up = 16;
    while (up < align_bytes) up *= 2;
    align_bytes = up;
  }
  return allocate_aligned(align_bytes, bytes);
}

// Of the C library, for CR_MODE=engine. These have no second name.
template <typename Function>
Function* next(const char* name, Function*) {
  return reinterpret_cast<Function*>(next_definition(name));
}

}  // namespace

void* allocate_slowly(size_t bytes) {
  if (void* block = nvheap::allocate_next(bytes)) [[likely]]
    return block;
  if (active() || start()) {
    if (void* block = nvheap::allocate(bytes)) return block;
  }
  return __libc_malloc(bytes);
}

void* allocate_aligned_elsewhere(size_t align_bytes, size_t bytes) {
  if (!active() && start()) {
    if (void* block = nvheap::allocate_aligned(bytes, align_bytes)) return block;
  }
  return __libc_memalign(align_bytes, bytes);
}

// A block that is not the heap's came from the C library: from its malloc under another name, from
// another link namespace (dlmopen), or when the heap was full. Only the C library can tell whether
// it is one of its own; if not, it ends the program with one line ("free(): invalid pointer").
void deallocate_slowly(void* block, const char* call) {
  if (ours(block)) {
    nvheap::deallocate_slowly(block, call);  // leaves errno alone
  } else if (block != nullptr) {
    __libc_free(block);
  }
}

void* next_definition(const char* name) { return dlsym(RTLD_NEXT, name); }

}  // namespace cr::interpose

using namespace cr;
using namespace cr::interpose;

extern "C" {

CR_EXPORT void* malloc(size_t bytes) { return allocate(bytes); }
// A second name, so that operator_new.cc can see whether the program replaces malloc.
__asm__(".globl cr_own_malloc\n.hidden cr_own_malloc\n.set cr_own_malloc, malloc\n");

CR_EXPORT void free(void* block) {
  if (nvheap::deallocate_fast(block)) [[likely]]
    return;
  deallocate_slowly(block, "free");
}

CR_EXPORT void cfree(void* block) { free(block); }

CR_EXPORT void* calloc(size_t count, size_t bytes_each) {
  if (active() || start()) [[likely]] {
    if (void* block = nvheap::allocate_zeroed(count, bytes_each)) [[likely]]
      return block;
  }
  return __libc_calloc(count, bytes_each);
}

CR_EXPORT void* realloc(void* block, size_t bytes) {
  if (block == nullptr) return allocate(bytes);
  if (!ours(block)) return __libc_realloc(block, bytes);
  void* moved = nvheap::reallocate(block, bytes, "realloc");
  if (moved != nullptr || bytes == 0) [[likely]]
    return moved;
  moved = __libc_malloc(bytes);
  if (moved == nullptr) return nullptr;
  memcpy(moved, block, smaller(bytes, nvheap::usable_bytes(block, "realloc")));
  nvheap::deallocate(block, "realloc");
  return moved;
}

CR_EXPORT void* reallocarray(void* block, size_t count, size_t bytes_each) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, bytes_each, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  return realloc(block, bytes);
}

CR_EXPORT void* memalign(size_t align_bytes, size_t bytes) { return aligned(align_bytes, bytes); }

CR_EXPORT void* aligned_alloc(size_t align_bytes, size_t bytes) {
  return aligned(align_bytes, bytes);
}

CR_EXPORT int posix_memalign(void** ret_block, size_t align_bytes, size_t bytes) {
  if (!is_power_of_two(align_bytes) || align_bytes % sizeof(void*) != 0) return EINVAL;
  const int saved_errno = errno;
  void* block = allocate_aligned(align_bytes, bytes);
  errno = saved_errno;
  if (block == nullptr) return ENOMEM;
  *ret_block = block;
  return 0;
}

CR_EXPORT void* valloc(size_t bytes) { return allocate_aligned(kPageSize, bytes); }

CR_EXPORT void* pvalloc(size_t bytes) {
  if (bytes > SIZE_MAX - (kPageSize - 1)) {
    errno = ENOMEM;
    return nullptr;
  }
  return allocate_aligned(kPageSize, page_ceil(bytes));
}

CR_EXPORT size_t malloc_usable_size(void* block) {
  if (ours(block)) return nvheap::usable_bytes(block, "malloc_usable_size");
  if (block == nullptr) return 0;
  auto* usable_size = next("malloc_usable_size", &malloc_usable_size);
  return usable_size == nullptr ? 0 : usable_size(block);
}

CR_EXPORT int malloc_trim(size_t pad) {
  auto* libc_trim = next("malloc_trim", &malloc_trim);
  const int by_libc = libc_trim == nullptr ? 0 : libc_trim(pad);
  if (!active()) return by_libc;
  return nvheap::trim(pad) != 0 || by_libc != 0 ? 1 : 0;
}

// There is nothing to tune in the heap, and programs take 0 for an error.
CR_EXPORT int mallopt(int option, int value) {
  if (active()) return 1;
  auto* libc_mallopt = next("mallopt", &mallopt);
  return libc_mallopt == nullptr ? 1 : libc_mallopt(option, value);
}

CR_EXPORT struct mallinfo2 mallinfo2(void) {
  if (!active()) {
    auto* libc_mallinfo2 = next("mallinfo2", &mallinfo2);
    if (libc_mallinfo2 != nullptr) return libc_mallinfo2();
  }
  const nvheap::Stats s = nvheap::all_stats();
  struct mallinfo2 info {};
  info.arena = s.grown_bytes - (s.free_bytes - s.free_dirty_bytes);
  info.uordblks = s.small_bytes + s.large_bytes;
  info.fordblks = info.arena > info.uordblks ? info.arena - info.uordblks : 0;
  info.keepcost = s.free_dirty_bytes;
  return info;
}

CR_EXPORT struct mallinfo mallinfo(void) {
  const struct mallinfo2 wide = mallinfo2();
  struct mallinfo info {};
  info.arena = static_cast<int>(wide.arena);
  info.ordblks = static_cast<int>(wide.ordblks);
  info.smblks = static_cast<int>(wide.smblks);
  info.hblks = static_cast<int>(wide.hblks);
  info.hblkhd = static_cast<int>(wide.hblkhd);
  info.usmblks = static_cast<int>(wide.usmblks);
  info.fsmblks = static_cast<int>(wide.fsmblks);
  info.uordblks = static_cast<int>(wide.uordblks);
  info.fordblks = static_cast<int>(wide.fordblks);
  info.keepcost = static_cast<int>(wide.keepcost);
  return info;
}

CR_EXPORT void malloc_stats(void) {
  if (!active()) {
    auto* libc_stats = next("malloc_stats", &malloc_stats);
    if (libc_stats != nullptr) return libc_stats();
  }
  const struct mallinfo2 info = mallinfo2();
  fprintf(stderr, "Arena 0:\nsystem bytes     = %10zu\nin use bytes     = %10zu\n", info.arena,
          info.uordblks);
}

CR_EXPORT int malloc_info(int options, FILE* out) {
  if (!active()) {
    auto* libc_info = next("malloc_info", &malloc_info);
    if (libc_info != nullptr) return libc_info(options, out);
  }
  if (options != 0) return EINVAL;
  const nvheap::Stats s = nvheap::all_stats();
  fprintf(out,
          "<malloc version=\"1\">\n<heap nr=\"0\">\n<total type=\"small\" size=\"%zu\"/>\n"
          "<total type=\"large\" size=\"%zu\"/>\n<total type=\"rest\" size=\"%zu\"/>\n"
          "<system type=\"current\" size=\"%zu\"/>\n<aspace type=\"total\" size=\"%zu\"/>\n"
          "</heap>\n</malloc>\n",
          s.small_bytes, s.large_bytes, s.free_bytes, s.grown_bytes, s.reserve_bytes);
  return 0;
}

}  // extern "C"
