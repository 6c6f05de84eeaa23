// SPDX-License-Identifier: MIT
// node_messages_test.cc - what node daemons say to each other: the reader takes each message as it
// is made, of its own length only, and refuses each field that cannot be.
#include <criterion/criterion.h>
#include <string.h>

#include <functional>
#include <vector>

#include "format/node_messages_reader.h"

namespace {

using namespace cr::format;
using cr::Errc;
using Bytes = std::vector<uint8_t>;

constexpr BlockSeal kSeal{1, kChunkPagesOff + 4096, 7, {}};
constexpr WireRegion kRegion{1 << 20, 4 * kChunkBytes, 3, 4};

PartOffer offer() {
  PartOffer o{};
  o.transfer = 9;
  o.kind = kProtectRs;
  o.data_parts = 2;
  o.parity_parts = 1;
  o.holder = 2;
  o.rows = 100;
  memset(o.name, 'n', sizeof(o.name) - 1);
  memcpy(o.origin, "a", 1);
  return o;
}

PartEntry entry() {
  PartEntry e{};
  e.kind = kProtectXor;
  e.data_parts = 2;
  e.parity_parts = 1;
  e.slots = e.rows = 5;
  memcpy(e.name, "job", 3);
  return e;
}

template <typename T>
Bytes bytes_of(const T& m) {
  const auto* p = reinterpret_cast<const uint8_t*>(&m);
  return Bytes(p, p + sizeof(m));
}

// The message is good, at its own length only; each of the changes makes it bad.
template <typename T>
void expect_bad(const T& good, const std::vector<std::function<void(T&)>>& changes) {
  Bytes b = bytes_of(good);
  cr_assert(read_message<T>(b.data(), b.size()).has_value());
  for (size_t n = 0; n < b.size(); n++) {
    const Bytes cut(b.begin(), b.begin() + static_cast<long>(n));
    cr_assert(!read_message<T>(cut.data(), cut.size()).has_value(), "%zu", n);
  }
  b.push_back(0);
  cr_assert(!read_message<T>(b.data(), b.size()).has_value());
  for (size_t i = 0; i < changes.size(); i++) {
    T bad = good;
    changes[i](bad);
    const Bytes changed = bytes_of(bad);
    cr_assert(read_message<T>(changed.data(), changed.size()).error().code == Errc::kDamaged, "%zu",
              i);
  }
}

Errc list_error(const PartList& head, const std::vector<PartEntry>& entries, size_t more = 0) {
  Bytes b = bytes_of(head);
  for (const PartEntry& e : entries) {
    const Bytes one = bytes_of(e);
    b.insert(b.end(), one.begin(), one.end());
  }
  b.insert(b.end(), more, 0);
  const auto list = read_part_list(b.data(), b.size());
  if (!list) return list.error().code;
  for (size_t i = 0; i < entries.size(); i++) {
    const PartEntry e = list->entry(static_cast<uint32_t>(i));
    cr_assert_eq(memcmp(&e, &entries[i], sizeof(e)), 0);
  }
  return Errc::kOk;
}

}  // namespace

Test(node_messages, an_offer) {
  expect_bad<PartOffer>(offer(), {
                                     [](PartOffer& o) { o.kind = kProtectRs + 1; },
                                     [](PartOffer& o) { o.data_parts = 0; },
                                     [](PartOffer& o) { o.parity_parts = 63; },
                                     [](PartOffer& o) { o.parity_parts = ~0u; },
                                     [](PartOffer& o) { o.holder = 3; },
                                     [](PartOffer& o) { o.rows = kMostPartRows + 1; },
                                     [](PartOffer& o) { o.name[sizeof(o.name) - 1] = 'x'; },
                                     [](PartOffer& o) { memset(o.origin, 1, sizeof(o.origin)); },
                                     [](PartOffer& o) { o.reserved = 1; },
                                 });
}

