// SPDX-License-Identifier: MIT
// operator_new.cc - C++'s operators new and delete, all forms.
// Invariant: a program that replaces malloc, operator new or operator delete gets its own in each
// form that it did not replace: a form that the standard defines by another one calls that through
// the program's symbols, as libstdc++'s does. This library needs no libstdc++: what has to throw,
// or to catch, is left to the definition that the program would have without it.
// Context: N. Doc: docs/ARCHITECTURE.md, "Interposed malloc".
#include <dlfcn.h>
#include <stdlib.h>

#include <atomic>
#include <new>

#include "interpose/malloc.h"
#include "rawsys/rawsys.h"

using namespace cr;
using namespace cr::interpose;

namespace {

// The definition behind ours. A C program that has loaded a C++ library for itself has libstdc++
// where only its name leads to it.
template <typename Function>
Function* next(std::atomic<Function*>& known, const char* name) {
  Function* f = known.load(std::memory_order_acquire);
  if (f != nullptr) return f;
  void* found = next_definition(name);
  if (found == nullptr) {
    void* libstdcxx = dlopen("libstdc++.so.6", RTLD_NOLOAD | RTLD_LAZY);
    if (libstdcxx != nullptr) found = dlsym(libstdcxx, name);
  }
  f = reinterpret_cast<Function*>(found);
  known.store(f, std::memory_order_release);
  return f;
}

[[noreturn]] void die_without_memory() {
  static constexpr char kLine[] =
      "checkpoint_restore: operator new: no memory, and no C++ library to throw std::bad_alloc\n";
  rawsys::sys_write(2, kLine, sizeof(kLine) - 1);
  abort();
}

// Is a name bound to what this library defines? The compiler must not know the answer. "No" where
// the program has an address of its own for the function; then the long way is gone, which is right
// as well.
template <typename Function>
bool bound_to(Function* bound, Function* own) {
  __asm__("" : "+r"(bound), "+r"(own));
  return bound == own;
}

using New = void*(size_t);
using NewNothrow = void*(size_t, const std::nothrow_t&);
using NewAligned = void*(size_t, std::align_val_t);
using NewAlignedNothrow = void*(size_t, std::align_val_t, const std::nothrow_t&);

}  // namespace

// Second names of what is defined here and in malloc.cc, which nobody can replace.
extern "C" {
[[gnu::visibility("hidden")]] void* cr_own_malloc(size_t);
[[gnu::visibility("hidden")]] void* cr_own_new(size_t);
[[gnu::visibility("hidden")]] void* cr_own_new_array(size_t);
[[gnu::visibility("hidden")]] void* cr_own_new_aligned(size_t, std::align_val_t);
[[gnu::visibility("hidden")]] void* cr_own_new_array_aligned(size_t, std::align_val_t);
}
__asm__(
    ".globl cr_own_new, cr_own_new_array, cr_own_new_aligned, cr_own_new_array_aligned\n"
    ".set cr_own_new, _Znwm\n"
    ".set cr_own_new_array, _Znam\n"
    ".set cr_own_new_aligned, _ZnwmSt11align_val_t\n"
    ".set cr_own_new_array_aligned, _ZnamSt11align_val_t\n");

namespace {

bool malloc_is_ours() { return bound_to<New>(malloc, cr_own_malloc); }
bool new_is_ours() { return bound_to<New>(::operator new, cr_own_new); }
bool new_array_is_ours() { return bound_to<New>(::operator new[], cr_own_new_array); }
bool new_aligned_is_ours() { return bound_to<NewAligned>(::operator new, cr_own_new_aligned); }
bool new_array_aligned_is_ours() {
  return bound_to<NewAligned>(::operator new[], cr_own_new_array_aligned);
}

constexpr bool is_power_of_two(size_t n) { return n != 0 && (n & (n - 1)) == 0; }

}  // namespace

// ---- the two that allocate ----------------------------------------------------------------------

void* operator new(size_t bytes) {
  // Not malloc(0), which a program's own may answer with a null pointer.
  void* block = malloc_is_ours() ? allocate(bytes) : malloc(bytes == 0 ? 1 : bytes);
  if (block != nullptr) [[likely]]
    return block;
  // It calls malloc, which will fail again, then the new handler in a loop, and throws.
  static constinit std::atomic<New*> known{nullptr};
  New* next_new = next(known, "_Znwm");
  if (next_new == nullptr) die_without_memory();
  return next_new(bytes);
}

