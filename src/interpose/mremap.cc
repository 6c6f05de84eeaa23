// SPDX-License-Identifier: MIT
// mremap.cc - mremap over memory that is one mapping for the program, and several for the kernel.
// Invariant: without a session, and whenever the kernel can do it, mremap is the kernel's.
// Writes to a program's memory are counted in its mappings of the last checkpoint. The kernel does
// not join such a mapping with one that was made or moved beside it since, so it refuses (EFAULT)
// to move both by one call, as it would not without us. They are then moved one after the other.
// Context: N; async-signal-safe as the system call is. Doc: docs/ARCHITECTURE.md, "Known limits".
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>

#include "control/control.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace {

using cr::kPageSize;
using cr::rawsys::is_error;
using cr::rawsys::sys;

constexpr size_t kMostPieces = 128;
struct Piece {
  uint64_t start, end;
};

struct Pieces {
  Piece list[kMostPieces];
  size_t count = 0;
  uint64_t prot = 0;
};

uint64_t hex(const char*& p) {
  uint64_t v = 0;
  for (;; p++) {
    if (*p >= '0' && *p <= '9') {
      v = v * 16 + static_cast<uint64_t>(*p - '0');
    } else if (*p >= 'a' && *p <= 'f') {
      v = v * 16 + static_cast<uint64_t>(*p - 'a' + 10);
    } else {
      return v;
    }
  }
}

// Takes one line of maps, "start-end rwxp offset dev ino ...". False: the range is not what one
// anonymous private mapping could be.
bool take_line(const char* p, uint64_t from, uint64_t to, Pieces& out) {
  const uint64_t start = hex(p);
  p++;
  const uint64_t end = hex(p);
  if (end <= from || start >= to) return true;
  p++;
  const uint64_t prot = (p[0] == 'r' ? PROT_READ : 0u) | (p[1] == 'w' ? PROT_WRITE : 0u) |
                        (p[2] == 'x' ? PROT_EXEC : 0u);
  if (p[3] != 'p') return false;
  for (int fields = 0; fields < 2 && *p != 0; p++) fields += *p == ' ';
  const bool anonymous = p[0] == '0' && p[1] == '0' && p[2] == ':' && p[3] == '0' && p[4] == '0';
  if (!anonymous || out.count == kMostPieces || (out.count > 0 && prot != out.prot)) return false;
  const uint64_t expected = out.count == 0 ? from : out.list[out.count - 1].end;
  if (start > expected) return false;
  out.prot = prot;
  out.list[out.count++] = {start > from ? start : from, end < to ? end : to};
  return true;
}

// Asks the kernel (6.11) instead of reading all of the map; false if it does not know.
bool is_one_mapping(int maps, uint64_t from, uint64_t to) {
  cr::rawsys::ProcmapQuery q{};
  q.size = sizeof(q);
  q.query_addr = from;
  return sys(__NR_ioctl, maps, cr::rawsys::kProcmapQuery, &q) == 0 && q.vma_start <= from &&
         q.vma_end >= to;
}

