// SPDX-License-Identifier: MIT
// fill.cc - brings the pages of an image into the memory of the process, with several threads.
// Invariant: when fill_memory() returns, every page that the plan names is there and has had its
// checksum; a page is read once, and checked where it was read to, not where it came from.
// Context: R (docs/contexts.md). Doc: docs/ARCHITECTURE.md, "One restore".
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "format/checksum.h"
#include "restorer/restorer.h"

namespace cr::restorer {
namespace {

using format::PlanFill;

constexpr uint64_t kClaimPages = (4 << 20) / kPageSize;
constexpr uint64_t kWorthPopulating = 64 << 10;
constexpr uint64_t kClaimsAhead = 4;

struct Worker {
  Restore rs;
  int userfault;    // -1: none
  uint8_t* buffer;  // kFillBufferBytes
  int32_t tid;      // futex: 0 when the kernel is done with it
};

void map_checksums(const Restore& rs) {
  const auto at = reinterpret_cast<uint64_t>(rs.at<uint8_t>(rs.plan->sums_area_off));
  const long r = rawsys::sys_mmap(at, rs.plan->sums_map_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                  rs.args->image_fd, rs.plan->sums_file_off);
  if (rawsys::is_error(r)) fail(rs, format::kStepFill, r, at);
}

long register_segments(const Restore& rs, int fd) {
  const auto* m = rs.array<format::PlanMap>(rs.plan->maps);
  for (uint64_t i = 0; i < rs.plan->maps.count; i++) {
    if (m[i].userfault == 0) continue;
    uffdio_register r{};
    r.range = {m[i].addr, m[i].bytes};
    r.mode = UFFDIO_REGISTER_MODE_MISSING;
    const long e = sys(__NR_ioctl, fd, UFFDIO_REGISTER, &r);
    if (e < 0) return e;
  }
  return 0;
}

void unregister_filled(const Restore& rs, int fd) {
  const auto* m = rs.array<format::PlanMap>(rs.plan->maps);
  for (uint64_t i = 0; i < rs.plan->maps.count; i++) {
    if (m[i].userfault != format::kUserfaultFill) continue;
    const uffdio_range r = {m[i].addr, m[i].bytes};
    const long e = sys(__NR_ioctl, fd, UFFDIO_UNREGISTER, &r);
    if (e < 0) fail(rs, format::kStepFill, e, m[i].addr);
  }
}

// Fresh pages that are copied to at once need not be filled with zeros before: half the time.
// -1 where that is not allowed; pages are then read into the memory. A lazy restore cannot do
// without, and must hear of faults inside the kernel and of what the program does to its mappings.
int open_userfault(const Restore& rs) {
  const auto* m = rs.array<format::PlanMap>(rs.plan->maps);
  const bool lazy = rs.plan->lazy_fills.count > 0;
  bool wanted = false;
  for (uint64_t i = 0; i < rs.plan->maps.count; i++) wanted = wanted || m[i].userfault != 0;
  if (!wanted) return -1;
  const int flags = O_CLOEXEC | (lazy ? O_NONBLOCK : UFFD_USER_MODE_ONLY);
  const int fd = static_cast<int>(sys(__NR_userfaultfd, flags));
  if (fd < 0 && lazy) fail(rs, format::kStepFill, fd, 0);
  if (fd < 0) return -1;
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = lazy ? kLazyEvents : 0;
  long r = sys(__NR_ioctl, fd, UFFDIO_API, &api);
  if (r == 0) r = register_segments(rs, fd);
  if (r == 0) return fd;
  if (lazy) fail(rs, format::kStepFill, r, 0);
  rawsys::sys_close(fd);  // gives up what is registered
  return -1;
}

// Large pieces of a file that is not in memory: the next ones are on their way while one is used.
void read_ahead(const Worker& w, const PlanFill& f, uint64_t off) {
  const iovec v = {w.buffer, 1};
  constexpr int kNoWait = 8;  // RWF_NOWAIT
  const int fd = w.rs.args->image_fd;
  if (sys(__NR_preadv2, fd, &v, 1, f.image_off + off, 0, kNoWait) != -EAGAIN) return;
  constexpr int kWillNeed = 3;
  const uint64_t claim = kClaimPages * kPageSize;
  const uint64_t bytes =
      f.bytes - off < claim * kClaimsAhead ? f.bytes - off : claim * kClaimsAhead;
  sys(__NR_fadvise64, fd, f.image_off + off, bytes, kWillNeed);
}

void copy_to_fresh_pages(const Worker& w, uint64_t addr, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes;) {
    uffdio_copy c{};
    c.dst = addr + done;
    c.src = reinterpret_cast<uint64_t>(w.buffer + done);
    c.len = bytes - done;
    c.mode = UFFDIO_COPY_MODE_DONTWAKE;
    const long r = sys(__NR_ioctl, w.userfault, UFFDIO_COPY, &c);
    if (c.copy > 0) done += static_cast<uint64_t>(c.copy);
    if (r < 0 && r != -EAGAIN) fail(w.rs, format::kStepFill, r, addr + done);
  }
}

// Bytes [off, off + bytes) of the fill; at most a buffer.
void fill_piece(const Worker& w, const PlanFill& f, uint64_t off, uint64_t bytes) {
  const bool copy = f.how == format::kFillCopy && w.userfault >= 0;
  const uint64_t addr = f.addr + off;
  uint8_t* const to = copy ? w.buffer : reinterpret_cast<uint8_t*>(addr);
  if (!copy && bytes >= kWorthPopulating) {
    constexpr int kPopulateWrite =
        23;  // MADV_POPULATE_WRITE, Linux 5.14: one call, not a fault each
    const long r = sys(__NR_madvise, addr, bytes, kPopulateWrite);
    if (r == -ENOMEM) fail(w.rs, format::kStepFill, r, addr);
  }
  fetch_pages(w.rs, f, off, bytes, to);
  if (copy) copy_to_fresh_pages(w, addr, bytes);
}

// The fill that has page number `page` of all.
const PlanFill* fill_of(const Restore& rs, uint64_t page) {
  const auto* f = rs.array<PlanFill>(rs.plan->fills);
  uint64_t low = 0, high = rs.plan->fills.count;
  while (high - low > 1) {
    const uint64_t mid = low + (high - low) / 2;
    (f[mid].first_page <= page ? low : high) = mid;
  }
  return f + low;
}

void work(const Worker& w) {
  const uint64_t all = w.rs.plan->fill_pages;
  for (;;) {
    uint64_t page = __atomic_fetch_add(&w.rs.plan->next_page, kClaimPages, __ATOMIC_RELAXED);
    if (page >= all) return;
    const uint64_t end = page + kClaimPages < all ? page + kClaimPages : all;
    const PlanFill* f = fill_of(w.rs, page);
    read_ahead(w, *f, (page - f->first_page) * kPageSize);
    while (page < end) {
      const uint64_t off = (page - f->first_page) * kPageSize;
      uint64_t bytes = (end - page) * kPageSize;
      if (bytes > f->bytes - off) bytes = f->bytes - off;
      if (bytes > format::kFillBufferBytes) bytes = format::kFillBufferBytes;
      fill_piece(w, *f, off, bytes);
      page += bytes / kPageSize;
      if (off + bytes == f->bytes) f++;
    }
  }
}

void worker_main(void* arg) {
  work(*static_cast<const Worker*>(arg));
  rawsys::sys_exit_thread(0);
}

uint8_t* area_of(const Restore& rs, uint32_t i) {
  return rs.at<uint8_t>(rs.plan->fill_area_off + i * format::kFillAreaBytes);
}

// false: no more threads are allowed here; those that there are do the work.
bool start_worker(Worker* w, uint8_t* stack) {
  clone_args ca{};
  ca.flags = kThreadFlags | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  ca.parent_tid = ca.child_tid = reinterpret_cast<uint64_t>(&w->tid);
  ca.stack = reinterpret_cast<uint64_t>(stack);
  ca.stack_size = format::kRestorerStackBytes;
  return cr_restorer_clone3(&ca, sizeof(ca), worker_main, w) > 0;
}

}  // namespace

