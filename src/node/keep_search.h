// SPDX-License-Identifier: MIT
// keep_search.h - which checkpoint of a session must not be written over: found by asking its
// holders, by a process that takes the session up and does not know what they have.
// Invariant: what a holder that could not be asked may know better is not decided before
// kMissingNs, unless nothing can be lost by it.
// Context: N; one thread. Doc: docs/store.md.
#pragma once

#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/link.h"

namespace cr::node {

// A checkpoint of a session, as PartOffer has it; none if its triple is.
struct KeptCheckpoint {
  format::Triple triple{};
  uint64_t layout = 0;
};

// What is to be kept of these parts of one session. The newest checkpoint that survives the loss of
// the node `own`; if there is none, the newest that is whole.
struct KeepChoice {
  KeptCheckpoint keep;
  bool safe = false;     // it survives that loss
  bool has_two = false;  // some holder has two checkpoints, of which one will be written over
};
KeepChoice choose_keep(const std::vector<FoundPart>& parts, const std::string& own);

class KeepSearch {
 public:
  // For so long a holder that may know what is to be kept is waited for.
  static constexpr uint64_t kMissingNs = 30'000'000'000;

  explicit KeepSearch(std::string own) : own_(std::move(own)) {}

  // It is found; else a round of questions is due at again_ns().
  bool is_found() const { return found_; }
  uint64_t again_ns() const { return again_ns_; }
  const KeptCheckpoint& keep() const { return keep_; }
  bool is_safe() const { return safe_; }  // it survives the loss of this node

  // A round: begin(), for each holder ask() or miss(), take() their answers while is_waiting(), and
  // finish(), which may want another round.
  void begin(uint64_t now_ns, uint64_t request);
  uint64_t request() const { return request_; }      // the round's number
  void ask(LinkId link) { asked_.push_back(link); }  // kNone: this node's own store
  void miss() { missed_++; }                         // it cannot be reached
  void take(LinkId link, const std::string& node, const std::vector<format::PartEntry>& entries);
  void forget(LinkId link) { std::erase(asked_, link); }  // it is down
  bool is_waiting() const { return !asked_.empty(); }
  void finish(uint64_t now_ns);

  // A holder can be reached again that could not; it may know better.
  void on_up();
  // This one is whole now, of what was taken to the holders since.
  void set(const KeptCheckpoint& keep, bool safe);

 private:
  const std::string own_;
  bool found_ = false;
  bool sure_ = false;  // no holder that could not be asked can change it
  KeptCheckpoint keep_;
  bool safe_ = false;
  uint64_t first_ns_ = 0, again_ns_ = 0;
  uint64_t request_ = 0;
  unsigned missed_ = 0;
  std::vector<LinkId> asked_;  // who has not answered
  std::vector<FoundPart> parts_;
};

}  // namespace cr::node
