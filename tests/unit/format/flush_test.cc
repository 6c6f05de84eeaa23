// SPDX-License-Identifier: MIT
// flush_test.cc - the flushed file: docs/format/flush.md says what the code has, and the reader
// takes what is right and nothing else.
#include <criterion/criterion.h>
#include <string.h>

#include <functional>
#include <map>

#include "tests/unit/format/spec_document.h"
#include "tests/unit/format/synthetic_flush.h"

namespace {

using namespace cr::format;
using cr::Errc;
using cr::kPageSize;
using cr_test::Document;
using cr_test::Structs;
using cr_test::SyntheticFlush;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/flush.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["FlushHeader"] = {sizeof(FlushHeader),
                      {F(FlushHeader, magic),
                       F(FlushHeader, format_version),
                       F(FlushHeader, header_bytes),
                       F(FlushHeader, machine),
                       F(FlushHeader, page_bytes),
                       F(FlushHeader, feature_compat),
                       F(FlushHeader, feature_ro_compat),
                       F(FlushHeader, feature_incompat),
                       F(FlushHeader, write_lock),
                       F(FlushHeader, triple),
                       F(FlushHeader, realtime_ns),
                       F(FlushHeader, session_id),
                       F(FlushHeader, uid),
                       F(FlushHeader, flags),
                       F(FlushHeader, kind),
                       F(FlushHeader, data_parts),
                       F(FlushHeader, parity_parts),
                       F(FlushHeader, reserved0),
                       F(FlushHeader, slots),
                       F(FlushHeader, frames),
                       F(FlushHeader, frames_end),
                       F(FlushHeader, description_bytes),
                       F(FlushHeader, description_xxh3),
                       F(FlushHeader, index_xxh3),
                       F(FlushHeader, checks_xxh3),
                       F(FlushHeader, places_xxh3),
                       F(FlushHeader, image_bytes),
                       F(FlushHeader, source_xxh3),
                       F(FlushHeader, name),
                       F(FlushHeader, node),
                       F(FlushHeader, reserved),
                       F(FlushHeader, checksum)}};
  s["FlushRun"] = {sizeof(FlushRun),
                   {F(FlushRun, slot), F(FlushRun, pages), F(FlushRun, reserved)}};
  s["FlushFrame"] = {
      sizeof(FlushFrame),
      {F(FlushFrame, magic), F(FlushFrame, number), F(FlushFrame, pages), F(FlushFrame, run_count),
       F(FlushFrame, encoding), F(FlushFrame, stored_bytes), F(FlushFrame, stored_xxh3),
       F(FlushFrame, reserved0), F(FlushFrame, runs), F(FlushFrame, reserved1),
       F(FlushFrame, checksum)}};
  s["FlushFrameRecord"] = {sizeof(FlushFrameRecord),
                           {F(FlushFrameRecord, off), F(FlushFrameRecord, bytes)}};
  return s;
}

// Reads all of a file as its readers do; whether every slot can be had.
Errc verdict(const Bytes& file) {
  auto h = read_flush_header(file.data(), file.size());
  if (!h) return h.error().code;
  const uint64_t bytes = flush_tail_bytes(*h);
  std::vector<uint64_t> aligned((bytes + 7) / 8);
  memcpy(aligned.data(), file.data() + h->frames_end, bytes);
  auto t = read_flush_tail(*h, {reinterpret_cast<const uint8_t*>(aligned.data()), bytes});
  if (!t) return t.error().code;
  std::map<uint64_t, uint64_t> found;  // slot -> check, of the frame that is named for it
  for (uint64_t i = 0; i < t->frames.size(); i++) {
    const uint8_t* const at = file.data() + t->frames[i].off;
    auto f = read_flush_frame(at, t->frames[i].bytes, i);
    if (!f) return f.error().code;
    if (!is_frame_good(*f, at) || flush_frame_bytes(*f) != t->frames[i].bytes) {
      return Errc::kDamaged;
    }
    const uint8_t* page = at + sizeof(FlushFrame);
    for (uint32_t r = 0; r < f->run_count && f->encoding == kFlushRaw; r++) {
      for (uint64_t k = 0; k < f->runs[r].pages; k++, page += kPageSize) {
        const uint64_t slot = f->runs[r].slot + k;
        if (slot < t->places.size() && t->places[slot] == i) found[slot] = row_check(page);
      }
    }
  }
  for (uint64_t slot = 0; slot < t->places.size(); slot++) {
    if (t->places[slot] != kFlushNoFrame && found[slot] != t->checks[slot]) return Errc::kDamaged;
  }
  return Errc::kOk;
}

