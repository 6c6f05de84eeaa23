// SPDX-License-Identifier: MIT
// heap_api.cc - crmalloc and its family: the nvheap as the C API shows it.
// Invariant: errno is ENOMEM exactly when NULL means failure; crfree never changes it.
// Context: N. Doc: include/checkpoint_restore.h.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/error.h"
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

void* craligned_alloc(size_t alignment, size_t size) {
  if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
    errno = EINVAL;
    return nullptr;
  }
  return or_enomem(cr::nvheap::allocate_aligned(size, alignment));
}

int crposix_memalign(void** ret_block, size_t alignment, size_t size) {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  void* block = cr::nvheap::allocate_aligned(size, alignment);
  if (block == nullptr) return ENOMEM;
  *ret_block = block;
  return 0;
}

size_t crmalloc_trim(size_t keep_bytes) { return cr::nvheap::trim(keep_bytes); }

int crheap_stats(struct crheap_stats* st) {
  if (st == nullptr || st->size < 16) {
    return cr::api::fail(cr::Error{cr::Errc::kInvalid, EINVAL, "crheap_stats: size"});
  }
  const cr::nvheap::Stats h = cr::nvheap::all_stats();
  struct crheap_stats s = {sizeof(s),         0,
                           h.reserve_bytes,   h.grown_bytes,
                           h.small_bytes,     h.slab_bytes,
                           h.large_bytes,     h.free_bytes,
                           h.free_dirty_bytes};
  if (st->size < s.size) s.size = st->size;
  memcpy(st, &s, s.size);
  return 0;
}

int crheap_stats_json(char* buffer, size_t size) {
  const cr::nvheap::Stats h = cr::nvheap::all_stats();
  using ull = unsigned long long;
  return snprintf(buffer, size,
                  "{\"reserve_bytes\": %llu, \"grown_bytes\": %llu, \"small_bytes\": %llu, "
                  "\"slab_bytes\": %llu, \"large_bytes\": %llu, \"free_bytes\": %llu, "
                  "\"free_kept_bytes\": %llu}",
                  static_cast<ull>(h.reserve_bytes), static_cast<ull>(h.grown_bytes),
                  static_cast<ull>(h.small_bytes), static_cast<ull>(h.slab_bytes),
                  static_cast<ull>(h.large_bytes), static_cast<ull>(h.free_bytes),
                  static_cast<ull>(h.free_dirty_bytes));
}

int crheap_walk(int (*each)(void* block, size_t bytes, void* arg), void* arg) {
  struct Call {
    int (*each)(void*, size_t, void*);
    void* arg;
    int result;
  } call{each, arg, 0};
  cr::nvheap::walk(
      [](void* self, void* block, size_t bytes) {
        auto* c = static_cast<Call*>(self);
        c->result = c->each(block, bytes, c->arg);
        return c->result == 0;
      },
      &call);
  return call.result;
}

const char* crheap_check(void) { return cr::nvheap::check(); }

int crroot_set(const char* name, void* block) {
  if (name == nullptr) {
    return cr::api::fail(cr::Error{cr::Errc::kInvalid, EINVAL, "crroot_set: no name"});
  }
  switch (cr::nvheap::set_root(name, block)) {
    case cr::Errc::kOk:
      return 0;
    case cr::Errc::kNotFound:
      return cr::api::fail(
          cr::Error{cr::Errc::kNotFound, ENOENT, "crroot_set: there is no root of this name"});
    case cr::Errc::kNoMemory:
      return cr::api::fail(cr::Error{cr::Errc::kNoMemory, ENOSPC, "crroot_set: at most 256 roots"});
    default:
      return cr::api::fail(
          cr::Error{cr::Errc::kInvalid, EINVAL,
                    "crroot_set: a name has 1 to 55 bytes, and the block must be crmalloc's"});
  }
}

void* crroot_get(const char* name) {
  return name == nullptr ? nullptr : cr::nvheap::get_root(name);
}

size_t crroot_list(const char** ret_names, void** ret_blocks, size_t most) {
  return cr::nvheap::list_roots(ret_names, ret_blocks,
                                most < UINT32_MAX ? static_cast<uint32_t>(most) : UINT32_MAX);
}

}  // extern "C"
