/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Libraries are loaded, allocate, and are unloaded: their blocks live on and can be freed. A C
 * program that loads the C++ library for itself gets operators new that find it.
 *
 * CR_BUILD: -fno-builtin
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>

#include "heap_place.h"
#include "three_phase.h"

#define OPERATOR_NEW "_Znwm"
#define OPERATOR_NEW_NOTHROW "_ZnwmRKSt9nothrow_t"
#define OPERATOR_DELETE "_ZdlPv"
typedef void *new_function(size_t);
typedef void *new_nothrow_function(size_t, const char *);
typedef void delete_function(void *);

static char *made_in_library(void) {
  void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library != NULL);
  char *text = NULL;
  REQUIRE(asprintf(&text, "%s", "made while the library was loaded") > 0);
  dlclose(library);
  return text;
}

static void check_operators(void) {
  void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return; /* no C++ on this machine */
  new_function *make = (new_function *)dlsym(RTLD_DEFAULT, OPERATOR_NEW);
  new_nothrow_function *make_nothrow =
      (new_nothrow_function *)dlsym(RTLD_DEFAULT, OPERATOR_NEW_NOTHROW);
  delete_function *release = (delete_function *)dlsym(RTLD_DEFAULT, OPERATOR_DELETE);
  if (make == NULL) { /* without the preload library */
    make = (new_function *)dlsym(library, OPERATOR_NEW);
    make_nothrow = (new_nothrow_function *)dlsym(library, OPERATOR_NEW_NOTHROW);
    release = (delete_function *)dlsym(library, OPERATOR_DELETE);
  }
  REQUIRE(make != NULL && make_nothrow != NULL && release != NULL);
  char *block = make(300);
  check_place("operator new", block);
  memset(block, 1, 300);
  release(block);
  char nothrow = 0;
  CHECK_EQ("operator new without memory", 0, (intptr_t)make_nothrow((size_t)1 << 62, &nothrow));
  dlclose(library);
}

int main(void) {
  char *texts[50];
  for (int i = 0; i < 50; i++) texts[i] = made_in_library();
  check_operators();
  test_ready();
  test_wait();
  for (int i = 0; i < 50; i++) {
    CHECK_STR("block of an unloaded library", "made while the library was loaded", texts[i]);
    check_place("block of an unloaded library", texts[i]);
    free(texts[i]);
  }
  for (int i = 0; i < 50; i++) free(made_in_library());
  check_operators();
  test_finish();
}
