// SPDX-License-Identifier: MIT
// take_over.cc - see take_over.h.
// Invariant: everything that can be refused was refused by the planner; what fails here ends the
// process with a message, and the image stays as it was.
// Context: N, single-threaded, before main(). Doc: docs/ARCHITECTURE.md, "One restore".
#include "interpose/take_over.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "format/channel.h"
#include "format/plan.h"
#include "rawsys/rawsys.h"

extern "C" {
extern const unsigned char cr_restorer_blob[];
extern const unsigned char cr_restorer_blob_end[];
}

namespace cr::interpose {
namespace {

using format::PlanHeader;
using format::RestorerArgs;

[[noreturn]] void die(const char* what) {
  const int e = errno;
  dprintf(2, "crrestore: restoring failed: %s: %s\n", what, strerror(e));
  _exit(125);
}

int connect_to(const char* dir) {
  const int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (d < 0) die(dir);
  const int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", d, format::kAgentSocketName);
  if (s < 0 || connect(s, reinterpret_cast<sockaddr*>(&a), sizeof(a)) != 0) {
    die("connecting to the agent");
  }
  close(d);
  return s;
}

// One message; its descriptors are appended at fds. Returns their number.
int receive(int s, format::Report* ret_report, int* fds, int cap) {
  iovec iov{ret_report, sizeof(*ret_report)};
  alignas(cmsghdr) char control[CMSG_SPACE(format::kFdsPerMessage * sizeof(int))];
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof(control);
  const ssize_t r = recvmsg(s, &m, MSG_CMSG_CLOEXEC);
  if (r == 0) errno = EPIPE;
  if (r <= 0) die("receiving from the agent");
  if (ret_report->kind == format::kMessageRefused) {
    dprintf(2, "crrestore: %s\n", ret_report->text);
    _exit(125);
  }
  if ((m.msg_flags & MSG_CTRUNC) != 0) {
    errno = EMFILE;
    die("receiving descriptors (RLIMIT_NOFILE)");
  }
  int n = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_type != SCM_RIGHTS) continue;
    const int k = static_cast<int>((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < k && n < cap; i++) {
      memcpy(&fds[n++], CMSG_DATA(c) + static_cast<size_t>(i) * sizeof(int), sizeof(int));
    }
  }
  return n;
}

struct Received {
  PlanHeader* plan;
  int plan_fd, image_fd, socket_fd;
  int* extra;
};

Received fetch(const char* dir) {
  Received r{};
  r.socket_fd = connect_to(dir);
  format::Request q{};
  q.kind = format::kMessageTake;
  if (send(r.socket_fd, &q, sizeof(q), MSG_NOSIGNAL) < 0) die("asking the agent");
  format::Report report{};
  int first[2];
  if (receive(r.socket_fd, &report, first, 2) != 2) {
    errno = EBADMSG;
    die("receiving the plan");
  }
  r.plan_fd = first[0];
  r.image_fd = first[1];
  void* p = mmap(nullptr, report.image_bytes, PROT_READ, MAP_SHARED, r.plan_fd, 0);
  if (p == MAP_FAILED) die("mapping the plan");
  r.plan = static_cast<PlanHeader*>(p);
  if (r.plan->magic != format::kPlanMagic || r.plan->bytes != report.image_bytes) {
    errno = EBADMSG;
    die("reading the plan");
  }
  r.extra = static_cast<int*>(calloc(r.plan->received_fds + 1, sizeof(int)));
  if (r.extra == nullptr) die("receiving descriptors");
  uint32_t got = 0;
  while (got < r.plan->received_fds) {
    const int n =
        receive(r.socket_fd, &report, r.extra + got, static_cast<int>(r.plan->received_fds - got));
    if (n == 0) {
      errno = EBADMSG;
      die("receiving descriptors");
    }
    got += static_cast<uint32_t>(n);
  }
  return r;
}

// Moves all received descriptors above every number that is needed, in order, and closes the rest.
void arrange_descriptors(const Received& r, RestorerArgs& args) {
  const PlanHeader& p = *r.plan;
  const auto* f =
      reinterpret_cast<const format::PlanFd*>(reinterpret_cast<const char*>(&p) + p.fds.off);
  int base = r.socket_fd;
  for (uint64_t i = 0; i < p.fds.count; i++) base = f[i].fd > base ? f[i].fd : base;
  for (uint32_t i = 0; i < p.received_fds; i++) base = r.extra[i] > base ? r.extra[i] : base;
  base++;
  auto move = [](int from, int to) {
    if (dup3(from, to, O_CLOEXEC) < 0) die("arranging descriptors (RLIMIT_NOFILE)");
  };
  for (uint32_t i = 0; i < p.received_fds; i++) move(r.extra[i], base + static_cast<int>(i));
  args.image_fd = base + static_cast<int>(p.received_fds);
  args.report_fd = args.image_fd + 1;
  args.extra_fd_base = base;
  move(r.image_fd, args.image_fd);
  move(r.socket_fd, args.report_fd);
  rawsys::sys(__NR_close_range, 0, base - 1, 0);
}

struct Interval {
  uint64_t start, end;
};

// Occupied intervals: this process now, and everything of the image.
struct Map {
  Interval* v;
  size_t n, cap;
  void add(uint64_t start, uint64_t end) {
    if (n == cap) {
      cap = cap == 0 ? 1024 : cap * 2;
      v = static_cast<Interval*>(realloc(v, cap * sizeof(Interval)));
      if (v == nullptr) die("planning addresses");
    }
    v[n++] = {start, end};
  }
};

void read_own_maps(Map& map, RestorerArgs& args) {
  FILE* f = fopen("/proc/self/maps", "re");
  if (f == nullptr) die("/proc/self/maps");
  char line[PATH_MAX + 200];
  while (fgets(line, sizeof(line), f) != nullptr) {
    uint64_t start, end;
    char name[64] = "";
    if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %63s", &start, &end, name) < 2) continue;
    map.add(start, end);
    const bool vvar = strncmp(name, "[vvar", 5) == 0, vdso = strcmp(name, "[vdso]") == 0;
    if ((vvar || vdso) && args.vdso_pieces < 4) {
      args.vdso_piece_start[args.vdso_pieces] = start;
      args.vdso_piece_bytes[args.vdso_pieces++] = end - start;
    }
  }
  fclose(f);
}

// A place free both now and in the image, away from anything that may grow towards it.
uint64_t find_room(const Map& map, uint64_t bytes) {
  constexpr uint64_t kFrom = 0x100000000000, kTo = 0x7f0000000000, kMargin = 1ull << 30;
  uint64_t at = kFrom;
  bool moved = true;
  while (moved && at + bytes < kTo) {
    moved = false;
    for (size_t i = 0; i < map.n; i++) {
      if (at < map.v[i].end + kMargin && map.v[i].start < at + bytes + kMargin) {
        at = page_ceil(map.v[i].end) + 2 * kMargin;
        moved = true;
      }
    }
  }
  if (at + bytes >= kTo) {
    errno = ENOMEM;
    die("finding room for the restorer");
  }
  return at;
}

[[noreturn]] void jump(uint64_t entry, uint64_t stack, uint64_t args) {
#if defined(__x86_64__)
  __asm__ volatile("mov %1, %%rsp\n\tmov %2, %%rdi\n\tjmp *%0"
                   :
                   : "r"(entry), "r"(stack), "r"(args)
                   : "rdi", "memory");
#endif
  __builtin_unreachable();
}

void find_own_rseq(RestorerArgs& args) {
  if (__rseq_size == 0) return;  // not registered by this libc
  args.rseq_addr = reinterpret_cast<uint64_t>(__builtin_thread_pointer()) +
                   static_cast<uint64_t>(static_cast<int64_t>(__rseq_offset));
  args.rseq_bytes = __rseq_size < 32 ? 32 : __rseq_size;
  args.rseq_signature = RSEQ_SIG;
}

}  // namespace

