/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The disposition of every signal: default, ignored and handled, with all flags and with a mask
 * that depends on the signal's number.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "three_phase.h"

static volatile int handled, mask_seen[65];
static siginfo_t info_seen;

static void plain_handler(int number) { handled = number; }
static void info_handler(int number, siginfo_t *info, void *context) {
  (void)context;
  handled = number;
  info_seen = *info;
  sigset_t mask;
  sigprocmask(SIG_SETMASK, NULL, &mask);
  for (int s = 1; s <= 64; s++) mask_seen[s] = sigismember(&mask, s);
}

/* KILL and STOP cannot be set; 32 and 33 belong to libc; the runner's shell-less start ignores no
 * signal, so everything else is ours. */
static int is_settable(int number) {
  return number != SIGKILL && number != SIGSTOP && number != 32 && number != 33;
}

static void disposition(int number, struct sigaction *action) {
  static const int kFlags[] = {SA_RESTART,   SA_NODEFER,   SA_RESETHAND,           SA_ONSTACK,
                               SA_NOCLDSTOP, SA_NOCLDWAIT, SA_RESTART | SA_ONSTACK};
  memset(action, 0, sizeof *action);
  sigemptyset(&action->sa_mask);
  switch (number % 4) {
    case 0:
      action->sa_handler = SIG_IGN;
      break;
    case 1:
      action->sa_handler = SIG_DFL;
      break;
    case 2:
      action->sa_handler = plain_handler;
      action->sa_flags = kFlags[number % 7];
      break;
    default:
      action->sa_sigaction = info_handler;
      action->sa_flags = SA_SIGINFO | kFlags[(number / 4) % 7];
      break;
  }
  for (int s = 1; s <= 64; s++)
    if (is_settable(s) && test_pattern((uint64_t)number, (uint64_t)s) % 3 == 0)
      sigaddset(&action->sa_mask, s);
}

static void check_dispositions(const struct sigaction before[65]) {
  char what[64];
  for (int number = 1; number <= 64; number++) {
    if (!is_settable(number)) continue;
    struct sigaction after;
    sigaction(number, NULL, &after);
    snprintf(what, sizeof what, "handler of signal %d", number);
    CHECK_EQ(what, (uintptr_t)before[number].sa_handler, (uintptr_t)after.sa_handler);
    snprintf(what, sizeof what, "flags of signal %d", number);
    CHECK_EQ(what, before[number].sa_flags, after.sa_flags);
    for (int s = 1; s <= 64; s++) {
      snprintf(what, sizeof what, "signal %d in the mask of signal %d", s, number);
      CHECK_EQ(what, sigismember(&before[number].sa_mask, s), sigismember(&after.sa_mask, s));
    }
  }
}

int main(void) {
  static struct sigaction before[65];
  for (int number = 1; number <= 64; number++) {
    if (!is_settable(number)) continue;
    struct sigaction action;
    disposition(number, &action);
    REQUIRE(sigaction(number, &action, NULL) == 0);
    sigaction(number, NULL, &before[number]);
  }
  test_ready();
  test_wait();
  check_dispositions(before);

  /* And they act: SIGQUIT (3) has info_handler, SIGUSR1 (10) plain_handler, SIGUSR2 (12) is
   * ignored. */
  raise(SIGQUIT);
  CHECK_EQ("handled", SIGQUIT, handled);
  CHECK_EQ("si_code", SI_TKILL, info_seen.si_code);
  CHECK_EQ("si_pid", getpid(), info_seen.si_pid);
  for (int s = 1; s <= 64; s++)
    if (is_settable(s) && s != SIGQUIT)
      CHECK_EQ("mask inside the handler", sigismember(&before[SIGQUIT].sa_mask, s), mask_seen[s]);
  raise(SIGUSR1);
  CHECK_EQ("handled", SIGUSR1, handled);
  raise(SIGUSR2);
  CHECK_EQ("handled after an ignored signal", SIGUSR1, handled);
  test_finish();
}
