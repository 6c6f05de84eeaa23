// SPDX-License-Identifier: MIT
// keep_search.cc - see keep_search.h. Invariant: as there. Context: N.
#include "node/keep_search.h"

#include <algorithm>
#include <utility>

#include "node/part_store.h"
#include "node/recovery.h"

namespace cr::node {
namespace {

constexpr uint64_t kAgainNs = 1'000'000'000;

}  // namespace

KeepChoice choose_keep(const std::vector<FoundPart>& parts, const std::string& own) {
  KeepChoice choice;
  choice.has_two = std::ranges::any_of(parts, [&](const FoundPart& p) {
    return std::ranges::any_of(parts, [&](const FoundPart& q) {
      return p.node == q.node && p.entry.holder == q.entry.holder &&
             is_newer(p.entry.triple, q.entry.triple);
    });
  });
  for (const Available& a : available(parts)) {
    const auto elsewhere = std::ranges::count_if(a.holders, [&](const auto& holder) {
      return std::ranges::any_of(holder, [&](const FoundPart& p) { return p.node != own; });
    });
    choice.safe = elsewhere >= a.protection.data;
    if (!choice.safe && (!a.is_whole() || !is_none(choice.keep.triple))) continue;
    choice.keep = {a.triple, a.like.layout};
    if (choice.safe) break;
  }
  return choice;
}

void KeepSearch::begin(uint64_t now_ns, uint64_t request) {
  if (first_ns_ == 0) first_ns_ = now_ns;
  request_ = request;
  missed_ = 0;
  asked_.clear();
  parts_.clear();
}

void KeepSearch::take(LinkId link, const std::string& node,
                      const std::vector<format::PartEntry>& entries) {
  if (std::erase(asked_, link) == 0) return;
  for (const format::PartEntry& e : entries) parts_.push_back({node, e});
}

// Where a holder has two, and who could tell which of them is safe is not there yet, it is waited
// for a while: the wrong one would be written over.
void KeepSearch::finish(uint64_t now_ns) {
  const bool all_answered = missed_ == 0 && asked_.empty();
  asked_.clear();
  const KeepChoice choice = choose_keep(std::exchange(parts_, {}), own_);
  keep_ = choice.keep;
  safe_ = choice.safe;
  sure_ = choice.safe || all_answered;
  found_ = sure_ || !choice.has_two || now_ns - first_ns_ >= kMissingNs;
  if (!found_) again_ns_ = now_ns + kAgainNs;
}

void KeepSearch::on_up() {
  again_ns_ = 0;
  if (!sure_) found_ = false;
}

void KeepSearch::set(const KeptCheckpoint& keep, bool safe) {
  keep_ = keep;
  safe_ = safe;
  if (safe) found_ = sure_ = true;
}

}  // namespace cr::node
