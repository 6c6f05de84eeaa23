// SPDX-License-Identifier: MIT
// calls_stopped.cc - see calls.h.
// Invariant: as there: this file is compiled with -mgeneral-regs-only (src/control/module.mk). No
// TLS, no libc.
// Context: S, on the control thread, or on a thread of the program's on a stack of the library's.
#include "control/calls.h"

#include "format/make_call.h"
#include "rawsys/rawsys.h"

extern "C" {
void cr_thread_calls(cr::format::CallList* list);
long cr_clone_waiting(void* clone_args, size_t size);
}

namespace cr::control {

long make_calls(format::CallList* list) {
  auto* calls = reinterpret_cast<format::Call*>(list + 1);
  for (uint64_t i = 0; i < list->count; i++) {
    format::Call& c = calls[i];
    long r = 0;
    if (c.nr == __NR_clone3) {
      c.result = cr_clone_waiting(reinterpret_cast<void*>(c.args[0]), c.args[1]);
      if (rawsys::is_error(c.result) && (c.flags & format::kCallMayFail) == 0) r = c.result;
    } else {
      r = format::make_call(calls, c, {});  // data and ids were resolved by the agent
    }
    if (r != 0) {
      list->failed = static_cast<uint32_t>(i) + 1;
      return r;
    }
  }
  return 0;
}

}  // namespace cr::control

// Entered by a thread that the agent holds. When the list is done it waits for the agent, which
// sets its registers; should the agent die, the kernel kills the process (PTRACE_O_EXITKILL). By
// ppoll, which leaves alone what the kernel knows of an interrupted call.
void cr_thread_calls(cr::format::CallList* list) {
  (void)cr::control::make_calls(list);
  __atomic_store_n(&list->done, 1u, __ATOMIC_RELEASE);
  for (;;) cr::rawsys::sys(__NR_ppoll, nullptr, 0, nullptr, nullptr, 8);
}
