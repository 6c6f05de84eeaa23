// SPDX-License-Identifier: MIT
// session_image_test.cc - checkpoints read out of an image directory, page by page, while others
// may be written to it.
// Invariant under test: what is read for a slot is that page of that checkpoint or nothing; from
// all slots the image files can be made again, byte for byte; pages that stay keep their slots.
#include "node/session_image.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include "format/part_reader.h"
#include "tests/unit/node/written_session.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::format::VolumeExtent;
using cr::node::SeenMetadata;
using cr::node::SessionImage;
using cr::node::SlotContent;
using cr::store::SlotMap;
using cr_test::content;
using cr_test::full;
using cr_test::kPages;
using cr_test::kStart;
using cr_test::Pages;
using cr_test::Random;
using Session = cr_test::WrittenSession;

// What a node keeps of a session from one checkpoint to the next.
struct Reader {
  std::vector<SeenMetadata> seen;
  SlotMap map;
  SlotContent slots;
  std::unique_ptr<SessionImage> image;

  void open(const Session& session) {
    auto opened = SessionImage::open(session.dir());
    cr_assert(opened.has_value(), "%s", opened.error().what);
    image = std::move(*opened);
    image->place(seen, map, &slots);
  }
  // The page of a slot; "": it is not what it was.
  std::string page(uint64_t slot) const {
    std::string page(kPageSize, '\0');
    if (slots.checks[slot] == 0) return page;
    const auto read =
        image->read(slots.where[slot], slots.checks[slot], reinterpret_cast<uint8_t*>(page.data()));
    cr_assert(read.has_value(), "%s", read.error().what);
    return *read ? page : std::string();
  }
  // All pages of a volume, by number.
  std::map<uint64_t, std::string> volume(uint32_t v) const {
    std::map<uint64_t, std::string> pages;
    for (const VolumeExtent& e : map.extents()) {
      for (uint64_t i = 0; e.volume == v && i < e.pages; i++) pages[e.page + i] = page(e.slot + i);
    }
    return pages;
  }
};

// Makes the image file of a member from slots alone, and compares it with the real one.
void expect_files(const Session& session, const Reader& r) {
  const auto& volumes = r.image->volumes();
  cr_assert_eq(volumes.size() % 3, 0u);
  for (uint32_t v = 0; v < volumes.size(); v++) {
    if (volumes[v].kind != cr::format::kVolumeMetadata) continue;
    const auto pages = r.volume(v), payload = r.volume(v - 1 - volumes[v].buffer);
    std::string metadata;
    for (const auto& [number, page] : pages) {
      cr_assert_eq(number * kPageSize, metadata.size());
      metadata += page;
    }
    cr_assert_eq(volumes[v].bytes, metadata.size());
    cr::format::SuperBlock super;
    memcpy(&super, metadata.data(), sizeof(super));
    std::string file(super.metadata_off + super.metadata_bytes, '\0');
    memcpy(&file[0], &super, sizeof(super));
    memcpy(&file[super.metadata_off], &metadata[kPageSize], super.metadata_bytes);
    auto view = cr::format::read_image(reinterpret_cast<const uint8_t*>(file.data()), file.size());
    cr_assert(view.has_value(), "%s", view.error().what);
    uint64_t stored = 0;
    for (const auto& e : view->extents) {
      for (uint64_t i = 0; i < e.pages; i++, stored++) {
        const std::string& page = payload.at(e.addr / kPageSize + i);
        memcpy(&file[super.payload_off + (e.slot + i) * kPageSize], page.data(), kPageSize);
      }
    }
    cr_assert_eq(stored, payload.size(), "a page too many");
    const std::string real_path =
        session.dir() + "/" + volumes[v].member + "/image." + std::to_string(volumes[v].buffer);
    std::ifstream in(real_path, std::ios::binary);
    const std::string real{std::istreambuf_iterator<char>(in), {}};
    cr_assert_eq(real.size(), file.size());
    // What no extent names is not kept: it is of no use.
    std::vector<bool> used(super.payload_slots);
    for (const auto& e : view->extents) {
      for (uint64_t i = 0; i < e.pages; i++) used[e.slot + i] = true;
    }
    for (uint64_t at = 0; at < file.size(); at += kPageSize) {
      const uint64_t slot = at / kPageSize - 1;
      if (at > 0 && slot < used.size() && !used[slot]) continue;
      cr_assert_eq(file.compare(at, kPageSize, real, at, kPageSize), 0, "%s at %lu",
                   real_path.c_str(), at);
    }
  }
}

