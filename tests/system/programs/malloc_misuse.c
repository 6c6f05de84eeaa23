/* SPDX-License-Identifier: MIT */
/*
 * malloc_misuse.c - misuses the heap as its argument says, for cli_test.py; exits with 0 if that
 * went unnoticed. `foreign` is correct use: a block of the C library's own malloc.
 *
 * CR_BUILD: -fno-builtin
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__libc_malloc(size_t);
void operator_delete(void *) __asm__("_ZdlPv");
#pragma weak operator_delete

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  char *volatile block = malloc(100), *volatile large = malloc(1000000);
  if (strcmp(what, "free twice") == 0) {
    free(block);
    free(block);
  } else if (strcmp(what, "free large twice") == 0) {
    free(large);
    free(large);
  } else if (strcmp(what, "free inside") == 0) {
    free(block + 16);
  } else if (strcmp(what, "realloc freed") == 0) {
    free(block);
    block = realloc(block, 500);
  } else if (strcmp(what, "usable freed") == 0) {
    free(block);
    return malloc_usable_size(block) == 1;
  } else if (strcmp(what, "delete twice") == 0) {
    operator_delete(block);
    operator_delete(block);
  } else if (strcmp(what, "free stack") == 0) {
    char on_stack[64];
    char *volatile p = on_stack;
    free(p + 16);
  } else if (strcmp(what, "foreign") == 0) {
    block = __libc_malloc(100);
    if (malloc_usable_size(block) < 100) return 1;
    block = realloc(block, 1000);
    free(block);
  }
  return 0;
}
