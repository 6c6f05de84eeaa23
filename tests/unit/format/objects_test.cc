// SPDX-License-Identifier: MIT
// objects_test.cc - records of shared memory in images: what the reader takes and what it refuses.
#include <criterion/criterion.h>
#include <string.h>

#include <functional>
#include <vector>

#include "format/image_reader.h"
#include "tests/unit/format/synthetic_image.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::format::kObjectSpace;
using cr::store::Model;
using cr_test::SyntheticImage;
namespace format = cr::format;

SyntheticImage image_with_objects() {
  SyntheticImage made;
  made.add_objects();
  return made;
}

Errc read_with(const std::function<void(Model&)>& change, uint64_t features = 1) {
  SyntheticImage made = image_with_objects();
  change(made.model);
  made.super.feature_incompat = features;
  const std::vector<uint8_t> file = made.bytes();
  auto r = format::read_image(file.data(), file.size());
  return r ? Errc::kOk : r.error().code;
}

#define DAMAGED(...) cr_expect(read_with(__VA_ARGS__) == Errc::kDamaged, #__VA_ARGS__)

}  // namespace

Test(objects, are_read) {
  SyntheticImage made = image_with_objects();
  const std::vector<uint8_t> file = made.bytes();
  auto r = format::read_image(file.data(), file.size());
  cr_assert(r.has_value(), "%s", r.error().what);
  cr_expect(r->objects.size() == 2);
  const format::SegmentRecord& s = r->segments[2];
  cr_expect(format::object_address(*r, s, 0x501000) == kObjectSpace + 18 * kPageSize);
  cr_expect(format::object_address(*r, r->segments[1], 0x401000) == 0);
  cr_expect(format::find_extent(*r, kObjectSpace + 18 * kPageSize)->slot == 1);
  cr_expect(format::slot_address(*r, 1) == 0x400000, "the first that has it");
}

Test(objects, impossible_ones_are_refused) {
  cr_expect(read_with([](Model&) {}) == Errc::kOk);
  DAMAGED([](Model& m) { m.objects[0].kind = 0; });
  DAMAGED([](Model& m) { m.objects[0].kind = 6; });
  DAMAGED([](Model& m) { m.objects[0].name = 1000000; });
  DAMAGED([](Model& m) { m.objects[0].addr = 0; });
  DAMAGED([](Model& m) { m.objects[0].addr += 8; });
  DAMAGED([](Model& m) { m.objects[1].addr = ~0ull << 12; });
  DAMAGED([](Model& m) { std::swap(m.objects[0], m.objects[1]); });
  DAMAGED([](Model& m) { m.objects[0].bytes = 17 * kPageSize; });  // overlap
  DAMAGED([](Model& m) { m.objects[1].bytes = ~0ull; });
  DAMAGED([](Model& m) { m.objects[1].bytes = kObjectSpace; });
}

Test(objects, references_out_of_range_are_refused) {
  DAMAGED([](Model& m) { m.segments[2].file_bytes = 2; });
  DAMAGED([](Model& m) { m.segments[2].file_bytes = ~0ull; });
  DAMAGED([](Model& m) { m.segments[2].file_off += 8; });
  DAMAGED([](Model& m) { m.segments[2].file_off = ~0ull << 12; });
  DAMAGED([](Model& m) { m.segments[2].kind = 9; });
  DAMAGED([](Model& m) { m.files[0].pair = 2; });
  DAMAGED([](Model& m) { m.extents[3].pages = 2; });
  DAMAGED([](Model& m) { m.extents[4].addr += kPageSize; });
  DAMAGED([](Model& m) { m.extents[4].addr = ~0ull << 12; });
  DAMAGED([](Model& m) { m.objects.clear(); });
  DAMAGED([](Model&) {}, 0);  // an older reader would not know of them
  cr_expect(read_with([](Model&) {}, 3) == Errc::kTooNew);
  // A private mapping of one.
  cr_expect(read_with([](Model& m) {
              m.segments[2].kind = format::kSegmentFile;
              m.segments[2].flags = format::kSegmentOfObject;
            }) == Errc::kOk);
  DAMAGED([](Model& m) {
    m.segments[2].kind = format::kSegmentFile;
    m.segments[2].flags = format::kSegmentOfObject;
    m.segments[2].file_bytes = 2;
  });
}
