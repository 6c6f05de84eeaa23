// SPDX-License-Identifier: MIT
// heap_ranges.cc - see heap_ranges.h.
// Invariant: as there. A block that is being handed out has lost its bit before anybody knows its
// address, and one that is being freed gets its bit when the program is done with it, so the
// bitmaps are right at every instant; the runs of pages are only read while their lock is free.
// Context: N (agent).
#include "agent/heap_ranges.h"

#include <algorithm>

#include "nvheap/size_class.h"

namespace cr::agent {
namespace {

using nvheap::HeapDirectory;
using nvheap::kChunkBytes;
using nvheap::kClasses;
using nvheap::kNil;
using nvheap::kPagesPerChunk;
using nvheap::PageEntry;
using nvheap::RemoteFrees;
using nvheap::Slab;

class HeapReader {
 public:
  HeapReader(const MemoryReader& read, const HeapDirectory& directory,
             std::vector<AddressRange>& out)
      : read_(read), d_(directory), out_(out) {}

  bool read_slabs() {
    uint32_t grown = 0;
    if (!read_(d_.grown_pages, &grown, sizeof(grown))) return false;
    if (grown * kPageSize > d_.reserve_bytes) return false;
    grown_ = grown;
    constexpr uint32_t kAtOnce = 4096;
    std::vector<uint8_t> batch(kAtOnce * sizeof(Slab));
    for (uint32_t chunk = 0; chunk < grown / kPagesPerChunk; chunk += kAtOnce) {
      const uint32_t n = std::min(kAtOnce, grown / kPagesPerChunk - chunk);
      if (!read_(d_.slabs + chunk * sizeof(Slab), batch.data(), n * sizeof(Slab))) {
        return false;
      }
      for (uint32_t i = 0; i < n; i++) {
        if (!look_at(reinterpret_cast<const Slab*>(batch.data())[i], chunk + i)) return false;
      }
    }
    return true;
  }

  // The tree of free runs.
  bool read_runs(bool own_lock) {
    uint32_t lock = 1, root = kNil;
    if (!read_(d_.page_lock, &lock, sizeof(lock))) return false;
    if (lock != 0 && !own_lock) return false;
    if (!read_(d_.free_root, &root, sizeof(root))) return false;
    std::vector<uint32_t> to_do;
    if (root != kNil) to_do.push_back(root);
    for (uint32_t seen = 0; !to_do.empty(); seen++) {
      const uint32_t page = to_do.back();
      to_do.pop_back();
      PageEntry e;
      if (seen > grown_ || page >= grown_ ||
          !read_(d_.entries + page * sizeof(PageEntry), &e, sizeof(e)) ||
          e.kind != nvheap::RunKind::kFree || e.pages > grown_ - page) {
        return false;
      }
      add(page * kPageSize, (uint64_t{page} + e.pages) * kPageSize);
      if (e.left != kNil) to_do.push_back(e.left);
      if (e.right != kNil) to_do.push_back(e.right);
    }
    return true;
  }

 private:
  void add(uint64_t from_offset, uint64_t to_offset) {
    out_.push_back({d_.data_address + from_offset, d_.data_address + to_offset});
  }

  bool look_at(const Slab& s, uint32_t chunk) {
    const uint32_t tag = s.tag();
    if (tag == 0) return true;
    if (tag > nvheap::kSizeClasses) return false;
    const nvheap::ClassInfo& c = kClasses[tag - 1];
    uint64_t free[nvheap::kSlabWords];
    for (uint32_t w = 0; w < nvheap::kSlabWords; w++) {
      free[w] = s.free[w].load(std::memory_order_relaxed);
    }
    if (s.next_remote.load(std::memory_order_relaxed) != 0) {
      RemoteFrees r;
      if (!read_(d_.remotes + chunk * sizeof(r), &r, sizeof(r))) return false;
      for (uint32_t w = 0; w < nvheap::kSlabWords; w++) {
        free[w] |= r.bits[w].load(std::memory_order_relaxed);
      }
    }
    uint32_t from = kPagesPerChunk;  // of the free pages that are being collected
    for (uint32_t page = 0; page <= kPagesPerChunk; page++) {
      if (page < kPagesPerChunk && page_is_free(c, free, page)) {
        from = std::min(from, page);
      } else if (from < kPagesPerChunk) {
        add(chunk * kChunkBytes + from * kPageSize, chunk * kChunkBytes + page * kPageSize);
        from = kPagesPerChunk;
      }
    }
    return true;
  }

  static bool page_is_free(const nvheap::ClassInfo& c, const uint64_t* free, uint32_t page) {
    const auto begin = static_cast<uint32_t>(page * kPageSize);
    const uint32_t first = begin / c.bytes;
    const uint32_t last =
        std::min(static_cast<uint32_t>((begin + kPageSize - 1) / c.bytes), c.blocks - 1);
    for (uint32_t b = first; b <= last;) {
      if (b % 64 == 0 && last - b >= 63) {
        if (free[b / 64] != ~uint64_t{0}) return false;
        b += 64;
      } else {
        if ((free[b / 64] >> (b % 64) & 1) == 0) return false;
        b++;
      }
    }
    return true;
  }

  const MemoryReader& read_;
  const HeapDirectory& d_;
  std::vector<AddressRange>& out_;
  uint32_t grown_ = 0;
};

bool find_directory(const MemoryReader& read, uint64_t directory_word, HeapDirectory* ret) {
  uint64_t at = 0;
  return directory_word != 0 && read(directory_word, &at, sizeof(at)) && at != 0 &&
         read(at, ret, sizeof(*ret)) && ret->magic == nvheap::kHeapMagic &&
         ret->version == nvheap::kHeapVersion && ret->base == at;
}

}  // namespace

void free_heap_ranges(const MemoryReader& read, uint64_t directory_word, bool own_lock,
                      std::vector<AddressRange>* ret) {
  HeapDirectory d;
  if (!find_directory(read, directory_word, &d)) return;
  const size_t before = ret->size();
  HeapReader reader(read, d, *ret);
  if (!reader.read_slabs()) {
    ret->resize(before);
    return;
  }
  const size_t slabs = ret->size();
  if (!reader.read_runs(own_lock)) ret->resize(slabs);
}

AddressRange unused_heap_range(const MemoryReader& read, uint64_t directory_word) {
  HeapDirectory d;
  uint32_t grown = 0;
  if (!find_directory(read, directory_word, &d) || !read(d.grown_pages, &grown, sizeof(grown)) ||
      grown * kPageSize > d.reserve_bytes) {
    return {0, 0};
  }
  return {d.data_address + grown * kPageSize, d.base + d.reserve_bytes};
}

AddressRange reserved_heap_range(const MemoryReader& read, uint64_t directory_word) {
  HeapDirectory d;
  if (!find_directory(read, directory_word, &d)) return {0, 0};
  return {d.base, d.base + d.reserve_bytes};
}

}  // namespace cr::agent
