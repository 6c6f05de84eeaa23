/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A library loaded with dlopen() before the checkpoint: its function pointers stay good, dlsym and
 * dlclose work on the kept handle, the list of loaded objects is as before, and another library
 * can be loaded afterwards.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>

#include "three_phase.h"

static int count_objects(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  uint64_t *digest = data;
  digest[0]++;
  digest[1] = test_pattern(digest[1], info->dlpi_addr);
  return 0;
}

int main(void) {
  void *library = dlopen("libm.so.6", RTLD_NOW);
  REQUIRE(library != NULL);
  double (*cosine)(double) = (double (*)(double))dlsym(library, "cos");
  REQUIRE(cosine != NULL);
  volatile double angle = 0.7;
  double before = cosine(angle);
  uint64_t objects[2] = {0, 0}, objects_after[2] = {0, 0};
  dl_iterate_phdr(count_objects, objects);
  test_ready();
  test_wait();
  CHECK("cos through the kept pointer", cosine(angle) == before);
  CHECK("dlsym gives the same address", dlsym(library, "cos") == (void *)cosine);
  double (*sine)(double) = (double (*)(double))dlsym(library, "sin");
  CHECK("dlsym of another function", sine != NULL && sine(0.0) == 0.0);
  Dl_info info;
  CHECK("dladdr knows the function",
        dladdr((void *)cosine, &info) != 0 && strstr(info.dli_fname, "libm") != NULL);
  dl_iterate_phdr(count_objects, objects_after);
  CHECK_EQ("loaded objects", objects[0], objects_after[0]);
  CHECK_EQ("addresses of the loaded objects", objects[1], objects_after[1]);
  CHECK_EQ("dlclose", 0, dlclose(library));
  void *late = dlopen("libresolv.so.2", RTLD_NOW);
  CHECK("dlopen after the wait", late != NULL);
  if (late != NULL) CHECK("dlsym in a late library", dlsym(late, "ns_get16") != NULL);
  test_finish();
}
