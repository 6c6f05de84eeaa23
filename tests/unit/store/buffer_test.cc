// SPDX-License-Identifier: MIT
// buffer_test.cc - checkpoints written one after the other into the same buffer, in place.
// Invariant under test: whatever changed between them, the file holds exactly the last one, every
// checksum is right, what lies between the parts is zero, and what did not change is not written.
#include "store/buffer.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <string>

#include "tests/unit/format/synthetic_image.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::kPageSize;
using cr_test::Random;
using Pages = std::map<uint64_t, uint64_t>;  // address -> what it is filled with; 0: zeros

constexpr uint64_t kStart = 0x100000, kPages = 6000;

class Buffer {
 public:
  Buffer() {
    char name[] = "/tmp/cr-buffer-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    dir_ = name;
  }
  ~Buffer() {
    unlink((dir_ + "/image.0").c_str());
    rmdir(dir_.c_str());
  }

  // Writes a checkpoint with these pages; returns the bytes written.
  uint64_t write(const Pages& pages, uint64_t sequence) {
    cr_test::SyntheticImage made;
    cr::store::Model& model = made.model;
    model.extents.clear();
    model.checksums.clear();
    model.overlays.clear();
    model.segments.resize(1);
    model.segments[0].start = kStart;
    model.segments[0].end = kStart + kPages * kPageSize;
    std::string staging;
    std::vector<cr::format::Run> runs;
    for (const auto& [addr, what] : pages) {
      const uint64_t at = staging.size() / kPageSize;
      if (!runs.empty() && runs.back().addr + runs.back().pages * kPageSize == addr) {
        runs.back().pages++;
      } else {
        runs.push_back({addr, 1, at});
      }
      staging.append(content(what));
    }
    auto writer = cr::store::BufferWriter::open(dir_, 0, false, index_);
    cr_assert(writer.has_value());
    cr_assert((*writer)->begin(made.super).has_value());
    // In two calls, as when staging memory is small.
    const std::vector<cr::format::Run> first(runs.begin(), runs.begin() + runs.size() / 2);
    const std::vector<cr::format::Run> second(runs.begin() + runs.size() / 2, runs.end());
    auto never = [](void*, uint64_t) { return false; };
    for (const auto& part : {first, second}) {
      cr_assert((*writer)
                    ->append(model, reinterpret_cast<const uint8_t*>(staging.data()), part, never,
                             nullptr)
                    .has_value());
    }
    made.super.sequence = sequence;
    cr_assert((*writer)->commit(model, &made.super).has_value());
    return (*writer)->bytes_written();
  }

  void expect(const Pages& pages, uint64_t sequence) {
    const cr::store::BufferState b = cr::store::load_buffer(dir_, 0);
    cr_assert(b.image != nullptr, "%s", b.error.what);
    const cr::format::ImageView& v = b.image->view;
    cr_assert_eq(v.super.sequence, sequence);
    uint64_t slot = 0;
    cr_assert_eq(cr::store::verify_pages(v, &slot), 0u, "slot %lu", slot);
    for (uint64_t off = v.super.payload_off + v.super.payload_slots * kPageSize;
         off < v.super.metadata_off; off++) {
      cr_assert_eq(v.file[off], 0, "a byte between the slots and the metadata");
    }
    cr_assert_eq(v.file_bytes, v.super.metadata_off + v.super.metadata_bytes);
    std::vector<bool> used(v.super.payload_slots);
    for (uint64_t addr = kStart; addr < kStart + kPages * kPageSize; addr += kPageSize) {
      const auto found = pages.find(addr);
      const uint64_t what = found == pages.end() ? 0 : found->second;
      const cr::format::ExtentRecord* e = cr::format::find_extent(v, addr);
      if (what == 0) {
        cr_assert_null(e, "a page of zeros needs no slot");
        continue;
      }
      cr_assert_not_null(e);
      const uint64_t at = e->slot + (addr - e->addr) / kPageSize;
      cr_assert_not(used[at], "a slot is used twice");
      used[at] = true;
      cr_assert_eq(memcmp(v.slot(at), content(what).data(), kPageSize), 0);
    }
  }

  uint64_t allocated_bytes() const {
    struct stat st {};
    stat((dir_ + "/image.0").c_str(), &st);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }
  void forget() { index_ = {}; }

 private:
  static std::string content(uint64_t what) {
    std::string page(kPageSize, '\0');
    for (size_t i = 0; i < kPageSize && what != 0; i += 8) {
      const uint64_t word = what * (i + 1);
      memcpy(&page[i], &word, 8);
    }
    return page;
  }

  std::string dir_;
  cr::store::BufferIndex index_;
};

void change(Pages& pages, Random& random) {
  const uint64_t begin = random.below(kPages), how = random.below(5);
  const uint64_t end = std::min(kPages, begin + 1 + random.below(how == 0 ? 3000 : 200));
  for (uint64_t i = begin; i < end; i++) {
    const uint64_t addr = kStart + i * kPageSize;
    if (how == 1) {
      pages.erase(addr);
    } else if (how == 2) {
      pages[addr] = 0;
    } else if (how == 3 && random.one_in(2)) {
      continue;
    } else {
      pages[addr] = 1 + random.below(1000000);
    }
  }
}

}  // namespace

Test(buffer, holds_exactly_the_last_checkpoint) {
  Random random(cr_test::test_seed());
  Buffer buffer;
  Pages pages;
  for (uint64_t sequence = 1; sequence <= 60; sequence++) {
    if (random.one_in(10)) buffer.forget();  // as after a failed write
    if (random.one_in(15)) pages.clear();
    for (uint64_t i = random.below(8); i > 0; i--) change(pages, random);
    buffer.write(pages, sequence);
    buffer.expect(pages, sequence);
  }
}

Test(buffer, what_did_not_change_is_not_written) {
  Buffer buffer;
  Pages pages;
  for (uint64_t i = 0; i < kPages; i++) pages[kStart + i * kPageSize] = i + 1;
  cr_assert_gt(buffer.write(pages, 1), kPages * kPageSize);
  cr_assert_leq(buffer.write(pages, 2), 64u << 10);
  buffer.expect(pages, 2);
  for (uint64_t i = 100; i < 110; i++) pages[kStart + i * kPageSize] = 7;
  cr_assert_leq(buffer.write(pages, 3), (64u << 10) + 10 * kPageSize);
  buffer.expect(pages, 3);
}

Test(buffer, pages_that_are_gone_give_their_room_back) {
  Buffer buffer;
  Pages pages;
  for (uint64_t i = 0; i < kPages; i++) pages[kStart + i * kPageSize] = i + 1;
  buffer.write(pages, 1);
  for (uint64_t i = 1000; i < kPages; i++) pages.erase(kStart + i * kPageSize);
  buffer.write(pages, 2);
  buffer.expect(pages, 2);
  cr_assert_leq(buffer.allocated_bytes(), 1100 * kPageSize);
  buffer.write(pages, 3);  // anew: most of its slots were free
  buffer.expect(pages, 3);
  cr_assert_leq(buffer.allocated_bytes(), 1100 * kPageSize);
}
