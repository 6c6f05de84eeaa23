// SPDX-License-Identifier: MIT
// quick_state.cc - see quick_state.h. Invariant: as there. Context: N.
#include "control/quick_state.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "control/control.h"
#include "format/quick_map.h"
#include "rawsys/rawsys.h"

namespace cr::control {
namespace {

using namespace rawsys;
using namespace format;

bool equal(const void* a, const void* b, size_t bytes) {
  return __builtin_memcmp(a, b, bytes) == 0;
}

// Reads a whole file of /proc into scratch, at most cap bytes. Its length, or -1.
long read_proc(const char* path, uint8_t* to, uint64_t cap) {
  const long fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  uint64_t used = 0;
  long n = 0;
  while (used < cap && (n = sys_read(static_cast<int>(fd), to + used, cap - used)) > 0) {
    used += static_cast<uint64_t>(n);
  }
  sys_close(static_cast<int>(fd));
  return n < 0 || used == cap ? -1 : static_cast<long>(used);
}

bool stat_path(const char* path, struct stat* ret) {
  return sys(__NR_newfstatat, AT_FDCWD, path, ret, 0) == 0;
}

bool same_ids(const QuickPlan& p) {
  uint8_t info[128];
  const long child = sys(__NR_waitid, P_ALL, 0, info, WNOHANG | WNOWAIT | WEXITED | __WALL);
  return child == -ECHILD && sys_getpid() == p.pid && sys_gettid() == p.tid &&
         sys(__NR_getppid) == p.ppid && sys(__NR_getpgid, 0) == p.pgid &&
         sys(__NR_getsid, 0) == p.sid;
}

bool same_signals(const QuickPlan& p, uint64_t sigmask) {
  uint64_t pending = 0;
  struct {
    uint64_t sp;
    uint32_t flags, pad;
    uint64_t bytes;
  } alt{};
  if (sigmask != p.sigmask || sys(__NR_rt_sigpending, &pending, 8) != 0 || pending != 0 ||
      sys(__NR_sigaltstack, nullptr, &alt) != 0 || alt.sp != p.altstack_sp ||
      alt.flags != p.altstack_flags || alt.bytes != p.altstack_bytes) {
    return false;
  }
  for (int i = 0; i < 64; i++) {
    if (i + 1 == SIGKILL || i + 1 == SIGSTOP) continue;  // nobody can change these
    SigactionRecord now{};
    const long r = sys(__NR_rt_sigaction, i + 1, nullptr, &now, 8);
    if (r == 0 && !equal(&now, &p.sigactions[i], sizeof(now))) return false;
  }
  return true;
}

bool no_interval_timers() {
  for (int i = 0; i < 3; i++) {
    TimerRecord now{}, none{};
    if (sys(__NR_getitimer, i, &now) != 0 || !equal(&now, &none, sizeof(now))) return false;
  }
  return true;
}

bool same_thread(const QuickPlan& p) {
  constexpr long kGetFs = 0x1003, kGetGs = 0x1004;
  uint64_t fs = 0, gs = 0, clear = 0, list = 0, list_bytes = 0;
  int32_t death = 0;
  char name[16] = {};
  sys(__NR_arch_prctl, kGetFs, &fs);
  sys(__NR_arch_prctl, kGetGs, &gs);
  sys(__NR_prctl, PR_GET_TID_ADDRESS, &clear);
  sys(__NR_get_robust_list, 0, &list, &list_bytes);
  sys(__NR_prctl, PR_GET_PDEATHSIG, &death);
  sys(__NR_prctl, PR_GET_NAME, name);
  // Registering what is registered already is EBUSY, anything else EINVAL.
  const long rseq =
      p.rseq_addr == 0 ? -EBUSY : sys(__NR_rseq, p.rseq_addr, p.rseq_bytes, 0, p.rseq_signature);
  return fs == p.fs_base && gs == p.gs_base && clear == p.clear_child_tid &&
         list == p.robust_list && list_bytes == p.robust_list_bytes && death == p.pdeathsig &&
         equal(name, p.name, sizeof(name)) && rseq == -EBUSY &&
         static_cast<uint64_t>(sys(__NR_prctl, PR_GET_TIMERSLACK)) == p.timer_slack_ns &&
         sys(__NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == static_cast<long>(p.no_new_privs) &&
         sys(__NR_prctl, PR_GET_KEEPCAPS) == static_cast<long>(p.keepcaps);
}

bool same_scheduling(const QuickPlan& p) {
  constexpr long kPrioProcess = 0;
  int32_t priority = 0;
  uint8_t cpus[sizeof(p.affinity)] = {};
  if (sys(__NR_sched_getscheduler, 0) != p.sched_policy ||
      sys(__NR_sched_getparam, 0, &priority) != 0 || priority != p.sched_priority ||
      20 - sys(__NR_getpriority, kPrioProcess, 0) != p.nice) {
    return false;
  }
  return p.affinity_bytes == 0 || (sys(__NR_sched_getaffinity, 0, sizeof(cpus), cpus) > 0 &&
                                   equal(cpus, p.affinity, p.affinity_bytes));
}

bool same_credentials(const QuickPlan& p) {
  uint32_t uid[3] = {}, gid[3] = {};
  struct {
    uint32_t version, pid;
  } header{0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } low_high[2] = {};
  sys(__NR_getresuid, &uid[0], &uid[1], &uid[2]);
  sys(__NR_getresgid, &gid[0], &gid[1], &gid[2]);
  if (!equal(uid, p.uid, sizeof(uid)) || !equal(gid, p.gid, sizeof(gid)) ||
      sys(__NR_capget, &header, low_high) != 0) {
    return false;
  }
  const auto both = [](uint32_t low, uint32_t high) { return low | uint64_t{high} << 32; };
  return both(low_high[0].effective, low_high[1].effective) == p.caps[0] &&
         both(low_high[0].permitted, low_high[1].permitted) == p.caps[1] &&
         both(low_high[0].inheritable, low_high[1].inheritable) == p.caps[2] &&
         sys(__NR_prctl, PR_GET_SECCOMP) == 0;
}

bool same_process(QuickHead& head) {
  const QuickPlan& p = head.plan;
  int32_t subreaper = 0;
  sys(__NR_prctl, PR_GET_CHILD_SUBREAPER, &subreaper);
  const long umask_now = sys(__NR_umask, 0);
  sys(__NR_umask, umask_now);
  if (umask_now != static_cast<long>(p.umask) ||
      static_cast<uint32_t>(subreaper) != p.child_subreaper ||
      sys(__NR_personality, 0xffffffff) != static_cast<long>(p.personality) ||
      sys(__NR_prctl, PR_GET_DUMPABLE) != static_cast<long>(p.dumpable) ||
      sys(__NR_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0) != static_cast<long>(p.thp_disabled) ||
      sys(__NR_brk, 0) != static_cast<long>(p.brk)) {
    return false;
  }
  // A change of the root shows here as well: "(unreachable)", or another path.
  const long n = sys(__NR_getcwd, head.scratch, sizeof(head.scratch));
  return n > 0 && static_cast<uint64_t>(n - 1) == p.cwd_bytes &&
         equal(head.scratch, head.paths + p.cwd_off, p.cwd_bytes);
}

bool has_lock(QuickHead& head, int fd) {
  LineBuffer<64> path;
  path.text("/proc/self/fdinfo/").dec(static_cast<uint64_t>(fd));
  const long n = read_proc(path.c_str(), head.scratch, sizeof(head.scratch) - 1);
  if (n < 0) return true;
  head.scratch[n] = 0;
  static constexpr char kLock[] = "\nlock:";
  for (long i = 0; i + 6 <= n; i++) {
    if (equal(head.scratch + i, kLock, 6)) return true;
  }
  return false;
}

bool same_path(QuickHead& head, const QuickFd& f) {
  LineBuffer<64> link;
  link.text("/proc/self/fd/").dec(static_cast<uint64_t>(f.fd));
  const long n = sys(__NR_readlinkat, AT_FDCWD, link.c_str(), head.scratch, sizeof(head.scratch));
  return n >= 0 && static_cast<uint64_t>(n) == f.path_bytes &&
         equal(head.scratch, head.paths + f.path_off, f.path_bytes);
}

constexpr int kGetSignal = 11;  // F_GETSIG

// One that has hung up, then and now, has none.
bool same_modes(const QuickFd& f) {
  constexpr uint64_t kGetModes = 0x802c542a;  // TCGETS2
  uint8_t now[sizeof(f.modes)];
  const bool has_modes = sys(__NR_ioctl, f.fd, kGetModes, now) == 0;
  return has_modes == (f.has_modes != 0) && (!has_modes || equal(now, f.modes, sizeof(now)));
}

bool same_file(const QuickFd& f, QuickSlot& slot) {
  struct stat st;
  if (sys(__NR_fstat, f.fd, &st) != 0 || st.st_dev != f.dev || st.st_ino != f.ino ||
      st.st_mode != f.mode || sys(__NR_fcntl, f.fd, F_GETFL) != static_cast<long>(f.open_flags) ||
      (sys(__NR_fcntl, f.fd, F_GETFD) & FD_CLOEXEC) != static_cast<long>(f.cloexec)) {
    return false;
  }
  if (sys(__NR_fcntl, f.fd, F_GETOWN) != 0 || sys(__NR_fcntl, f.fd, kGetSignal) != 0) return false;
  if (f.kind == kFileTerminal) return same_modes(f);
  if (f.kind != kFileRegular && f.kind != kFileDirectory) return true;
  if (st.st_nlink == 0) return false;
  const long position = sys(__NR_lseek, f.fd, 0, SEEK_CUR);
  if (position < 0) return false;
  if (f.kind == kFileDirectory) return static_cast<uint64_t>(position) == f.position;
  // Only an ordinary checkpoint keeps a copy of what could be overwritten; it does if nothing was.
  const int64_t changed_ns = st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
  const bool writes = (f.open_flags & O_ACCMODE) != O_RDONLY && (f.open_flags & O_APPEND) == 0;
  if (writes && position != st.st_size && changed_ns != f.copied_ctime_ns &&
      control::state().files.generation != 0)
    return false;
  auto& out = slot.files[slot.file_count++];
  out.file = f.file;
  out.position = static_cast<uint64_t>(position);
  out.bytes = static_cast<uint64_t>(st.st_size);
  return true;
}

bool same_names(QuickHead& head) {
  for (uint64_t i = 0; i < head.plan.fd_count; i++) {
    const QuickFd& f = head.fds[i];
    if (f.kind != kFileRegular && f.kind != kFileDirectory) continue;
    if (has_lock(head, f.fd) || !same_path(head, f)) return false;
  }
  return true;
}

// Do the same descriptors share an open file?
bool same_sharing(const QuickPlan& p, const QuickFd* fds) {
  for (uint64_t i = 0; i < p.fd_count; i++) {
    for (uint64_t k = 0; k < i; k++) {
      if (fds[i].dev != fds[k].dev || fds[i].ino != fds[k].ino ||
          fds[i].open_flags != fds[k].open_flags) {
        continue;
      }
      const long r = sys(__NR_kcmp, p.pid, p.pid, KCMP_FILE, fds[i].fd, fds[k].fd);
      if (r < 0 || (r == 0) != (fds[i].file == fds[k].file)) return false;
    }
  }
  return true;
}

bool same_files(QuickHead& head, QuickSlot& slot) {
  struct stat all;
  slot.file_count = 0;
  // The size is the number of descriptors (Linux 6.2).
  if (!stat_path("/proc/self/fd", &all) ||
      static_cast<uint64_t>(all.st_size) != head.plan.fd_count) {
    return false;
  }
  for (uint64_t i = 0; i < head.plan.fd_count; i++) {
    if (!same_file(head.fds[i], slot)) return false;
  }
  return same_sharing(head.plan, head.fds);
}

bool same_map(QuickHead& head) {
  const uint64_t bytes = head.plan.maps_bytes;
  if (head.plan.mapping_count != 0) {
    const long fd = sys_openat(AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool same = same_mappings({head.mappings, head.plan.mapping_count, head.maps},
                                    static_cast<int>(fd), head.scratch);
    sys_close(static_cast<int>(fd));
    return same;
  }
  const long n = read_proc("/proc/self/maps", head.maps_now, sizeof(head.maps_now));
  return n >= 0 && static_cast<uint64_t>(n) == bytes && equal(head.maps_now, head.maps, bytes);
}

// Whatever program of the session wrote to it: files that were changed since the newest ordinary
// checkpoint would go back to what they were at that one.
bool same_journal(const QuickHead& head) {
  if (head.plan.journal_off >= sizeof(head.paths)) return true;
  struct stat st {};
  const long r = sys(__NR_newfstatat, AT_FDCWD, head.paths + head.plan.journal_off, &st, 0);
  return (r == 0 || r == -ENOENT) && static_cast<uint64_t>(st.st_size) == head.plan.journal_bytes;
}

bool same_limits(const QuickPlan& p) {
  for (int i = 0; i < 16; i++) {
    RlimitRecord now{};
    if (sys(__NR_prlimit64, 0, i, nullptr, &now) != 0 || !equal(&now, &p.rlimits[i], sizeof(now))) {
      return false;
    }
  }
  return true;
}

bool one_thread() {
  struct stat tasks;
  return stat_path("/proc/self/task", &tasks) && tasks.st_nlink == kQuickTaskLinks;
}

}  // namespace

QuickRefusal compare_state(QuickHead& head, uint64_t sigmask, QuickSlot& slot) {
  if (!same_ids(head.plan)) return kQuickThreads;
  if (!same_signals(head.plan, sigmask)) return kQuickSignals;
  if (!no_interval_timers()) return kQuickTimers;
  if (!same_thread(head.plan) || !same_scheduling(head.plan) || !same_credentials(head.plan) ||
      !same_process(head)) {
    return kQuickProcess;
  }
  if (__atomic_load_n(&control::semaphores().set_count, __ATOMIC_ACQUIRE) != 0) return kQuickFiles;
  // By this process; compare_map() sees those of others.
  if (__atomic_load_n(&control::state().files.changes, __ATOMIC_RELAXED) != 0) return kQuickFiles;
  if (!same_files(head, slot)) return kQuickFiles;
  return head.plan.agent_sees_names != 0 || same_names(head) ? kQuickDone : kQuickFiles;
}

QuickRefusal compare_map(QuickHead& head) {
  if (!one_thread()) return kQuickThreads;
  if (!same_limits(head.plan)) return kQuickProcess;
  if (read_proc("/proc/self/timers", head.scratch, sizeof(head.scratch)) != 0) return kQuickTimers;
  if (!same_map(head)) return kQuickMap;
  if (!same_journal(head)) return kQuickFiles;
  return head.plan.agent_sees_names == 0 || same_names(head) ? kQuickDone : kQuickFiles;
}

}  // namespace cr::control
