// SPDX-License-Identifier: MIT
// heap_fuzz.cc - the nvheap driven by bytes, against a model.
// Invariant under test: whatever the order of right calls, live blocks never overlap and keep their
// bytes, and the heap's own invariants hold.
//
// Input: 4 bytes a call: what (1), which of 64 places (1), size (2).
#include <stdint.h>
#include <string.h>

#include <cstdio>
#include <cstdlib>

#include "nvheap/nvheap.h"

namespace {

using namespace cr::nvheap;

struct Place {
  unsigned char* block = nullptr;
  size_t bytes = 0;
  unsigned char fill = 0;
};

[[noreturn]] void wrong(const char* what) {
  fprintf(stderr, "heap_fuzz: %s\n", what);
  abort();
}

void verify(const Place& p) {
  for (size_t i = 0; i < p.bytes; i++) {
    if (p.block[i] != p.fill) wrong("a block has lost its bytes");
  }
  if (usable_bytes(p.block) < p.bytes) wrong("a block is smaller than it was asked for");
}

void put(Place& p, void* block, size_t bytes, unsigned char fill) {
  p = {static_cast<unsigned char*>(block), block == nullptr ? 0 : bytes, fill};
  if (block != nullptr) memset(block, fill, bytes);
}

// Sizes of every kind: most small, some of many pages.
size_t size_of(uint32_t word) {
  switch (word & 3) {
    case 0:
      return word >> 2 & 0xff;
    case 1:
      return word >> 2;
    case 2:
      return size_t{word >> 2} * 16;
    default:
      return size_t{word >> 2} * 64;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Place places[64];
  unsigned char fill = 1;
  for (; size >= 4; data += 4, size -= 4) {
    Place& p = places[data[1] & 63];
    const size_t bytes = size_of(data[2] | static_cast<uint32_t>(data[3]) << 8);
    fill = static_cast<unsigned char>(fill * 5 + 3);
    if (p.block != nullptr) verify(p);
    const unsigned what = data[0] % 8;
    if (what < 2 && p.block != nullptr) {
      deallocate(p.block);
      p = {};
    } else if (what == 2 && p.block != nullptr && bytes != 0) {
      const Place old = p;
      auto* moved = static_cast<unsigned char*>(reallocate(p.block, bytes));
      if (moved == nullptr) continue;
      for (size_t i = 0; i < (old.bytes < bytes ? old.bytes : bytes); i++) {
        if (moved[i] != old.fill) wrong("reallocate has lost bytes");
      }
      put(p, moved, bytes, fill);
    } else if (what == 3) {
      (void)trim(bytes);
    } else if (p.block == nullptr && what == 4) {
      auto* block = static_cast<unsigned char*>(allocate_zeroed(1, bytes));
      for (size_t i = 0; block != nullptr && i < bytes; i++) {
        if (block[i] != 0) wrong("zeroed memory is not");
      }
      put(p, block, bytes, fill);
    } else if (p.block == nullptr && what == 5) {
      const size_t align = size_t{16} << (data[1] >> 6) << (data[0] >> 6);
      void* block = allocate_aligned(bytes, align);
      if (reinterpret_cast<uintptr_t>(block) % align != 0) wrong("a block is not aligned");
      put(p, block, bytes, fill);
    } else if (p.block == nullptr) {
      put(p, allocate(bytes), bytes, fill);
    }
  }
  for (Place& p : places) {
    if (p.block == nullptr) continue;
    verify(p);
    deallocate(p.block);
    p = {};
  }
  if (const char* broken = check()) wrong(broken);
  return 0;
}