// The verdict on the example with another header, whose checksum is right.
Errc with_header(const std::function<void(FlushHeader&)>& change) {
  SyntheticFlush flush;
  Bytes file = flush.bytes();
  change(flush.header);
  flush.header.checksum = flush_header_checksum(flush.header);
  memcpy(file.data(), &flush.header, sizeof(flush.header));
  return verdict(file);
}

// ... made with other contents.
Errc with_file(const std::function<void(SyntheticFlush&)>& change) {
  SyntheticFlush flush;
  change(flush);
  return verdict(flush.bytes());
}

// A frame's head alone, with a right checksum.
Errc with_frame(const std::function<void(FlushFrame&)>& change, uint64_t left = 1 << 20) {
  const Bytes frame = SyntheticFlush::frame_bytes(SyntheticFlush().frames[0], 0);
  FlushFrame f;
  memcpy(&f, frame.data(), sizeof(f));
  change(f);
  f.checksum = flush_frame_checksum(f);
  auto read = read_flush_frame(reinterpret_cast<const uint8_t*>(&f), left, 0);
  return read ? Errc::kOk : read.error().code;
}

}  // namespace

Test(flush, structs_are_as_documented) {
  cr_test::check_structs(structs_of_the_code(), Document(kDocument).structs);
  static const std::regex kAssert(R"(CR_ON_DISK\((\w+), \d+\);)");
  size_t found = 0;
  for (const std::string& line : cr_test::read_document("src/format/flush.h")) {
    if (std::regex_match(line, kAssert)) found++;
  }
  cr_expect(found == structs_of_the_code().size(), "a struct of the header is forgotten here");
}

#define V(name) \
  { #name, name }
Test(flush, constants_are_as_documented) {
  cr_test::check_constants({V(kFlushRaw), V(kFlushZstd), V(kFlushHasZstd)},
                           Document(kDocument).constants);
  cr_expect(kFlushVersion == 1 && kFlushFramesOff == 4096 && kFlushSourceBytes == 3584);
  cr_expect(kMostFramePages == 256 && kMostFrameRuns == 252);
  cr_expect(kMostFlushFrames == 0xffffffff && kFlushNoFrame == 0xffffffff);
}

Test(flush, example_is_right) {
  const Document doc(kDocument);
  cr_assert(doc.dump.size() > 30);
  SyntheticFlush flush;
  cr_test::check_example(doc, flush.bytes());
  cr_expect(verdict(flush.bytes()) == Errc::kOk);
}

Test(flush, right_file_is_read) {
  SyntheticFlush flush;
  const Bytes file = flush.bytes();
  auto h = read_flush_header(file.data(), file.size());
  cr_assert(h.has_value(), "%s", h.error().what);
  cr_expect(memcmp(&*h, &flush.header, sizeof(*h)) == 0);
  cr_expect(strcmp(flush_source(file.data()), "/home/u/prog.image") == 0);
  std::vector<uint64_t> tail(flush_tail_bytes(*h) / 8);
  cr_assert_eq(h->frames_end + flush_tail_bytes(*h), file.size());
  memcpy(tail.data(), file.data() + h->frames_end, tail.size() * 8);
  auto t = read_flush_tail(*h, {reinterpret_cast<const uint8_t*>(tail.data()), tail.size() * 8});
  cr_assert(t.has_value(), "%s", t.error().what);
  cr_expect(t->description.volumes.size() == 3 && t->description.extents.size() == 2);
  cr_expect(t->frames.size() == 2 && t->checks.size() == 4 && t->places[0] == 1);
}

Test(flush, empty_ones_are_right) {
  cr_expect(with_file([](SyntheticFlush& f) {
              f.frames.clear();
              f.extents.clear();
              f.checks.clear();
              f.places.clear();
            }) == Errc::kOk);
  cr_expect(with_file([](SyntheticFlush& f) {  // all of it is zeros
              f.frames.clear();
              f.checks.assign(4, 0);
              f.places.assign(4, kFlushNoFrame);
            }) == Errc::kOk);
}

Test(flush, kinds_of_verdicts) {
  SyntheticFlush flush;
  const Bytes right = flush.bytes();
  cr_expect(verdict({}) == Errc::kNotWhole);
  cr_expect(verdict(Bytes(15, 0)) == Errc::kForeign);
  cr_expect(verdict(Bytes(65536, 0)) == Errc::kForeign);
  Bytes file = right;
  file[7] = 0;
  cr_expect(verdict(file) == Errc::kForeign);
  file = right;
  file[8] = 2;
  cr_expect(verdict(file) == Errc::kTooNew);
  file.resize(16);
  cr_expect(verdict(file) == Errc::kTooNew, "a later version may be shorter");
  file = right;
  file.resize(4095);
  cr_expect(verdict(file) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { h.format_version = 0; }) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { h.header_bytes = 1024; }) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { h.feature_incompat = 1; }) == Errc::kTooNew);
  cr_expect(with_header([](FlushHeader& h) { h.feature_compat = h.feature_ro_compat = 1; }) ==
            Errc::kOk);
  cr_expect(with_header([](FlushHeader& h) { h.machine = 183; }) == Errc::kWrongMachine);
  cr_expect(with_header([](FlushHeader& h) { h.page_bytes = 65536; }) == Errc::kWrongMachine);
  cr_expect(with_header([](FlushHeader& h) { h.write_lock = 0; }) == Errc::kNotWhole);
  cr_expect(with_header([](FlushHeader& h) { h.write_lock = 2; }) == Errc::kNotWhole);
}

