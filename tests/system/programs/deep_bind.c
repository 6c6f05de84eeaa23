/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A library that is loaded by RTLD_DEEPBIND, as PHP and Apache load theirs, finds the C library's
 * malloc and free before the program's. Blocks go both ways between it and the program: libstdc++'s
 * operators new and delete, which call them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>

#include "three_phase.h"

typedef void *allocate_t(size_t);
typedef void release_t(void *);
static allocate_t *their_new;
static release_t *their_delete;

static void exchange(void) {
  for (size_t size = 1; size < 300000; size = size * 2 + 1) {
    char *ours = malloc(size), *theirs = their_new(size);
    REQUIRE(ours != NULL && theirs != NULL);
    memset(ours, 1, size);
    memset(theirs, 2, size);
    CHECK("usable size", malloc_usable_size(theirs) >= size);
    theirs = realloc(theirs, size + 100);
    REQUIRE(theirs != NULL && theirs[size - 1] == 2);
    their_delete(ours);
    free(theirs);
  }
}

int main(void) {
  void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_DEEPBIND);
  if (library == NULL) TEST_FAIL("dlopen: %s", dlerror());
  REQUIRE(library != NULL);
  *(void **)&their_new = dlsym(library, "_Znwm");
  *(void **)&their_delete = dlsym(library, "_ZdlPv");
  REQUIRE(their_new != NULL && their_delete != NULL);
  CHECK_EQ("a library that is not there", (uintptr_t)NULL,
           (uintptr_t)dlopen("libno-such-library.so.9", RTLD_NOW | RTLD_DEEPBIND));
  CHECK("it is named", strstr(dlerror(), "libno-such-library.so.9") != NULL);
  exchange();
  void *before = their_new(5000);
  memset(before, 7, 5000);
  test_ready();
  test_wait();
  CHECK_EQ("its block", 7, ((char *)before)[4999]);
  free(before);
  exchange();
  void *again = dlmopen(LM_ID_BASE, "libstdc++.so.6", RTLD_NOW | RTLD_DEEPBIND);
  CHECK_EQ("the same library", (uintptr_t)library, (uintptr_t)again);
  test_finish();
}