Test(node_messages, what_is_said_of_windows) {
  expect_bad<PartAccept>({1, 4, 1, kRegion},
                         {
                             [](PartAccept& a) { a.windows = 0; },
                             [](PartAccept& a) { a.windows = 5; },
                             [](PartAccept& a) { a.windows = kMostWindows + 1; },
                             [](PartAccept& a) { a.has_base = 2; },
                             [](PartAccept& a) { a.region.bytes = 0; },
                             [](PartAccept& a) { a.region.address = ~uint64_t{0} - 9; },
                         });
  expect_bad<PartChunk>({1, 0, kChunkOfRows, kChunkRows, 0, 0, kSeal},
                        {
                            [](PartChunk& c) { c.window = kMostWindows; },
                            [](PartChunk& c) { c.kind = 0; },
                            [](PartChunk& c) { c.kind = 3; },
                            [](PartChunk& c) { c.rows = kChunkRows + 1; },
                            [](PartChunk& c) { c.reserved = 1; },
                            [](PartChunk& c) { c.off = 1; },
                            [](PartChunk& c) { c.seal.bytes = kChunkPagesOff - 1; },
                            [](PartChunk& c) { c.seal.bytes = kChunkBytes + 1; },
                            [](PartChunk& c) { c.seal.counter = 0; },
                        });
  expect_bad<PartChunk>({1, 0, kChunkOfDescription, 0, 0, 77, kSeal},
                        {
                            [](PartChunk& c) { c.rows = 1; },
                            [](PartChunk& c) { c.off = kMostDescriptionBytes + 1; },
                        });
  expect_bad<PartChunkDone>({1, 3, 0}, {
                                           [](PartChunkDone& d) { d.window = kMostWindows; },
                                           [](PartChunkDone& d) { d.reserved = 1; },
                                       });
  const PartChunkDone still{1, kNoWindow, 0};  // the holder is at work
  const auto* bytes = reinterpret_cast<const uint8_t*>(&still);
  cr_expect(read_message<PartChunkDone>(bytes, sizeof(still)).has_value());
}

Test(node_messages, the_end_of_a_transfer) {
  expect_bad<PartCommit>({1, {1, 2, 3}, 4, 5, 6, 7, 8, 9},
                         {
                             [](PartCommit& c) { c.slots = kMostPartRows + 1; },
                             [](PartCommit& c) { c.rows = kMostPartRows + 1; },
                             [](PartCommit& c) { c.description_bytes = kMostDescriptionBytes + 1; },
                         });
  expect_bad<PartCommitted>({1, {1, 2, 3}, 4}, {});
  expect_bad<PartFailed>({1, 3, 28, "no room"},
                         {
                             [](PartFailed& f) { f.code = static_cast<uint32_t>(Errc::kLast) + 1; },
                             [](PartFailed& f) { memset(f.text, 'x', sizeof(f.text)); },
                         });
}

Test(node_messages, questions_and_answers) {
  expect_bad<ListParts>({1, 1, 0, {}, 5, 0}, {
                                                 [](ListParts& l) { l.one_session = 2; },
                                                 [](ListParts& l) { l.reserved = 1; },
                                                 [](ListParts& l) { l.reserved1 = 1; },
                                             });
  expect_bad<FetchRows>({1, {}, {1, 2, 3}, 0, kChunkOfRows, 0, 256, 0, 0, kRegion},
                        {
                            [](FetchRows& f) { f.kind = 3; },
                            [](FetchRows& f) { f.holder = kMostPartHolders; },
                            [](FetchRows& f) { f.count = 0; },
                            [](FetchRows& f) { f.window_off = f.region.bytes; },
                            [](FetchRows& f) { f.region.bytes = 0; },
                        });
  expect_bad<Fetched>({1, 0, 0, 0, kSeal},
                      {
                          [](Fetched& f) { f.seal.counter = 0; },
                          [](Fetched& f) { f.seal.bytes = kMostBlockBytes + 1; },
                          [](Fetched& f) { f.code = static_cast<uint32_t>(Errc::kLast) + 1; },
                      });
  expect_bad<Fetched>({1, 3, 5, 77, {}}, {});
  expect_bad<RemoveSession>({1, {}, 1000, 0}, {[](RemoveSession& r) { r.reserved = 1; }});
  expect_bad<Removed>({1, 0, 4},
                      {[](Removed& r) { r.code = static_cast<uint32_t>(Errc::kLast) + 1; }});
}

Test(node_messages, a_listing) {
  cr_assert_eq(list_error({1, 0, 0}, {}), Errc::kOk);
  cr_assert_eq(list_error({1, 2, 1}, {entry(), entry()}), Errc::kOk);
  cr_assert_eq(list_error({1, kMostEntries, 0}, std::vector<PartEntry>(kMostEntries, entry())),
               Errc::kOk);
  cr_assert_eq(list_error({1, 1, 2}, {entry()}), Errc::kDamaged);
  cr_assert_eq(list_error({1, 2, 0}, {entry()}), Errc::kDamaged);
  cr_assert_eq(list_error({1, 1, 0}, {entry()}, 1), Errc::kDamaged);
  cr_assert_eq(list_error({1, ~0u, 0}, {entry()}), Errc::kDamaged);
  cr_assert_eq(
      list_error({1, kMostEntries + 1, 0}, std::vector<PartEntry>(kMostEntries + 1, entry())),
      Errc::kDamaged);
  PartEntry bad = entry();
  bad.holder = 3;
  cr_assert_eq(list_error({1, 2, 0}, {entry(), bad}), Errc::kDamaged);
  bad = entry();
  memset(bad.name, 'x', sizeof(bad.name));
  cr_assert_eq(list_error({1, 1, 0}, {bad}), Errc::kDamaged);
  const Bytes few(15);
  cr_assert(!read_part_list(few.data(), few.size()).has_value());
}

