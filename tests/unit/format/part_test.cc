// SPDX-License-Identifier: MIT
// part_test.cc - the part file: docs/format/part.md says what the code has, and the reader takes
// what is right and nothing else.
#include <criterion/criterion.h>
#include <string.h>

#include <functional>

#include "store/erasure.h"
#include "tests/unit/format/spec_document.h"
#include "tests/unit/format/synthetic_part.h"

namespace {

using namespace cr::format;
using cr::Errc;
using cr::kPageSize;
using cr_test::Document;
using cr_test::Structs;
using cr_test::SyntheticPart;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/part.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["Triple"] = {sizeof(Triple), {F(Triple, epoch), F(Triple, sequence), F(Triple, attempt)}};
  s["PartHeader"] = {sizeof(PartHeader),
                     {F(PartHeader, magic),
                      F(PartHeader, format_version),
                      F(PartHeader, header_bytes),
                      F(PartHeader, machine),
                      F(PartHeader, page_bytes),
                      F(PartHeader, feature_compat),
                      F(PartHeader, feature_ro_compat),
                      F(PartHeader, feature_incompat),
                      F(PartHeader, write_lock),
                      F(PartHeader, triple),
                      F(PartHeader, realtime_ns),
                      F(PartHeader, session_id),
                      F(PartHeader, kind),
                      F(PartHeader, data_parts),
                      F(PartHeader, parity_parts),
                      F(PartHeader, holder),
                      F(PartHeader, unit_pages),
                      F(PartHeader, rotate_rows),
                      F(PartHeader, slots),
                      F(PartHeader, rows),
                      F(PartHeader, description_off),
                      F(PartHeader, description_bytes),
                      F(PartHeader, description_xxh3),
                      F(PartHeader, checks_off),
                      F(PartHeader, checks_xxh3),
                      F(PartHeader, image_bytes),
                      F(PartHeader, uid),
                      F(PartHeader, reserved0),
                      F(PartHeader, name),
                      F(PartHeader, origin),
                      F(PartHeader, reserved),
                      F(PartHeader, checksum)}};
  s["DescriptionHeader"] = {sizeof(DescriptionHeader),
                            {F(DescriptionHeader, volumes), F(DescriptionHeader, holders),
                             F(DescriptionHeader, extents)}};
  s["VolumeRecord"] = {sizeof(VolumeRecord),
                       {F(VolumeRecord, kind), F(VolumeRecord, buffer), F(VolumeRecord, bytes),
                        F(VolumeRecord, member)}};
  s["VolumeExtent"] = {sizeof(VolumeExtent),
                       {F(VolumeExtent, volume), F(VolumeExtent, reserved), F(VolumeExtent, page),
                        F(VolumeExtent, pages), F(VolumeExtent, slot)}};
  s["HolderRecord"] = {sizeof(HolderRecord), {F(HolderRecord, node)}};
  return s;
}

#define V(name) \
  { #name, name }
std::map<std::string, uint64_t> constants_of_the_code() {
  return {V(kProtectNone), V(kProtectReplica), V(kProtectXor), V(kProtectRs),
          V(kVolumePages), V(kVolumeMetadata), V(kVolumeOther)};
}

Errc verdict(const Bytes& file) {
  auto r = read_part(file.data(), file.size());
  return r ? Errc::kOk : r.error().code;
}

// The verdict on the example with another header, whose checksum is right.
Errc with_header(const std::function<void(PartHeader&)>& change) {
  SyntheticPart part;
  Bytes file = part.bytes();
  change(part.header);
  part.header.checksum = part_header_checksum(part.header);
  memcpy(file.data(), &part.header, sizeof(part.header));
  return verdict(file);
}

// ... made with other contents.
Errc with_part(const std::function<void(SyntheticPart&)>& change) {
  SyntheticPart part;
  change(part);
  return verdict(part.bytes());
}

Errc with_volume(const std::function<void(VolumeRecord&)>& change) {
  return with_part([&](SyntheticPart& p) { change(p.volumes[1]); });
}
Errc with_member(const std::string& member) {
  return with_volume([&](VolumeRecord& v) {
    memset(v.member, 0, sizeof(v.member));
    memcpy(v.member, member.data(), std::min(member.size(), sizeof(v.member)));
  });
}
Errc with_extent(const VolumeExtent& e) {
  return with_part([&](SyntheticPart& p) { p.extents[1] = e; });
}
// The description's own header.
Errc with_counts(uint32_t volumes, uint32_t holders, uint64_t extents) {
  SyntheticPart part;
  Bytes file = part.bytes();
  const DescriptionHeader d{volumes, holders, extents};
  memcpy(&file[part.header.description_off], &d, sizeof(d));
  SyntheticPart::seal(file, &part.header);
  return verdict(file);
}

}  // namespace