void take_over(const char* dir) {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  const Received got = fetch(dir);
  const PlanHeader& plan = *got.plan;
  RestorerArgs args{};
  Map map{};
  read_own_maps(map, args);
  const char* strings = reinterpret_cast<const char*>(&plan) + plan.cwd_off;
  if (chdir(strings) != 0) die(strings);

  const auto* m = reinterpret_cast<const format::PlanMap*>(reinterpret_cast<const char*>(&plan) +
                                                           plan.maps.off);
  for (uint64_t i = 0; i < plan.maps.count; i++) map.add(m[i].addr, m[i].addr + m[i].bytes);
  map.add(plan.process.vvar_start, plan.process.vdso_start + plan.process.vdso_bytes);

  const uint64_t blob_bytes = static_cast<uint64_t>(cr_restorer_blob_end - cr_restorer_blob);
  constexpr uint64_t kStack = 256 * 1024, kVdsoRoom = 256 * 1024;
  const uint64_t plan_bytes = page_ceil(plan.region_bytes);
  const uint64_t blob_room = page_ceil(blob_bytes);
  const uint64_t total = blob_room + kPageSize + kStack + kVdsoRoom + plan_bytes;
  const uint64_t region = find_room(map, total);
  void* r = mmap(reinterpret_cast<void*>(region), total, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
  if (r == MAP_FAILED) die("mapping the restorer");
  memcpy(r, cr_restorer_blob, blob_bytes);
  // Not writable any more, and executable: no W^X policy is in the way (the blob has no data).
  if (mprotect(r, blob_room, PROT_READ | PROT_EXEC) != 0) die("making the restorer executable");
  const uint64_t args_at = region + blob_room;
  const uint64_t stack_top = args_at + kPageSize + kStack;
  args.vdso_temp = stack_top;
  args.plan = stack_top + kVdsoRoom;
  args.region = region;
  args.region_bytes = total;
  memcpy(reinterpret_cast<void*>(args.plan), &plan, plan.bytes);
  find_own_rseq(args);
  format::Report where{};  // the agent has the leftovers unmapped at the next checkpoint
  where.kind = format::kMessageReport;
  where.epoch = region;
  where.sequence = total;
  if (send(got.socket_fd, &where, sizeof(where), MSG_NOSIGNAL) < 0) die("telling the agent");
  arrange_descriptors(got, args);
  memcpy(reinterpret_cast<void*>(args_at), &args, sizeof(args));
  static_assert(sizeof(args) <= kPageSize);
  const uint64_t all = ~0ull;
  rawsys::sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, nullptr, 8);
  jump(region, stack_top, args_at);
}

}  // namespace cr::interpose
