// SPDX-License-Identifier: MIT
// history_test.cc - the history file: docs/format/history.md says what the code has, and the reader
// takes what is right and nothing else.
#include <criterion/criterion.h>
#include <string.h>

#include "format/checksum.h"
#include "format/history_reader.h"
#include "tests/unit/format/spec_document.h"

namespace {

using namespace cr::format;
using cr::Errc;
using cr_test::Document;
using cr_test::Structs;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/history.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["HistoryHeader"] = {
      sizeof(HistoryHeader),
      {F(HistoryHeader, magic), F(HistoryHeader, format_version), F(HistoryHeader, header_bytes),
       F(HistoryHeader, record_bytes), F(HistoryHeader, capacity), F(HistoryHeader, reserved),
       F(HistoryHeader, checksum)}};
  s["HistoryRecord"] = {sizeof(HistoryRecord),
                        {F(HistoryRecord, number),        F(HistoryRecord, epoch),
                         F(HistoryRecord, sequence),      F(HistoryRecord, attempt),
                         F(HistoryRecord, realtime_ns),   F(HistoryRecord, pause_ns),
                         F(HistoryRecord, whole_ns),      F(HistoryRecord, precopy_ns),
                         F(HistoryRecord, cost_ns),       F(HistoryRecord, staged_bytes),
                         F(HistoryRecord, written_bytes), F(HistoryRecord, memory_bytes),
                         F(HistoryRecord, interval_ns),   F(HistoryRecord, error_code),
                         F(HistoryRecord, sys_errno),     F(HistoryRecord, overhead_ppm),
                         F(HistoryRecord, tracker),       F(HistoryRecord, level),
                         F(HistoryRecord, flags),         F(HistoryRecord, error_text),
                         F(HistoryRecord, safe_ns),       F(HistoryRecord, flushed_ns),
                         F(HistoryRecord, checksum)}};
  return s;
}

#define V(name) \
  { #name, name }
std::map<std::string, uint64_t> constants_of_the_code() {
  return {V(kTrackerUnknown),   V(kTrackerEverything), V(kTrackerUserfaultfd), V(kTrackerSoftDirty),
          V(kTrackerHash),      V(kLevelNone),         V(kLevelCrash),         V(kLevelPower),
          V(kHistoryAutomatic), V(kHistoryQuick)};
}

HistoryHeader right_header() {
  HistoryHeader h{};
  memcpy(h.magic, kHistoryMagic, sizeof(h.magic));
  h.format_version = 2;
  h.header_bytes = 256;
  h.record_bytes = 256;
  h.capacity = 1000;
  seal(&h);
  return h;
}

void put(Bytes& file, uint64_t off, const void* data, size_t bytes) {
  if (file.size() < off + bytes) file.resize(off + bytes);
  memcpy(file.data() + off, data, bytes);
}

HistoryRecord failed_record() {
  HistoryRecord r{};
  r.number = 1;
  r.epoch = 1;
  r.sequence = 2;
  r.attempt = 2;
  r.realtime_ns = 1735689600000000000;  // 2025-01-01 00:00:00 UTC
  r.pause_ns = 2000000;
  r.whole_ns = 30000000;
  r.cost_ns = 5000000;
  r.staged_bytes = 4096;
  r.interval_ns = 10000000000;
  r.error_code = static_cast<int32_t>(Errc::kSystem);
  r.sys_errno = 28;
  r.overhead_ppm = 500;
  r.tracker = kTrackerUserfaultfd;
  strcpy(r.error_text, "No space left on device");
  seal(&r);
  return r;
}

Bytes example() {
  Bytes file;
  const HistoryHeader h = right_header();
  const HistoryRecord r = failed_record();
  put(file, 0, &h, sizeof(h));
  put(file, 512, &r, sizeof(r));
  return file;
}

Errc verdict(const Bytes& file) {
  auto r = read_history_header(file.data(), file.size());
  return r ? Errc::kOk : r.error().code;
}

bool readable(const Bytes& file, uint32_t slot) {
  HistoryRecord r;
  return read_history_record(file.data(), file.size(), slot, &r);
}

}  // namespace

