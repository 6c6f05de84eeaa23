// SPDX-License-Identifier: MIT
// verify.cc - see verify.h. Invariant: as there. Context: N (agent).
#include "agent/verify.h"

#include <stdio.h>

namespace cr::agent {
namespace {

// First byte of [from, to) that is not zero, or `to`.
uint64_t first_not_zero(const uint8_t* file, uint64_t from, uint64_t to) {
  while (from < to && file[from] == 0) from++;
  return from;
}

// Bytes of the file that belong to nothing must be zero: behind the superblock, and between the
// payload and the metadata. Nothing may follow them. Returns an offset, or the file's size.
uint64_t find_stray_byte(const format::ImageView& v) {
  const format::SuperBlock& sb = v.super;
  const uint64_t payload_end = sb.payload_off + sb.payload_slots * kPageSize;
  uint64_t at = first_not_zero(v.file, sizeof(sb), sb.payload_off);
  if (at != sb.payload_off) return at;
  at = first_not_zero(v.file, payload_end, sb.metadata_off);
  return at != sb.metadata_off ? at : sb.metadata_off + sb.metadata_bytes;
}

const format::SegmentRecord* segment_of(const format::ImageView& v, uint64_t addr) {
  for (const format::SegmentRecord& s : v.segments) {
    if (addr >= s.start && addr < s.end) return &s;
  }
  return nullptr;
}

std::string describe_damaged_pages(const format::ImageView& v, uint64_t first) {
  uint64_t count = 0;
  for (uint64_t slot = first; slot < v.super.payload_slots; slot++, count++) {
    slot = format::verify_slots(v, slot, v.super.payload_slots);
    if (slot == v.super.payload_slots) break;
  }
  const uint64_t addr = format::slot_address(v, first);
  const format::SegmentRecord* s = segment_of(v, addr);
  char text[160];
  snprintf(text, sizeof(text), "damaged: the checksum of %lu of %lu pages is wrong; first: ",
           static_cast<unsigned long>(count), static_cast<unsigned long>(v.super.payload_slots));
  std::string out = text;
  if (addr == 0) {
    out += "a page that no extent names";
  } else {
    snprintf(text, sizeof(text), "address 0x%lx", static_cast<unsigned long>(addr));
    out += text + (s == nullptr ? "" : " of " + name_of_segment(v, *s));
    for (const format::ObjectRecord& o : v.objects) {
      if (addr >= o.addr && addr - o.addr < o.bytes) out += std::string(" of ") + v.string(o.name);
    }
  }
  snprintf(text, sizeof(text), ", slot %lu at offset %lu", static_cast<unsigned long>(first),
           static_cast<unsigned long>(v.super.payload_off + first * kPageSize));
  return out + text;
}

}  // namespace

std::string name_of_segment(const format::ImageView& image, const format::SegmentRecord& s) {
  const format::MmRecord& mm = image.process->mm;
  if (s.file != 0) return image.string(s.file);
  if (s.kind == format::kSegmentVdso) return "[vdso]";
  if (s.kind == format::kSegmentVvar) return "[vvar]";
  if (mm.start_stack >= s.start && mm.start_stack < s.end) return "[stack]";
  if (s.start < mm.brk && s.end > mm.start_brk) return "[heap]";
  return s.kind == format::kSegmentAnonShared ? "shared anonymous memory" : "anonymous memory";
}

Verdict verify_buffer(const std::string& dir, int index, const store::BufferState& b,
                      std::string* ret_text) {
  const std::string path = store::buffer_path(dir, index);
  if (b.image == nullptr) {
    *ret_text = store::describe_error(path, b.error);
    return b.error.code == Errc::kNotWhole ? Verdict::kNotWhole : Verdict::kDamaged;
  }
  const format::ImageView& v = b.image->view;
  uint64_t slot = 0;
  if (store::verify_pages(v, &slot) != 0) {
    *ret_text = path + ": " + describe_damaged_pages(v, slot);
    return Verdict::kDamaged;
  }
  const uint64_t stray = find_stray_byte(v);
  char text[160];
  if (stray != v.file_bytes) {
    snprintf(text, sizeof(text),
             ": damaged: a byte that must be zero or not be there, at offset %lu",
             static_cast<unsigned long>(stray));
    *ret_text = path + text;
    return Verdict::kDamaged;
  }
  snprintf(text, sizeof(text),
           ": whole: sequence %lu; superblock, metadata (%lu bytes) and %lu pages are right",
           static_cast<unsigned long>(v.super.sequence),
           static_cast<unsigned long>(v.super.metadata_bytes),
           static_cast<unsigned long>(v.super.payload_slots));
  *ret_text = path + text;
  return Verdict::kRight;
}

}  // namespace cr::agent
