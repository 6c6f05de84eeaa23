/* SPDX-License-Identifier: MIT */
/*
 * static_program.c - a statically linked program: crrun refuses it (cli_test.py).
 *
 * CR_BUILD: -static
 */
#include <stdio.h>

int main(void) {
  puts("a static program ran");
  return 0;
}
