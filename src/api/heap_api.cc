// SPDX-License-Identifier: MIT
// heap_api.cc - crmalloc and its family: the nvheap as the C API shows it.
// Invariant: errno is ENOMEM exactly when NULL means failure; crfree never changes it.
// Context: N. Doc: include/checkpoint_restore.h.
#include <errno.h>

#include "checkpoint_restore.h"
#include "nvheap/nvheap.h"

namespace {

void* or_enomem(void* block) {
  if (block == nullptr) errno = ENOMEM;
  return block;
}

}  // namespace

extern "C" {

void* crmalloc(size_t size) { return or_enomem(cr::nvheap::allocate(size)); }

void* crcalloc(size_t count, size_t size) {
  return or_enomem(cr::nvheap::allocate_zeroed(count, size));
}

void* crrealloc(void* ptr, size_t size) {
  void* block = cr::nvheap::reallocate(ptr, size);
  if (ptr != nullptr && size == 0) return block;  // freed: NULL is no failure
  return or_enomem(block);
}

void crfree(void* ptr) {
  const int saved_errno = errno;  // a lazily bound libc call inside could change it
  cr::nvheap::deallocate(ptr);
  errno = saved_errno;
}

size_t crmalloc_usable_size(void* ptr) { return cr::nvheap::usable_bytes(ptr); }

}  // extern "C"
