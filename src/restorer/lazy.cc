// SPDX-License-Identifier: MIT
// lazy.cc - brings pages of an image into a process that runs already: those it touches first, all
// others meanwhile.
// Invariant: no byte of a page is seen before it has had its checksum; a page is brought once, and
// never again after the program gave it up (MADV_DONTNEED, munmap), whatever the image says.
// Whoever needs a page that is not there waits, also inside the kernel.
// Context: R (docs/contexts.md); filler_main is a process of its own that shares the memory, so
// that it outlives the program while forks of it are not complete.
// Doc: docs/ARCHITECTURE.md, "Lazy restore".
#include <errno.h>
#include <linux/prctl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "format/channel.h"
#include "format/checksum.h"
#include "restorer/restorer.h"

namespace cr::restorer {
namespace {

using format::PlanFill;

constexpr uint64_t kFaultBytes = 64 << 10;  // brought at once for a fault
constexpr int kMessages = 16;
// Descriptors of the filler.
constexpr int kImage = 0, kReport = 1, kProgram = 2, kUserfault = 3, kFree = 4;

// One address space that lacks pages: the program's, or that of a fork of it.
struct Context {
  int32_t userfault;
  uint32_t used;
  uint64_t count;  // of runs
  uint64_t left;   // bytes that are still to come
  uint64_t next;   // where the next ones are looked for
  PlanFill* runs;  // what is still to come, by address; those of 0 bytes are done
};

struct Lazy {
  Restore rs;
  Context contexts[format::kMostLazyContexts];
};
static_assert(sizeof(Lazy) <= format::kLazyStateBytes);

enum class Copied { kAll, kLater, kGone };

Lazy& lazy_of(const Restore& rs) { return *rs.at<Lazy>(rs.plan->lazy_area_off); }
uint8_t* stack_of(const Restore& rs) {
  return rs.at<uint8_t>(rs.plan->lazy_area_off + format::kLazyStateBytes);
}
uint8_t* buffer_of(const Restore& rs) { return stack_of(rs) + format::kLazyStackBytes; }
PlanFill* table_of(const Restore& rs, uint64_t context) {
  return rs.at<PlanFill>(rs.plan->lazy_area_off + format::kLazyAreaBytes) +
         context * rs.plan->lazy_room;
}

uint64_t end_of(const PlanFill& r) { return r.addr + r.bytes; }

// Number of runs that begin at addr or before.
uint64_t runs_up_to(const Context& c, uint64_t addr) {
  uint64_t low = 0, high = c.count;
  while (low < high) {
    const uint64_t mid = low + (high - low) / 2;
    if (c.runs[mid].addr <= addr) {
      low = mid + 1;
    } else {
      high = mid;
    }
  }
  return low;
}

PlanFill* run_of(const Context& c, uint64_t addr) {
  const uint64_t n = runs_up_to(c, addr);
  return n > 0 && addr < end_of(c.runs[n - 1]) ? &c.runs[n - 1] : nullptr;
}

void drop_done_runs(Context& c) {
  uint64_t kept = 0;
  for (uint64_t i = 0; i < c.count; i++) {
    if (c.runs[i].bytes > 0) c.runs[kept++] = c.runs[i];
  }
  c.count = kept;
  c.next = 0;
}

void insert(const Restore& rs, Context& c, const PlanFill& run) {
  if (c.count == rs.plan->lazy_room) drop_done_runs(c);
  if (c.count == rs.plan->lazy_room) fail(rs, format::kStepFill, -ENOSPC, run.addr);
  const uint64_t at = runs_up_to(c, run.addr);
  for (uint64_t i = c.count; i > at; i--) c.runs[i] = c.runs[i - 1];
  c.runs[at] = run;
  c.count++;
  c.left += run.bytes;
}

PlanFill part_of(const PlanFill& r, uint64_t from, uint64_t to) {
  const uint64_t skip = from - r.addr;
  return {from, to - from, r.image_off + skip, 0, r.how, 0};
}

// [from, to) is not to come any more.
void clip(const Restore& rs, Context& c, uint64_t from, uint64_t to) {
  uint64_t i = runs_up_to(c, from);
  if (i > 0) i--;
  for (; i < c.count && c.runs[i].addr < to; i++) {
    const PlanFill r = c.runs[i];
    if (r.bytes == 0 || end_of(r) <= from) continue;
    const uint64_t first = r.addr > from ? r.addr : from;
    const uint64_t last = end_of(r) < to ? end_of(r) : to;
    c.left -= last - first;
    if (first == r.addr) {
      c.runs[i] = part_of(r, last, end_of(r));
      continue;
    }
    c.runs[i].bytes = first - r.addr;
    if (last < end_of(r)) {
      c.left -= end_of(r) - last;  // insert() counts it again
      insert(rs, c, part_of(r, last, end_of(r)));
      return;  // nothing behind it is concerned
    }
  }
}

// The program moved [from, from + bytes) to `to`.
void move(const Restore& rs, Context& c, uint64_t from, uint64_t to, uint64_t bytes) {
  drop_done_runs(c);  // one may lie where others will be
  for (uint64_t at = from; at < from + bytes;) {
    uint64_t i = runs_up_to(c, at);
    if (i > 0 && end_of(c.runs[i - 1]) > at) i--;
    while (i < c.count && c.runs[i].bytes == 0) i++;
    if (i == c.count || c.runs[i].addr >= from + bytes) return;
    const uint64_t first = c.runs[i].addr > at ? c.runs[i].addr : at;
    const uint64_t end = end_of(c.runs[i]), last = end < from + bytes ? end : from + bytes;
    PlanFill part = part_of(c.runs[i], first, last);
    clip(rs, c, first, last);
    part.addr = part.addr - from + to;
    drop_done_runs(c);
    insert(rs, c, part);
    at = last;
  }
}

void wake(const Context& c, uint64_t addr, uint64_t bytes) {
  const uffdio_range r = {addr, bytes};
  sys(__NR_ioctl, c.userfault, UFFDIO_WAKE, &r);
}

// From the buffer. ret_done: bytes that need not come any more.
Copied copy(const Restore& rs, const Context& c, uint64_t addr, uint64_t bytes,
            uint64_t* ret_done) {
  uint64_t step = bytes;
  for (*ret_done = 0; *ret_done < bytes;) {
    uffdio_copy u{};
    u.dst = addr + *ret_done;
    u.src = reinterpret_cast<uint64_t>(buffer_of(rs)) + *ret_done;
    u.len = step < bytes - *ret_done ? step : bytes - *ret_done;
    const long r = sys(__NR_ioctl, c.userfault, UFFDIO_COPY, &u);
    if (u.copy > 0) *ret_done += static_cast<uint64_t>(u.copy);
    if (r == 0) continue;
    if (r == -EAGAIN && u.copy > 0) continue;
    if (r == -EAGAIN) return Copied::kLater;  // the program is changing its mappings: see why
    if (r == -ESRCH) return Copied::kGone;
    if (r == -ENOENT && step > kPageSize) {
      step = kPageSize;  // two mappings now, or some of it none
    } else if (r == -ENOENT || r == -EEXIST) {
      *ret_done += kPageSize;  // not there (MADV_DONTFORK), or with a content already
    } else {
      fail(rs, format::kStepFill, r, u.dst);
    }
  }
  return Copied::kAll;
}

// What has not come reads as zeros from now on: there is nothing, or nobody to see it.
void close_context(const Restore& rs, Context& c) {
  rawsys::sys_close(c.userfault);
  c.used = 0;
  if (&c != &lazy_of(rs).contexts[0]) rs.plan->filler_forks--;
}

// Brings bytes [addr, addr + bytes) of a run.
Copied bring_part(const Restore& rs, Context& c, const PlanFill& run, uint64_t addr,
                  uint64_t bytes) {
  uint64_t done = 0;
  fetch_pages(rs, run, addr - run.addr, bytes, buffer_of(rs));
  const Copied r = copy(rs, c, addr, bytes, &done);
  if (done > 0) clip(rs, c, addr, addr + done);
  return r;
}

Copied on_fault(const Restore& rs, Context& c, uint64_t addr) {
  const PlanFill* run = run_of(c, addr);
  if (run == nullptr) {  // it never had a content, or the program gave it up
    uffdio_zeropage z{};
    z.range = {addr, kPageSize};
    const long r = sys(__NR_ioctl, c.userfault, UFFDIO_ZEROPAGE, &z);
    if (r == -ENOMEM) fail(rs, format::kStepFill, r, addr);
    if (r < 0) wake(c, addr, kPageSize);  // it tries again
    return r == -ESRCH ? Copied::kGone : Copied::kAll;
  }
  uint64_t first = addr & ~(kFaultBytes - 1), last = first + kFaultBytes;
  if (first < run->addr) first = run->addr;
  if (last > end_of(*run)) last = end_of(*run);
  const Copied r = bring_part(rs, c, *run, first, last - first);
  wake(c, addr, kPageSize);  // also when it could not be brought: then it asks again
  return r;
}

void on_fork(Lazy& l, const Context& parent, int userfault);

void on_message(Lazy& l, Context& c, const uffd_msg& m) {
  switch (m.event) {
    case UFFD_EVENT_PAGEFAULT:
      if (on_fault(l.rs, c, page_floor(m.arg.pagefault.address)) == Copied::kGone) {
        close_context(l.rs, c);
      }
      break;
    case UFFD_EVENT_FORK:
      on_fork(l, c, static_cast<int>(m.arg.fork.ufd));
      break;
    case UFFD_EVENT_REMAP:
      move(l.rs, c, m.arg.remap.from, m.arg.remap.to, m.arg.remap.len);
      break;
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      clip(l.rs, c, m.arg.remove.start, m.arg.remove.end);
      break;
    default:
      break;
  }
}

// What threads wait for. One message at a time: what follows it may depend on what it changes.
void serve(Lazy& l, Context& c) {
  for (int i = 0; i < kMessages && c.used != 0; i++) {
    uffd_msg m{};
    if (rawsys::sys_read(c.userfault, &m, sizeof(m)) != sizeof(m)) return;
    on_message(l, c, m);
  }
}

// The next piece that nobody has asked for yet.
void bring_next(const Restore& rs, Context& c) {
  while (c.next < c.count && c.runs[c.next].bytes == 0) c.next++;
  if (c.next == c.count) {
    c.next = 0;
    return;
  }
  const PlanFill run = c.runs[c.next];
  if (rs.plan->lazy_pause_ns != 0 && &c == &lazy_of(rs).contexts[0]) {
    const timespec pause{0, static_cast<long>(rs.plan->lazy_pause_ns)};
    sys(__NR_nanosleep, &pause, nullptr);
  }
  const uint64_t bytes =
      run.bytes < format::kFillBufferBytes ? run.bytes : format::kFillBufferBytes;
  const Copied r = bring_part(rs, c, run, run.addr, bytes);
  if (r == Copied::kLater) sys(__NR_sched_yield);
  if (r == Copied::kGone) close_context(rs, c);
}

// Where there are very many forks at one time, some are completed first.
Context* free_context(Lazy& l) {
  constexpr int kPasses = 1 << 20;  // each brings a piece to all
  for (int pass = 0; pass < kPasses; pass++) {
    for (uint64_t i = 1; i < format::kMostLazyContexts; i++) {
      if (l.contexts[i].used == 0) return &l.contexts[i];
    }
    for (uint64_t i = 1; i < format::kMostLazyContexts; i++) {
      Context& c = l.contexts[i];
      bring_next(l.rs, c);
      if (c.used != 0 && c.left == 0) close_context(l.rs, c);
    }
  }
  return nullptr;
}

void on_fork(Lazy& l, const Context& parent, int userfault) {
  Context* c = free_context(l);
  if (c == nullptr) fail(l.rs, format::kStepFill, -EMFILE, 0);
  *c = parent;
  c->userfault = userfault;
  c->runs = table_of(l.rs, static_cast<uint64_t>(c - l.contexts));
  __builtin_memcpy(c->runs, parent.runs, parent.count * sizeof(PlanFill));
  l.rs.plan->filler_forks++;
}

bool has_ended(int pidfd) {
  struct {
    int fd;
    short events, revents;
  } p = {pidfd, 1 /* POLLIN */, 0};
  return sys(__NR_poll, &p, 1, 0) > 0;
}

void bring_all(Lazy& l) {
  for (bool any = true; any;) {
    any = false;
    for (Context& c : l.contexts) {
      if (c.used == 0) continue;
      serve(l, c);
      // Most forks end or call exec soon: what they do not touch need not come twice.
      const bool turn = &c == &l.contexts[0] || l.contexts[0].used == 0;
      if (turn && c.used != 0 && c.left > 0) bring_next(l.rs, c);
      if (c.used != 0 && c.left == 0) close_context(l.rs, c);
      any = any || c.used != 0;
    }
    // Nobody is left to see those pages; forks may be.
    Context& first = l.contexts[0];
    if (first.used != 0 && has_ended(l.rs.program)) close_context(l.rs, first);
  }
}

void take_descriptors(Lazy& l, const format::RestorerArgs& args, int pid) {
  const auto dup = [](int from, int to) { sys(__NR_dup3, from, to, O_CLOEXEC); };
  const long pidfd = sys(__NR_pidfd_open, pid, 0);
  if (pidfd < 0) fail(l.rs, format::kStepFill, pidfd, 0);
  dup(args.image_fd, kImage);
  dup(args.report_fd, kReport);
  dup(static_cast<int>(pidfd), kProgram);
  dup(l.contexts[0].userfault, kUserfault);
  sys(__NR_close_range, kFree, ~0u, 0);
  l.contexts[0].userfault = kUserfault;
}

struct FillerStart {
  Restore rs;
  int pid;
};

// Not a thread of the program: nothing of its table of descriptors, signals or ids is used.
void filler_main(void* arg) {
  const FillerStart start = *static_cast<FillerStart*>(arg);
  Lazy& l = lazy_of(start.rs);
  l.rs = start.rs;
  constexpr int kFirstOfAll = -20;
  sys(__NR_setpriority, 0, 0,
      kFirstOfAll);  // threads wait for it; where it is not allowed, as they
  sys(__NR_prctl, PR_SET_NAME, "cr-fill");
  take_descriptors(l, *start.rs.args, start.pid);
  format::RestorerArgs args = *start.rs.args;
  args.image_fd = kImage;
  args.report_fd = kReport;
  l.rs = {&args, start.rs.plan, kProgram};
  __atomic_store_n(&start.rs.plan->filler_ready, 1u, __ATOMIC_RELEASE);
  rawsys::sys_futex(&start.rs.plan->filler_ready, FUTEX_WAKE_PRIVATE, 1);
  bring_all(l);
  unmap_checksums(l.rs);
  format::Report done{};
  done.kind = format::kMessageReport;
  done.code = format::kStepFilled;
  done.epoch = static_cast<uint64_t>(rawsys::sys_getpid());
  sys(__NR_sendto, kReport, &done, sizeof(done), MSG_NOSIGNAL, nullptr, 0);
  rawsys::sys_exit_group(0);
}

}  // namespace

void begin_lazy(const Restore& rs, int userfault) {
  // Above the numbers that the program's own descriptors will have.
  const long fd = sys(__NR_fcntl, userfault, F_DUPFD_CLOEXEC, rs.args->report_fd + 1);
  if (fd < 0) fail(rs, format::kStepFill, fd, 0);
  rawsys::sys_close(userfault);
  Context& c = lazy_of(rs).contexts[0];
  c = {static_cast<int32_t>(fd), 1, rs.plan->lazy_fills.count, 0, 0, table_of(rs, 0)};
  __builtin_memcpy(c.runs, rs.array<PlanFill>(rs.plan->lazy_fills), c.count * sizeof(PlanFill));
  for (uint64_t i = 0; i < c.count; i++) c.left += c.runs[i].bytes;
}

void bring(const Restore& rs, uint64_t addr, uint64_t bytes) {
  if (rs.plan->lazy_fills.count == 0) return;
  Context& c = lazy_of(rs).contexts[0];
  for (uint64_t at = page_floor(addr); at < addr + bytes; at += kPageSize) {
    const PlanFill* run = run_of(c, at);
    if (run != nullptr) {
      (void)bring_part(rs, c, *run, at, kPageSize);
      continue;
    }
    uffdio_zeropage z{};
    z.range = {at, kPageSize};
    sys(__NR_ioctl, c.userfault, UFFDIO_ZEROPAGE, &z);  // or it is there, or not ours
  }
}

void start_filler(const Restore& rs) {
  if (rs.plan->lazy_fills.count == 0) return;
  auto* start = reinterpret_cast<FillerStart*>(stack_of(rs));
  *start = {rs, static_cast<int>(rawsys::sys_getpid())};
  clone_args ca{};
  int process = -1;
  ca.flags = CLONE_VM | CLONE_PARENT | CLONE_PIDFD;
  ca.pidfd = reinterpret_cast<uint64_t>(&process);
  ca.stack = reinterpret_cast<uint64_t>(stack_of(rs)) + kPageSize;
  ca.stack_size = format::kLazyStackBytes - kPageSize;
  const long e = cr_restorer_clone3(&ca, sizeof(ca), filler_main, start);
  if (e < 0) fail(rs, format::kStepFill, e, 0);
  // Who ends it later is found by its connection, which this process has as well so far.
  const timespec slice{0, 20'000'000}, now{};
  const auto is_ready = [&] {
    return __atomic_load_n(&rs.plan->filler_ready, __ATOMIC_ACQUIRE) != 0;
  };
  while (!is_ready()) {
    rawsys::sys_futex(&rs.plan->filler_ready, FUTEX_WAIT_PRIVATE, 0, &slice);
    pollfd p{process, POLLIN, 0};
    const bool ended = sys(__NR_ppoll, &p, 1, &now, nullptr, 0) > 0;
    if (ended && !is_ready()) fail(rs, format::kStepFill, -EOWNERDEAD, 0);
  }
  rawsys::sys_close(process);
}

}  // namespace cr::restorer
