// SPDX-License-Identifier: MIT
// part_reader_fuzz.cc - the readers of part files and of descriptions, with hostile bytes.
// Invariant under test: nothing outside the bytes is read, and what is given out keeps the rules
// that others rely on: extents in order and in range, texts that end, a row for each slot; and a
// slot map is made of it or refused.
//
// Input: the file. It is read as it is, again with the checksums made right, and as a description.
#include <string.h>

#include <cstdlib>
#include <vector>

#include "format/checksum.h"
#include "format/part_reader.h"
#include "store/slot_map.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void expect(bool right) {
  if (!right) abort();
}

void check(const DescriptionView& d, uint64_t slots) {
  for (const VolumeRecord& v : d.volumes) g_sum += strlen(v.member) + v.bytes;
  for (const HolderRecord& h : d.holders) g_sum += strlen(h.node);
  const VolumeExtent* last = nullptr;
  for (const VolumeExtent& e : d.extents) {
    expect(e.volume < d.volumes.size() && e.pages > 0);
    expect(e.slot < slots && e.pages <= slots - e.slot);
    expect(e.page + e.pages > e.page && e.page + e.pages <= ~uint64_t{0} / cr::kPageSize);
    if (last != nullptr) {
      expect(last->volume < e.volume ||
             (last->volume == e.volume && last->page + last->pages <= e.page));
    }
    last = &e;
  }
  cr::store::SlotMap map;
  if (!map.adopt(d.extents, slots)) return;
  expect(map.slots() <= slots);
  map.set(0, {{1, 3}, {9, 1}});
  map.set(1, {});
  uint64_t pages = 0;
  for (const VolumeExtent& e : map.extents()) pages += e.volume == 0 ? e.pages : 0;
  expect(pages == 4);
}

void read(const std::vector<uint8_t>& file) {
  auto part = read_part(file.data(), file.size());
  if (!part) return;
  const PartHeader& h = part->header;
  expect(h.rows == part->checks.size() && h.rows >= rows_for(h.data_parts, h.slots));
  expect(part->description.holders.size() == h.data_parts + h.parity_parts);
  g_sum += strlen(h.name) + strlen(h.origin);
  for (uint64_t row = 0; row < h.rows + 2; row++) g_sum += is_row_good(*part, row) ? 1 : 0;
  check(part->description, h.slots);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> file(data, data + size);
  file.shrink_to_fit();
  read(file);
  for (const uint64_t slots : {uint64_t{4}, uint64_t{1} << 40}) {
    auto description = read_description(file, slots);
    if (description) check(*description, slots);
  }
  PartHeader h;
  if (file.size() < sizeof(h)) return 0;
  memcpy(&h, file.data(), sizeof(h));
  const auto sum = [&](uint64_t off, uint64_t bytes) -> uint64_t {
    if (off > file.size() || bytes > file.size() - off) return 0;
    return checksum(file.data() + off, bytes);
  };
  h.description_xxh3 = sum(h.description_off, h.description_bytes);
  h.checks_xxh3 = h.rows > file.size() ? 0 : sum(h.checks_off, h.rows * sizeof(uint64_t));
  h.checksum = part_header_checksum(h);
  memcpy(file.data(), &h, sizeof(h));
  read(file);
  return 0;
}