// One that is being written is read as far as its beginning.
Test(flush, the_beginning_is_read_while_it_is_written) {
  SyntheticFlush flush;
  flush.header.write_lock = 0;
  Bytes file = flush.bytes();
  file.resize(kFlushFramesOff);
  cr_expect(read_flush_begin(file.data(), file.size()).has_value());
  cr_expect(read_flush_header(file.data(), file.size()).error().code == Errc::kNotWhole);
  file[kFlushFramesOff - 1]++;
  cr_expect(read_flush_begin(file.data(), file.size()).error().code == Errc::kDamaged);
}

// Every byte of the file has a checksum, and every bit of the header is looked at.
Test(flush, any_changed_byte_is_noticed) {
  SyntheticFlush flush;
  const Bytes right = flush.bytes();
  for (size_t bit = 0; bit < sizeof(FlushHeader) * 8; bit++) {
    Bytes file = right;
    file[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    cr_expect(verdict(file) != Errc::kOk, "bit %zu of the header", bit);
  }
  for (size_t at = 0; at < right.size(); at++) {
    Bytes file = right;
    file[at] ^= 0x10;
    cr_expect(verdict(file) != Errc::kOk, "byte %zu", at);
  }
  for (size_t bytes = 0; bytes < right.size(); bytes += bytes < 4096 ? 1 : 97) {
    Bytes file(right.begin(), right.begin() + static_cast<ptrdiff_t>(bytes));
    cr_expect(verdict(file) != Errc::kOk, "%zu bytes", bytes);
  }
  Bytes longer = right;
  longer.push_back(0);
  cr_expect(verdict(longer) == Errc::kDamaged, "something behind the tail");
}

Test(flush, numbers_of_the_header_must_be_in_range) {
  cr_expect(with_header([](FlushHeader& h) { h.kind = 4; }) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { h.data_parts = 0; }) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) {
              h.data_parts = 2;
              h.parity_parts = 0xffffffff;  // together 1 in 32 bits
            }) == Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { h.parity_parts = 63; }) == Errc::kDamaged, "65 parts");
  cr_expect(with_header([](FlushHeader& h) { memset(h.name, 'x', sizeof(h.name)); }) ==
            Errc::kDamaged);
  cr_expect(with_header([](FlushHeader& h) { memset(h.node, 'x', sizeof(h.node)); }) ==
            Errc::kDamaged);
  cr_expect(with_file([](SyntheticFlush& f) { f.source.assign(kFlushSourceBytes, '/'); }) ==
            Errc::kDamaged);
  for (const uint64_t n : {uint64_t{5}, uint64_t{1} << 32, kMostPartRows, kMostPartRows + 1,
                           uint64_t{1} << 63, ~uint64_t{0}}) {
    cr_expect(with_header([=](FlushHeader& h) { h.slots = n; }) == Errc::kDamaged, "%lx", n);
    cr_expect(with_header([=](FlushHeader& h) { h.frames = n; }) == Errc::kDamaged, "%lx", n);
    cr_expect(with_header([=](FlushHeader& h) { h.frames_end = n; }) == Errc::kDamaged, "%lx", n);
    cr_expect(with_header([=](FlushHeader& h) { h.description_bytes = n; }) == Errc::kDamaged,
              "%lx", n);
  }
}