void expect_pages(const Reader& r, const Pages& pages, uint32_t member) {
  uint64_t stored = 0;
  const auto volume = r.volume(member * 3);
  for (const auto& [addr, what] : pages) {
    if (what == 0) continue;
    stored++;
    cr_assert(volume.at(addr / kPageSize) == content(what), "page %lx", addr);
  }
  cr_assert_eq(stored, volume.size());
}

void change(Pages& pages, Random& random) {
  const uint64_t begin = random.below(kPages), how = random.below(5);
  const uint64_t end = std::min(kPages, begin + 1 + random.below(how == 0 ? kPages : 40));
  for (uint64_t i = begin; i < end; i++) {
    const uint64_t addr = kStart + i * kPageSize;
    if (how == 1) {
      pages.erase(addr);
    } else {
      pages[addr] = how == 2 ? 0 : 1 + random.below(1000000);
    }
  }
}

Errc open_error(const Session& session) {
  auto opened = SessionImage::open(session.dir());
  return opened ? Errc::kOk : opened.error().code;
}

}  // namespace

Test(session_image, slots_hold_exactly_the_checkpoint) {
  Random random(cr_test::test_seed());
  for (const size_t processes : {1, 3}) {
    Session session;
    Reader reader;
    std::vector<Pages> pages(processes);
    std::map<std::pair<uint32_t, uint64_t>, uint64_t> before;
    for (uint64_t sequence = 1; sequence <= 25; sequence++) {
      for (Pages& p : pages) {
        for (uint64_t k = random.below(4); k > 0; k--) change(p, random);
      }
      if (random.one_in(9)) session.forget();
      session.write(pages, sequence);
      reader.open(session);
      const auto triple = reader.image->triple();
      cr_assert(triple.epoch == 1 && triple.sequence == sequence && triple.attempt == sequence);
      cr_assert_eq(reader.image->uid(), getuid());
      cr_assert_eq(reader.slots.checks.size(), reader.map.slots());
      cr_assert_eq(reader.image->volumes().size(), 3 * processes);
      for (uint32_t m = 0; m < processes; m++) expect_pages(reader, pages[m], m);
      expect_files(session, reader);
      cr_assert(reader.image->is_current());
      std::map<std::pair<uint32_t, uint64_t>, uint64_t> now;
      for (const VolumeExtent& e : reader.map.extents()) {
        for (uint64_t i = 0; i < e.pages; i++) now[{e.volume, e.page + i}] = e.slot + i;
      }
      for (const auto& [page, slot] : now) {
        const auto old = before.find(page);
        cr_assert(old == before.end() || old->second == slot, "a page has moved");
      }
      before = now;
    }
  }
}

// Only what has changed has another check, and METADATA differs from that before the last.
Test(session_image, little_differs_from_one_checkpoint_to_the_next) {
  Session session;
  Reader reader;
  Pages pages = full(1);
  for (uint64_t sequence = 1; sequence <= 3; sequence++) {
    session.write({pages}, sequence);
    reader.open(session);
  }
  const std::vector<uint64_t> before = reader.slots.checks;
  pages[kStart + 7 * kPageSize] = 99999;
  session.write({pages}, 4);
  reader.open(session);
  size_t changed = 0;
  for (size_t i = 0; i < std::min(before.size(), reader.slots.checks.size()); i++) {
    changed += before[i] != reader.slots.checks[i] ? 1 : 0;
  }
  cr_assert_leq(changed, 20u);
}

Test(session_image, what_was_overwritten_is_not_read) {
  Session session;
  Reader reader;
  session.write({full(1)}, 1);
  session.write({full(1000)}, 2);
  reader.open(session);
  session.write({full(2000)}, 3);
  cr_assert(reader.image->is_current(), "the other buffer was written");
  expect_pages(reader, full(1000), 0);
  Pages pages = full(1000);
  for (uint64_t i = 0; i < 50; i++) pages[kStart + (100 + i) * kPageSize] = 7;
  session.write({pages}, 4);
  cr_assert_not(reader.image->is_current());
  const auto volume = reader.volume(0);
  for (uint64_t i = 0; i < kPages; i++) {
    const std::string& page = volume.at(kStart / kPageSize + i);
    cr_assert(page == (i >= 100 && i < 150 ? "" : content(1000 + i)), "page %lu", i);
  }
  // METADATA was read when it was opened.
  cr_assert_neq(reader.volume(1).at(1), std::string());
  reader.open(session);
  expect_pages(reader, pages, 0);
}

