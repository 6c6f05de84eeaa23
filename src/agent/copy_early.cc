// SPDX-License-Identifier: MIT
// copy_early.cc - pages are copied while the program runs, so that the stop has little to do.
// Invariant: what is written behind a copy is found written later; what an early pass cannot tell
// of is left to the stop.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".
#include <algorithm>

#include "agent/describe_files.h"
#include "agent/early_files.h"
#include "agent/plugins.h"
#include "agent/session.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr int kMostEarlyPasses = 6;
constexpr uint64_t kFewPages = 64;         // are copied in the stop as well
constexpr uint64_t kFewInStopPages = 256;  // of a whole checkpoint: nothing is copied early
constexpr size_t kFewHoles = 64;
constexpr uint64_t kWorthAStopBytes = 4ull << 20;  // of memory that is not tracked yet

}  // namespace

format::Tracker Session::back_end() const {
  return choose_tracking(options_.tracking, channel()->can_track & possible_tracking());
}

// Tells the control thread which one it is, and has it make room for what it must remember.
Trouble Session::choose_back_end() {
  format::ChannelHeader* c = channel();
  const format::Tracker t = back_end();
  if (t == format::kTrackerUnknown) {
    return trouble(Errc::kUnsupported, 0,
                   why_not(options_.tracking) +
                       "in this program (has it a seccomp filter?); start it with --track=auto or "
                       "--track=hash");
  }
  c->tracking = t;
  if (t != format::kTrackerSoftDirty && t != format::kTrackerHash) return {};
  c->stamp += 2;
  c->arg0 = looked_at_pages_;
  // As in early_passes: the program may be halted by a stop signal.
  World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
  Trouble bad = command(format::kCommandReserve, kCommandTimeoutNs, &world);
  // Without room everything is copied: no reason not to have a checkpoint.
  return bad.error.code == Errc::kSystem ? Trouble{} : bad;
}

AddressSet Session::spoiled() const {
  const format::Spoiled& s = channel()->spoiled;
  constexpr uint64_t kMost = sizeof(s.ranges) / sizeof(s.ranges[0]);
  if (s.count > kMost) return AddressSet::everything();
  std::vector<AddressRange> all;
  for (uint64_t i = 0; i < s.count; i++) all.push_back({s.ranges[i].start, s.ranges[i].end});
  return AddressSet(std::move(all));
}

// A first, short stop: mappings are registered whole, by their bounds of this moment, because the
// kernel would split one of which only a part is registered.
Trouble Session::track_mappings(MapDescription& map) {
  World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
  prepare(world);
  const uint64_t begin = rawsys::now_ns();
  Trouble bad = world.stop();
  if (!bad.bad()) {
    const pid_t tid = world.threads()[0].tid;
    // What would refuse the checkpoint anyway shall do it before everything is copied.
    store::Model scratch;
    std::string status;
    const bool check = failed_before_ && !in_tree_;
    if (check) bad = check_process(/*childless=*/false, &status);
    if (!bad.bad()) bad = describe_map(tid, /*stopped=*/true, map);
    scratch.strings = map.model.strings;
    scratch.objects = map.model.objects;
    read_claims(world.reader(), hello_.plugins, scratch);
    if (!bad.bad() && check) bad = describe_files(pid_, tid, pidfd_.get(), {}, scratch);
    if (!bad.bad()) bad = write_ranges(map.plan.ranges);
    if (!bad.bad()) bad = command(format::kCommandTrack, kCommandTimeoutNs, &world);
    if (!bad.bad()) {
      untrackable_bytes_ = channel()->untrackable_bytes;
      pages_.spoil(spoiled());
    }
  }
  died_ = died_ || world.died(&died_status_);
  world.resume();
  last_resume_ns_ = rawsys::now_ns();
  attempt_.pause_ns += last_resume_ns_ - begin;
  died_ = died_ || world.died(&died_status_);
  return bad;
}

// Where the kernel does not count writes for each mapping, an early pass costs a look at all
// memory, or another stop. The stop itself looks at all memory in any case, so it is only worth it
// if much will be copied.
bool Session::early_pays() const {
  constexpr uint64_t kMuchPages = (64ull << 20) / kPageSize;
  return !pages_.has_basis() ||
         (last_copied_pages_ >= kMuchPages && last_copied_pages_ >= looked_at_pages_ / 8);
}

