// SPDX-License-Identifier: MIT
// checkpoint.cc - one checkpoint from trigger to commit.
// Invariant: whatever fails, the program runs on unchanged and the older whole buffer is untouched.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "agent/captured_memory.h"
#include "agent/describe_files.h"
#include "agent/posix_timers.h"
#include "agent/rollback_memory.h"
#include "agent/session.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kCommandTimeoutNs = 600ull * 1000000000;
constexpr uint64_t kKeepStagingBytes = 64ull << 20;  // from one checkpoint to the next
constexpr uint64_t kLeastForStopBytes = 16ull << 20;
// Copying while the program runs.
constexpr int kMostEarlyPasses = 6;
constexpr uint64_t kFewPages = 64;         // are copied in the stop as well
constexpr uint64_t kFewInStopPages = 256;  // of a whole checkpoint: nothing is copied early
constexpr size_t kFewHoles = 64;
constexpr uint64_t kWorthAStopBytes = 4ull << 20;  // of memory that is not tracked yet

uint64_t now_ns() { return rawsys::clock_ns(CLOCK_MONOTONIC); }

uint64_t kilobytes(const std::string& text, const char* field) {
  return strtoull(os::status_field(text, field).c_str(), nullptr, 10) << 10;
}

// What a process has in memory or in swap, by its status file.
uint64_t resident_bytes(const std::string& status) {
  return kilobytes(status, "RssAnon") + kilobytes(status, "RssShmem") + kilobytes(status, "VmSwap");
}

uint64_t available_memory() {
  return kilobytes(os::read_or_empty("/proc/meminfo"), "MemAvailable");
}

}  // namespace

// How much staging memory this checkpoint may take, as address space; it is filled by writing to
// the memory file, which fails where memory is short.
Trouble Session::prepare_staging() {
  const std::string status = os::read_or_empty(os::task_path(pid_, control_tid_, "status"));
  looked_at_pages_ = resident_bytes(status) / kPageSize;
  uint64_t need = kilobytes(status, "VmRSS") + kilobytes(status, "VmSwap") + embedded_bytes_;
  if (embedded_bytes_ == 0) {  // nothing is known of the map yet
    auto maps = os::parse_maps(os::read_or_empty(os::task_path(pid_, control_tid_, "maps")));
    for (const os::MapEntry& m : maps ? *maps : std::vector<os::MapEntry>()) {
      if (m.ino != 0 && !m.shared) need += std::min(m.end - m.start, 4 * kEmbedFileBytes);
    }
  }
  // Everything may be copied early, early again, and once more in the stop.
  if (tracks()) need *= 3;
  need += need / 16 + kLeastForStopBytes;
  constexpr uint64_t kSmallBytes = 256ull << 20;
  uint64_t bound = options_.staging_bytes;
  if (bound == 0) bound = need <= kSmallBytes ? need : available_memory() / 2;
  bound = std::max<uint64_t>(bound, 4ull << 20);
  need = page_ceil(std::min(need, bound));
  if (staging_map_.size() < need) {
    staging_map_.reset();
    if (ftruncate(staging_fd_.get(), static_cast<off_t>(need)) != 0) {
      return trouble(Errc::kNoMemory, errno,
                     std::string("staging memory cannot grow: ") + strerror(errno));
    }
    auto m = os::Mapping::map(staging_fd_.get(), need, PROT_READ, MAP_SHARED);
    if (!m) return trouble(Errc::kNoMemory, m.error().sys_errno, "mapping staging memory");
    staging_map_ = std::move(*m);
  }
  staging_pages_ = need / kPageSize;
  early_pages_ = staged_bytes_ = 0;
  return {};
}

// So many pages behind those in use are in memory from now on. Takes long if there are many.
bool Session::set_aside(uint64_t pages) {
  if (early_pages_ + pages <= staging_kept_pages_) return true;
  if (fallocate(staging_fd_.get(), 0, static_cast<off_t>(early_pages_ * kPageSize),
                static_cast<off_t>(pages * kPageSize)) != 0) {
    return false;
  }
  staging_kept_pages_ = early_pages_ + pages;
  return true;
}