Test(history, structs_are_as_documented) {
  cr_test::check_structs(structs_of_the_code(), Document(kDocument).structs);
  static const std::regex kAssert(R"(CR_ON_DISK\((\w+), \d+\);)");
  size_t found = 0;
  for (const std::string& line : cr_test::read_document("src/format/history.h")) {
    if (std::regex_match(line, kAssert)) found++;
  }
  cr_expect(found == structs_of_the_code().size(), "a struct of the header is forgotten here");
}

Test(history, constants_are_as_documented) {
  cr_test::check_constants(constants_of_the_code(), Document(kDocument).constants);
  cr_expect(kHistoryVersion == 2 && kHistoryCapacity == 1000);
}

Test(history, example_is_right) {
  const Document doc(kDocument);
  cr_assert(doc.dump.size() > 12);
  cr_test::check_example(doc, example());
}

Test(history, right_file_is_read) {
  const Bytes file = example();
  cr_expect(verdict(file) == Errc::kOk);
  HistoryRecord r;
  cr_assert(read_history_record(file.data(), file.size(), 1, &r));
  const HistoryRecord wanted = failed_record();
  cr_expect(memcmp(&r, &wanted, sizeof(r)) == 0);
  cr_expect(!readable(file, 0), "a slot of zeros is no record");
  cr_expect(!readable(file, 2), "behind the end of the file");
  cr_expect(!readable(file, 1000));
  cr_expect(!readable(file, ~0u));
}

Test(history, four_verdicts) {
  cr_expect(verdict({}) == Errc::kNotWhole);
  cr_expect(verdict(Bytes(15, 0)) == Errc::kForeign);
  cr_expect(verdict(Bytes(4096, 0)) == Errc::kForeign);
  Bytes file = example();
  file.resize(255);
  cr_expect(verdict(file) == Errc::kDamaged);
  file = example();
  file[8] = 3;
  cr_expect(verdict(file) == Errc::kTooNew);
  file.resize(16);
  cr_expect(verdict(file) == Errc::kTooNew, "a later version may be shorter");
}

Test(history, any_changed_bit_is_noticed) {
  const Bytes right = example();
  for (size_t bit = 0; bit < 256 * 8; bit++) {
    Bytes file = right;
    file[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    cr_expect(verdict(file) != Errc::kOk, "bit %zu of the header", bit);
    file = right;
    file[512 + bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    cr_expect(!readable(file, 1), "bit %zu of the record", bit);
  }
}

Test(history, a_record_belongs_into_its_slot) {
  Bytes file = example();
  HistoryRecord r = failed_record();
  put(file, 256 + 7 * 256, &r, sizeof(r));
  cr_expect(!readable(file, 7), "record 1 in slot 7");
  r.number = 3007;
  seal(&r);
  put(file, 256 + 7 * 256, &r, sizeof(r));
  cr_expect(readable(file, 7), "record 3007 in slot 7");
}

Test(history, text_without_end_is_refused) {
  Bytes file = example();
  HistoryRecord r = failed_record();
  memset(r.error_text, 'x', sizeof(r.error_text));
  seal(&r);
  put(file, 512, &r, sizeof(r));
  cr_expect(!readable(file, 1));
}

Test(history, what_failed_got_nowhere) {
  Bytes file = example();
  for (uint64_t HistoryRecord::*field : {&HistoryRecord::safe_ns, &HistoryRecord::flushed_ns}) {
    HistoryRecord r = failed_record();
    r.*field = 1;
    seal(&r);
    put(file, 512, &r, sizeof(r));
    cr_expect(!readable(file, 1));
    r.error_code = 0;
    seal(&r);
    put(file, 512, &r, sizeof(r));
    cr_expect(readable(file, 1));
  }
}

Test(history, files_of_version_1_are_read) {
  Bytes file = example();
  HistoryHeader h = right_header();
  h.format_version = 1;
  seal(&h);
  put(file, 0, &h, sizeof(h));
  cr_expect(verdict(file) == Errc::kOk);
  cr_expect(readable(file, 1));
}

Test(history, shortened_files_are_read_up_to_their_end) {
  const Bytes right = example();
  for (size_t n = 0; n <= right.size(); n++) {
    Bytes file(right.begin(), right.begin() + static_cast<ptrdiff_t>(n));
    file.shrink_to_fit();
    cr_expect((verdict(file) == Errc::kOk) == (n >= 256), "%zu bytes", n);
    cr_expect(readable(file, 1) == (n == right.size()), "%zu bytes", n);
  }
}