Test(node_messages, about_nodes_and_sessions) {
  AskSessions question{1, 0, 0, "node-b"};
  expect_bad<AskSessions>(question, {
                                        [](AskSessions& a) { a.node[0] = '/'; },
                                        [](AskSessions& a) { memset(a.node, 'x', 64); },
                                        [](AskSessions& a) { a.reserved = 1; },
                                    });
  expect_bad<AskSessions>({1, 3, 0, ""}, {});
  SessionEntry e{};
  e.flags = kSessionRuns | kSessionUsesNode;
  e.parts = 2;
  e.of = 3;
  memcpy(e.name, "job", 3);
  expect_bad<SessionEntry>(e, {
                                  [](SessionEntry& s) { s.flags = kSessionAllFlags + 1; },
                                  [](SessionEntry& s) { s.parts = 4; },
                                  [](SessionEntry& s) { s.of = kMostPartHolders + 1; },
                                  [](SessionEntry& s) { memset(s.name, 'x', sizeof(s.name)); },
                                  [](SessionEntry& s) { memset(s.text, 'x', sizeof(s.text)); },
                                  [](SessionEntry& s) { s.reserved = 1; },
                              });
  expect_bad<DropParts>({{}, {1, 2, 3}, 2, 0},
                        {
                            [](DropParts& d) { d.holder = kMostPartHolders; },
                            [](DropParts& d) { d.reserved = 1; },
                        });
}

Test(node_messages, listings_of_nodes_and_sessions) {
  const auto with = [](auto head, const auto& entry, uint32_t count) {
    Bytes b = bytes_of(head);
    for (uint32_t i = 0; i < count; i++) {
      const Bytes one = bytes_of(entry);
      b.insert(b.end(), one.begin(), one.end());
    }
    return b;
  };
  const auto states = [](const Bytes& b) {
    return read_node_states_message(b.data(), b.size()).error().code;
  };
  NodeStateRecord r{"b", 1, 2, 1, 0};
  cr_expect_eq(states(with(NodeStatesMessage{1, 2, 0, 1, 0}, r, 2)), Errc::kOk);
  cr_expect_eq(states(with(NodeStatesMessage{1, 0, 9, 0, 0}, r, 0)), Errc::kOk);
  cr_expect_eq(states(with(NodeStatesMessage{1, 2, 0, 1, 0}, r, 1)), Errc::kDamaged);
  cr_expect_eq(states(with(NodeStatesMessage{1, 1, 0, 2, 0}, r, 1)), Errc::kDamaged);
  cr_expect_eq(states(with(NodeStatesMessage{1, 1, 0, 0, 1}, r, 1)), Errc::kDamaged);
  constexpr uint32_t kTooMany = kMostStatesAtOnce + 1;
  cr_expect_eq(states(with(NodeStatesMessage{1, kTooMany, 0, 0, 0}, r, kTooMany)), Errc::kDamaged);
  r.version = 0;
  cr_expect_eq(states(with(NodeStatesMessage{1, 1, 0, 0, 0}, r, 1)), Errc::kDamaged);
  cr_expect_eq(states(Bytes(23)), Errc::kDamaged);

  const auto sessions = [](const Bytes& b) {
    return read_session_list(b.data(), b.size()).error().code;
  };
  SessionEntry e{};
  cr_expect_eq(sessions(with(SessionList{1, 2, 1}, e, 2)), Errc::kOk);
  cr_expect_eq(sessions(with(SessionList{1, 2, 2}, e, 2)), Errc::kDamaged);
  cr_expect_eq(sessions(with(SessionList{1, 2, 0}, e, 3)), Errc::kDamaged);
  constexpr uint32_t kTooManyEntries = kMostSessionEntries + 1;
  cr_expect_eq(sessions(with(SessionList{1, kTooManyEntries, 0}, e, kTooManyEntries)),
               Errc::kDamaged);
  e.parts = 1;  // of 0
  cr_expect_eq(sessions(with(SessionList{1, 1, 0}, e, 1)), Errc::kDamaged);
}

Test(node_messages, each_begins_with_its_number) {
  const Bytes b = bytes_of(offer());
  cr_assert_eq(number_of_message(b.data(), b.size()), 9u);
  cr_assert_eq(number_of_message(b.data(), 7), 0u);
}