// Room for what the stop is likely to produce. More of it would take longer to set aside than it
// saves, and the program writes meanwhile.
uint64_t Session::likely_pages() const {
  uint64_t likely = 2 * last_found_pages_;
  if (!pages_.any_early()) likely = std::max(2 * last_copied_pages_, looked_at_pages_ / 16);
  return std::clamp(likely, kLeastForStopBytes / kPageSize, kKeepStagingBytes / kPageSize);
}

// What the stop will need is set aside before it; all that it may need if that is everything.
// Beyond that it takes memory as it goes. Should it produce more than the bound of staging, it is
// captured in portions, and the pause includes writing.
Trouble Session::reserve_staging() {
  const uint64_t left = staging_pages_ - early_pages_;
  const uint64_t pages = pages_.knows_most() ? std::min(left, likely_pages()) : left;
  channel()->staging_first = early_pages_;
  channel()->staging_pages = staging_pages_;
  if (set_aside(pages)) return {};
  return trouble(Errc::kNoMemory, errno,
                 "no memory for staging " + std::to_string(pages * kPageSize >> 20) +
                     " MiB; use --staging to bound it");
}

namespace {
constexpr uint64_t kMostPages = uint64_t{1} << 35;  // of user memory
}

Trouble Session::open_writer(const format::SuperBlock& super) {
  if (writer_ != nullptr) return {};
  const int index = newest_ == 0 ? 1 : 0;
  auto w = store::BufferWriter::open(options_.dir, index, options_.durable, buffers_[index]);
  if (!w) {
    return trouble(w.error().code, w.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), w.error()));
  }
  writer_ = std::move(*w);
  auto r = writer_->begin(super);
  if (r && pages_.has_basis()) r = writer_->set_last(options_.dir, newest_, buffers_[newest_]);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), r.error()));
  }
  return {};
}

// The runs that the control thread answered, checked.
Trouble Session::read_runs(std::vector<format::Run>* ret) const {
  const format::ChannelHeader* c = channel();
  const auto* table = reinterpret_cast<const format::Run*>(channel_map_.data() + runs_off_);
  ret->clear();
  for (uint64_t i = 0; i < std::min(c->run_count, c->runs_cap); i++) {
    const format::Run r = table[i];
    const bool same = r.staging_page == format::kPagesSame;
    if (r.addr % kPageSize != 0 || r.pages > kMostPages ||
        (!same && (r.staging_page > staging_pages_ || r.pages > staging_pages_ - r.staging_page))) {
      return trouble(Errc::kDamaged, 0, "the control thread answered nonsense");
    }
    ret->push_back(r);
  }
  return {};
}

Trouble Session::append(Attempt& a) {
  auto keep_zero = [](void* context, uint64_t addr) {
    return store::is_of_file(*static_cast<const store::Model*>(context), addr);
  };
  if (progress_) {
    writer_->set_progress([this](uint64_t done, uint64_t total) {
      tell_progress(format::kPhaseWriting, done, total);
    });
  }
  auto r = writer_->append(a.model, staging_map_.data(), a.runs, keep_zero, &a.model);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(options_.dir, r.error()));
  }
  return {};
}

MemoryReader Session::live_reader() const {
  return [this](uint64_t addr, void* to, size_t bytes) {
    return rawsys::read_all_at(mem_.get(), to, bytes, addr) == 0;
  };
}

// What is not even looked at: excluded by the program, and address space that its heaps have not
// grown into.
AddressSet Session::ranges_without_pages() const {
  const MemoryReader read = live_reader();
  AddressSet without = excluded_ranges();
  std::vector<AddressRange> unused;
  for (const uint64_t word : hello_.heap_words) unused.push_back(unused_heap_range(read, word));
  without.add(AddressSet(std::move(unused)));
  return without;
}

AddressSet Session::excluded_ranges() const {
  std::vector<AddressRange> excluded;
  format::Exclusions exclusions{};
  if (live_reader()(hello_.exclusions, &exclusions, sizeof(exclusions))) {
    for (uint64_t i = 0; i < std::min<uint64_t>(exclusions.count, 256); i++) {
      excluded.push_back({exclusions.ranges[i].start, exclusions.ranges[i].end});
    }
  }
  return AddressSet(std::move(excluded));
}

AddressSet Session::heap_ranges() const {
  std::vector<AddressRange> all;
  for (const uint64_t word : hello_.heap_words) {
    all.push_back(reserved_heap_range(live_reader(), word));
  }
  return AddressSet(std::move(all));
}

