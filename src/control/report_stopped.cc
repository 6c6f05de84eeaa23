// SPDX-License-Identifier: MIT
// report_stopped.cc - what a stopped thread is made to run so that it tells what only it knows.
// Invariant: touches no floating-point or vector register, because the interrupted thread's are
// live: this file is compiled with -mgeneral-regs-only (src/control/module.mk). No TLS, no libc.
// Context: S, on a thread of the program's, on a stack of the library's.
#include <sys/prctl.h>

#include "control/control.h"
#include "format/channel.h"
#include "format/plugins.h"
#include "rawsys/rawsys.h"

extern "C" void cr_report_thread(cr::format::ThreadReport* report);

void cr_report_thread(cr::format::ThreadReport* report) {
  using cr::rawsys::sys;
  struct {
    uint64_t sp;
    int32_t flags;
    int32_t pad;
    uint64_t size;
  } ss{};
  sys(__NR_sigaltstack, nullptr, &ss);
  report->altstack_sp = ss.sp;
  report->altstack_bytes = ss.size;
  report->altstack_flags = static_cast<uint32_t>(ss.flags);
  sys(__NR_prctl, PR_GET_TID_ADDRESS, &report->clear_child_tid);
  const long slack = sys(__NR_prctl, PR_GET_TIMERSLACK);
  report->timer_slack_ns = slack > 0 ? static_cast<uint64_t>(slack) : 0;
  sys(__NR_get_robust_list, 0, &report->robust_list, &report->robust_list_bytes);
  sys(__NR_prctl, PR_GET_NAME, report->name);
  sys(__NR_prctl, PR_GET_PDEATHSIG, &report->pdeathsig);
  report->no_new_privs = sys(__NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 1 : 0;
  report->keepcaps = sys(__NR_prctl, PR_GET_KEEPCAPS) == 1 ? 1 : 0;
  const auto ask = [](int option, unsigned long argument = 0) {
    const long r = sys(__NR_prctl, option, argument, 0, 0, 0);
    return r < 0 ? 0u : static_cast<uint32_t>(r);
  };
  constexpr int kGetIoFlusher = 58;
  report->securebits = ask(PR_GET_SECUREBITS);
  report->machine_check = ask(PR_MCE_KILL_GET);
  report->io_flusher = ask(kGetIoFlusher);
  report->store_bypass = ask(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS);
  report->indirect_branch = ask(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH);
  int tsc = PR_TSC_ENABLE;
  sys(__NR_prctl, PR_GET_TSC, &tsc, 0, 0, 0);
  report->tsc = static_cast<uint32_t>(tsc);
  constexpr int kArchGetCpuid = 0x1011;
  report->no_cpuid = sys(__NR_arch_prctl, kArchGetCpuid, 0) == 0 ? 1 : 0;
  report->personality = static_cast<uint32_t>(sys(__NR_personality, 0xffffffff));
  const cr::format::PluginTable& plugins = cr::control::plugins();
  if (report->call_plugins != 0 && plugins.save_all != 0) {
    // Changes vector registers, which the agent then puts back.
    reinterpret_cast<void (*)()>(plugins.save_all)();
  }
  __atomic_store_n(&report->done, cr::format::kReportDone, __ATOMIC_RELEASE);
  // Normally the agent stops the thread here within microseconds. ppoll, because a futex or
  // nanosleep with a timeout would overwrite the restart block of the call that the thread was in.
  timespec patience{cr::format::kReportPatienceSeconds, 0};
  sys(__NR_ppoll, nullptr, 0, &patience, nullptr, 8);
  __atomic_store_n(&report->done, cr::format::kReportLeft, __ATOMIC_RELEASE);
}
