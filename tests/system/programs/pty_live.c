/* SPDX-License-Identifier: MIT */
/* crtest: mode=live
 *
 * As pty_inside.c, while the program runs on: what lies in a pseudoterminal is taken out for each
 * checkpoint, and put in again.
 */
#define LEAST_NUMBER 0
#include "pty_inside.c"