Test(part, structs_are_as_documented) {
  cr_test::check_structs(structs_of_the_code(), Document(kDocument).structs);
  static const std::regex kAssert(R"(CR_ON_DISK\((\w+), \d+\);)");
  size_t found = 0;
  for (const std::string& line : cr_test::read_document("src/format/part.h")) {
    if (std::regex_match(line, kAssert)) found++;
  }
  cr_expect(found == structs_of_the_code().size(), "a struct of the header is forgotten here");
}

Test(part, constants_are_as_documented) {
  cr_test::check_constants(constants_of_the_code(), Document(kDocument).constants);
  cr_expect(kPartVersion == 1 && kPartRowsOff == 4096 && kMostPartHolders == 64);
  cr_expect(kMostPartRows == 1ull << 40 && kMostDescriptionBytes == 1u << 30);
  const Bytes zeros(kPageSize);
  cr_expect(checksum(zeros.data(), zeros.size()) == kZeroPageSum);
}

Test(part, example_is_right) {
  const Document doc(kDocument);
  cr_assert(doc.dump.size() > 30);
  SyntheticPart part;
  cr_test::check_example(doc, part.bytes());
}

Test(part, right_file_is_read) {
  SyntheticPart part;
  const Bytes file = part.bytes();
  auto read = read_part(file.data(), file.size());
  cr_assert(read.has_value(), "%s", read.error().what);
  const PartView& v = *read;
  cr_expect(memcmp(&v.header, &part.header, sizeof(v.header)) == 0);
  cr_expect(v.description.volumes.size() == 3 && v.description.extents.size() == 2);
  cr_expect(strcmp(v.description.holders[2].node, "node3") == 0);
  cr_assert(v.checks.size() == 4);
  for (uint64_t i = 0; i < 4; i++) {
    cr_expect(is_row_good(v, i), "row %lu", i);
    cr_expect(memcmp(v.row(i), part.rows[i].data(), kPageSize) == 0);
  }
  cr_expect(v.checks[3] == 0, "a row of zeros");
  cr_expect(!is_row_good(v, 4) && !is_row_good(v, ~uint64_t{0}), "there is no such row");
  for (uint64_t i = 0; i < 4; i++) {
    Bytes other = file;
    other[kPageSize * (1 + i) + 4095] ^= 1;
    auto damaged = read_part(other.data(), other.size());
    cr_assert(damaged.has_value(), "rows are not looked at");
    cr_expect(!is_row_good(*damaged, i), "row %lu", i);
  }
}

Test(part, empty_ones_are_right) {
  cr_expect(with_part([](SyntheticPart& p) {
              p.rows.clear();
              p.extents.clear();
              p.header.slots = 0;
            }) == Errc::kOk);
  cr_expect(with_part([](SyntheticPart& p) {
              p.volumes.clear();
              p.extents.clear();
            }) == Errc::kOk);
}

