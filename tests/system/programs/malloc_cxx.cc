/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * All forms of operator new and delete: they allocate from the heap, throw std::bad_alloc or return
 * a null pointer, and call the new handler.
 *
 * CR_BUILD: -fno-builtin -fno-allocation-dce
 */
#include <malloc.h>

#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

extern "C" {
#include "heap_place.h"
#include "three_phase.h"
}

namespace {

volatile std::size_t huge = std::size_t{1} << 62, small = 100;
int handler_calls;

void handler() {
  if (++handler_calls == 3) std::set_new_handler(nullptr);
}

template <typename Call>
void check_throws(const char *what, Call call) {
  std::set_new_handler(nullptr);
  bool thrown = false;
  try {
    call();
  } catch (const std::bad_alloc &e) {
    thrown = std::string(e.what()) == "std::bad_alloc";
  }
  if (!thrown) TEST_FAIL("%s threw no std::bad_alloc", what);
  handler_calls = 0;
  std::set_new_handler(handler);
  try {
    call();
  } catch (const std::bad_alloc &) {
  }
  CHECK_EQ(what, 3, handler_calls);
}

void check_null(const char *what, void *block) {
  if (block != nullptr) TEST_FAIL("%s gave a block", what);
}

/* A block is used, found where it should be, and given back by `release`. */
template <typename Release>
void check_block(const char *what, void *block, std::size_t align, Release release) {
  check_place(what, block);
  CHECK(what, block != nullptr && reinterpret_cast<std::uintptr_t>(block) % align == 0);
  memset(block, 0x5a, small);
  errno = 1234;
  release(block);
  CHECK_EQ("errno after delete", 1234, errno);
}

void check_all() {
  constexpr std::align_val_t kAlign{256};
  const std::nothrow_t &n = std::nothrow;
  const std::size_t s = small;
  check_block("new", ::operator new(s), 16, [](void *p) { ::operator delete(p); });
  check_block("new, sized delete", ::operator new(s), 16,
              [&](void *p) { ::operator delete(p, s); });
  check_block("new[]", ::operator new[](s), 16, [](void *p) { ::operator delete[](p); });
  check_block("new[], sized", ::operator new[](s), 16, [&](void *p) { ::operator delete[](p, s); });
  check_block("new nothrow", ::operator new(s, n), 16, [&](void *p) { ::operator delete(p, n); });
  check_block("new[] nothrow", ::operator new[](s, n), 16,
              [&](void *p) { ::operator delete[](p, n); });
  check_block("new aligned", ::operator new(s, kAlign), 256,
              [](void *p) { ::operator delete(p, kAlign); });
  check_block("new aligned, sized", ::operator new(s, kAlign), 256,
              [&](void *p) { ::operator delete(p, s, kAlign); });
  check_block("new[] aligned", ::operator new[](s, kAlign), 256,
              [](void *p) { ::operator delete[](p, kAlign); });
  check_block("new[] aligned, sized", ::operator new[](s, kAlign), 256,
              [&](void *p) { ::operator delete[](p, s, kAlign); });
  check_block("new aligned nothrow", ::operator new(s, kAlign, n), 256,
              [&](void *p) { ::operator delete(p, kAlign, n); });
  check_block("new[] aligned nothrow", ::operator new[](s, kAlign, n), 256,
              [&](void *p) { ::operator delete[](p, kAlign, n); });
  void *empty = ::operator new(0), *other = ::operator new(0);
  CHECK("new(0)", empty != nullptr && empty != other);
  ::operator delete(empty);
  ::operator delete(other);
  ::operator delete(nullptr);
  ::operator delete[](nullptr, kAlign);

  check_throws("new", [] { (void)::operator new(huge); });
  check_throws("new[]", [] { (void)::operator new[](huge); });
  check_throws("new aligned", [] { (void)::operator new(huge, kAlign); });
  check_throws("new[] aligned", [] { (void)::operator new[](huge, kAlign); });
  std::set_new_handler(nullptr);
  check_null("new nothrow", ::operator new(huge, n));
  check_null("new[] nothrow", ::operator new[](huge, n));
  check_null("new aligned nothrow", ::operator new(huge, kAlign, n));
  check_null("new[] aligned nothrow", ::operator new[](huge, kAlign, n));
  handler_calls = 0;
  std::set_new_handler(handler);
  check_null("new nothrow", ::operator new(huge, n));
  CHECK_EQ("new nothrow calls the handler", 3, handler_calls);
}

struct alignas(128) Wide {
  char bytes[128];
};

}  // namespace

int main() {
  check_all();
  auto words = std::make_unique<std::map<std::string, std::vector<int>>>();
  for (int i = 0; i < 2000; i++) {
    (*words)["a rather long name, number " + std::to_string(i)].assign(i % 100, i);
  }
  auto wide = std::make_unique<Wide[]>(33);
  CHECK_EQ("alignment of a class", 0, reinterpret_cast<std::uintptr_t>(wide.get()) % 128);
  check_place("a class", wide.get());
  test_fill(wide.get(), 33 * sizeof(Wide), 5);
  test_ready();
  test_wait();
  test_check_fill("array", wide.get(), 33 * sizeof(Wide), 5);
  for (int i = 0; i < 2000; i++) {
    const auto &v = words->at("a rather long name, number " + std::to_string(i));
    CHECK_EQ("size of a vector", i % 100, v.size());
    if (!v.empty()) CHECK_EQ("its last", i, v.back());
  }
  words.reset();
  wide.reset();
  check_all();
  test_finish();
}
