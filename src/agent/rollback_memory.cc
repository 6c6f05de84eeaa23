// SPDX-License-Identifier: MIT
// rollback_memory.cc - see rollback_memory.h. Invariant: as there. Context: N (agent).
#include "agent/rollback_memory.h"

#include <asm/unistd.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>

#include "format/checksum.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::SegmentRecord;
using os::MapEntry;

constexpr uint64_t kSettledNs = 2000000000;  // as in Session::last_has_file_part()

struct Region {
  uint64_t start, end;
  bool written;
};

bool is_private_anonymous(const MapEntry& m) {
  if (m.shared) return false;
  return m.name == "/dev/zero" ||
         (m.ino == 0 && !m.name.starts_with("/") && !m.name.starts_with("anon_inode:"));
}

bool same_backing(const MapEntry& m, const SegmentRecord& s) {
  switch (s.kind) {
    case format::kSegmentAnon:
    case format::kSegmentStack:
      return is_private_anonymous(m);
    case format::kSegmentFile:
    case format::kSegmentFileShared:
    case format::kSegmentObject:
      return m.shared == (s.kind != format::kSegmentFile) && m.ino == s.ino && m.dev == s.dev &&
             m.ino != 0 && m.offset - m.start == s.file_off - s.start;
    default:
      return false;  // shared anonymous memory is made anew, as crrestore would
  }
}

bool is_of_object(const SegmentRecord& s) {
  return s.kind == format::kSegmentObject || (s.flags & format::kSegmentOfObject) != 0;
}

bool is_vdso(const MapEntry& m) { return m.name == "[vdso]" || m.name.starts_with("[vvar"); }

class MemoryDiff {
 public:
  MemoryDiff(const MemoryNow& now, MemoryChange& out) : now_(now), image_(now.image), out_(out) {}
  std::string run();
  void run_whole(const SegmentRecord& s) {
    map_anew(s.start, s.end, s);
    advise(s);
  }

 private:
  void step(uint64_t from, uint64_t to, const MapEntry* m, const SegmentRecord* s);
  void unmap(uint64_t from, uint64_t to, const MapEntry& m);
  void map_anew(uint64_t from, uint64_t to, const SegmentRecord& s);
  bool file_is_same(const SegmentRecord& s) const;
  void keep(uint64_t from, uint64_t to, const MapEntry& m, const SegmentRecord& s);
  void keep_tracked(uint64_t from, uint64_t to, const MapEntry& m, const SegmentRecord& s);
  void keep_embedded(uint64_t from, uint64_t to, const SegmentRecord& s);
  void merge(uint64_t from, uint64_t to, const SegmentRecord& s, const std::vector<Region>& found,
             bool all_written);
  void advise(const SegmentRecord& s);
  long scan(uint64_t from, uint64_t to, bool in_file, bool tracked, std::vector<Region>* ret) const;
  void fill(uint64_t addr, uint64_t pages, uint64_t slot) { add(out_.fills, addr, pages, slot); }
  void compare(uint64_t from, uint64_t to);
  void drop(uint64_t from, uint64_t to, const SegmentRecord& s);
  void add(std::vector<PageFill>& list, uint64_t addr, uint64_t pages, uint64_t slot);
  size_t call(long nr, uint64_t a, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
              uint64_t f = 0, uint32_t flags = 0);
  void find_lazy();
  bool is_library(uint64_t from) const;
  bool may_be_given_up(uint64_t from, uint64_t to) const;
  void refuse(const std::string& why) {
    if (why_.empty()) why_ = why;
  }

  const MemoryNow& now_;
  const format::ImageView& image_;
  MemoryChange& out_;
  std::vector<format::Call> drops_;  // after all else
  std::vector<AddressRange> lazy_;   // mappings with pages that MADV_FREE gave up
  std::string why_;
};

size_t MemoryDiff::call(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                        uint64_t f, uint32_t flags) {
  out_.calls.push_back({static_cast<uint64_t>(nr), {a, b, c, d, e, f}, 0, flags, 0});
  return out_.calls.size() - 1;
}

