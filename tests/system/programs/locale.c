/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Locales: the process's own, of which the tables are mapped files; another one of a thread's; one
 * that no thread uses at the moment; conversions in the middle of a character.
 */
#define _GNU_SOURCE
#include <langinfo.h>
#include <locale.h>
#include <pthread.h>
#include <wchar.h>
#include <wctype.h>

#include "three_phase.h"

static pthread_barrier_t ready;
static volatile int go;

/* "C" is the thread's, whatever the process's is. */
static void *with_its_own(void *argument) {
  const locale_t mine = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  REQUIRE(mine != (locale_t)0);
  REQUIRE(uselocale(mine) == LC_GLOBAL_LOCALE);
  pthread_barrier_wait(&ready);
  while (!go) usleep(1000);
  CHECK("the thread's locale", uselocale((locale_t)0) == mine);
  CHECK_EQ("its code set", 0, strcmp("ANSI_X3.4-1968", nl_langinfo(CODESET)));
  CHECK_EQ("its largest character", 1, (int)MB_CUR_MAX);
  uselocale(LC_GLOBAL_LOCALE);
  freelocale(mine);
  return argument;
}

int main(void) {
  pthread_t thread;
  wchar_t wide = 0;
  mbstate_t half;
  memset(&half, 0, sizeof half);
  REQUIRE(setlocale(LC_ALL, "C.UTF-8") != NULL);
  const locale_t spare = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  REQUIRE(spare != (locale_t)0);
  /* Two of the three bytes of the euro sign. */
  REQUIRE(mbrtowc(&wide, "\xe2\x82", 2, &half) == (size_t)-2);
  REQUIRE(pthread_barrier_init(&ready, NULL, 2) == 0);
  REQUIRE(pthread_create(&thread, NULL, with_its_own, NULL) == 0);
  pthread_barrier_wait(&ready);
  test_ready();
  test_wait();
  go = 1;
  REQUIRE(pthread_join(thread, NULL) == 0);
  CHECK_EQ("the rest of a character", 1, (int)mbrtowc(&wide, "\xac", 1, &half));
  CHECK_EQ("the character", 0x20ac, (int)wide);
  CHECK_EQ("the locale", 0, strcmp("C.UTF-8", setlocale(LC_ALL, NULL)));
  CHECK_EQ("its code set", 0, strcmp("UTF-8", nl_langinfo(CODESET)));
  CHECK("a letter", iswalpha(0xe9) && towupper(0xe9) == 0xc9);
  CHECK("a letter of the spare one", iswalpha_l(0x3b1, spare) && towupper_l(0x3b1, spare) == 0x391);
  CHECK("the order", strcoll("a", "\xc3\xa9") < 0);
  char text[32];
  CHECK_EQ("printed", 3, snprintf(text, sizeof text, "%lc", (wint_t)0x20ac));
  CHECK("another one", setlocale(LC_ALL, "C") != NULL && MB_CUR_MAX == 1);
  CHECK("and back", setlocale(LC_CTYPE, "C.UTF-8") != NULL && MB_CUR_MAX > 1);
  freelocale(spare);
  test_finish();
}
