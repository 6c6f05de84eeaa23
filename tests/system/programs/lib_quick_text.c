/* SPDX-License-Identifier: MIT */
/*
 * lib_quick_text.c - the same where the memory map is compared as text (before Linux 6.11).
 *
 * crtest: mode=rollback users=root,nobody timeout=240 variable=CR_NO_PROCMAP_QUERY
 */
#include "lib_quick.c"