void fetch_pages(const Restore& rs, const PlanFill& f, uint64_t off, uint64_t bytes, uint8_t* to) {
  const uint64_t from = f.image_off + off;
  const long r = rawsys::read_all_at(rs.args->image_fd, to, bytes, from);
  if (r != 0) fail(rs, format::kStepFill, r, f.addr + off);
  const uint64_t slot = (from - rs.plan->payload_off) / kPageSize;
  const auto* sum = rs.at<uint64_t>(rs.plan->sums_area_off + rs.plan->sums_skip) + slot;
  for (uint64_t p = 0; p < bytes; p += kPageSize) {
    if (format::checksum(to + p, kPageSize) == *sum++) continue;
    fail(rs, format::kStepFill, -EBADMSG, f.addr + off + p, slot + p / kPageSize);
  }
}

void unmap_checksums(const Restore& rs) {
  // Never a hole: it is the agent that has the region unmapped, with whatever lies in it.
  sys(__NR_mmap, rs.at<uint8_t>(rs.plan->sums_area_off), rs.plan->sums_map_bytes, PROT_NONE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void fill_memory(const Restore& rs) {
  map_checksums(rs);
  const int userfault = open_userfault(rs);
  Worker workers[format::kMostFillWorkers] = {};
  uint32_t made = 0;
  for (uint32_t i = 0; i < rs.plan->fill_workers; i++) {
    workers[i] = {rs, userfault, area_of(rs, i) + format::kRestorerStackBytes, 0};
    if (i == 0) continue;  // that is this thread
    if (!start_worker(&workers[i], area_of(rs, i))) break;
    made = i;
  }
  work(workers[0]);
  for (uint32_t i = 1; i <= made; i++) {
    for (int32_t tid; (tid = __atomic_load_n(&workers[i].tid, __ATOMIC_ACQUIRE)) != 0;) {
      rawsys::sys_futex(&workers[i].tid, FUTEX_WAIT, static_cast<uint32_t>(tid));
    }
  }
  const bool lazy = rs.plan->lazy_fills.count > 0;
  if (lazy) {
    unregister_filled(rs, userfault);
    begin_lazy(rs, userfault);
  } else if (userfault >= 0) {
    rawsys::sys_close(userfault);
  }
  sys(__NR_madvise, area_of(rs, 0), rs.plan->fill_workers * format::kFillAreaBytes, MADV_DONTNEED);
  if (!lazy) unmap_checksums(rs);
}

}  // namespace cr::restorer
