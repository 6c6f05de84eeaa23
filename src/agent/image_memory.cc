// SPDX-License-Identifier: MIT
// image_memory.cc - see image_memory.h. Invariant: as there. Context: N (agent).
#include "agent/image_memory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

namespace cr::agent {

os::Mapping map_unchanged_file(const format::ImageView& image, const format::SegmentRecord& s) {
  if (s.file == 0 || (s.flags & format::kSegmentDeleted) != 0) return {};
  // The path comes from the image: it may be a FIFO by now, which must not block us.
  auto fd = os::open_file(image.string(s.file), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  if (!fd || fstat(fd->get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return {};
  const int64_t mtime_ns = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
  if (static_cast<uint64_t>(st.st_size) != s.file_bytes || mtime_ns != s.file_mtime_ns) return {};
  auto m = os::Mapping::map(fd->get(), s.file_bytes, PROT_READ, MAP_PRIVATE);
  return m ? std::move(*m) : os::Mapping();
}

ImageMemory::ImageMemory(const format::ImageView& image)
    : image_(image), checked_(image.super.payload_slots) {}

const format::SegmentRecord* ImageMemory::segment(uint64_t addr) const {
  const auto& all = image_.segments;
  auto it = std::upper_bound(all.begin(), all.end(), addr,
                             [](uint64_t a, const format::SegmentRecord& s) { return a < s.end; });
  return it != all.end() && addr >= it->start ? &*it : nullptr;
}

bool ImageMemory::slot_is_right(uint64_t slot, uint64_t addr) {
  if (checked_[slot]) return true;
  if (format::verify_slots(image_, slot, slot + 1) == slot) {
    if (damaged_addr_ == 0) damaged_addr_ = page_floor(addr);
    return false;
  }
  checked_[slot] = true;
  return true;
}

bool ImageMemory::read_in_file(const format::SegmentRecord& s, uint64_t addr, uint8_t* to,
                               size_t bytes) {
  const std::string path = image_.string(s.file);
  auto it = files_.find(path);
  if (it == files_.end()) it = files_.emplace(path, map_unchanged_file(image_, s)).first;
  const os::Mapping& file = it->second;
  const uint64_t off = s.file_off + (addr - s.start);
  if (!file || off >= page_ceil(file.size())) return false;
  memset(to, 0, bytes);  // the rest of the file's last page
  if (off < file.size()) memcpy(to, file.data() + off, std::min(bytes, file.size() - off));
  return true;
}

bool ImageMemory::read_in_page(uint64_t addr, uint8_t* to, size_t bytes) {
  const format::SegmentRecord* s = segment(addr);
  if (s == nullptr || s->kind == format::kSegmentVvar) return false;
  const format::ExtentRecord* e = format::find_extent(image_, addr);
  // Pages that are not the mapping's own are the object's.
  const uint64_t in_object = e == nullptr ? format::object_address(image_, *s, addr) : 0;
  if (in_object != 0) {
    const format::ObjectRecord& o = image_.objects[s->file_bytes];
    if (in_object >= o.addr + page_ceil(o.bytes)) return false;
    e = format::find_extent(image_, in_object);
    addr = in_object;
  }
  if (e != nullptr && e->slot != format::kSlotZero) {
    const uint64_t slot = e->slot + (addr - e->addr) / kPageSize;
    if (!slot_is_right(slot, addr)) return false;
    memcpy(to, image_.slot(slot) + addr % kPageSize, bytes);
    return true;
  }
  const bool of_file = s->kind == format::kSegmentFile || s->kind == format::kSegmentFileShared;
  if (e == nullptr && of_file && in_object == 0) return read_in_file(*s, addr, to, bytes);
  memset(to, 0, bytes);
  return true;
}

bool ImageMemory::read(uint64_t addr, void* to, size_t bytes) {
  auto* out = static_cast<uint8_t*>(to);
  if (addr + bytes < addr) return false;
  for (size_t done = 0; done < bytes;) {
    const uint64_t at = addr + done;
    const size_t n = std::min<size_t>(bytes - done, kPageSize - at % kPageSize);
    if (!read_in_page(at, out + done, n)) return false;
    done += n;
  }
  for (const format::OverlayRecord& o : image_.overlays) {
    const uint64_t from = std::max(addr, o.addr);
    const uint64_t end = std::min(addr + bytes, o.addr + o.bytes.bytes);
    if (from >= end) continue;
    memcpy(out + (from - addr), image_.blob(o.bytes).data() + (from - o.addr), end - from);
  }
  return true;
}

bool ImageMemory::read_string(uint64_t addr, size_t most, std::string* ret) {
  std::string text;
  while (text.size() < most) {
    char piece[64];
    const size_t n = std::min<size_t>(sizeof(piece), kPageSize - (addr + text.size()) % kPageSize);
    if (!read(addr + text.size(), piece, n)) return false;
    const size_t length = strnlen(piece, n);
    text.append(piece, length);
    if (length < n) {
      *ret = std::move(text);
      return true;
    }
  }
  return false;
}

}  // namespace cr::agent
