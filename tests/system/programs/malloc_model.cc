// SPDX-License-Identifier: MIT
/* crtest: mode=cycles,live,lazy kill=later users=root,nobody
 *
 * The model test of malloc and its family, see heap_model.h.
 */
#include <malloc.h>
#include <stdlib.h>

#include "heap_model.h"

namespace {
struct Malloc {
  static void* allocate(size_t bytes) { return malloc(bytes); }
  static void* allocate_zeroed(size_t count, size_t bytes) { return calloc(count, bytes); }
  static void* allocate_aligned(size_t align, size_t bytes) { return memalign(align, bytes); }
  static void* resize(void* block, size_t bytes) { return realloc(block, bytes); }
  static void release(void* block) { free(block); }
  static size_t usable_bytes(void* block) { return malloc_usable_size(block); }
};
}  // namespace

int main() {
  heap_model::Game<Malloc>::run([](unsigned) {});
  test_finish();
}
