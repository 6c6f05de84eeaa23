// SPDX-License-Identifier: MIT
// world_test.cc - what is asked of a thread that is held.
// Invariant under test: pending signals are found, but for SIGSTOP: whoever halts a program that is
// being held does not halt what is restored of it.
#include "agent/world.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

Test(world, a_pending_halt_is_no_state) {
  const pid_t child = fork();
  cr_assert_geq(child, 0);
  while (child == 0) pause();
  cr_assert_eq(ptrace(PTRACE_SEIZE, child, nullptr, nullptr), 0);
  cr_assert_eq(ptrace(PTRACE_INTERRUPT, child, nullptr, nullptr), 0);
  int status = 0;
  cr_assert_eq(waitpid(child, &status, __WALL), child);
  cr_assert(WIFSTOPPED(status));
  for (const int sig : {SIGUSR1, SIGSTOP, SIGTSTP, SIGRTMIN, SIGRTMIN}) kill(child, sig);
  const auto pending = cr::agent::peek_signals(child, /*shared=*/true);
  const auto count = [&](int sig) {
    return std::ranges::count_if(pending, [sig](const siginfo_t& s) { return s.si_signo == sig; });
  };
  cr_assert_eq(count(SIGUSR1), 1);
  cr_assert_eq(count(SIGRTMIN), 2);
  cr_assert_eq(count(SIGTSTP), 1, "who blocks it can have it pending for long");
  cr_assert_eq(count(SIGSTOP), 0);
  kill(child, SIGKILL);
  waitpid(child, &status, __WALL);
}