void* operator new(size_t bytes, std::align_val_t align) {
  const auto align_bytes = static_cast<size_t>(align);
  if (is_power_of_two(align_bytes)) [[likely]] {
    const size_t rounded = (bytes + align_bytes - 1) & ~(align_bytes - 1);
    void* block = malloc_is_ours()  ? allocate_aligned(align_bytes, bytes)
                  : rounded < bytes ? nullptr
                                    : aligned_alloc(align_bytes, rounded);
    if (block != nullptr) [[likely]]
      return block;
  }
  static constinit std::atomic<NewAligned*> known{nullptr};
  NewAligned* next_new = next(known, "_ZnwmSt11align_val_t");
  if (next_new == nullptr) die_without_memory();
  return next_new(bytes, align);
}

// ---- the two that free --------------------------------------------------------------------------

namespace {
[[gnu::noinline]] void delete_slowly(void* block) {
  if (ours(block)) {
    nvheap::deallocate_slowly(block, "operator delete");
  } else {
    free(block);
  }
}
}  // namespace

void operator delete(void* block) noexcept {
  if (nvheap::deallocate_fast(block)) [[likely]]
    return;
  delete_slowly(block);
}

void operator delete(void* block, std::align_val_t) noexcept {
  if (nvheap::deallocate_fast(block)) [[likely]]
    return;
  delete_slowly(block);
}

// ---- those that never throw ---------------------------------------------------------------------

// Without a C++ library nobody has replaced anything, and there is nothing to catch.
void* operator new(size_t bytes, const std::nothrow_t& nothrow) noexcept {
  if (new_is_ours()) [[likely]] {
    if (void* block = malloc_is_ours() ? allocate(bytes) : malloc(bytes == 0 ? 1 : bytes)) {
      return block;
    }
  }
  static constinit std::atomic<NewNothrow*> known{nullptr};
  NewNothrow* next_new = next(known, "_ZnwmRKSt9nothrow_t");
  return next_new == nullptr ? nullptr : next_new(bytes, nothrow);
}

void* operator new[](size_t bytes, const std::nothrow_t& nothrow) noexcept {
  if (new_array_is_ours()) [[likely]]
    return ::operator new(bytes, nothrow);
  static constinit std::atomic<NewNothrow*> known{nullptr};
  NewNothrow* next_new = next(known, "_ZnamRKSt9nothrow_t");
  return next_new == nullptr ? nullptr : next_new(bytes, nothrow);
}

void* operator new(size_t bytes, std::align_val_t align, const std::nothrow_t& nothrow) noexcept {
  const auto align_bytes = static_cast<size_t>(align);
  if (new_aligned_is_ours() && malloc_is_ours() && is_power_of_two(align_bytes)) [[likely]] {
    if (void* block = allocate_aligned(align_bytes, bytes)) return block;
  }
  static constinit std::atomic<NewAlignedNothrow*> known{nullptr};
  NewAlignedNothrow* next_new = next(known, "_ZnwmSt11align_val_tRKSt9nothrow_t");
  return next_new == nullptr ? nullptr : next_new(bytes, align, nothrow);
}

void* operator new[](size_t bytes, std::align_val_t align, const std::nothrow_t& nothrow) noexcept {
  if (new_array_aligned_is_ours()) [[likely]]
    return ::operator new(bytes, align, nothrow);
  static constinit std::atomic<NewAlignedNothrow*> known{nullptr};
  NewAlignedNothrow* next_new = next(known, "_ZnamSt11align_val_tRKSt9nothrow_t");
  return next_new == nullptr ? nullptr : next_new(bytes, align, nothrow);
}

// ---- those that are another one -----------------------------------------------------------------

void* operator new[](size_t bytes) { return ::operator new(bytes); }
void* operator new[](size_t bytes, std::align_val_t align) { return ::operator new(bytes, align); }

void operator delete[](void* block) noexcept { ::operator delete(block); }
void operator delete(void* block, size_t) noexcept { ::operator delete(block); }
void operator delete[](void* block, size_t) noexcept { ::operator delete[](block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { ::operator delete(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { ::operator delete[](block); }

void operator delete[](void* block, std::align_val_t align) noexcept {
  ::operator delete(block, align);
}
void operator delete(void* block, size_t, std::align_val_t align) noexcept {
  ::operator delete(block, align);
}
void operator delete[](void* block, size_t, std::align_val_t align) noexcept {
  ::operator delete[](block, align);
}
void operator delete(void* block, std::align_val_t align, const std::nothrow_t&) noexcept {
  ::operator delete(block, align);
}
void operator delete[](void* block, std::align_val_t align, const std::nothrow_t&) noexcept {
  ::operator delete[](block, align);
}