bool find_pieces(uint64_t from, uint64_t to, Pieces& out) {
  // Not thread-self: a checkpoint may come just now, and thread ids may differ after the restore.
  const long fd = cr::rawsys::sys_openat(AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  if (is_one_mapping(static_cast<int>(fd), from, to)) {
    cr::rawsys::sys_close(static_cast<int>(fd));
    return false;
  }
  char buffer[4096 + 1];
  size_t used = 0;
  bool good = true;
  for (;;) {
    const long n = sys(__NR_read, fd, buffer + used, sizeof(buffer) - 1 - used);
    if (n == -EINTR) continue;
    if (n <= 0) break;
    used += static_cast<size_t>(n);
    size_t begin = 0;
    for (size_t i = 0; i < used; i++) {
      if (buffer[i] != '\n') continue;
      buffer[i] = 0;
      good = good && take_line(buffer + begin, from, to, out);
      begin = i + 1;
    }
    if (begin == 0) break;  // a line that is longer than any
    __builtin_memmove(buffer, buffer + begin, used - begin);
    used -= begin;
  }
  cr::rawsys::sys_close(static_cast<int>(fd));
  return good && out.count > 1 && out.list[out.count - 1].end == to;
}

long move_whole(uint64_t from, uint64_t bytes, uint64_t to) {
  return sys(__NR_mremap, from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

// All pieces, or none: those that were moved are moved back.
long move_pieces(const Pieces& pieces, uint64_t to) {
  const uint64_t from = pieces.list[0].start;
  for (size_t i = 0; i < pieces.count; i++) {
    const Piece& p = pieces.list[i];
    const long r = move_whole(p.start, p.end - p.start, to + (p.start - from));
    if (!is_error(r)) continue;
    while (i-- > 0) {
      const Piece& q = pieces.list[i];
      (void)move_whole(to + (q.start - from), q.end - q.start, q.start);
    }
    return r;
  }
  return 0;
}

// The answer where the kernel's own is or would be -EFAULT; -EFAULT if it is that with us as well.
long in_pieces(uint64_t old, uint64_t old_bytes, uint64_t new_bytes, int flags, uint64_t fixed) {
  old_bytes = cr::page_ceil(old_bytes);
  new_bytes = cr::page_ceil(new_bytes);
  Pieces pieces;
  if ((flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) != 0 || new_bytes == 0 ||
      !find_pieces(old, old + old_bytes, pieces)) {
    return -EFAULT;
  }
  const bool is_fixed = (flags & MREMAP_FIXED) != 0;
  if (is_fixed && fixed < old + old_bytes && old < fixed + new_bytes) return -EINVAL;
  if (new_bytes <= old_bytes && !is_fixed) {
    const long r = sys(__NR_munmap, old + new_bytes, old_bytes - new_bytes);
    return new_bytes < old_bytes && is_error(r) ? r : static_cast<long>(old);
  }
  const uint64_t growth = new_bytes > old_bytes ? new_bytes - old_bytes : 0;
  if (!is_fixed) {
    const Piece& last = pieces.list[pieces.count - 1];
    const uint64_t bytes = last.end - last.start;
    if (!is_error(sys(__NR_mremap, last.start, bytes, bytes + growth, 0))) {
      return static_cast<long>(old);
    }
    if ((flags & MREMAP_MAYMOVE) == 0) return -ENOMEM;
  }
  const long place =
      sys(__NR_mmap, is_fixed ? fixed : 0, new_bytes, PROT_NONE,
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (is_fixed ? MAP_FIXED : 0), -1, 0);
  if (is_error(place)) return place;
  const auto to = static_cast<uint64_t>(place);
  if (new_bytes < old_bytes) {
    (void)sys(__NR_munmap, old + new_bytes, old_bytes - new_bytes);
    Pieces shorter;
    if (!find_pieces(old, old + new_bytes, shorter)) {  // one is left
      return move_whole(old, new_bytes, to);
    }
    pieces = shorter;
  }
  long r = move_pieces(pieces, to);
  if (!is_error(r) && growth != 0) {
    r = sys(__NR_mmap, to + old_bytes, growth, pieces.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
            -1, 0);
  }
  return is_error(r) ? r : place;
}

}  // namespace

extern "C" [[gnu::visibility("default")]] void* mremap(void* old, size_t old_bytes,
                                                       size_t new_bytes, int flags, ...) {
  uint64_t fixed = 0;
  if ((flags & (MREMAP_FIXED | 4 /* MREMAP_DONTUNMAP */)) != 0) {
    va_list more;
    va_start(more, flags);
    fixed = reinterpret_cast<uint64_t>(va_arg(more, void*));
    va_end(more);
  }
  const auto from = reinterpret_cast<uint64_t>(old);
  const bool ours = cr::control::attached() && from % kPageSize == 0;
  long r = -EFAULT;
  // Since Linux 6.17 a move to a given place may end half-way, at the first tracked mapping: there
  // the kernel is asked second.
  const bool first =
      ours && flags == (MREMAP_MAYMOVE | MREMAP_FIXED) && cr::control::tracks_mappings();
  if (first) r = in_pieces(from, old_bytes, new_bytes, flags, fixed);
  if (r == -EFAULT) r = sys(__NR_mremap, from, old_bytes, new_bytes, flags, fixed);
  if (r == -EFAULT && ours && !first) {
    r = in_pieces(from, old_bytes, new_bytes, flags, fixed);
    // If the process was restored meanwhile, nothing is tracked.
    if (r == -EFAULT) r = sys(__NR_mremap, from, old_bytes, new_bytes, flags, fixed);
  }
  if (!is_error(r)) return reinterpret_cast<void*>(r);
  errno = static_cast<int>(-r);
  return MAP_FAILED;
}