Test(part, kinds_of_verdicts) {
  SyntheticPart part;
  const Bytes right = part.bytes();
  cr_expect(verdict({}) == Errc::kNotWhole);
  cr_expect(verdict(Bytes(15, 0)) == Errc::kForeign);
  cr_expect(verdict(Bytes(65536, 0)) == Errc::kForeign);
  Bytes file = right;
  file[6] = 0;
  cr_expect(verdict(file) == Errc::kForeign);
  file = right;
  file[8] = 2;
  cr_expect(verdict(file) == Errc::kTooNew);
  file.resize(16);
  cr_expect(verdict(file) == Errc::kTooNew, "a later version may be shorter");
  file = right;
  file.resize(511);
  cr_expect(verdict(file) == Errc::kDamaged);
  file = right;
  file[504]++;
  cr_expect(verdict(file) == Errc::kDamaged, "the checksum");
  cr_expect(with_header([](PartHeader& h) { h.format_version = 0; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.header_bytes = 1024; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.feature_incompat = 1; }) == Errc::kTooNew);
  cr_expect(with_header([](PartHeader& h) { h.feature_compat = h.feature_ro_compat = 1; }) ==
            Errc::kOk);
  cr_expect(with_header([](PartHeader& h) { h.machine = 183; }) == Errc::kWrongMachine);
  cr_expect(with_header([](PartHeader& h) { h.page_bytes = 65536; }) == Errc::kWrongMachine);
  cr_expect(with_header([](PartHeader& h) { h.write_lock = 0; }) == Errc::kNotWhole);
  cr_expect(with_header([](PartHeader& h) { h.write_lock = 2; }) == Errc::kNotWhole);
}

// The first of several reasons counts.
Test(part, verdicts_come_in_their_order) {
  const auto all_wrong = [](PartHeader& h) {
    h.rows = ~uint64_t{0};
    h.write_lock = 0;
  };
  cr_expect(with_header(all_wrong) == Errc::kNotWhole);
  cr_expect(with_header([&](PartHeader& h) {
              all_wrong(h);
              h.machine = 0;
            }) == Errc::kWrongMachine);
  cr_expect(with_header([&](PartHeader& h) {
              all_wrong(h);
              h.machine = 0;
              h.feature_incompat = 1ull << 63;
            }) == Errc::kTooNew);
}

Test(part, any_changed_bit_of_the_header_is_noticed) {
  SyntheticPart part;
  const Bytes right = part.bytes();
  for (size_t bit = 0; bit < 512 * 8; bit++) {
    Bytes file = right;
    file[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    cr_expect(verdict(file) != Errc::kOk, "bit %zu of the header", bit);
  }
  const PartHeader& h = part.header;
  for (uint64_t at = h.description_off; at < right.size(); at++) {
    Bytes file = right;
    file[at] ^= 1;
    const bool padding = at >= h.description_off + h.description_bytes && at < h.checks_off;
    cr_expect((verdict(file) == Errc::kOk) == padding, "byte %lu", at);
  }
}

Test(part, numbers_of_parts_must_be_in_range) {
  cr_expect(with_header([](PartHeader& h) { h.kind = 4; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.kind = kProtectRs; }) == Errc::kOk);
  cr_expect(with_header([](PartHeader& h) { h.data_parts = 0; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) {
              h.data_parts = 2;
              h.parity_parts = 0xffffffff;  // together 1 in 32 bits
            }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.parity_parts = 63; }) == Errc::kDamaged, "65 parts");
  cr_expect(with_header([](PartHeader& h) { h.holder = 3; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.holder = 2; }) == Errc::kOk);
  cr_expect(with_header([](PartHeader& h) { h.unit_pages = 8; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.rotate_rows = 0; }) == Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { memset(h.name, 'x', sizeof(h.name)); }) ==
            Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { memset(h.origin, 'x', sizeof(h.origin)); }) ==
            Errc::kDamaged);
  cr_expect(with_header([](PartHeader& h) { h.parity_parts = 2; }) == Errc::kDamaged,
            "four parts and three holders");
  cr_expect(with_part([](SyntheticPart& p) { p.holders.resize(2); }) == Errc::kDamaged);
  cr_expect(with_part([](SyntheticPart& p) {
              p.holders.resize(64, p.holders[0]);
              p.header.data_parts = 63;
            }) == Errc::kOk);
}

Test(part, there_must_be_a_row_for_each_slot) {
  cr_expect(with_header([](PartHeader& h) { h.slots = 0; }) == Errc::kDamaged,
            "extents have slots");
  for (const uint64_t slots : {5ul, 17ul, 33ul, 1ul << 40, ~0ul}) {
    cr_expect(with_header([=](PartHeader& h) { h.slots = slots; }) == Errc::kDamaged, "%lu", slots);
  }
  for (const unsigned k : {1u, 2u, 3u, 7u, 63u}) {
    const cr::store::Stripe stripe(k, 1);
    for (uint64_t slots = 0; slots < 5000; slots++) {
      cr_assert_eq(rows_for(k, slots), stripe.rows(slots), "K=%u, %lu slots", k, slots);
    }
  }
  cr_expect(rows_for(0xffffffff, ~uint64_t{0}) > 0);
}

