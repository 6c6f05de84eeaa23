// SPDX-License-Identifier: MIT
// crhost.cc - a program to take over when the original executable of an image is gone.
// Invariant: never reaches main() in a restore: libcrpreload.so's constructor takes over before.
// Context: N.
#include <stdio.h>

int main() {
  fputs("crhost: this program is started by crrestore\n", stderr);
  return 125;
}
