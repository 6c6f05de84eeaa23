// SPDX-License-Identifier: MIT
// keep_search_test.cc - which checkpoint must not be written over.
// Invariant under test: as long as some checkpoint can survive the loss of a node, that one is
// kept; what a silent holder may know better is waited for, but not for ever.
#include "node/keep_search.h"

#include <criterion/criterion.h>

namespace {

using namespace cr::node;
using Search = KeepSearch;

constexpr uint64_t kSecond = 1'000'000'000;

cr::format::PartEntry entry(unsigned holder, uint64_t sequence, unsigned data, unsigned parity) {
  cr::format::PartEntry e{};
  e.triple = {1, sequence, sequence};
  e.kind = data > 1 ? cr::format::kProtectXor : cr::format::kProtectReplica;
  e.data_parts = data;
  e.parity_parts = parity;
  e.holder = holder;
  e.layout = 100 + sequence;
  return e;
}

FoundPart copy(const char* node, unsigned holder, uint64_t sequence) {
  return {node, entry(holder, sequence, 1, 2)};
}

FoundPart part(const char* node, unsigned holder, uint64_t sequence) {
  return {node, entry(holder, sequence, 2, 1)};
}

void expect(const std::vector<FoundPart>& parts, uint64_t sequence, bool safe, bool has_two) {
  const KeepChoice choice = choose_keep(parts, "a");
  cr_assert_eq(choice.keep.triple.sequence, sequence);
  cr_assert_eq(choice.keep.layout, sequence == 0 ? 0 : 100 + sequence);
  cr_assert_eq(choice.safe, safe);
  cr_assert_eq(choice.has_two, has_two);
}

// A round in which `a` itself and some of b and c answer.
void round(Search& search, uint64_t now_ns, const std::vector<FoundPart>& own,
           const std::vector<std::pair<const char*, std::vector<FoundPart>>>& others) {
  search.begin(now_ns, now_ns + 1);
  search.ask(LinkId::kNone);
  for (uint64_t i = 1; i <= 2; i++) {
    if (i <= others.size()) {
      search.ask(static_cast<LinkId>(i));
    } else {
      search.miss();
    }
  }
  const auto answer = [&](LinkId id, const char* name, const std::vector<FoundPart>& parts) {
    cr_assert(search.is_waiting());
    std::vector<cr::format::PartEntry> entries;
    for (const FoundPart& p : parts) entries.push_back(p.entry);
    search.take(id, name, entries);
  };
  answer(LinkId::kNone, "a", own);
  uint64_t link = 0;
  for (const auto& [name, parts] : others) answer(static_cast<LinkId>(++link), name, parts);
  cr_assert_not(search.is_waiting());
  search.finish(now_ns);
}

}  // namespace

Test(keep_search, the_newest_that_survives_this_node) {
  expect({}, 0, false, false);
  expect({copy("a", 0, 7)}, 7, false, false);
  expect({copy("a", 0, 7), copy("b", 1, 7)}, 7, true, false);
  // 8 has only reached the own store.
  expect({copy("a", 0, 8), copy("a", 0, 7), copy("b", 1, 7)}, 7, true, true);
  expect({copy("a", 0, 8), copy("b", 1, 8), copy("b", 1, 7)}, 8, true, true);
  // xor:3: two parts are needed, and of 8 only one is elsewhere.
  expect({part("a", 0, 8), part("b", 1, 8), part("b", 1, 7), part("c", 2, 7)}, 7, true, true);
  expect({part("a", 0, 8), part("b", 1, 8), part("c", 2, 8)}, 8, true, false);
}

Test(keep_search, without_a_safe_one_the_newest_whole_one) {
  expect({part("a", 0, 8), part("a", 0, 7), part("b", 1, 7)}, 7, false, true);
  expect({part("a", 0, 8), part("b", 1, 8), part("a", 0, 7), part("b", 1, 7)}, 8, false, true);
  expect({part("a", 0, 8), part("b", 1, 7)}, 0, false, false);
  // Parts of one checkpoint that were cut up in different ways do not go together.
  auto other = part("b", 1, 8);
  other.entry.layout++;
  expect({part("a", 0, 8), other}, 0, false, false);
}