Test(part, everything_must_be_in_its_place) {
  constexpr uint64_t kFar = uint64_t{1} << 63;
  const auto damaged = [](const char* what, const std::function<void(PartHeader&)>& change) {
    SyntheticPart part;
    Bytes file = part.bytes();
    change(part.header);
    SyntheticPart::seal(file, &part.header);
    cr_expect(verdict(file) == Errc::kDamaged, "%s", what);
  };
  for (const uint64_t n : {uint64_t{5}, uint64_t{24}, kMostPartRows, kMostPartRows + 1, kFar, ~kFar,
                           ~uint64_t{0}, uint64_t{1} << 52}) {
    damaged("rows", [=](PartHeader& h) { h.rows = n; });
    damaged("description_off", [=](PartHeader& h) { h.description_off = n; });
    damaged("description_bytes", [=](PartHeader& h) { h.description_bytes = n; });
    damaged("checks_off", [=](PartHeader& h) { h.checks_off = n; });
    damaged("both", [=](PartHeader& h) { h.checks_off = h.description_off = n; });
  }
  damaged("the description in the rows", [](PartHeader& h) { h.description_off = 0x4000; });
  damaged("the description at no page", [](PartHeader& h) { h.description_off -= 8; });
  damaged("checksums in the description", [](PartHeader& h) { h.checks_off = h.description_off; });
  damaged("checksums at no multiple of 8", [](PartHeader& h) { h.checks_off -= 4; });
  damaged("checksums before the end", [](PartHeader& h) { h.checks_off -= 8; });
  SyntheticPart part;
  Bytes file = part.bytes();
  file.resize(file.size() + 8);
  cr_expect(verdict(file) == Errc::kDamaged, "something behind the checksums");
  // The description may end anywhere before the checksums.
  file = part.bytes();
  const PartHeader& h = part.header;
  Bytes moved(file.begin(), file.begin() + static_cast<ptrdiff_t>(h.description_off + 656));
  cr_assert_eq(h.description_bytes, 656u);
  moved.insert(moved.end(), file.begin() + static_cast<ptrdiff_t>(h.checks_off), file.end());
  part.header.checks_off = h.description_off + 656;
  SyntheticPart::seal(moved, &part.header);
  cr_expect(verdict(moved) == Errc::kOk);
}

Test(part, description_must_be_as_long_as_its_records) {
  cr_expect(with_counts(3, 3, 2) == Errc::kOk);
  cr_expect(with_counts(4, 3, 2) == Errc::kDamaged);
  cr_expect(with_counts(0xffffffff, 3, 2) == Errc::kDamaged);
  cr_expect(with_counts(3, 2, 2) == Errc::kDamaged);
  cr_expect(with_counts(3, 0xffffffff, 2) == Errc::kDamaged);
  cr_expect(with_counts(3, 3, 1) == Errc::kDamaged);
  cr_expect(with_counts(3, 3, ~uint64_t{0}) == Errc::kDamaged);
  cr_expect(with_counts(3, 3, 2 + (uint64_t{1} << 59)) == Errc::kDamaged, "modulo 2^64 it fits");
  cr_expect(with_counts(3, 67108867, 2) == Errc::kDamaged, "modulo 2^32 it fits");
  for (size_t n = 0; n < 656; n += 8) {
    alignas(8) uint8_t bytes[656];
    const Bytes right = SyntheticPart().description();
    memcpy(bytes, right.data(), sizeof(bytes));
    const auto cut = read_description({bytes, n}, 4);
    cr_expect(!cut && cut.error().code == Errc::kDamaged, "%zu bytes", n);
  }
}