Test(session_image, a_file_that_is_cut_or_gone_does_no_harm) {
  Session session;
  Reader reader;
  session.write({full(1), full(300)}, 1);
  reader.open(session);
  cr_assert_eq(truncate(session.path(1).c_str(), 10 * kPageSize + 100), 0);
  auto volume = reader.volume(0);
  cr_assert(volume.at(kStart / kPageSize) == content(1));
  cr_assert(volume.at(kStart / kPageSize + 9) == "" && volume.at(kStart / kPageSize + 200) == "");
  cr_assert_eq(open_error(session), Errc::kDamaged);
  cr_assert_eq(truncate(session.path(1).c_str(), 0), 0);
  cr_assert_not(reader.image->is_current());
  cr_assert_eq(open_error(session), Errc::kNotWhole);
  unlink(session.path(1, 1).c_str());
  expect_pages(reader, full(300), 1);
  cr_assert_eq(open_error(session), Errc::kNotWhole);
  unlink(session.path(1).c_str());
  cr_assert_eq(open_error(session), Errc::kNotWhole);
  std::filesystem::remove_all(session.dir());
  cr_assert_eq(open_error(session), Errc::kNotWhole);
}

Test(session_image, all_members_are_of_one_checkpoint) {
  Session session;
  session.write({full(1), full(2)}, 1);
  session.write({full(1), full(2)}, 2);
  session.write_one(full(5), 3, 1, 2);
  cr_assert_eq(open_error(session), Errc::kOk, "that of 2 is in the other buffer");
  session.write_one(full(5), 4, 1, 2);
  cr_assert_eq(open_error(session), Errc::kBusy);
  session.write_one(full(1), 4, 0, 2);
  cr_assert_eq(open_error(session), Errc::kOk);
  unlink(session.path(0, 1).c_str());
  cr_assert_eq(open_error(session), Errc::kBusy);
}

Test(session_image, a_process_that_is_gone_needs_no_slots) {
  Session session;
  Reader reader;
  session.write({full(1), full(2), full(3)}, 1);
  reader.open(session);
  cr_assert_gt(reader.map.slots(), 3 * kPages);
  session.write({full(1), full(2)}, 2);
  reader.open(session);
  cr_assert_eq(reader.image->volumes().size(), 9u);
  cr_assert(reader.volume(6).empty() && reader.volume(7).empty() && reader.volume(8).empty());
  expect_pages(reader, full(2), 1);
  expect_files(session, reader);
  session.write({full(4), full(2), full(3)}, 3);
  reader.open(session);
  expect_pages(reader, full(3), 2);
  expect_files(session, reader);
}

Test(session_image, what_is_no_image_is_refused_and_not_waited_for) {
  Session session;
  session.write({full(1)}, 1);
  chmod(session.path(1).c_str(), 0622);
  cr_assert_eq(open_error(session), Errc::kPermission);
  unlink(session.path(1).c_str());
  cr_assert_eq(mkfifo(session.path(1).c_str(), 0600), 0);
  cr_assert_eq(open_error(session), Errc::kForeign);
  unlink(session.path(1).c_str());
  cr_assert_eq(symlink("/dev/zero", session.path(1).c_str()), 0);
  cr_assert_eq(open_error(session), Errc::kSystem);
  unlink(session.path(1).c_str());
  cr_assert_eq(mkdir(session.path(1).c_str(), 0700), 0);
  cr_assert_eq(open_error(session), Errc::kForeign);
  // The other buffer is whole still.
  session.write({full(1)}, 2);
  cr_assert_eq(open_error(session), Errc::kOk);
}

Test(session_image, while_checkpoints_follow_each_other) {
  Session session;
  session.write({full(1)}, 1);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t sequence = 2; !done; sequence++) session.write({full(sequence * 1000)}, sequence);
  });
  Reader reader;
  uint64_t good = 0, stale = 0, busy = 0;
  for (int i = 0; i < 300; i++) {
    auto opened = SessionImage::open(session.dir());
    if (!opened) {
      const Errc code = opened.error().code;
      cr_assert(code == Errc::kBusy || code == Errc::kNotWhole, "%s", opened.error().what);
      busy++;
      continue;
    }
    reader.image = std::move(*opened);
    reader.image->place(reader.seen, reader.map, &reader.slots);
    const uint64_t sequence = reader.image->triple().sequence;
    for (const auto& [page, bytes] : reader.volume(0)) {
      if (bytes.empty()) {
        stale++;
        cr_assert_not(reader.image->is_current());
        continue;
      }
      const uint64_t what = (sequence == 1 ? 1 : sequence * 1000) + page - kStart / kPageSize;
      cr_assert(bytes == content(what), "a page of another checkpoint");
      good++;
    }
  }
  done = true;
  writer.join();
  fprintf(stderr, "%lu good, %lu overwritten, %lu times busy\n", good, stale, busy);
  cr_assert_gt(good, 1000u);
}