Test(keep_search, all_answer_and_it_is_found) {
  Search search("a");
  cr_assert_not(search.is_found());
  round(search, kSecond, {copy("a", 0, 8), copy("a", 0, 7)},
        {{"b", {copy("b", 1, 7)}}, {"c", {copy("c", 2, 7)}}});
  cr_assert(search.is_found());
  cr_assert_eq(search.keep().triple.sequence, 7);
  search.on_up();  // nobody can know better
  cr_assert(search.is_found());
}

// a has 8 and 7, b nothing; whether c has 8 or 7 decides which of them a may write over.
Test(keep_search, waits_for_who_may_know_better) {
  Search search("a");
  const std::vector<FoundPart> own{copy("a", 0, 8), copy("a", 0, 7)};
  uint64_t now = kSecond;
  for (; now < Search::kMissingNs + kSecond; now += kSecond) {
    round(search, now, own, {{"b", {}}});
    cr_assert_not(search.is_found(), "at %lu", now);
    cr_assert_gt(search.again_ns(), now);
    cr_assert_leq(search.again_ns(), now + kSecond);
  }
  round(search, now, own, {{"b", {}}});
  cr_assert(search.is_found());
  cr_assert_eq(search.keep().triple.sequence, 8);
  // It comes, after all: it is asked.
  search.on_up();
  cr_assert_not(search.is_found());
  cr_assert_eq(search.again_ns(), 0);
  round(search, now, own, {{"b", {}}, {"c", {copy("c", 2, 7)}}});
  cr_assert(search.is_found());
  cr_assert_eq(search.keep().triple.sequence, 7);
}

Test(keep_search, waits_for_nobody_when_nothing_can_be_lost) {
  Search one("a");  // with nothing to choose between
  round(one, kSecond, {copy("a", 0, 8)}, {});
  cr_assert(one.is_found());
  Search safe("a");  // b alone makes 7 safe, and c cannot make it less so
  round(safe, kSecond, {copy("a", 0, 8), copy("a", 0, 7)}, {{"b", {copy("b", 1, 7)}}});
  cr_assert(safe.is_found());
  cr_assert_eq(safe.keep().triple.sequence, 7);
}

Test(keep_search, answers_count_once_and_only_those_asked_for) {
  Search search("a");
  search.begin(kSecond, 1);
  search.ask(LinkId::kNone);
  search.ask(static_cast<LinkId>(5));
  const std::vector<cr::format::PartEntry> old{entry(1, 3, 1, 2)}, fresh{entry(1, 9, 1, 2)};
  search.take(static_cast<LinkId>(6), "b", fresh);  // was not asked
  search.take(LinkId::kNone, "a", {});
  search.take(static_cast<LinkId>(5), "c", old);
  search.take(static_cast<LinkId>(5), "c", fresh);  // has answered
  cr_assert_not(search.is_waiting());
  search.finish(kSecond);
  cr_assert_eq(search.keep().triple.sequence, 3);
  // A link that goes down does not answer any more.
  Search cut("a");
  cut.begin(kSecond, 1);
  cut.ask(static_cast<LinkId>(5));
  cr_assert(cut.is_waiting());
  cut.forget(static_cast<LinkId>(5));
  cr_assert_not(cut.is_waiting());
}

Test(keep_search, what_was_made_safe_is_kept) {
  Search search("a");
  round(search, kSecond, {copy("a", 0, 8)}, {});
  cr_assert_not(search.is_safe());
  search.set({{1, 9, 9}, 42}, /*safe=*/false);
  cr_assert_not(search.is_safe());
  search.set({{1, 9, 9}, 42}, /*safe=*/true);
  cr_assert(search.is_safe());
  cr_assert_eq(search.keep().triple.sequence, 9);
  cr_assert_eq(search.keep().layout, 42);
  search.on_up();
  cr_assert(search.is_found());
}
