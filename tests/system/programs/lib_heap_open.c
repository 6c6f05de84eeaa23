/* SPDX-License-Identifier: MIT */
/*
 * lib_heap_open.c - opens the heap of an image and shows its roots.
 *
 * Usage: lib_heap_open IMAGE.dir read|write
 */
#include <checkpoint_restore.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  if (crheap_open(argv[1], strcmp(argv[2], "read") == 0 ? CR_HEAP_READ_ONLY : 0) != 0) {
    printf("open: %s: %s\n", strerror(errno), crerror());
    return 1;
  }
  const char *names[16];
  void *blocks[16];
  size_t n = crroot_list(names, blocks, 16);
  for (size_t i = 0; i < n && i < 16; i++) printf("root %s\n", names[i]);
  unsigned char **found = crroot_get("blocks");
  if (found == NULL || found[0][0] != 11) return 3;
  void *more = crmalloc(100);
  if (more == NULL) return 4;
  crfree(more);
  if (crheap_commit() != 0) printf("commit: %s\n", strerror(errno));
  return crheap_close() == 0 && crheap_close() == -1 && errno == EPERM ? 0 : 5;
}
