// SPDX-License-Identifier: MIT
// part_reader.cc - see part_reader.h. Invariant: as there; no arithmetic on a field of the file
// before it was compared with what is left of the file. Context: N, H, S, R.
#include "format/part_reader.h"

#include "format/checksum.h"

namespace cr::format {
namespace {

Error damaged(const char* what) { return {Errc::kDamaged, 0, what}; }

bool inside(uint64_t off, uint64_t bytes, uint64_t total) {
  return off <= total && bytes <= total - off;
}

template <size_t N>
bool ends(const char (&text)[N]) {
  for (const char c : text) {
    if (c == '\0') return true;
  }
  return false;
}

// Only names of directories within: what is taken from a file is made a path.
bool good_member(const char (&text)[112]) {
  static constexpr char kPrefix[] = "members/";
  if (!ends(text)) return false;
  if (text[0] == '\0') return true;
  size_t i = 0;
  for (; i < sizeof(kPrefix) - 1; i++) {
    if (text[i] != kPrefix[i]) return false;
  }
  if (text[i] == '\0') return false;
  for (; text[i] != '\0'; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
  }
  return true;
}

bool good_volume(const VolumeRecord& v) {
  return v.kind >= kVolumePages && v.kind <= kVolumeOther && v.buffer <= 1 && good_member(v.member);
}

Result<void> check_extents(const DescriptionView& d, uint64_t slots) {
  constexpr uint64_t kMostPages = ~uint64_t{0} / kPageSize;
  const VolumeExtent* last = nullptr;
  for (const VolumeExtent& e : d.extents) {
    if (e.volume >= d.volumes.size()) return damaged("an extent is of no volume");
    if (e.pages == 0 || e.page > kMostPages || e.pages > kMostPages - e.page) {
      return damaged("an extent's pages are out of range");
    }
    if (!inside(e.slot, e.pages, slots)) return damaged("an extent's slots are out of range");
    if (last != nullptr && (e.volume < last->volume ||
                            (e.volume == last->volume && e.page < last->page + last->pages))) {
      return damaged("the extents are not in order");
    }
    last = &e;
  }
  return {};
}

// Rows, description and checksums follow each other.
Result<void> check_places(const PartHeader& h, uint64_t file_bytes) {
  const uint64_t rows_bytes = h.rows * kPageSize, checks_bytes = h.rows * sizeof(uint64_t);
  if (!inside(kPartRowsOff, rows_bytes, file_bytes) ||
      !inside(h.description_off, h.description_bytes, file_bytes) ||
      !inside(h.checks_off, checks_bytes, file_bytes)) {
    return damaged("a part of it lies outside of the file");
  }
  if (h.description_off % kPageSize != 0 || h.description_off < kPartRowsOff + rows_bytes ||
      h.checks_off % 8 != 0 || h.checks_off < h.description_off + h.description_bytes ||
      h.checks_off + checks_bytes != file_bytes) {
    return damaged("its description or its checksums are not in their place");
  }
  return {};
}

}  // namespace

uint64_t rows_for(uint32_t data_parts, uint64_t slots) {
  constexpr uint64_t kUnit = 16;
  const uint64_t rest = slots % (kUnit * data_parts);
  return slots / (kUnit * data_parts) * kUnit + (rest < kUnit ? rest : kUnit);
}

Result<void> check_part_numbers(const PartHeader& h) {
  const uint64_t parts = uint64_t{h.data_parts} + h.parity_parts;
  if (h.kind > kProtectRs || h.data_parts == 0 || parts > kMostPartHolders || h.holder >= parts) {
    return damaged("the numbers of the parts are out of range");
  }
  if (h.rows > kMostPartRows || h.slots > kMostPartRows ||
      h.description_bytes > kMostDescriptionBytes || !ends(h.name) || !ends(h.origin)) {
    return damaged("a size is out of range");
  }
  if (h.rows < rows_for(h.data_parts, h.slots)) return damaged("it has too few rows for its slots");
  return {};
}

uint64_t part_header_checksum(const PartHeader& h) {
  return checksum(&h, offsetof(PartHeader, checksum));
}

uint64_t row_check(const uint8_t* page) { return row_check_of(checksum(page, kPageSize)); }

Result<DescriptionView> read_description(std::span<const uint8_t> bytes, uint64_t slots) {
  DescriptionHeader head;
  if (bytes.size() < sizeof(head)) return damaged("the description is too short");
  __builtin_memcpy(&head, bytes.data(), sizeof(head));
  uint64_t left = bytes.size() - sizeof(head);
  const uint8_t* at = bytes.data() + sizeof(head);
  DescriptionView d;
  if (head.volumes > left / sizeof(VolumeRecord)) return damaged("the volumes reach too far");
  d.volumes = {reinterpret_cast<const VolumeRecord*>(at), head.volumes};
  at += d.volumes.size_bytes();
  left -= d.volumes.size_bytes();
  if (head.extents > left / sizeof(VolumeExtent)) return damaged("the extents reach too far");
  d.extents = {reinterpret_cast<const VolumeExtent*>(at), head.extents};
  at += d.extents.size_bytes();
  left -= d.extents.size_bytes();
  if (head.holders > kMostPartHolders || left != head.holders * sizeof(HolderRecord)) {
    return damaged("the holders do not end where the description does");
  }
  d.holders = {reinterpret_cast<const HolderRecord*>(at), head.holders};
  for (const VolumeRecord& v : d.volumes) {
    if (!good_volume(v)) return damaged("a volume is none that is known");
  }
  for (const HolderRecord& h : d.holders) {
    if (!ends(h.node)) return damaged("a holder's name does not end");
  }
  CR_TRYV(check_extents(d, slots));
  return d;
}

Result<PartHeader> read_part_header(const uint8_t* file, uint64_t file_bytes) {
  if (file_bytes == 0) return Error{Errc::kNotWhole, 0, "the file is empty"};
  PartHeader h;
  if (file_bytes < 16 || __builtin_memcmp(file, kPartMagic, sizeof(kPartMagic)) != 0) {
    return Error{Errc::kForeign, 0, "it is no part of a checkpoint"};
  }
  uint32_t version;
  __builtin_memcpy(&version, file + 8, sizeof(version));
  if (version > kPartVersion) return Error{Errc::kTooNew, 0, "its format is newer"};
  if (file_bytes < sizeof(h)) return damaged("the file is shorter than its header");
  __builtin_memcpy(&h, file, sizeof(h));
  if (h.format_version == 0 || h.header_bytes != sizeof(h) ||
      h.checksum != part_header_checksum(h)) {
    return damaged("the header's checksum is wrong");
  }
  if (h.feature_incompat != 0) return Error{Errc::kTooNew, 0, "it has features that are newer"};
  if (h.machine != kMachineX86_64 || h.page_bytes != kPageSize) {
    return Error{Errc::kWrongMachine, 0, "it is of another machine"};
  }
  if (h.write_lock != 1) return Error{Errc::kNotWhole, 0, "it was being written"};
  if (h.unit_pages != 16 || h.rotate_rows != 256) {
    return damaged("its slots are dealt out in another way");
  }
  CR_TRYV(check_part_numbers(h));
  return h;
}

Result<PartView> read_part(const uint8_t* file, uint64_t file_bytes) {
  PartView v;
  v.file = file;
  CR_TRY(v.header, read_part_header(file, file_bytes));
  const PartHeader& h = v.header;
  CR_TRYV(check_places(h, file_bytes));
  v.description_bytes = {file + h.description_off, h.description_bytes};
  v.checks = {reinterpret_cast<const uint64_t*>(file + h.checks_off), h.rows};
  if (checksum(v.description_bytes.data(), v.description_bytes.size()) != h.description_xxh3 ||
      checksum(v.checks.data(), v.checks.size_bytes()) != h.checks_xxh3) {
    return damaged("the description's checksum is wrong");
  }
  CR_TRY(v.description, read_description(v.description_bytes, h.slots));
  if (v.description.holders.size() != h.data_parts + h.parity_parts) {
    return damaged("it names another number of holders than it has parts");
  }
  return v;
}

bool is_row_good(const PartView& part, uint64_t row) {
  return row < part.checks.size() && row_check(part.row(row)) == part.checks[row];
}

}  // namespace cr::format