// The control thread and the held threads run in it. A mapping may begin in it and end behind it.
bool MemoryDiff::is_library(uint64_t from) const {
  return from >= now_.library.start && from < now_.library.end;
}

// A page that was given up by MADV_FREE looks as it was, until the kernel takes it.
void MemoryDiff::find_lazy() {
  if (!now_.lazy_free || !now_.tracked) return;
  const std::string text = os::read_or_empty(os::task_path(now_.pid, now_.tid, "smaps"));
  auto maps = os::parse_maps(text);
  if (!maps || maps->empty()) return refuse("smaps cannot be read");
  size_t at = 0, i = 0;
  static const std::string kField = "\nLazyFree:";
  while ((at = text.find(kField, at)) != std::string::npos && i < maps->size()) {
    at += kField.size();
    const MapEntry& m = (*maps)[i++];
    if (strtoull(text.c_str() + at, nullptr, 10) != 0) lazy_.push_back({m.start, m.end});
  }
  if (i != maps->size()) refuse("this kernel does not tell what MADV_FREE gave up");
}

bool MemoryDiff::may_be_given_up(uint64_t from, uint64_t to) const {
  return std::ranges::any_of(lazy_,
                             [&](const AddressRange& l) { return l.start < to && l.end > from; });
}

void MemoryDiff::add(std::vector<PageFill>& list, uint64_t addr, uint64_t pages, uint64_t slot) {
  // The control thread's stack is in use.
  const uint64_t end = addr + pages * kPageSize;
  if (addr < now_.control_stack_end && end > now_.control_stack) {
    const uint64_t behind = std::min(end, now_.control_stack_end);
    if (addr < now_.control_stack) {
      add(list, addr, (now_.control_stack - addr) / kPageSize, slot);
    }
    if (behind < end) {
      const uint64_t passed = (behind - addr) / kPageSize;
      add(list, behind, pages - passed, slot == format::kSlotZero ? slot : slot + passed);
    }
    return;
  }
  if (!list.empty()) {
    PageFill& last = list.back();
    const bool zero = slot == format::kSlotZero;
    if (last.addr + last.pages * kPageSize == addr &&
        (zero ? last.slot == slot
              : last.slot != format::kSlotZero && last.slot + last.pages == slot)) {
      last.pages += pages;
      return;
    }
  }
  list.push_back({addr, pages, slot});
}

// All pages that the image has of [from, to).
void MemoryDiff::compare(uint64_t from, uint64_t to) {
  auto it = std::ranges::lower_bound(image_.extents, from, {}, [](const format::ExtentRecord& e) {
    return e.addr + e.pages * kPageSize - 1;
  });
  for (; it != image_.extents.end() && it->addr < to; ++it) {
    const uint64_t start = std::max(from, it->addr);
    const uint64_t end = std::min(to, it->addr + it->pages * kPageSize);
    const uint64_t passed = (start - it->addr) / kPageSize;
    add(out_.compare, start, (end - start) / kPageSize,
        it->slot == format::kSlotZero ? it->slot : it->slot + passed);
  }
}

// Back to zeros, or to what the mapped file holds.
void MemoryDiff::drop(uint64_t from, uint64_t to, const SegmentRecord& s) {
  if (from < now_.control_stack_end && to > now_.control_stack) {
    if (from < now_.control_stack) drop(from, now_.control_stack, s);
    if (now_.control_stack_end < to) drop(now_.control_stack_end, to, s);
    return;
  }
  if ((s.flags & format::kSegmentLocked) != 0) {  // not allowed there
    if (s.kind == format::kSegmentFile) refuse("a locked mapping of a file was written");
    fill(from, (to - from) / kPageSize, format::kSlotZero);
    return;
  }
  if (!drops_.empty() && drops_.back().args[0] + drops_.back().args[1] == from) {
    drops_.back().args[1] += to - from;
    return;
  }
  drops_.push_back({__NR_madvise, {from, to - from, MADV_DONTNEED, 0, 0, 0}, 0, 0, 0});
}