// Reads the memory map, and describes it unless it was described as it is now.
Trouble Session::describe_map(pid_t tid, bool stopped, MapDescription& map) {
  std::string text = os::read_or_empty(os::task_path(pid_, tid, "maps"));
  AddressSet without = ranges_without_pages();
  if (!text.empty() && text == map.text && !map.plan.by_descriptors &&
      without == map.plan.without && files_are_as_described(map.model)) {
    return {};
  }
  map = {};
  auto maps = os::parse_maps(text);
  if (!maps) return trouble(Errc::kSystem, EIO, "the memory map cannot be read");
  for (const os::MapEntry& m : *maps) {
    if (m.name != "[vdso]" || m.start == vdso_start_) continue;
    vdso_start_ = m.start;
    vdso_end_ = m.end;
    if (stopped) {
      return trouble(Errc::kCannotStop, EAGAIN, "the program moved its vDSO; try again");
    }
  }
  Trouble bad = describe_memory(live_reader(), *maps, without, leftover_,
                                OpenFiles(pid_, control_tid_), map.model, &map.plan);
  if (bad.bad()) return bad;
  map.text = std::move(text);
  embedded_bytes_ = 0;
  for (const format::Range& r : map.plan.ranges) {
    if (r.mode == format::kRangeEmbed) embedded_bytes_ += r.limit - r.start;
  }
  return {};
}

// Hands the ranges to the control thread.
Trouble Session::write_ranges(const std::vector<format::Range>& ranges) {
  format::ChannelHeader* c = channel();
  if (ranges.size() > most_ranges()) {
    return trouble(Errc::kUnsupported, E2BIG, "the program has too many mappings");
  }
  memcpy(channel_map_.data() + format::kChannelRangesOff, ranges.data(),
         ranges.size() * sizeof(format::Range));
  c->range_count = ranges.size();
  c->cursor_range = c->cursor_addr = 0;
  c->tracking = tracker_ = back_end();
  c->use_pagemap_scan = getenv("CR_NO_PAGEMAP_SCAN") == nullptr ? c->use_pagemap_scan : 0;
  return {};
}

const format::Range* Session::answered_ranges() const {
  return reinterpret_cast<const format::Range*>(channel_map_.data() + format::kChannelRangesOff);
}

// Room in the channel's table.
size_t Session::most_ranges() const {
  return (runs_off_ - format::kChannelRangesOff) / sizeof(format::Range);
}

// Each hole may cut a range in two, now and when the next checkpoint takes it anew.
size_t Session::most_holes() const { return std::min<size_t>(20000, most_ranges() / 8); }

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

void Session::prepare(World& world) const {
  world.set_nested(nested_);
  world.set_last_resume(last_resume_ns_);
  world.set_vdso(vdso_start_, vdso_end_);
  world.set_restorer(leftover_.start, leftover_.start + leftover_.bytes);
}

