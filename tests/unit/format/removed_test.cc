// SPDX-License-Identifier: MIT
// removed_test.cc - the file of removed sessions: docs/format/removed.md says what the code has,
// and the reader takes what is right and nothing else.
#include <criterion/criterion.h>
#include <string.h>

#include "format/removed_reader.h"
#include "tests/unit/format/spec_document.h"

namespace {

using namespace cr::format;
using cr::Errc;
using cr_test::Document;
using cr_test::Structs;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/removed.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["RemovedHeader"] = {
      sizeof(RemovedHeader),
      {F(RemovedHeader, magic), F(RemovedHeader, format_version), F(RemovedHeader, header_bytes),
       F(RemovedHeader, record_bytes), F(RemovedHeader, count), F(RemovedHeader, records_sum),
       F(RemovedHeader, reserved), F(RemovedHeader, checksum)}};
  s["RemovedRecord"] = {
      sizeof(RemovedRecord),
      {F(RemovedRecord, session_id), F(RemovedRecord, newest), F(RemovedRecord, realtime_ns)}};
  return s;
}

RemovedRecord record(uint8_t first, uint8_t last, Triple newest = {1, 9, 12}) {
  RemovedRecord r{};
  r.session_id[0] = first;
  r.session_id[15] = last;
  r.newest = newest;
  r.realtime_ns = 1735689600000000000;  // 2025-01-01 00:00:00 UTC
  return r;
}

Bytes file_of(const std::vector<RemovedRecord>& records) {
  RemovedHeader h;
  seal(&h, records);
  Bytes b(sizeof(h) + records.size() * sizeof(RemovedRecord));
  memcpy(b.data(), &h, sizeof(h));
  if (!records.empty()) memcpy(&b[sizeof(h)], records.data(), b.size() - sizeof(h));
  return b;
}

Errc error_of(const Bytes& file) {
  std::vector<uint64_t> aligned((file.size() + 7) / 8 + 1);
  memcpy(aligned.data(), file.data(), file.size());
  return read_removed(reinterpret_cast<const uint8_t*>(aligned.data()), file.size()).error().code;
}

}  // namespace

Test(removed, structs_are_as_documented) {
  cr_test::check_structs(structs_of_the_code(), Document(kDocument).structs);
}

Test(removed, example_is_right) {
  const Document doc(kDocument);
  cr_assert(doc.dump.size() > 4);
  cr_test::check_example(doc, file_of({record(0x71, 1), record(0x98, 2, {2, 40, 44})}));
}

Test(removed, refuses_every_damage) {
  cr_assert_eq(error_of(file_of({})), Errc::kOk);
  const Bytes good = file_of({record(1, 1), record(1, 2)});
  cr_assert_eq(error_of(good), Errc::kOk);
  for (size_t i = 0; i < good.size(); i++) {
    Bytes bad = good;
    bad[i] ^= 0x10;
    cr_expect_eq(error_of(bad),
                 i < 8    ? Errc::kForeign
                 : i < 12 ? Errc::kTooNew
                          : Errc::kDamaged,
                 "byte %zu", i);
  }
  for (size_t n = 0; n < good.size(); n++) {
    const Errc e = error_of(Bytes(good.begin(), good.begin() + static_cast<long>(n)));
    cr_expect_eq(e, n < 16 ? Errc::kForeign : Errc::kDamaged, "%zu", n);
  }
  Bytes longer = good;
  longer.push_back(0);
  cr_expect_eq(error_of(longer), Errc::kDamaged);
}

Test(removed, refuses_records_that_cannot_be) {
  cr_expect_eq(error_of(file_of({record(1, 1, {0, 9, 1})})), Errc::kDamaged);
  cr_expect_eq(error_of(file_of({record(1, 1, {1, 0, 1})})), Errc::kDamaged);
  cr_expect_eq(error_of(file_of({record(1, 1), record(1, 1)})), Errc::kDamaged, "twice");
  cr_expect_eq(error_of(file_of({record(2, 1), record(1, 2)})), Errc::kDamaged, "out of order");
}
