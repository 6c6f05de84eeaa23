// SPDX-License-Identifier: MIT
// restorer.cc - carries out a restore plan: unmaps all but its own region, maps and fills the saved
// memory, makes the threads anew and lets them go.
// Invariant: position independent, no libc, no TLS, no reference to anything outside the blob;
// before the first munmap nothing has been changed that would matter to anybody.
// Context: R (docs/contexts.md). Doc: docs/ARCHITECTURE.md, "One restore".
#include <errno.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sys/socket.h>

#include "format/channel.h"
#include "format/mm_map.h"
#include "format/plan.h"
#include "rawsys/rawsys.h"
#include "restorer/restorer.h"

extern "C" {
[[noreturn]] void cr_restorer_main(const cr::format::RestorerArgs* args);
[[noreturn]] void cr_restorer_sigreturn(void* ucontext);
}

namespace cr::restorer {

// Half a process must not run. One that is filled lazily does run: it is killed, and its pages stay
// away until it is dead.
void fail(const Restore& rs, format::RestoreStep step, long error, uint64_t addr, uint64_t slot) {
  while (__atomic_exchange_n(&rs.plan->failed, 1u, __ATOMIC_ACQ_REL) != 0) {
    rawsys::sys_futex(&rs.plan->failed, FUTEX_WAIT_PRIVATE, 1);  // another thread ends us
  }
  format::Report report{};
  report.kind = format::kMessageReport;
  report.code = step;
  report.sys_errno = static_cast<int32_t>(-error);
  report.sequence = addr;
  report.epoch = slot;
  sys(__NR_sendto, rs.args->report_fd, &report, sizeof(report), MSG_NOSIGNAL, nullptr, 0);
  if (rs.program >= 0) {
    sys(__NR_pidfd_send_signal, rs.program, SIGKILL, nullptr, 0);
    struct {
      int fd;
      short events, revents;
    } dead = {rs.program, 1 /* POLLIN */, 0};
    sys(__NR_poll, &dead, 1, -1);
    // Nobody knows who the forks are. They wait for ever for a page rather than see zeros.
    while (rs.plan->filler_forks != 0) sys(__NR_pause);
  }
  rawsys::sys_exit_group(125);
}

namespace {

using format::PlanHeader;
using format::RestorerArgs;
using rawsys::is_error;

constexpr uint64_t kTaskSize = 0x7ffffffff000;
constexpr int kArchSetGs = 0x1001, kArchSetFs = 0x1002;

void detach_old_libc(const RestorerArgs& a) {
  constexpr int kRseqUnregister = 1;
  if (a.rseq_addr != 0) {
    sys(__NR_rseq, a.rseq_addr, a.rseq_bytes, kRseqUnregister, a.rseq_signature);
  }
  sys(__NR_set_robust_list, 0, 24);
  sys(__NR_set_tid_address, 0);
  struct {
    uint64_t sp;
    int32_t flags, pad;
    uint64_t size;
  } off{0, 2 /* SS_DISABLE */, 0, 0};
  sys(__NR_sigaltstack, &off, nullptr);
}

// Moves this kernel's vvar and vDSO pages as they lie, to begin at `to`.
void move_vdso(const Restore& rs, const uint64_t* from, uint64_t to) {
  const RestorerArgs& a = *rs.args;
  for (uint32_t i = 0; i < a.vdso_pieces; i++) {
    const uint64_t target = to + (a.vdso_piece_start[i] - a.vdso_piece_start[0]);
    const uint64_t source = from != nullptr ? from[i] : a.vdso_piece_start[i];
    const long r = rawsys::sys_mremap(source, a.vdso_piece_bytes[i], a.vdso_piece_bytes[i],
                                      MREMAP_MAYMOVE | MREMAP_FIXED, target);
    if (is_error(r)) fail(rs, format::kStepVdso, r, target);
  }
}

void unmap_all_else(const Restore& rs) {
  const uint64_t begin = rs.args->region, end = begin + rs.args->region_bytes;
  long r = rawsys::sys_munmap(0, begin);
  if (r < 0) fail(rs, format::kStepUnmap, r, 0);
  r = rawsys::sys_munmap(end, kTaskSize - end);
  if (r < 0) fail(rs, format::kStepUnmap, r, end);
}

void map_segments(const Restore& rs) {
  const auto* m = rs.array<format::PlanMap>(rs.plan->maps);
  for (uint64_t i = 0; i < rs.plan->maps.count; i++) {
    if (m[i].how != format::kMapMake) {
      attach_segment(rs, m[i]);
      continue;
    }
    const int prot = static_cast<int>(m[i].prot) | (m[i].fill != 0 ? PROT_READ | PROT_WRITE : 0);
    const int fd = m[i].file < 0 ? -1 : rs.args->extra_fd_base + m[i].file;
    const long r =
        rawsys::sys_mmap(m[i].addr, m[i].bytes, prot,
                         static_cast<int>(m[i].flags) | MAP_FIXED_NOREPLACE, fd, m[i].file_off);
    if (is_error(r)) fail(rs, format::kStepMap, r, m[i].addr);
    if (static_cast<uint64_t>(r) != m[i].addr) fail(rs, format::kStepMap, -EEXIST, m[i].addr);
  }
}

void finish_memory(const Restore& rs) {
  const auto* z = rs.array<format::PlanZero>(rs.plan->zeros);
  for (uint64_t i = 0; i < rs.plan->zeros.count; i++) {
    __builtin_memset(reinterpret_cast<void*>(z[i].addr), 0, z[i].bytes);
  }
  const auto* o = rs.array<format::PlanOverlay>(rs.plan->overlays);
  for (uint64_t i = 0; i < rs.plan->overlays.count; i++) {
    bring(rs, o[i].addr, o[i].bytes);
    __builtin_memcpy(reinterpret_cast<void*>(o[i].addr), rs.at<uint8_t>(o[i].off), o[i].bytes);
  }
}

// Of memory that may not be there: the program's lists may be broken.
bool read_own(uint64_t addr, void* to, uint64_t bytes) {
  const uint64_t from[2] = {addr, bytes}, into[2] = {reinterpret_cast<uint64_t>(to), bytes};
  return sys(__NR_process_vm_readv, rawsys::sys_getpid(), into, 1, from, 1, 0) ==
         static_cast<long>(bytes);
}

// Where the kernel can not wait for a page: what it writes when threads are made, and reads and
// writes when they end.
void bring_thread_words(const Restore& rs) {
  if (rs.plan->lazy_fills.count == 0) return;
  constexpr int kMostLocks = 2048;  // as the kernel
  const auto* t = rs.array<format::PlanThread>(rs.plan->threads);
  for (uint64_t i = 0; i < rs.plan->threads.count; i++) {
    const format::ThreadRecord& r = t[i].record;
    if (r.clear_child_tid != 0) bring(rs, r.clear_child_tid, sizeof(int32_t));
    if (r.rseq_addr != 0) bring(rs, r.rseq_addr, r.rseq_bytes);
    if (r.robust_list == 0) continue;
    bring(rs, r.robust_list, sizeof(robust_list_head));
    robust_list_head head;
    if (!read_own(r.robust_list, &head, sizeof(head))) continue;
    auto at = reinterpret_cast<uint64_t>(head.list.next) & ~1ull;
    for (int n = 0; n < kMostLocks && at != r.robust_list; n++) {
      bring(rs, at, sizeof(robust_list));
      bring(rs, at + static_cast<uint64_t>(head.futex_offset), sizeof(int32_t));
      robust_list lock;
      if (!read_own(at, &lock, sizeof(lock))) break;
      at = reinterpret_cast<uint64_t>(lock.next) & ~1ull;
    }
  }
}

void advise(const Restore& rs, const format::PlanMap& m) {
  struct Row {
    uint32_t flag;
    int advice;
  };
  const Row rows[] = {
      {format::kSegmentDontFork, MADV_DONTFORK}, {format::kSegmentWipeOnFork, MADV_WIPEONFORK},
      {format::kSegmentDontDump, MADV_DONTDUMP}, {format::kSegmentHuge, MADV_HUGEPAGE},
      {format::kSegmentNoHuge, MADV_NOHUGEPAGE}, {format::kSegmentSequential, MADV_SEQUENTIAL},
      {format::kSegmentRandom, MADV_RANDOM},     {format::kSegmentMergeable, MADV_MERGEABLE}};
  for (const Row& row : rows) {
    if ((m.segment_flags & row.flag) == 0) continue;
    // Hints a kernel may lack; the two fork rules change what the program sees.
    const long r = sys(__NR_madvise, m.addr, m.bytes, row.advice);
    if (r < 0 && (row.advice == MADV_DONTFORK || row.advice == MADV_WIPEONFORK)) {
      fail(rs, format::kStepProtect, r, m.addr);
    }
  }
  if ((m.segment_flags & format::kSegmentLocked) != 0) sys(__NR_mlock, m.addr, m.bytes);
}

void protect_segments(const Restore& rs) {
  const auto* m = rs.array<format::PlanMap>(rs.plan->maps);
  for (uint64_t i = 0; i < rs.plan->maps.count; i++) {
    if (m[i].segment_flags != 0) advise(rs, m[i]);
    const bool fixed = m[i].fill == 0 && m[i].how != format::kMapAttached;
    if (fixed || (m[i].fill != 0 && (m[i].prot & 3) == (PROT_READ | PROT_WRITE))) {
      continue;
    }
    const long r = rawsys::sys_mprotect(m[i].addr, m[i].bytes, static_cast<int>(m[i].prot));
    if (r < 0) fail(rs, format::kStepProtect, r, m[i].addr);
  }
}

// The program's libc holds pointers into the vDSO it started with. Same vDSO: put it there.
// Another one: the old text stays (it is in the image), its entry points jump into the new one.
void place_vdso(const Restore& rs) {
  const RestorerArgs& a = *rs.args;
  const PlanHeader& plan = *rs.plan;
  if (a.vdso_pieces == 0 || plan.process.vdso_start == 0) return;
  uint64_t parked[4];
  for (uint32_t i = 0; i < a.vdso_pieces; i++) {
    parked[i] = a.vdso_temp + (a.vdso_piece_start[i] - a.vdso_piece_start[0]);
  }
  const uint64_t vdso_from_first = a.vdso_piece_start[a.vdso_pieces - 1] - a.vdso_piece_start[0];
  if (plan.vdso_patch == 0) {
    move_vdso(rs, parked, plan.process.vdso_start - vdso_from_first);
    return;
  }
  move_vdso(rs, parked, plan.vdso_parking);
  const uint64_t old_start = plan.process.vdso_start, bytes = plan.process.vdso_bytes;
  long r = rawsys::sys_mprotect(old_start, bytes, PROT_READ | PROT_WRITE);
  if (r < 0) fail(rs, format::kStepVdso, r, old_start);
  const auto* p = rs.array<format::PlanVdsoPatch>(plan.patches);
  for (uint64_t i = 0; i < plan.patches.count; i++) {
    auto* code = reinterpret_cast<uint8_t*>(old_start + p[i].old_off);
    const uint64_t target = plan.vdso_parking + vdso_from_first + p[i].new_off;
    code[0] = 0x49;  // movabs $target, %r11
    code[1] = 0xbb;
    __builtin_memcpy(code + 2, &target, 8);
    code[10] = 0x41;  // jmp *%r11
    code[11] = 0xff;
    code[12] = 0xe3;
  }
  r = rawsys::sys_mprotect(old_start, bytes, PROT_READ | PROT_EXEC);
  if (r < 0) fail(rs, format::kStepVdso, r, old_start);
}

void describe_memory_to_kernel(const Restore& rs) {
  const format::MmRecord& mm = rs.plan->process.mm;
  const format::MmMap map =
      format::mm_map(mm, reinterpret_cast<uint64_t>(rs.at<uint8_t>(rs.plan->auxv_off)),
                     static_cast<uint32_t>(rs.plan->auxv_bytes));
  const long r = sys(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0);
  if (r < 0) fail(rs, format::kStepMm, r, mm.start_brk);
}

void install_descriptors(const Restore& rs) {
  const auto* f = rs.array<format::PlanFd>(rs.plan->fds);
  for (uint64_t i = 0; i < rs.plan->fds.count; i++) {
    const long r = sys(__NR_dup3, rs.args->extra_fd_base + static_cast<int>(f[i].source), f[i].fd,
                       f[i].cloexec != 0 ? O_CLOEXEC : 0);
    if (r < 0) fail(rs, format::kStepDone, r, static_cast<uint64_t>(f[i].fd));
  }
}

// Everything else has gone well, and every page was right.
void change_files(const Restore& rs) {
  const auto* c = rs.array<format::PlanFileChange>(rs.plan->file_changes);
  for (uint64_t i = 0; i < rs.plan->file_changes.count; i++) {
    long r = sys(__NR_lseek, c[i].fd, c[i].position, SEEK_SET);
    if (r >= 0 && c[i].truncate != 0) r = sys(__NR_ftruncate, c[i].fd, c[i].bytes);
    if (r < 0) fail(rs, format::kStepFiles, r, i);
  }
}

void set_process_state(const Restore& rs) {
  const format::ProcessRecord& p = rs.plan->process;
  sys(__NR_umask, p.umask);
  sys(__NR_personality, p.personality);
  const auto* sa = rs.array<format::SigactionRecord>(rs.plan->sigactions);
  for (uint64_t sig = 1; sig <= rs.plan->sigactions.count; sig++) {
    if (sig == SIGKILL || sig == SIGSTOP) continue;
    const format::SigactionRecord& a = sa[sig - 1];
    const uint64_t raw[4] = {a.handler, a.flags, a.restorer, a.mask};
    const long r = sys(__NR_rt_sigaction, sig, raw, nullptr, 8);
    if (r < 0) fail(rs, format::kStepSignals, r, sig);
  }
  if ((p.flags & format::kProcessThpDisabled) != 0) {
    sys(__NR_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
  }
  if ((p.flags & format::kProcessChildSubreaper) != 0) sys(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1);
  if (p.dumpable <= 1) sys(__NR_prctl, PR_SET_DUMPABLE, p.dumpable);
  for (int i = 0; i < 16; i++) {
    // Lowering always works; a hard limit that is lower here than it was stays so.
    uint64_t now[2] = {};
    sys(__NR_prlimit64, 0, i, nullptr, now);
    uint64_t want[2] = {p.rlimits[i].soft, p.rlimits[i].hard};
    if (sys(__NR_prlimit64, 0, i, want, nullptr) < 0) {
      want[1] = want[1] < now[1] ? want[1] : now[1];
      want[0] = want[0] < want[1] ? want[0] : want[1];
      sys(__NR_prlimit64, 0, i, want, nullptr);
    }
  }
}

// What a thread can only do itself. Signals are all blocked.
void become(const Restore& rs, const format::PlanThread& t) {
  const format::ThreadRecord& r = t.record;
  if (r.robust_list != 0) sys(__NR_set_robust_list, r.robust_list, r.robust_list_bytes);
  if (r.gs_base != 0) sys(__NR_arch_prctl, kArchSetGs, r.gs_base);
  if (r.rseq_addr != 0) {
    const long e = sys(__NR_rseq, r.rseq_addr, r.rseq_bytes, 0, r.rseq_signature);
    if (e < 0) fail(rs, format::kStepThread, e, r.rseq_addr);
  }
  sys(__NR_prctl, PR_SET_NAME, r.name);
  if (r.timer_slack_ns != 0) sys(__NR_prctl, PR_SET_TIMERSLACK, r.timer_slack_ns);
  if (r.sched_policy != 0 || r.sched_priority != 0) {
    const int priority = r.sched_priority;
    sys(__NR_sched_setscheduler, 0, r.sched_policy, &priority);
  }
  if (r.nice != 0) sys(__NR_setpriority, 0, 0, r.nice);
  if (r.affinity.bytes != 0) {  // fails where none of those processors exists: then all are allowed
    sys(__NR_sched_setaffinity, 0, r.affinity.bytes, rs.at<uint8_t>(t.affinity_off));
  }
  if (r.pdeathsig != 0) sys(__NR_prctl, PR_SET_PDEATHSIG, r.pdeathsig);
  if ((r.flags & format::kThreadKeepCaps) != 0) sys(__NR_prctl, PR_SET_KEEPCAPS, 1);
  if ((r.flags & format::kThreadNoNewPrivs) != 0) {
    sys(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  }
  const auto* info = rs.array<format::SiginfoRecord>(rs.plan->siginfos);
  const long pid = rawsys::sys_getpid(), tid = rawsys::sys_gettid();
  for (uint64_t i = t.siginfo_first; i < t.siginfo_first + t.siginfo_count; i++) {
    int sig;
    __builtin_memcpy(&sig, info[i].info, sizeof(sig));
    const long e = sys(__NR_rt_tgsigqueueinfo, pid, tid, sig, info[i].info);
    if (e < 0) fail(rs, format::kStepSignals, e, static_cast<uint64_t>(sig));
  }
}

// Gives all registers their saved values; the frame is used where it lies in the plan.
[[noreturn]] void leave(const Restore& rs, const format::PlanThread& t) {
  uint8_t* frame = rs.at<uint8_t>(t.frame_off);
  const auto xstate = reinterpret_cast<uint64_t>(frame) + format::kFrameXstateOff;
  __builtin_memcpy(frame + format::kFrameFpstatePointerOff, &xstate, sizeof(xstate));
  cr_restorer_sigreturn(frame);
}

// The capability that lets threads have their ids back is no business of the program's.
void drop_capabilities(const Restore& rs) {
  if (rs.plan->drop_caps == 0) return;
  constexpr int kAmbient = 47, kAmbientClearAll = 4;
  sys(__NR_prctl, kAmbient, kAmbientClearAll, 0, 0, 0);
  const uint32_t header[2] = {0x20080522, 0};  // _LINUX_CAPABILITY_VERSION_3, this thread
  const uint32_t none[6] = {};
  sys(__NR_capset, header, none);
}

struct ThreadStart {
  Restore rs;
  const format::PlanThread* thread;
};

void thread_main(void* arg) {
  const ThreadStart start = *static_cast<ThreadStart*>(arg);
  become(start.rs, *start.thread);
  drop_capabilities(start.rs);
  adopt_traits(start.rs, *start.thread);
  uint32_t* go = &start.rs.plan->barrier;
  __atomic_add_fetch(&start.rs.plan->threads_ready, 1, __ATOMIC_ACQ_REL);
  rawsys::sys_futex(&start.rs.plan->threads_ready, FUTEX_WAKE_PRIVATE, 1);
  while (__atomic_load_n(go, __ATOMIC_ACQUIRE) == 0) {
    rawsys::sys_futex(go, FUTEX_WAIT_PRIVATE, 0);
  }
  adopt_filters(start.rs, *start.thread);
  leave(start.rs, *start.thread);
}

constexpr int kIdTries = 10000;  // a second

void make_threads(const Restore& rs) {
  auto* t = rs.array<format::PlanThread>(rs.plan->threads);
  uint32_t made = 0;
  for (uint64_t i = 0; i < rs.plan->threads.count; i++) {
    const format::ThreadRecord& r = t[i].record;
    if ((r.flags & format::kThreadLeader) != 0) continue;
    uint8_t* top = rs.at<uint8_t>(t[i].stack_top_off);
    auto* start = reinterpret_cast<ThreadStart*>(top - format::kRestorerStackBytes);
    *start = {rs, &t[i]};
    int32_t tid = r.tid;
    clone_args ca{};
    ca.flags = kThreadFlags | CLONE_SETTLS;
    ca.tls = r.fs_base;
    ca.stack = reinterpret_cast<uint64_t>(start) + sizeof(ThreadStart);
    ca.stack = (ca.stack + 63) & ~63ull;
    ca.stack_size = reinterpret_cast<uint64_t>(top) - ca.stack;
    if (r.clear_child_tid != 0) {
      ca.flags |= CLONE_CHILD_CLEARTID;
      ca.child_tid = r.clear_child_tid;
    }
    long e = -EPERM;
    if (rs.plan->ids != format::kIdsNew) {
      ca.set_tid = reinterpret_cast<uint64_t>(&tid);
      ca.set_tid_size = 1;
      e = cr_restorer_clone3(&ca, sizeof(ca), thread_main, start);
    }
    for (int tries = 0; e == -EEXIST && tries < kIdTries; tries++) {
      const timespec pause{0, 100000};  // one of the threads that filled had it, and is leaving
      sys(__NR_nanosleep, &pause, nullptr);
      e = cr_restorer_clone3(&ca, sizeof(ca), thread_main, start);
    }
    if (e < 0 && rs.plan->ids != format::kIdsSame) {
      ca.set_tid = ca.set_tid_size = 0;
      if (r.clear_child_tid != 0) ca.flags |= CLONE_CHILD_SETTID;  // where libc keeps the id
      e = cr_restorer_clone3(&ca, sizeof(ca), thread_main, start);
    }
    if (e < 0) fail(rs, format::kStepThread, e, static_cast<uint64_t>(r.tid));
    t[i].tid_now = static_cast<int32_t>(e);
    made++;
  }
  for (;;) {
    const uint32_t ready = __atomic_load_n(&rs.plan->threads_ready, __ATOMIC_ACQUIRE);
    if (ready == made) return;
    rawsys::sys_futex(&rs.plan->threads_ready, FUTEX_WAIT_PRIVATE, ready);
  }
}

void start_control(void* entry) {
  const auto f = reinterpret_cast<void (*)(uint64_t)>(entry);
  f(1);
}

// The control thread of the restored library.
void make_control_thread(const Restore& rs) {
  const format::ProcessRecord& p = rs.plan->process;
  auto* head = reinterpret_cast<format::ControlHead*>(p.control_state);
  uint32_t* status = &head->status;
  constexpr uint32_t kStarting = 1, kAttached = 2;
  __atomic_store_n(status, kStarting, __ATOMIC_RELEASE);
  clone_args ca{};
  ca.flags = kThreadFlags;
  ca.stack = p.control_stack_top - 32768;
  ca.stack_size = 32768;
  const long e =
      cr_restorer_clone3(&ca, sizeof(ca), start_control, reinterpret_cast<void*>(p.control_entry));
  if (e < 0) fail(rs, format::kStepControl, e, p.control_entry);
  for (;;) {
    const uint32_t now = __atomic_load_n(status, __ATOMIC_ACQUIRE);
    if (now == kAttached) return;
    if (now != kStarting) {
      fail(rs, format::kStepControl, head->start_errno > 0 ? -head->start_errno : -EPIPE, now);
    }
    rawsys::sys_futex(status, FUTEX_WAIT_PRIVATE, kStarting);
  }
}

void start_timers(const Restore& rs) {
  const format::ProcessRecord& p = rs.plan->process;
  for (int which = 0; which < 3; which++) {
    format::TimerRecord t = p.itimers[which];
    // Expired, its signal still pending: the kernel would start it again when that is delivered.
    if (which == 0 && t.value_us == 0) t.value_us = t.interval_us;
    if (t.value_us == 0) continue;
    const int64_t it[4] = {t.interval_us / 1000000, t.interval_us % 1000000, t.value_us / 1000000,
                           t.value_us % 1000000};
    const long r = sys(__NR_setitimer, which, it, nullptr);
    if (r < 0) fail(rs, format::kStepTimers, r, static_cast<uint64_t>(which));
  }
}

void queue_process_signals(const Restore& rs) {
  const auto* info = rs.array<format::SiginfoRecord>(rs.plan->siginfos);
  for (uint64_t i = 0; i < rs.plan->siginfos.count; i++) {
    if (info[i].tid != 0) continue;
    int sig;
    __builtin_memcpy(&sig, info[i].info, sizeof(sig));
    const long r = sys(__NR_rt_sigqueueinfo, rawsys::sys_getpid(), sig, info[i].info);
    if (r < 0) fail(rs, format::kStepSignals, r, static_cast<uint64_t>(sig));
  }
}

const format::PlanThread* leader(const Restore& rs) {
  const auto* t = rs.array<format::PlanThread>(rs.plan->threads);
  for (uint64_t i = 0; i < rs.plan->threads.count; i++) {
    if ((t[i].record.flags & format::kThreadLeader) != 0) return &t[i];
  }
  return nullptr;
}

[[noreturn]] void run(const Restore& rs) {
  detach_old_libc(*rs.args);
  move_vdso(rs, nullptr, rs.args->vdso_temp);
  unmap_all_else(rs);
  map_segments(rs);
  fill_memory(rs);
  finish_memory(rs);
  bring_thread_words(rs);
  protect_segments(rs);
  place_vdso(rs);
  describe_memory_to_kernel(rs);
  install_descriptors(rs);
  set_process_state(rs);

  const format::PlanThread* main_thread = leader(rs);
  if (main_thread != nullptr) {
    const format::ThreadRecord& r = main_thread->record;
    sys(__NR_arch_prctl, kArchSetFs, r.fs_base);
    sys(__NR_set_tid_address, r.clear_child_tid);
    if (rs.plan->ids != format::kIdsSame && r.clear_child_tid != 0) {
      *reinterpret_cast<int32_t*>(r.clear_child_tid) = static_cast<int32_t>(rawsys::sys_gettid());
    }
    become(rs, *main_thread);
  }
  make_threads(rs);
  queue_process_signals(rs);
  drop_capabilities(rs);
  start_filler(rs);
  ObjectChanger changer;
  start_changer(rs, &changer);
  close_received(rs);
  make_calls(rs, /*late=*/false);
  change_files(rs);
  finish_changer(&changer);
  make_control_thread(rs);
  start_timers(rs);
  make_calls(rs, /*late=*/true);
  if (main_thread != nullptr) adopt_traits(rs, *main_thread);
  rawsys::sys_close(rs.args->report_fd);
  __atomic_store_n(&rs.plan->barrier, 1u, __ATOMIC_RELEASE);
  rawsys::sys_futex(&rs.plan->barrier, FUTEX_WAKE_PRIVATE, 0x7fffffff);
  if (main_thread == nullptr) rawsys::sys_exit_thread(0);  // it had ended before: a zombie leader
  adopt_filters(rs, *main_thread);
  leave(rs, *main_thread);
}

}  // namespace
}  // namespace cr::restorer

void cr_restorer_main(const cr::format::RestorerArgs* args) {
  cr::restorer::run({args, reinterpret_cast<cr::format::PlanHeader*>(args->plan)});
}
