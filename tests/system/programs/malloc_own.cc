/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A program that brings its own malloc uses it everywhere: in the C library, and in operator new,
 * with the preload library as without.
 *
 * CR_BUILD: -fno-builtin -fno-allocation-dce
 */
#include <new>
#include <string>

extern "C" {
#include "three_phase.h"
}

namespace {
alignas(4096) char arena[64 << 20];
std::size_t used;
int frees;
bool in_arena(const void *p) { return p >= arena && p < arena + sizeof arena; }
}  // namespace

/* Never gives anything back. The size stands before each block. */
extern "C" void *memalign(std::size_t align, std::size_t size) {
  if (align < 16) align = 16;
  std::size_t at = (used + 16 + align - 1) & ~(align - 1);
  if (size > sizeof arena || at + size > sizeof arena) {
    errno = ENOMEM;
    return nullptr;
  }
  used = at + size;
  memcpy(arena + at - 16, &size, sizeof size);
  return arena + at;
}
extern "C" void *malloc(std::size_t size) { return memalign(16, size); }
extern "C" void *aligned_alloc(std::size_t align, std::size_t size) {
  return memalign(align, size);
}
extern "C" void free(void *block) {
  if (block == nullptr) return;
  frees++;
  if (!in_arena(block)) TEST_FAIL("free(%p): a block from elsewhere", block);
}
extern "C" void *calloc(std::size_t count, std::size_t each) { return malloc(count * each); }
extern "C" void *realloc(void *block, std::size_t size) {
  void *moved = malloc(size);
  if (block == nullptr || moved == nullptr) return moved;
  std::size_t old;
  memcpy(&old, static_cast<char *>(block) - 16, sizeof old);
  memcpy(moved, block, old < size ? old : size);
  free(block);
  return moved;
}

template <typename Release>
static void check_own(const char *what, void *block, Release release) {
  CHECK(what, in_arena(block));
  int before = frees;
  release(block);
  CHECK_EQ(what, before + 1, frees);
}

static void check_all() {
  constexpr std::align_val_t kAlign{512};
  volatile std::size_t size = 700;
  check_own("malloc", malloc(size), free);
  check_own("strdup", strdup("some text"), free);
  check_own("new", ::operator new(size), [](void *p) { ::operator delete(p); });
  check_own("new[]", ::operator new[](size), [](void *p) { ::operator delete[](p); });
  check_own("nothrow", ::operator new(size, std::nothrow), [](void *p) { ::operator delete(p); });
  check_own("aligned", ::operator new(size, kAlign), [](void *p) { ::operator delete(p, kAlign); });
  check_own("aligned nothrow", ::operator new(size, kAlign, std::nothrow),
            [](void *p) { ::operator delete(p, kAlign); });
  bool thrown = false;
  try {
    (void)::operator new (std::size_t{1} << 40);
  } catch (const std::bad_alloc &) {
    thrown = true;
  }
  CHECK("bad_alloc", thrown);
}

int main() {
  check_all();
  std::string text(10000, 'x');
  test_ready();
  test_wait();
  CHECK("the string", text == std::string(10000, 'x') && in_arena(text.data()));
  check_all();
  test_finish();
}
