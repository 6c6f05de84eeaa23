// SPDX-License-Identifier: MIT
// synthetic_part.h - a small part file made by hand, for the tests of its reader and its writer.
// Invariant: the same bytes every time (docs/format/part.md shows them); not written by the code
// that writes real parts, so that both are checked against the specification.
// Context: N.
#pragma once

#include <string.h>

#include <string>
#include <vector>

#include "format/checksum.h"
#include "format/part_reader.h"

namespace cr_test {

// Holder 0 of xor:3: a session with a page of memory and two pages of METADATA behind the
// superblock's.
struct SyntheticPart {
  cr::format::PartHeader header{};
  std::vector<cr::format::VolumeRecord> volumes;
  std::vector<cr::format::VolumeExtent> extents;
  std::vector<cr::format::HolderRecord> holders;
  std::vector<std::string> rows;  // a page each

  SyntheticPart() {
    using namespace cr::format;
    PartHeader& h = header;
    memcpy(h.magic, kPartMagic, sizeof(h.magic));
    h.format_version = kPartVersion;
    h.header_bytes = sizeof(h);
    h.machine = kMachineX86_64;
    h.page_bytes = cr::kPageSize;
    h.write_lock = 1;
    h.triple = {1, 7, 9};
    h.realtime_ns = 1735689600000000000;  // 2025-01-01 00:00:00 UTC
    for (uint8_t i = 0; i < 16; i++) h.session_id[i] = i;
    h.kind = kProtectXor;
    h.data_parts = 2;
    h.parity_parts = 1;
    h.unit_pages = 16;
    h.rotate_rows = 256;
    h.slots = 4;
    h.image_bytes = 0x2260;
    h.uid = 1000;
    memcpy(h.name, "prog", 4);
    memcpy(h.origin, "node1", 5);
    for (const uint32_t kind : {kVolumePages, kVolumeMetadata, kVolumeOther}) {
      VolumeRecord v{};
      v.kind = kind;
      v.buffer = kind == kVolumeOther ? 1 : 0;
      v.bytes = kind == kVolumeMetadata ? 3 * cr::kPageSize : 0;
      volumes.push_back(v);
    }
    extents.push_back({0, 0, 0x10, 1, 0});
    extents.push_back({1, 0, 0, 3, 1});
    for (const char* name : {"node1", "node2", "node3"}) {
      HolderRecord r{};
      memcpy(r.node, name, strlen(name));
      holders.push_back(r);
    }
    for (const char* text : {"a page of anonymous memory", "the superblock", "METADATA", ""}) {
      std::string row(cr::kPageSize, '\0');
      memcpy(row.data(), text, strlen(text));
      rows.push_back(row);
    }
  }

  std::vector<uint8_t> description() const {
    cr::format::DescriptionHeader d{};
    d.volumes = static_cast<uint32_t>(volumes.size());
    d.holders = static_cast<uint32_t>(holders.size());
    d.extents = extents.size();
    std::vector<uint8_t> out;
    append(out, &d, sizeof(d));
    append(out, volumes.data(), volumes.size() * sizeof(volumes[0]));
    append(out, extents.data(), extents.size() * sizeof(extents[0]));
    append(out, holders.data(), holders.size() * sizeof(holders[0]));
    return out;
  }

  // The file's content, with all offsets and checksums filled in.
  std::vector<uint8_t> bytes() {
    const std::vector<uint8_t> d = description();
    header.rows = rows.size();
    const uint64_t end_of_rows = cr::kPageSize * (1 + rows.size());
    header.description_off = end_of_rows + (rows.size() / 16 + 16) * cr::kPageSize;
    header.description_bytes = d.size();
    header.checks_off = header.description_off + cr::page_ceil(d.size());
    std::vector<uint8_t> out(header.checks_off + rows.size() * 8);
    for (size_t i = 0; i < rows.size(); i++) {
      memcpy(&out[cr::kPageSize * (1 + i)], rows[i].data(), cr::kPageSize);
      const bool zero = rows[i].find_first_not_of('\0') == std::string::npos;
      const uint64_t check = zero ? 0 : cr::format::checksum(rows[i].data(), cr::kPageSize);
      memcpy(&out[header.checks_off + i * 8], &check, 8);
    }
    memcpy(&out[header.description_off], d.data(), d.size());
    seal(out, &header);
    return out;
  }

  // Puts the header into the file with the right checksums, as far as they can be made.
  static void seal(std::vector<uint8_t>& file, cr::format::PartHeader* h) {
    const auto inside = [&](uint64_t off, uint64_t bytes) {
      return off <= file.size() && bytes <= file.size() - off;
    };
    if (inside(h->description_off, h->description_bytes)) {
      h->description_xxh3 =
          cr::format::checksum(file.data() + h->description_off, h->description_bytes);
    }
    if (h->rows <= cr::format::kMostPartRows && inside(h->checks_off, h->rows * 8)) {
      h->checks_xxh3 = cr::format::checksum(file.data() + h->checks_off, h->rows * 8);
    }
    h->checksum = cr::format::part_header_checksum(*h);
    if (file.size() >= sizeof(*h)) memcpy(file.data(), h, sizeof(*h));
  }

 private:
  static void append(std::vector<uint8_t>& to, const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    to.insert(to.end(), at, at + bytes);
  }
};

}  // namespace cr_test