void MemoryDiff::unmap(uint64_t from, uint64_t to, const MapEntry& m) {
  if (is_library(from)) return refuse("the library's own memory was mapped anew");
  if (m.name == "/[aio]") return refuse("asynchronous I/O (io_setup) may be going on");
  if (!out_.calls.empty()) {
    format::Call& last = out_.calls.back();
    if (last.nr == __NR_munmap && last.args[0] + last.args[1] == from) {
      last.args[1] += to - from;
      return;
    }
  }
  call(__NR_munmap, from, to - from);
}

bool MemoryDiff::file_is_same(const SegmentRecord& s) const {
  struct stat st;
  if ((s.flags & format::kSegmentDeleted) != 0) return false;
  if (stat(image_.string(s.file), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  return st.st_ino == s.ino && static_cast<uint64_t>(st.st_size) == s.file_bytes &&
         st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec == s.file_mtime_ns;
}

// What is there now, if anything, goes.
void MemoryDiff::map_anew(uint64_t from, uint64_t to, const SegmentRecord& s) {
  uint64_t flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
  uint64_t fd = ~0ull, off = 0;
  bool of_file = false;
  if (is_of_object(s)) {
    return refuse(std::string("the mapping of ") + image_.string(s.file) + " was changed");
  }
  switch (s.kind) {
    case format::kSegmentAnonShared:
      flags = MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS;
      break;
    case format::kSegmentStack:
      flags |= MAP_GROWSDOWN | MAP_STACK;
      break;
    case format::kSegmentFile:
    case format::kSegmentFileShared: {
      const bool whole =
          (s.flags & format::kSegmentDeleted) != 0 && (s.flags & format::kSegmentEmbedded) != 0;
      if (whole) break;  // as crrestore: anonymous memory with its content
      if (!file_is_same(s)) {
        return refuse(std::string("the mapped file ") + image_.string(s.file) +
                      " is not what it was");
      }
      of_file = true;
      flags = MAP_FIXED | (s.kind == format::kSegmentFile ? MAP_PRIVATE : MAP_SHARED);
      off = s.file_off + (from - s.start);
      break;
    }
    default:
      break;
  }
  if ((s.flags & format::kSegmentNoReserve) != 0 || s.prot == 0) flags |= MAP_NORESERVE;
  // What is to be filled is made writable first.
  constexpr uint32_t kReadWrite = PROT_READ | PROT_WRITE;
  const bool filled = s.kind != format::kSegmentFileShared;
  const size_t i =
      call(__NR_mmap, from, to - from, s.prot | (filled ? kReadWrite : 0), flags, fd, off);
  if (filled && (s.prot & kReadWrite) != kReadWrite) {
    out_.after.push_back({__NR_mprotect, {from, to - from, s.prot, 0, 0, 0}, 0, 0, 0});
  }
  const bool part = from != s.start || to != s.end;
  if (part && (s.kind == format::kSegmentAnon || s.kind == format::kSegmentFile) &&
      (out_.pieces.empty() || out_.pieces.back() != &s)) {
    out_.pieces.push_back(&s);
  }
  // Tracked as what it lies beside: so the kernel joins the two, and the program has one mapping
  // where it had one. All its pages count as written.
  const bool embedded = (s.flags & format::kSegmentEmbedded) != 0;
  if (now_.tracked && filled && !embedded && s.kind != format::kSegmentAnonShared) {
    out_.track.push_back(call(__NR_ioctl, from, to - from, 0, 0, 0, 0, format::kCallMayFail));
  }
  if (of_file) {
    const std::string path = image_.string(s.file);
    auto f = std::ranges::find(out_.files, path, &MemoryChange::MappedFile::path);
    if (f == out_.files.end()) f = out_.files.insert(f, {path, {}});
    f->calls.push_back(i);
  }
  if (of_file && embedded) return compare(from, to);
  merge(from, to, s, {}, false);
}

// Runs of pages that are this process's own and hold data. -EPERM: `tracked` was asked for, and
// this mapping is not.
long MemoryDiff::scan(uint64_t from, uint64_t to, bool in_file, bool tracked,
                      std::vector<Region>* ret) const {
  using namespace rawsys;
  constexpr uint64_t kBatch = 512;
  PageRegion vec[kBatch];
  ret->clear();
  while (from < to) {
    PmScanArg arg{};
    arg.size = sizeof(arg);
    arg.start = from;
    arg.end = to;
    arg.flags = tracked ? kScanCheckAsync : 0;
    arg.vec = reinterpret_cast<uint64_t>(vec);
    arg.vec_len = kBatch;
    arg.category_mask = arg.category_inverted = kIsPfnZero | (in_file ? kIsFile : 0);
    arg.category_anyof_mask = kIsPresent | kIsSwapped;
    arg.return_mask = kIsPresent | kIsSwapped | (tracked ? kIsWritten : 0);
    const long n = sys(__NR_ioctl, now_.pagemap, kPagemapScan, &arg);
    if (n < 0) return n;
    for (long i = 0; i < n; i++) {
      // In a mapping of a file a page that was dropped since leaves a mark behind that looks like a
      // swapped page.
      const bool dropped = in_file && (vec[i].categories & kIsPresent) == 0;
      const bool written = !tracked || dropped || (vec[i].categories & kIsWritten) != 0;
      if (!ret->empty() && ret->back().end == vec[i].start && ret->back().written == written) {
        ret->back().end = vec[i].end;
      } else {
        ret->push_back({vec[i].start, vec[i].end, written});
      }
    }
    if (arg.walk_end <= from) return -EIO;
    from = arg.walk_end;
  }
  return 0;
}

// Page by page: what the image has, what is there, whether it was written, and whether it was left
// out of the image. found: ascending.
void MemoryDiff::merge(uint64_t from, uint64_t to, const SegmentRecord& s,
                       const std::vector<Region>& found, bool all_written) {
  auto e = std::ranges::lower_bound(image_.extents, from, {}, [](const format::ExtentRecord& x) {
    return x.addr + x.pages * kPageSize - 1;
  });
  auto hole = std::ranges::lower_bound(now_.without, from + 1, {}, &AddressRange::end);
  auto r = found.begin();
  for (uint64_t at = from, next; at < to; at = next) {
    while (e != image_.extents.end() && e->addr + e->pages * kPageSize <= at) ++e;
    while (hole != now_.without.end() && hole->end <= at) ++hole;
    while (r != found.end() && r->end <= at) ++r;
    next = to;
    bool in_image = false, present = false, left_out = false;
    if (e != image_.extents.end()) {
      in_image = e->addr <= at;
      next = std::min(next, in_image ? e->addr + e->pages * kPageSize : e->addr);
    }
    if (r != found.end()) {
      present = r->start <= at;
      next = std::min(next, present ? r->end : r->start);
    }
    if (hole != now_.without.end()) {
      left_out = hole->start <= at;
      next = std::min(next, left_out ? hole->end : hole->start);
    }
    const bool changed = !present || all_written || r->written || left_out;
    if (!changed) continue;
    if (in_image && e->slot != format::kSlotZero) {
      fill(at, (next - at) / kPageSize, e->slot + (at - e->addr) / kPageSize);
    } else if (in_image && s.kind == format::kSegmentFile) {
      fill(at, (next - at) / kPageSize, format::kSlotZero);
    } else if (present) {
      drop(at, next, s);
    }
  }
}

void MemoryDiff::keep_tracked(uint64_t from, uint64_t to, const MapEntry& m,
                              const SegmentRecord& s) {
  const bool in_file = s.kind == format::kSegmentFile;
  std::vector<Region> found;
  bool tracked = now_.tracked && !may_be_given_up(from, to);
  long r = scan(from, to, in_file, tracked, &found);
  if (r == -EPERM && tracked) {
    // Not the mapping that was there. What flags it has is only known of a fresh one.
    if (!in_file && m.name != "[stack]" && !is_library(from)) return map_anew(from, to, s);
    tracked = false;
    r = scan(from, to, in_file, false, &found);
  }
  if (r < 0) {
    return refuse(std::string("its pages cannot be looked at: ") + strerror(static_cast<int>(-r)));
  }
  merge(from, to, s, found, !tracked);
}

// Small files and program text: the image has all pages of it.
void MemoryDiff::keep_embedded(uint64_t from, uint64_t to, const SegmentRecord& s) {
  std::vector<Region> own;
  const long r = scan(from, to, true, false, &own);
  if (r < 0) {
    return refuse(std::string("its pages cannot be looked at: ") + strerror(static_cast<int>(-r)));
  }
  const bool same = file_is_same(s);
  if (!same && (s.flags & format::kSegmentDeleted) == 0) {
    return refuse(std::string("the mapped file ") + image_.string(s.file) + " is not what it was");
  }
  const bool none_then = now_.tracked && same &&
                         s.file_mtime_ns + static_cast<int64_t>(kSettledNs) <
                             static_cast<int64_t>(image_.super.realtime_ns) &&
                         std::ranges::any_of(now_.file_parts, [&](const SegmentRecord& p) {
                           return p.start == s.start && p.end == s.end && p.ino == s.ino &&
                                  p.dev == s.dev && p.file_off == s.file_off;
                         });
  if (none_then) {
    for (const Region& o : own) compare(o.start, o.end);
  } else {
    compare(from, to);
  }
  // Behind the end of the file there are only pages of the program's own.
  auto in_image = [&](uint64_t addr) { return format::find_extent(image_, addr) != nullptr; };
  for (const Region& o : own) {
    for (uint64_t at = o.start; at < o.end; at += kPageSize) {
      if (!in_image(at)) drop(at, at + kPageSize, s);
    }
  }
}

void MemoryDiff::keep(uint64_t from, uint64_t to, const MapEntry& m, const SegmentRecord& s) {
  if (static_cast<uint32_t>(m.prot) != s.prot) {
    if (is_library(from)) return refuse("the library's own memory was protected");
    call(__NR_mprotect, from, to - from, s.prot);
  }
  if (is_of_object(s)) {  // what it shares is put back with the object
    if (s.kind == format::kSegmentFile) keep_tracked(from, to, m, s);
    return;
  }
  if (s.kind == format::kSegmentFileShared) {
    if (!file_is_same(s)) refuse("a mapped file is not what it was");
    return;
  }
  if (s.kind == format::kSegmentFile && (s.flags & format::kSegmentEmbedded) != 0) {
    return keep_embedded(from, to, s);
  }
  if (s.kind == format::kSegmentFile && !file_is_same(s)) {
    return refuse(std::string("the mapped file ") + image_.string(s.file) + " is not what it was");
  }
  keep_tracked(from, to, m, s);
}

void MemoryDiff::step(uint64_t from, uint64_t to, const MapEntry* m, const SegmentRecord* s) {
  const bool fixed_now = m != nullptr && is_vdso(*m);
  const bool fixed_then =
      s != nullptr && (s->kind == format::kSegmentVdso || s->kind == format::kSegmentVvar);
  if (fixed_now || fixed_then) {
    const bool same =
        fixed_now && fixed_then && (m->name == "[vdso]") == (s->kind == format::kSegmentVdso);
    if (!same) refuse("the vDSO is not where it was");
    return;
  }
  if (s == nullptr) return unmap(from, to, *m);
  if (m == nullptr) return map_anew(from, to, *s);
  if (same_backing(*m, *s)) return keep(from, to, *m, *s);
  if (is_library(from)) return refuse("the library's own memory was mapped anew");
  map_anew(from, to, *s);
}

// What madvise and mlock have set is only told by smaps, which takes a look at every page: it is
// set again.
void MemoryDiff::advise(const SegmentRecord& s) {
  const uint64_t bytes = s.end - s.start;
  auto flag = [&](uint32_t f, int on, int off) {
    const bool wanted = (s.flags & f) != 0;
    if (!wanted && off < 0) return;
    call(__NR_madvise, s.start, bytes, static_cast<uint64_t>(wanted ? on : off), 0, 0, 0,
         format::kCallMayFail);
  };
  flag(format::kSegmentDontFork, MADV_DONTFORK, MADV_DOFORK);
  if (s.kind == format::kSegmentAnon || s.kind == format::kSegmentStack) {
    flag(format::kSegmentWipeOnFork, MADV_WIPEONFORK, MADV_KEEPONFORK);
  }
  flag(format::kSegmentDontDump, MADV_DONTDUMP, MADV_DODUMP);
  flag(format::kSegmentHuge, MADV_HUGEPAGE, -1);
  flag(format::kSegmentNoHuge, MADV_NOHUGEPAGE, -1);
  flag(format::kSegmentMergeable, MADV_MERGEABLE, -1);
  if ((s.flags & format::kSegmentSequential) != 0) {
    flag(format::kSegmentSequential, MADV_SEQUENTIAL, -1);
  } else {
    flag(format::kSegmentRandom, MADV_RANDOM, MADV_NORMAL);
  }
  const bool locked = (s.flags & format::kSegmentLocked) != 0;
  call(locked ? __NR_mlock : __NR_munlock, s.start, bytes, 0, 0, 0, 0, format::kCallMayFail);
}

std::string MemoryDiff::run() {
  find_lazy();
  std::vector<const MapEntry*> live;
  for (const MapEntry& m : now_.maps) {
    if (m.shared && m.name == std::string("/memfd:") + kChannelMemfdName) continue;
    if (m.start >= now_.leftover.start && m.end <= now_.leftover.start + now_.leftover.bytes) {
      continue;
    }
    if (m.name != "[vsyscall]") live.push_back(&m);
  }
  size_t i = 0, k = 0;
  uint64_t at = 0;
  while (why_.empty() && (i < live.size() || k < image_.segments.size())) {
    const MapEntry* m = i < live.size() ? live[i] : nullptr;
    const SegmentRecord* s = k < image_.segments.size() ? &image_.segments[k] : nullptr;
    const uint64_t m_start = m != nullptr ? std::max(at, m->start) : ~0ull;
    const uint64_t s_start = s != nullptr ? std::max(at, s->start) : ~0ull;
    at = std::min(m_start, s_start);
    const bool in_m = m_start == at, in_s = s_start == at;
    const uint64_t m_next = in_m ? m->end : m_start, s_next = in_s ? s->end : s_start;
    uint64_t next = std::min(m_next, s_next);
    for (const uint64_t edge : {now_.library.start, now_.library.end}) {
      if (edge > at) next = std::min(next, edge);
    }
    step(at, next, in_m ? m : nullptr, in_s ? s : nullptr);
    at = next;
    if (m != nullptr && m->end <= at) i++;
    if (s != nullptr && s->end <= at) k++;
  }
  for (const SegmentRecord& s : image_.segments) {
    if (s.kind != format::kSegmentVdso && s.kind != format::kSegmentVvar) advise(s);
  }
  out_.calls.insert(out_.calls.end(), drops_.begin(), drops_.end());
  return why_;
}

// ---- writing --------------------------------------------------------------------------------

bool write_pages(const MemoryNow& now, uint64_t addr, const void* from, uint64_t bytes) {
  iovec local{const_cast<void*>(from), bytes};
  iovec remote{reinterpret_cast<void*>(addr), bytes};
  if (process_vm_writev(now.pid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes)) {
    return true;
  }
  return rawsys::write_all_at(now.mem, from, bytes, addr) == 0;  // the program may not write there
}

constexpr uint64_t kChunkPages = 64;

// Not through the mapping: a fault for each page would cost more than the copy.
bool read_slots(const MemoryNow& now, uint64_t slot, uint64_t pages, uint8_t* to) {
  const uint64_t off = now.image.super.payload_off + slot * kPageSize;
  return rawsys::read_all_at(now.image_file, to, pages * kPageSize, off) == 0;
}

// Calls each(addr, slot or kSlotZero, pages) for pieces of at most kChunkPages pages.
template <typename F>
bool for_each_piece(const PageFill& f, F each) {
  for (uint64_t p = 0; p < f.pages; p += kChunkPages) {
    const uint64_t slot = f.slot == format::kSlotZero ? f.slot : f.slot + p;
    if (!each(f.addr + p * kPageSize, slot, std::min(kChunkPages, f.pages - p))) return false;
  }
  return true;
}

std::string hex(uint64_t addr) {
  char t[32];
  snprintf(t, sizeof(t), "0x%lx", static_cast<unsigned long>(addr));
  return t;
}

// As many pages as fit into one call.
class Writer {
 public:
  explicit Writer(const MemoryNow& now) : now_(now), room_(kMost * kPageSize) {}
  bool add(uint64_t addr, uint64_t slot, uint64_t pages) {
    const uint64_t bytes = pages * kPageSize;
    if (bytes_ + bytes > room_.size() && !flush()) return false;
    uint8_t* at = room_.data() + bytes_;
    failed_ = addr;
    if (slot == format::kSlotZero) {
      memset(at, 0, bytes);
    } else if (!read_slots(now_, slot, pages, at)) {
      return false;
    }
    local_[n_] = {at, bytes};
    remote_[n_] = {reinterpret_cast<void*>(addr), bytes};
    bytes_ += bytes;
    return ++n_ < kMost || flush();
  }
  bool flush() {
    const size_t n = n_;
    const uint64_t bytes = bytes_;
    n_ = bytes_ = 0;
    if (n == 0 ||
        process_vm_writev(now_.pid, local_, n, remote_, n, 0) == static_cast<ssize_t>(bytes)) {
      return true;
    }
    for (size_t i = 0; i < n; i++) {
      failed_ = reinterpret_cast<uint64_t>(remote_[i].iov_base);
      if (!write_pages(now_, failed_, local_[i].iov_base, local_[i].iov_len)) return false;
    }
    return true;
  }
  uint64_t failed() const { return failed_; }

 private:
  static constexpr size_t kMost = 512;
  const MemoryNow& now_;
  std::vector<uint8_t> room_;
  iovec local_[kMost], remote_[kMost];
  size_t n_ = 0;
  uint64_t bytes_ = 0, failed_ = 0;
};

}  // namespace

std::string find_memory_change(const MemoryNow& now, MemoryChange* ret) {
  return MemoryDiff(now, *ret).run();
}

void find_pieces(const MemoryNow& now, const MemoryChange& change, MemoryChange* ret) {
  for (const SegmentRecord* s : change.pieces) {
    size_t mappings = 0;
    const bool library = s->start < now.library.end && s->end > now.library.start;
    for (const MapEntry& m : now.maps) mappings += m.start < s->end && m.end > s->start ? 1 : 0;
    if (mappings < 2 || library) continue;
    MemoryChange one;
    MemoryDiff(now, one).run_whole(*s);
    if (!verify_change(now, one).empty()) continue;
    const size_t before = ret->calls.size();
    for (const size_t i : one.track) ret->track.push_back(before + i);
    for (MemoryChange::MappedFile& f : one.files) {
      for (size_t& i : f.calls) i += before;
      ret->files.push_back(std::move(f));
    }
    ret->calls.insert(ret->calls.end(), one.calls.begin(), one.calls.end());
    ret->after.insert(ret->after.end(), one.after.begin(), one.after.end());
    ret->fills.insert(ret->fills.end(), one.fills.begin(), one.fills.end());
    ret->compare.insert(ret->compare.end(), one.compare.begin(), one.compare.end());
  }
}

std::string verify_change(const MemoryNow& now, const MemoryChange& change) {
  std::vector<uint8_t> room(kChunkPages * kPageSize);
  for (const std::vector<PageFill>* list : {&change.fills, &change.compare}) {
    for (const PageFill& f : *list) {
      if (f.slot == format::kSlotZero) continue;
      for (uint64_t p = 0; p < f.pages; p++) {
        if (p % kChunkPages == 0 &&
            !read_slots(now, f.slot + p, std::min(kChunkPages, f.pages - p), room.data())) {
          return "the image cannot be read";
        }
        const uint8_t* page = room.data() + p % kChunkPages * kPageSize;
        if (format::checksum(page, kPageSize) == now.image.checksums[f.slot + p]) continue;
        return "the checksum of the page for address " + hex(f.addr + p * kPageSize) + " is wrong";
      }
    }
  }
  return "";
}

std::string try_forced_write(const MemoryNow& now, const MemoryChange& change) {
  for (const std::vector<PageFill>* list : {&change.fills, &change.compare}) {
    for (const PageFill& f : *list) {
      auto m = std::ranges::upper_bound(now.maps, f.addr, {}, &MapEntry::end);
      if (m == now.maps.end() || m->start > f.addr || m->shared || (m->prot & PROT_WRITE) != 0) {
        continue;
      }
      uint8_t byte;
      if (rawsys::read_all_at(now.mem, &byte, 1, f.addr) == 0 &&
          rawsys::write_all_at(now.mem, &byte, 1, f.addr) == 0) {
        return "";
      }
      return "memory that the program may not write cannot be written from outside";
    }
  }
  return "";
}

std::string fill_memory(const MemoryNow& now, const MemoryChange& change) {
  Writer writer(now);
  for (const PageFill& f : change.fills) {
    const bool good = for_each_piece(f, [&](uint64_t addr, uint64_t slot, uint64_t pages) {
      return writer.add(addr, slot, pages);
    });
    if (!good) return "writing memory at " + hex(writer.failed());
  }
  if (!writer.flush()) return "writing memory at " + hex(writer.failed());
  std::vector<uint8_t> here(kChunkPages * kPageSize), then(kChunkPages * kPageSize);
  auto put_back = [&](uint64_t addr, uint64_t slot, uint64_t pages) {
    const uint64_t bytes = pages * kPageSize;
    iovec local{here.data(), bytes}, remote{reinterpret_cast<void*>(addr), bytes};
    if (process_vm_readv(now.pid, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(bytes) &&
        rawsys::read_all_at(now.mem, here.data(), bytes, addr) != 0) {
      return false;
    }
    if (slot == format::kSlotZero) {
      std::fill(then.begin(), then.end(), 0);
    } else if (!read_slots(now, slot, pages, then.data())) {
      return false;
    }
    for (uint64_t at = 0; at < bytes; at += kPageSize) {
      if (memcmp(here.data() + at, then.data() + at, kPageSize) == 0) continue;
      if (!write_pages(now, addr + at, then.data() + at, kPageSize)) return false;
    }
    return true;
  };
  for (const PageFill& f : change.compare) {
    if (!for_each_piece(f, put_back)) return "writing memory near " + hex(f.addr);
  }
  return "";
}

// The kernel puts pages that MADV_FREE gave up on a list of the processor first, and marks and
// counts them when that is full. move_pages, here of no page, has it empty all these lists; that
// takes some 45 us (Linux 6.18, two processors).
void settle_lazy_free() {
  const void* no_page = nullptr;
  int node = 0, status = 0;
  (void)rawsys::sys(__NR_move_pages, 0, 0, &no_page, &node, &status, 0);
}

uint64_t lazy_free_count() {
  auto text = os::read_file("/proc/vmstat");
  static const std::string kField = "\npglazyfree ";
  const size_t at = text ? text->find(kField) : std::string::npos;
  return at == std::string::npos ? ~0ull
                                 : strtoull(text->c_str() + at + kField.size(), nullptr, 10);
}

}  // namespace cr::agent
