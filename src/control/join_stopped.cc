// SPDX-License-Identifier: MIT
// join_stopped.cc - what a thread of a process without a control thread is made to run so that
// there is one: in a fork child, or in a program that one of the session's processes has executed.
// Invariant: touches no floating-point or vector register, because the interrupted thread's are
// live: this file is compiled with -mgeneral-regs-only (src/control/module.mk). No TLS, no libc.
// Context: S, on a thread of the program's, on a stack of the library's.
// Doc: docs/ARCHITECTURE.md, "Process trees".
#include <sched.h>

#include "control/control.h"
#include "rawsys/rawsys.h"

extern "C" {
long cr_clone_control(unsigned long flags, void* stack_top, int* parent_tid);
void cr_join_thread(cr::control::State* state, void* control_stack_top);
}

void cr_join_thread(cr::control::State* state, void* control_stack_top) {
  using namespace cr;
  control::State& st = *state;
  control::forget_parent(st, static_cast<int32_t>(rawsys::sys_getpid()));
  st.joining = 1;
  st.status = control::kStarting;
  int tid = 0;
  const unsigned long flags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  const long r = cr_clone_control(flags, control_stack_top, &tid);
  st.join_errno = r < 0 ? static_cast<int32_t>(-r) : 0;
  if (r < 0) st.status = control::kDetached;
  __atomic_store_n(&st.joining, 2u, __ATOMIC_RELEASE);
  // As in a report: the agent stops the thread here.
  timespec patience{1, 0};
  rawsys::sys(__NR_ppoll, nullptr, 0, &patience, nullptr, 8);
}