// A first, short stop: mappings are registered whole, by their bounds of this moment, because the
// kernel would split one of which only a part is registered.
Trouble Session::track_mappings(MapDescription& map) {
  World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
  prepare(world);
  const uint64_t begin = now_ns();
  Trouble bad = world.stop();
  if (!bad.bad()) {
    const pid_t tid = world.threads()[0].tid;
    // What would refuse the checkpoint anyway shall do it before everything is copied.
    store::Model scratch;
    std::string status;
    if (failed_before_) bad = check_process(&status);
    if (!bad.bad()) bad = describe_map(tid, /*stopped=*/true, map);
    scratch.strings = map.model.strings;
    scratch.objects = map.model.objects;
    if (!bad.bad() && failed_before_) bad = describe_files(pid_, tid, pidfd_.get(), scratch);
    if (!bad.bad()) bad = write_ranges(map.plan.ranges);
    if (!bad.bad()) bad = command(format::kCommandTrack, kCommandTimeoutNs, &world);
    if (!bad.bad()) {
      untrackable_bytes_ = channel()->untrackable_bytes;
      pages_.spoil(spoiled());
    }
  }
  died_ = died_ || world.died(&died_status_);
  world.resume();
  last_resume_ns_ = now_ns();
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
    if (pass > 0) (void)set_aside(std::min(staging_pages_ - early_pages_, 2 * likely_pages()));
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
    const uint64_t begin = now_ns();
    Trouble bad = command(format::kCommandEarly, kCommandTimeoutNs, &world);
    attempt_.precopy_ns += now_ns() - begin;
    if (!bad.bad()) bad = read_runs(&early.runs);
    if (bad.bad()) return bad;
    early.ranges = answered_ranges();
    early.range_count = std::min<uint64_t>(c->range_count, most_ranges());
    early.cursor_range = c->cursor_range;
    early.cursor_addr = c->cursor_addr;
    early.spoiled = spoiled();
    early.knows_its_copies = how == format::kTrackerHash;
    pages_.add_early(std::move(early), a.map.model);
    if (how == format::kTrackerSoftDirty) {
      *ret_unseen = c->more != 0 ? AddressSet({{c->cursor_addr, ~uint64_t{0}}}) : AddressSet();
    }
    const uint64_t used = std::min(c->staging_used, staging_pages_);
    const uint64_t found = used - std::min(used, early_pages_);
    early_pages_ = std::max(early_pages_, used);
    last_found_pages_ = found;
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

// Everything between stop and go.
Trouble Session::capture(World& world, Attempt& a) {
  if (options_.heap != HeapMode::kNone) return capture_heap(world, a);
  const pid_t tid = world.threads()[0].tid;
  Trouble bad = describe_map(tid, /*stopped=*/true, a.map);
  if (bad.bad()) return bad;
  a.model.segments = a.map.model.segments;
  a.model.strings = a.map.model.strings;
  a.model.objects = a.map.model.objects;
  a.without = a.map.plan.without;
  quick_.prepare(a.model);
  bad = describe_posix_timers(world, a.model);
  if (bad.bad()) return bad;
  const uint64_t asked_ns = now_ns();
  bad = begin_copy(world, a, a.map.plan);
  if (bad.bad()) return bad;
  // Meanwhile, on another processor:
  Trouble worse = await_command(/*described_is_enough=*/true, kCommandTimeoutNs, &world);
  if (!worse.bad()) worse = check_process(&a.status);
  if (!worse.bad()) worse = world.describe(channel()->process.sigactions);
  if (!worse.bad()) fault_point(FaultPoint::kThreadsDescribed);
  if (!worse.bad()) worse = describe_files(pid_, tid, pidfd_.get(), a.model);
  if (!worse.bad()) worse = describe_process(world, a.status, a.map.plan, a.model);
  settle_posix_timers(now_ns() - asked_ns, a.model);
  bad = end_copy(world, a, worse);
  if (worse.bad() || bad.bad()) return worse.bad() ? worse : bad;
  return copy_objects(world, a);
}

Trouble Session::capture_heap(World& world, Attempt& a) {
  const pid_t tid = world.threads()[0].tid;
  auto maps = os::parse_maps(os::read_or_empty(os::task_path(pid_, tid, "maps")));
  if (!maps) return trouble(Errc::kSystem, EIO, "the memory map cannot be read");
  MemoryPlan plan;
  Trouble bad = describe_heap(world, *maps, a.model, &plan);
  a.without = plan.without;
  a.free_known = true;
  if (!bad.bad()) bad = begin_copy(world, a, plan);
  if (bad.bad()) return bad;
  Trouble worse = await_command(/*described_is_enough=*/true, kCommandTimeoutNs, &world);
  const std::string status = os::read_or_empty(os::task_path(pid_, control_tid_, "status"));
  if (!worse.bad()) worse = describe_process(world, status, plan, a.model);
  bad = end_copy(world, a, worse);
  return worse.bad() ? worse : bad;
}

Trouble Session::begin_copy(World& world, Attempt& a, const MemoryPlan& plan) {
  uint64_t heap = 0;
  world.read_memory(hello_.heap_words[0], &heap, sizeof(heap));
  for (format::SegmentRecord& s : a.model.segments) {
    if (s.start == heap) s.flags |= format::kSegmentHeap;
  }
  std::vector<format::Range> ranges = plan.ranges;
  pages_.mark_fresh(ranges, a.model, most_ranges());
  Trouble bad = write_ranges(ranges);
  if (bad.bad()) return bad;
  channel()->described = 0;
  // What was written since the last early pass is left for that of the next checkpoint.
  channel()->protect = pages_.any_early() ? 0 : 1;
  begin_command(format::kCommandCapture);
  return {};
}

Trouble Session::write_portion(World& world, Attempt& a) {
  if (!a.free_known) find_free_ranges(world.reader(), a);
  a.runs = without(pages_.resolve(a.runs), a.free_ranges);
  Trouble bad = open_writer(a.super);
  if (!bad.bad()) bad = append(a);
  a.runs.clear();
  return bad;
}

// Leaves the last portion's runs in a.runs. worse: the checkpoint has failed already.
Trouble Session::end_copy(World& world, Attempt& a, const Trouble& worse) {
  const format::ChannelHeader* c = channel();
  for (;;) {
    Trouble bad = end_command(kCommandTimeoutNs, &world);
    if (bad.bad() || worse.bad()) return bad;
    bad = read_runs(&a.runs);
    if (bad.bad()) return bad;
    a.copied_pages += c->staging_used - c->staging_first;
    staged_bytes_ = (early_pages_ + a.copied_pages) * kPageSize;
    if (c->more == 0) break;
    // Staging is full: this much must be written before the rest can be taken.
    bad = write_portion(world, a);
    if (bad.bad()) return bad;
    begin_command(format::kCommandCapture);
  }
  pages_.note_final(answered_ranges(), std::min<uint64_t>(c->range_count, most_ranges()), a.model);
  fault_point(FaultPoint::kCaptured);
  return {};
}

// Pages of the heaps without a block, by their own records of the moment of the stop.
void Session::find_free_ranges(const MemoryReader& read, Attempt& a) const {
  std::vector<AddressRange> free;
  for (const uint64_t word : hello_.heap_words) {
    free_heap_ranges(read, word, /*own_lock=*/false, &free);
  }
  keep_largest(free, most_holes());
  a.free_ranges = AddressSet(std::move(free));
  a.free_known = true;
}

// The kernel counts every page for it. Of a large process it is asked so seldom that it takes a
// hundredth of the time, unless the map has changed.
void Session::read_vm_flags(const std::string& map_text) {
  constexpr uint64_t kQuickNs = 1000000, kShare = 100;
  const uint64_t begin = now_ns();
  const bool costly = smaps_cost_ns_ > kQuickNs;
  if (map_text == smaps_of_ && costly && begin - smaps_ns_ < kShare * smaps_cost_ns_) return;
  auto smaps = os::parse_maps(os::read_or_empty(os::task_path(pid_, control_tid_, "smaps")));
  if (!smaps) return;
  smaps_ = std::move(*smaps);
  smaps_of_ = map_text;
  smaps_ns_ = now_ns();
  smaps_cost_ns_ = smaps_ns_ - begin;
}

// The program runs again.
Trouble Session::write_image(Attempt& a) {
  add_vm_flags(smaps_, a.model);
  Trouble bad = open_writer(a.super);
  if (bad.bad()) return bad;
  a.runs = pages_.resolve(a.runs);
  if (!a.free_known) {
    const CapturedMemory memory(a.runs, staging_map_.data(), *writer_);
    find_free_ranges([&](uint64_t at, void* to, size_t n) { return memory.read(at, to, n); }, a);
  }
  a.runs = without(a.runs, a.free_ranges);
  bad = append(a);
  if (bad.bad()) return bad;
  for (const format::SegmentRecord& s : a.model.segments) {
    if (s.prot != 0) a.super.memory_bytes += s.end - s.start;
  }
  describe_interval(&a.super);
  tell_progress(format::kPhaseSyncing, 0, 0);
  auto r = writer_->commit(a.model, &a.super);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(options_.dir, r.error()));
  }
  a.without.add(a.free_ranges);
  pages_.commit(std::move(a.without), static_cast<int64_t>(a.super.realtime_ns));
  return {};
}