Test(flush, slots_must_be_in_frames) {
  cr_expect(with_file([](SyntheticFlush& f) { f.places[0] = 2; }) == Errc::kDamaged, "no frame");
  cr_expect(with_file([](SyntheticFlush& f) { f.places[0] = kFlushNoFrame; }) == Errc::kDamaged);
  cr_expect(with_file([](SyntheticFlush& f) { f.places[3] = 0; }) == Errc::kDamaged,
            "zeros are in no frame");
  cr_expect(with_file([](SyntheticFlush& f) { f.places[0] = 0; }) == Errc::kDamaged,
            "an older page of the slot");
  cr_expect(with_file([](SyntheticFlush& f) { f.places[1] = 1; }) == Errc::kDamaged,
            "it is in another frame");
}

Test(flush, frames_must_follow_each_other) {
  const auto with_record = [](uint64_t off, uint64_t bytes) {
    SyntheticFlush flush;
    Bytes file = flush.bytes();
    const FlushFrameRecord r{off, bytes};
    memcpy(&file[flush.header.frames_end + flush.header.description_bytes], &r, sizeof(r));
    SyntheticFlush::seal(file, &flush.header);
    return verdict(file);
  };
  cr_expect(with_record(4096, 16384) == Errc::kOk, "as it is");
  for (const uint64_t off : {0ul, 4095ul, 8192ul, ~0ul, 1ul << 63}) {
    cr_expect(with_record(off, 16384) == Errc::kDamaged, "off %lx", off);
  }
  for (const uint64_t bytes : {0ul, 4096ul, 16383ul, 8192ul, 20480ul, ~0ul, ~0xffful, 1ul << 63}) {
    cr_expect(with_record(4096, bytes) == Errc::kDamaged, "bytes %lx", bytes);
  }
}

Test(flush, numbers_of_a_frame_must_be_in_range) {
  cr_expect(with_frame([](FlushFrame&) {}) == Errc::kOk);
  for (const uint32_t n : {0u, 2u, 4u, 257u, 0xffffffffu}) {
    cr_expect(with_frame([=](FlushFrame& f) { f.pages = n; }) == Errc::kDamaged, "%u", n);
  }
  for (const uint32_t n : {0u, 1u, 3u, 252u, 253u, 0xffffffffu}) {
    cr_expect(with_frame([=](FlushFrame& f) { f.run_count = n; }) == Errc::kDamaged, "%u", n);
  }
  cr_expect(with_frame([](FlushFrame& f) { f.number = 1; }) == Errc::kDamaged);
  cr_expect(with_frame([](FlushFrame& f) { f.magic[0] = 'c'; }) == Errc::kDamaged);
  cr_expect(with_frame([](FlushFrame& f) { f.encoding = 2; }) == Errc::kDamaged);
  cr_expect(with_frame([](FlushFrame& f) { f.runs[1].slot = 0; }) == Errc::kDamaged, "descending");
  cr_expect(with_frame([](FlushFrame& f) { f.runs[1].slot = kMostPartRows - 1; }) ==
            Errc::kDamaged);
  cr_expect(with_frame([](FlushFrame& f) { f.runs[1].slot = ~uint64_t{0}; }) == Errc::kDamaged);
  cr_expect(with_frame([](FlushFrame& f) { f.runs[1].pages = 0xffffffff; }) == Errc::kDamaged);
  for (const uint64_t n : {0ul, 1ul, 12287ul, 12289ul, ~0ul}) {
    cr_expect(with_frame([=](FlushFrame& f) { f.stored_bytes = n; }) == Errc::kDamaged, "%lu", n);
    const bool smaller = n > 0 && n < 12288;
    cr_expect(with_frame([=](FlushFrame& f) {
                f.encoding = kFlushZstd;
                f.stored_bytes = n;
              }) == (smaller ? Errc::kOk : Errc::kDamaged),
              "%lu", n);
  }
  cr_expect(with_frame([](FlushFrame&) {}, 4096 + 12288) == Errc::kOk);
  cr_expect(with_frame([](FlushFrame&) {}, 4096 + 12287) == Errc::kDamaged, "cut off");
  cr_expect(with_frame([](FlushFrame&) {}, 4095) == Errc::kDamaged);
}