// Copies pages while the program runs, again and again until few are left, so that the stop has
// little to do.
Trouble Session::copy_early(Attempt& a) {
  const format::Tracker how = back_end();
  if (how != format::kTrackerUserfaultfd && !early_pays()) return {};
  // Soft-dirty marks are gone once they were read: what is not copied then counts as written.
  AddressSet unseen = how == format::kTrackerSoftDirty ? AddressSet::everything() : AddressSet();
  Trouble bad = early_passes(a, how, &unseen);
  pages_.spoil(unseen);
  return bad;
}

Trouble Session::early_passes(Attempt& a, format::Tracker how, AddressSet* ret_unseen) {
  format::ChannelHeader* c = channel();
  const bool counts = how == format::kTrackerUserfaultfd;
  // Stops nobody: should a stop signal halt the program, the control thread must run nonetheless.
  World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
  bool stopped = failed_before_ || how == format::kTrackerSoftDirty;
  if (stopped) {
    Trouble bad = track_mappings(a.map);
    if (bad.bad()) return bad;
  }
  uint64_t before = ~0ull;
  for (int pass = 0; pass < kMostEarlyPasses; pass++) {
    // What is wrong with the map is for the stop to say.
    // The marks were read of the mappings as they were in the stop.
    if (how != format::kTrackerSoftDirty &&
        describe_map(control_tid_, /*stopped=*/false, a.map).bad()) {
      return {};
    }
    // For this pass and the stop: were it set aside between the two, much would be written then.
    if (pass > 0) (void)set_aside(std::min(staging_pages_ - early_pages_, likely_late_pages()));
    std::vector<format::Range> ranges = a.map.plan.ranges;
    pages_.mark_fresh(ranges, a.map.model, most_ranges());
    if (write_ranges(ranges).bad()) return {};
    c->staging_first = early_pages_;
    // The first pass may be of everything; behind the later ones as much as they took is left.
    const uint64_t left = staging_pages_ - early_pages_;
    c->staging_pages = early_pages_ + (pass < 2 ? left - left / 8 : left / 2);
    if (c->staging_first >= c->staging_pages) return {};
    EarlyPass early{};
    early.realtime_ns = static_cast<int64_t>(rawsys::clock_ns(CLOCK_REALTIME));
    const uint64_t begin = rawsys::now_ns();
    Trouble bad = command(format::kCommandEarly, kCommandTimeoutNs, &world);
    attempt_.precopy_ns += rawsys::now_ns() - begin;
    if (!bad.bad()) bad = read_runs(&early.runs);
    if (bad.bad()) return bad;
    early.ranges = answered_ranges();
    early.range_count = std::min<uint64_t>(c->range_count, most_ranges());
    early.cursor_range = c->cursor_range;
    early.cursor_addr = c->cursor_addr;
    early.spoiled = spoiled();
    early.knows_its_copies = how == format::kTrackerHash;
    pages_.add_early(std::move(early), a.map.model, [&](const auto& mapping, const auto& runs) {
      return is_as_in_file(mapping, &a.map.model.strings[mapping.file], runs, staging_map_.data());
    });
    if (how == format::kTrackerSoftDirty) {
      *ret_unseen = c->more != 0 ? AddressSet({{c->cursor_addr, ~uint64_t{0}}}) : AddressSet();
    }
    const uint64_t used = std::min(c->staging_used, staging_pages_);
    const uint64_t found = used - std::min(used, early_pages_);
    early_pages_ = std::max(early_pages_, used);
    last_found_pages_ = found;
    if (pass == 0) first_found_pages_ = found;
    if (c->more != 0 || !counts) return {};
    if (!stopped && c->untracked_bytes >= untrackable_bytes_ + kWorthAStopBytes) {
      stopped = true;
      bad = track_mappings(a.map);
      if (bad.bad()) return bad;
      continue;
    }
    if (found <= kFewPages || found > before / 2) return {};
    before = found;
  }
  return {};
}

// So few that copying them early would not pay. What the last checkpoint left out (pages without a
// block) must be looked at range by range.
bool Session::few_are_expected() const {
  return back_end() == format::kTrackerUserfaultfd && pages_.has_basis() && !failed_before_ &&
         last_copied_pages_ <= kFewInStopPages &&
         pages_.last_without().ranges().size() <= kFewHoles;
}

}  // namespace cr::agent