Trouble Session::take(uint32_t then, const std::function<void()>& captured) {
  if (!attached()) {
    return trouble(
        Errc::kNotInitialised, 0,
        "the program has not attached: it did not load libcrpreload.so (yet), or it has ended");
  }
  Trouble bad = prepare_staging();
  if (bad.bad()) return bad;
  finish_stop();
  Attempt a;
  a.begin_ns = now_ns();
  read_lasting();
  bad = choose_back_end();
  if (bad.bad()) return bad;
  // Too early is right, too late is not: what moves the count meanwhile only makes a rollback look
  // where it need not. Reading it between the last early pass and the stop would give the program
  // time to write.
  const uint64_t lazy_free = lazy_free_count();
  quick_.make_room();
  pages_.begin(tracks());
  if (tracks() && options_.heap == HeapMode::kNone && !few_are_expected()) bad = copy_early(a);
  fault_point(FaultPoint::kCopiedEarly);
  if (!bad.bad()) bad = reserve_staging();
  if (bad.bad()) return bad;
  fault_point(FaultPoint::kBeforeStop);

  a.super.epoch = epoch_;
  a.super.sequence = sequence_ + 1;
  a.super.attempt = attempts_;
  memcpy(a.super.session_id, session_id_, sizeof(session_id_));
  World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
  prepare(world);
  const uint64_t stop_begin = now_ns(), cpu_at_stop = agent_cpu_ns();
  a.super.monotonic_ns = stop_begin;
  a.super.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  bad = world.stop();
  if (!bad.bad()) {
    fault_point(FaultPoint::kStopped);
    bad = capture(world, a);
  }
  died_ = died_ || world.died(&died_status_);
  // `stop`: the stop signal is pending when the threads are let go. `kill`: nothing runs on
  // before the image is whole.
  if (!bad.bad() && then == 1) kill(pid_, SIGSTOP);
  if (bad.bad() || then != 2) {
    world.resume();
    last_resume_ns_ = now_ns();
    died_ = died_ || world.died(&died_status_);
  }
  attempt_.pause_ns += now_ns() - stop_begin;
  a.super.pause_ns = attempt_.pause_ns;
  cpu_in_stop_ns_ = agent_cpu_ns() - cpu_at_stop;
  if (bad.bad()) return bad;
  fault_point(FaultPoint::kResumed);
  read_vm_flags(a.map.text);  // whoever asked for the checkpoint has not seen an answer yet
  if (captured) captured();
  if (leftover_.bytes != 0 && then != 2) {  // every thread was met outside of it
    channel()->arg0 = leftover_.start;
    channel()->arg1 = leftover_.bytes;
    if (!command(format::kCommandUnmap, 1000000000, nullptr).bad()) leftover_ = {};
  }
  bad = write_image(a);
  last_captured_ = bad;
  if (bad.bad()) return bad;
  last_copied_pages_ = early_pages_ + a.copied_pages;
  newest_ = newest_ == 0 ? 1 : 0;
  sequence_++;
  last_lazy_free_ = lazy_free;
  image_bytes_ = attempt_.written_bytes = writer_->bytes_written();
  attempt_.memory_bytes = memory_bytes_ = a.super.memory_bytes;
  pause_ns_ = a.super.pause_ns;
  commit_ns_ = now_ns() - a.begin_ns;
  realtime_ns_ = a.super.realtime_ns;
  if (then == 0) quick_.offer(a.model, a.map.text, a.status);
  if (then == 1) frozen_ = true;
  if (then == 2) {
    kill(pid_, SIGKILL);
    world.resume();
    died_ = died_ || world.died(&died_status_);
  }
  return {};
}

