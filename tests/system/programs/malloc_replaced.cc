/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A program that replaces operator new and delete gets its own, also in the forms that it did not
 * replace, with the preload library as without.
 *
 * CR_BUILD: -fno-builtin -fno-allocation-dce
 */
#include <new>

extern "C" {
#include "three_phase.h"
}

namespace {
int news, deletes;
bool fail;
}  // namespace

void *operator new(std::size_t bytes) {
  news++;
  if (fail) throw std::bad_alloc();
  return malloc(bytes == 0 ? 1 : bytes);
}
void operator delete(void *block) noexcept {
  deletes++;
  free(block);
}

static void check_own(void) {
  volatile std::size_t bytes = 40;
  news = deletes = 0;
  ::operator delete(::operator new(bytes));
  CHECK_EQ("new", 1, news);
  CHECK_EQ("delete", 1, deletes);
  ::operator delete[](::operator new[](bytes));
  CHECK_EQ("new[]", 2, news);
  CHECK_EQ("delete[]", 2, deletes);
  ::operator delete(::operator new(bytes, std::nothrow), std::nothrow);
  CHECK_EQ("new nothrow", 3, news);
  CHECK_EQ("delete nothrow", 3, deletes);
  ::operator delete[](::operator new[](bytes, std::nothrow), std::nothrow);
  CHECK_EQ("new[] nothrow", 4, news);
  CHECK_EQ("delete[] nothrow", 4, deletes);
  void *block = ::operator new(bytes);
  ::operator delete(block, bytes);
  block = ::operator new[](bytes);
  ::operator delete[](block, bytes);
  CHECK_EQ("sized", 6, news);
  CHECK_EQ("sized", 6, deletes);

  fail = true;
  CHECK_EQ("new nothrow that fails", 0, (intptr_t)::operator new(bytes, std::nothrow));
  CHECK_EQ("new[] nothrow that fails", 0, (intptr_t)::operator new[](bytes, std::nothrow));
  int caught = 0;
  try {
    (void)::operator new[](bytes);
  } catch (const std::bad_alloc &) {
    caught++;
  }
  CHECK_EQ("new[] that fails", 1, caught);
  fail = false;
}

int main() {
  check_own();
  int *kept = new int[1000];
  for (int i = 0; i < 1000; i++) kept[i] = i;
  test_ready();
  test_wait();
  for (int i = 0; i < 1000; i++) CHECK_EQ("kept", i, kept[i]);
  delete[] kept;
  check_own();
  test_finish();
}
