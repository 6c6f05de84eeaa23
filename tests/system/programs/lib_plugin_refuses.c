/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:plug-in stubborn: not this time
 *
 * A plug-in whose save() fails refuses the checkpoint with its words, and the program runs on.
 */
#define _GNU_SOURCE
#include <checkpoint_restore_plugin.h>

#include "three_phase.h"

static int saves;

static int save(void *context, char *why, size_t size) {
  (void)context, (void)size;
  saves++;
  memcpy(why, "not this time", sizeof "not this time");
  return EBUSY;
}
static int restore(void *context) {
  (void)context;
  return 0;
}

int main(void) {
  const struct crplugin p = {.version = CRPLUGIN_VERSION,
                             .size = sizeof p,
                             .name = "stubborn",
                             .save = save,
                             .restore = restore};
  REQUIRE(crplugin_register(&p) == 0);
  test_ready();
  test_wait();
  CHECK_EQ("calls of save()", 3, saves);
  test_finish();
}
