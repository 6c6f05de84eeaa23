// SPDX-License-Identifier: MIT
// heap_session.cc - sessions of the heap alone (crheap_open): where it is in an image, and how it
// gets into a new program.
// Invariant: nothing of a damaged image reaches the program; the image of a whole process is only
// read, never followed by one of a heap alone.
// Context: N (agent).
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/session.h"
#include "agent/supervisor.h"
#include "nvheap/heap_layout.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::ImageView;
using nvheap::HeapDirectory;

// The page of the image at this address; nullptr if it is a zero page.
const uint8_t* page_at(const ImageView& v, uint64_t addr) {
  const format::ExtentRecord* e = format::find_extent(v, addr);
  if (e == nullptr || e->slot == format::kSlotZero) return nullptr;
  return v.slot(e->slot + (addr - e->addr) / kPageSize);
}

// The crmalloc heap begins with its directory. (malloc may have a heap like it.)
bool find_heap(const ImageView& v, HeapDirectory* ret) {
  for (const format::SegmentRecord& s : v.segments) {
    if ((s.flags & format::kSegmentHeap) == 0) continue;
    const uint8_t* page = page_at(v, s.start);
    if (page == nullptr) continue;
    memcpy(ret, page, sizeof(*ret));
    if (ret->magic == nvheap::kHeapMagic && ret->base == s.start && ret->reserve_bytes != 0 &&
        ret->reserve_bytes <= nvheap::kMaxReserveBytes) {
      return true;
    }
  }
  return false;
}

}  // namespace

Trouble Session::open_heap() {
  const std::string& dir = options_.dir;
  std::unique_ptr<store::LoadedImage> image;
  Trouble bad = choose_image(dir, 0, &image);
  if (bad.error.code == Errc::kNotWhole && options_.heap == HeapMode::kCreate) return {};
  if (bad.bad()) return bad;
  const ImageView& v = image->view;
  if ((v.process->flags & format::kProcessHeapOnly) == 0 && options_.heap != HeapMode::kRead) {
    return trouble(Errc::kUnsupported, EEXIST,
                   dir +
                       ": this is the image of a whole process; open its heap with "
                       "CR_HEAP_READ_ONLY, or bring it back with crrestore");
  }
  uint64_t slot = 0;
  const uint64_t damaged = store::verify_pages(v, &slot);
  if (damaged != 0) {
    char at[32];
    snprintf(at, sizeof(at), "0x%lx", static_cast<unsigned long>(damaged));
    return trouble(
        Errc::kDamaged, EBADMSG,
        image->path + ": the page at " + at + " is damaged" + name_other_buffer(dir, image->index));
  }
  HeapDirectory d;
  if (!find_heap(v, &d)) {
    return trouble(Errc::kNotFound, ENOENT, dir + ": the image holds no crmalloc heap");
  }
  if (d.version != nvheap::kHeapVersion) {
    return trouble(Errc::kTooNew, 0, dir + ": the heap was made by another version of the library");
  }
  format::ChannelHeader* c = channel();
  auto* ranges = reinterpret_cast<format::Range*>(channel_map_.data() + c->ranges_off);
  c->range_count = 0;
  for (const format::SegmentRecord& s : v.segments) {
    if (s.start < d.base || s.end > d.base + d.reserve_bytes || s.prot == 0) continue;
    if (s.prot != (PROT_READ | PROT_WRITE)) {
      return trouble(Errc::kUnsupported, 0,
                     dir +
                         ": the heap has memory with other protection than reading and writing "
                         "(stacks of threads?): it belongs to its process, see crrestore");
    }
    if (c->ranges_off + (c->range_count + 1) * sizeof(format::Range) > c->runs_off) {
      return trouble(Errc::kUnsupported, E2BIG, dir + ": the heap has too many mappings");
    }
    ranges[c->range_count++] = {s.start, s.end, 0, 1, 0, s.start, s.end, 1, 0};
  }
  c->heap_base = d.base;
  c->heap_bytes = d.reserve_bytes;
  adopt(*image);
  heap_image_ = std::move(image);
  return {};
}

Trouble Session::load_heap() {
  if (heap_image_ == nullptr) return trouble(Errc::kInvalid, EINVAL, "there is no heap to load");
  const ImageView& v = heap_image_->view;
  const uint64_t begin = channel()->heap_base, end = begin + channel()->heap_bytes;
  for (const format::ExtentRecord& e : v.extents) {
    if (e.addr < begin || e.addr >= end || e.slot == format::kSlotZero) continue;
    if (rawsys::write_all_at(mem_.get(), v.slot(e.slot), e.pages * kPageSize, e.addr) != 0) {
      return trouble(Errc::kSystem, EIO, "the heap cannot be written into the program's memory");
    }
  }
  heap_image_.reset();
  return {};
}

Trouble Session::describe_heap(World& world, const std::vector<os::MapEntry>& maps,
                               store::Model& model, MemoryPlan* ret_plan) {
  uint64_t at = 0;
  HeapDirectory d;
  if (!world.read_memory(hello_.heap_words[0], &at, sizeof(at)) || at == 0 ||
      !world.read_memory(at, &d, sizeof(d)) || d.magic != nvheap::kHeapMagic) {
    return trouble(Errc::kInvalid, EINVAL, "the program has no heap");
  }
  std::vector<os::MapEntry> inside;
  for (const os::MapEntry& m : maps) {
    if (m.prot == 0) continue;  // not used yet, or the guard page of a stack
    if (m.start >= d.base && m.end <= d.base + d.reserve_bytes) inside.push_back(m);
  }
  const auto read = world.reader();
  std::vector<AddressRange> without = {unused_heap_range(read, hello_.heap_words[0])};
  free_heap_ranges(read, hello_.heap_words[0], /*own_lock=*/true, &without);
  keep_largest(without, most_holes());
  return describe_memory(read, inside, AddressSet(std::move(without)), {},
                         OpenFiles(pid_, control_tid_, among_processes_), model, ret_plan);
}

}  // namespace cr::agent
