// SPDX-License-Identifier: MIT
// node_states_test.cc - the file of nodes' states: docs/format/nodes.md says what the code has, and
// the reader takes what is right and nothing else; of two records all choose the same one.
#include <criterion/criterion.h>
#include <string.h>

#include "format/node_states_reader.h"
#include "format/wire_reader.h"
#include "tests/unit/format/spec_document.h"

namespace {

using namespace cr::format;
using cr::Errc;
using cr_test::Document;
using cr_test::Structs;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/nodes.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["NodeStatesHeader"] = {sizeof(NodeStatesHeader),
                           {F(NodeStatesHeader, magic), F(NodeStatesHeader, format_version),
                            F(NodeStatesHeader, header_bytes), F(NodeStatesHeader, record_bytes),
                            F(NodeStatesHeader, count), F(NodeStatesHeader, records_sum),
                            F(NodeStatesHeader, reserved), F(NodeStatesHeader, checksum)}};
  s["NodeStateRecord"] = {
      sizeof(NodeStateRecord),
      {F(NodeStateRecord, node), F(NodeStateRecord, version), F(NodeStateRecord, realtime_ns),
       F(NodeStateRecord, draining), F(NodeStateRecord, reserved)}};
  return s;
}

NodeStateRecord record(const char* name, uint64_t version = 1, uint32_t draining = 1) {
  NodeStateRecord r{};
  set_wire_name(r.node, name, strlen(name));
  r.version = version;
  r.realtime_ns = 1735689600000000000;  // 2025-01-01 00:00:00 UTC
  r.draining = draining;
  return r;
}

Bytes file_of(const std::vector<NodeStateRecord>& records) {
  NodeStatesHeader h;
  seal(&h, records);
  Bytes b(sizeof(h) + records.size() * sizeof(NodeStateRecord));
  memcpy(b.data(), &h, sizeof(h));
  if (!records.empty()) memcpy(&b[sizeof(h)], records.data(), b.size() - sizeof(h));
  return b;
}

Errc error_of(const Bytes& file) {
  std::vector<uint64_t> aligned((file.size() + 7) / 8 + 1);
  memcpy(aligned.data(), file.data(), file.size());
  return read_node_states(reinterpret_cast<const uint8_t*>(aligned.data()), file.size())
      .error()
      .code;
}

}  // namespace

Test(node_states, structs_are_as_documented) {
  cr_test::check_structs(structs_of_the_code(), Document(kDocument).structs);
}

Test(node_states, example_is_right) {
  const Document doc(kDocument);
  cr_assert(doc.dump.size() > 4);
  cr_test::check_example(doc, file_of({record("c"), record("d", 2, 0)}));
}

Test(node_states, reads_what_was_written) {
  cr_assert_eq(error_of(file_of({})), Errc::kOk);
  cr_assert_eq(error_of(file_of({record("a"), record("b-2.x", 7, 0)})), Errc::kOk);
}

Test(node_states, refuses_every_damage) {
  const Bytes good = file_of({record("a"), record("b")});
  for (size_t i = 0; i < good.size(); i++) {
    Bytes bad = good;
    bad[i] ^= 0x10;
    const Errc e = error_of(bad);
    cr_expect(e == (i < 8    ? Errc::kForeign
                    : i < 12 ? Errc::kTooNew
                             : Errc::kDamaged),
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

Test(node_states, refuses_records_that_cannot_be) {
  const auto expect_bad = [](NodeStateRecord r) {
    cr_expect(!is_node_state(r));
    cr_expect_eq(error_of(file_of({r})), Errc::kDamaged);
  };
  NodeStateRecord r = record("a");
  cr_assert(is_node_state(r));
  r.node[0] = '\0';
  expect_bad(r);
  r = record("a");
  r.node[0] = '/';
  expect_bad(r);
  r = record("a");
  r.node[2] = 'x';  // behind the name's end
  expect_bad(r);
  memset(r.node, 'x', sizeof(r.node));
  expect_bad(r);
  expect_bad(record("a", 0));
  expect_bad(record("a", 1, 2));
  r = record("a");
  r.reserved = 1;
  expect_bad(r);
}

Test(node_states, the_newer_one_is_the_same_for_all) {
  NodeStateRecord later = record("a");
  later.realtime_ns++;
  const std::vector<NodeStateRecord> ascending = {record("a", 1, 0), record("a", 1, 1), later,
                                                  record("a", 2, 0), record("a", 2, 1)};
  for (size_t i = 0; i < ascending.size(); i++) {
    for (size_t j = 0; j < ascending.size(); j++) {
      cr_expect_eq(is_newer_state(ascending[i], ascending[j]), i > j, "%zu %zu", i, j);
    }
  }
}