Trouble Session::checkpoint(uint32_t then, const std::function<void()>& captured,
                            format::Report* ret_report) {
  *ret_report = {};
  ret_report->kind = format::kMessageReport;
  quick_.withdraw();
  begin_attempt();
  Trouble bad = take(then, captured);
  writer_.reset();
  if (staging_kept_pages_ * kPageSize > kKeepStagingBytes || bad.bad()) {
    fallocate(staging_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(kKeepStagingBytes),
              static_cast<off_t>(staging_map_.size() - kKeepStagingBytes));
    staging_kept_pages_ = std::min(staging_kept_pages_, kKeepStagingBytes / kPageSize);
  }
  failed_before_ = bad.bad();
  if (bad.bad()) failures_++;
  end_attempt(bad);
  publish(bad.text);
  ret_report->code = static_cast<int32_t>(bad.error.code);
  ret_report->sys_errno = bad.error.sys_errno;
  ret_report->epoch = epoch_;
  ret_report->sequence = sequence_;
  ret_report->image_bytes = image_bytes_;
  ret_report->pause_ns = pause_ns_;
  ret_report->commit_ns = commit_ns_;
  rawsys::str_copy(ret_report->text, bad.text.c_str(), sizeof(ret_report->text));
  return bad;
}

}  // namespace cr::agent