Test(part, volumes_must_be_known) {
  cr_expect(with_volume([](VolumeRecord& v) { v.kind = 0; }) == Errc::kDamaged);
  cr_expect(with_volume([](VolumeRecord& v) { v.kind = 4; }) == Errc::kDamaged);
  cr_expect(with_volume([](VolumeRecord& v) { v.buffer = 2; }) == Errc::kDamaged);
  cr_expect(with_volume([](VolumeRecord& v) { v.buffer = 1; }) == Errc::kOk);
  cr_expect(with_member("members/2") == Errc::kOk);
  cr_expect(with_member("members/" + std::string(103, '7')) == Errc::kOk);
  for (const char* bad :
       {"members/", "members", "m", "/", ".", "..", "members/..", "members/2/", "members/2/../..",
        "/members/2", "members/-1", "members/2 ", "Members/2", "members//2"}) {
    cr_expect(with_member(bad) == Errc::kDamaged, "%s", bad);
  }
  cr_expect(with_member("members/" + std::string(104, '7')) == Errc::kDamaged, "it does not end");
}

Test(part, extents_must_be_in_range_and_in_order) {
  cr_expect(with_extent({1, 0, 0, 3, 1}) == Errc::kOk);
  cr_expect(with_extent({0, 0, 0x11, 3, 1}) == Errc::kOk, "side by side");
  cr_expect(with_extent({3, 0, 0, 3, 1}) == Errc::kDamaged, "of no volume");
  cr_expect(with_extent({0xffffffff, 0, 0, 3, 1}) == Errc::kDamaged);
  cr_expect(with_extent({1, 0, 0, 0, 1}) == Errc::kDamaged, "no pages");
  cr_expect(with_extent({1, 0, 0, 4, 1}) == Errc::kDamaged, "too many slots");
  cr_expect(with_extent({1, 0, 0, 1, 4}) == Errc::kDamaged);
  cr_expect(with_extent({1, 0, 0, 3, ~uint64_t{0} - 1}) == Errc::kDamaged);
  cr_expect(with_extent({1, 0, 0, ~uint64_t{0}, 1}) == Errc::kDamaged);
  cr_expect(with_extent({1, 0, ~uint64_t{0}, 1, 1}) == Errc::kDamaged, "beyond all addresses");
  cr_expect(with_extent({1, 0, ~uint64_t{0} / kPageSize, 1, 1}) == Errc::kDamaged);
  cr_expect(with_extent({1, 0, ~uint64_t{0} / kPageSize - 1, 1, 1}) == Errc::kOk);
  cr_expect(with_extent({0, 0, 0x10, 1, 1}) == Errc::kDamaged, "the same page");
  cr_expect(with_extent({0, 0, 0xf, 1, 1}) == Errc::kDamaged, "not in order");
  cr_expect(with_part([](SyntheticPart& p) { p.extents[0].volume = 2; }) == Errc::kDamaged);
  cr_expect(with_part([](SyntheticPart& p) { p.extents[0].volume = 1; }) == Errc::kDamaged);
}

Test(part, holders_names_must_end) {
  cr_expect(with_part([](SyntheticPart& p) { memset(p.holders[2].node, 'n', 64); }) ==
            Errc::kDamaged);
  cr_expect(with_part([](SyntheticPart& p) { memset(p.holders[2].node, 'n', 63); }) == Errc::kOk);
}

Test(part, shortened_files_are_never_right) {
  SyntheticPart part;
  const Bytes right = part.bytes();
  for (size_t n = 0; n < right.size(); n += n < 1024 || n + 1024 > right.size() ? 1 : 509) {
    Bytes file(right.begin(), right.begin() + static_cast<ptrdiff_t>(n));
    file.shrink_to_fit();
    cr_expect(verdict(file) == (n == 0   ? Errc::kNotWhole
                                : n < 16 ? Errc::kForeign
                                         : Errc::kDamaged),
              "%zu bytes", n);
  }
}

Test(part, check_of_a_row_is_0_for_zeros_alone) {
  Bytes page(kPageSize);
  cr_expect(row_check(page.data()) == 0);
  page[4095] = 1;
  cr_expect(row_check(page.data()) == checksum(page.data(), page.size()));
  cr_expect(row_check_of(kZeroPageSum) == 0);
  cr_expect(row_check_of(0) == 1, "of another page whose sum is 0");
}
