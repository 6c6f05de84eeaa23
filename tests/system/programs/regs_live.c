/* SPDX-License-Identifier: MIT */
/* crtest: mode=live
 *
 * As regs.c, but the running program goes on after each checkpoint: the stop itself must leave every
 * general, x87 and vector register as it was.
 */
#include "regs.c"
