// SPDX-License-Identifier: MIT
// capture.cc - what happens between stop and go: the process is described, and its rest is copied.
// Invariant: the program is as it was. What can be known before the stop, or done behind it, is not
// done here.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>

#include "agent/captured_memory.h"
#include "agent/describe_files.h"
#include "agent/plugins.h"
#include "agent/posix_timers.h"
#include "agent/semaphores.h"
#include "agent/session.h"
#include "agent/traits.h"
#include "os/cpus.h"
#include "os/fault.h"
#include "os/proc.h"
#include "os/slice.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kMostPages = uint64_t{1} << 35;  // of user memory

// Which are described in much less than kReportPatienceSeconds. (Linux 6.2; before, nobody knows.)
bool has_few_files(pid_t pid, pid_t tid) {
  constexpr off_t kFew = 256;
  struct stat st {};
  return stat(os::task_path(pid, tid, "fd").c_str(), &st) == 0 && st.st_size > 0 &&
         st.st_size <= kFew;
}

}  // namespace

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
      map.among_processes == among_processes_ && without == map.plan.without &&
      files_are_as_described(map.model)) {
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
  read_claims(live_reader(), hello_.plugins, map.model);
  Trouble bad =
      describe_memory(live_reader(), *maps, without, leftover_,
                      OpenFiles(pid_, control_tid_, among_processes_), map.model, &map.plan);
  if (bad.bad()) return bad;
  map.among_processes = among_processes_;
  map.text = std::move(text);
  embedded_bytes_ = 0;
  for (const format::Range& r : map.plan.ranges) {
    if (r.mode == format::kRangeEmbed) embedded_bytes_ += r.limit - r.start;
  }
  return {};
}

// The kernel counts every page for it, and whoever wants to map something waits. Of a large process
// it is asked so seldom that it takes a thousandth of the time, unless the map has changed.
void Session::read_vm_flags(const std::string& map_text) {
  constexpr uint64_t kQuickNs = 200000, kShare = 1000;
  const uint64_t begin = rawsys::now_ns();
  const bool costly = smaps_cost_ns_ > kQuickNs;
  if (map_text == smaps_of_ && costly && begin - smaps_ns_ < kShare * smaps_cost_ns_) return;
  auto smaps = os::parse_maps(os::read_or_empty(os::task_path(pid_, control_tid_, "smaps")));
  if (!smaps) return;
  smaps_ = std::move(*smaps);
  smaps_of_ = map_text;
  smaps_ns_ = rawsys::now_ns();
  smaps_cost_ns_ = smaps_ns_ - begin;
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

// The threads may be telling about themselves when this returns; world.end_describe() waits for
// them.
Trouble Session::begin_threads(World& world, std::vector<format::ThreadTraitsRecord>* ret_traits,
                               Attempt& a) {
  if (a.status.empty()) {
    a.status = os::read_or_empty(os::task_path(pid_, control_tid_, "status"));
  }
  Trouble bad = describe_thread_traits(world, pid_, control_tid_, a.status, ret_traits, a.model);
  return bad.bad() ? bad : world.begin_describe(channel()->process.sigactions);
}

// Of the journal of changed files. Of a tree, all processes have begun one when the first is
// captured.
Trouble Session::begin_generation(Attempt& a, bool later) {
  if (a.files_before || options_.heap != HeapMode::kNone) return {};
  format::FilesHead before{};
  Trouble bad =
      keeper().stopped(pid_, a.world->threads()[0].tid, mem_.get(), hello_.state, later, &before);
  if (!bad.bad()) a.files_before = before;
  return bad;
}

// Everything between stop and go.
Trouble Session::capture(World& world, Attempt& a) {
  if (options_.heap != HeapMode::kNone) return capture_heap(world, a);
  const pid_t tid = world.threads()[0].tid;
  // Plug-ins come first: what they save goes into memory.
  std::vector<format::ThreadTraitsRecord> traits;
  read_claims(world.reader(), hello_.plugins, a.model);
  const bool described = !a.model.claims.empty();
  Trouble bad;
  if (described) bad = command(format::kCommandDescribe, kCommandTimeoutNs, &world);
  if (described && !bad.bad()) {
    bad = begin_threads(world, &traits, a);
    const Trouble late = world.end_describe();
    if (!bad.bad()) bad = late;
  }
  if (described && !bad.bad()) bad = save_by_plugins(world, hello_.plugins, a.model);
  if (!bad.bad()) bad = describe_posix_timers(world, a.model);
  if (bad.bad()) return bad;
  const uint64_t asked_ns = rawsys::now_ns();
  begin_capture();
  // Meanwhile, on another processor:
  bad = describe_map(tid, /*stopped=*/true, a.map);
  if (bad.bad()) return abandon_capture(world, bad);
  a.model.segments = a.map.model.segments;
  const std::string names = std::exchange(a.model.strings, a.map.model.strings);
  for (format::PluginRecord& r : a.model.plugins) r.name = a.model.add_string(&names[r.name]);
  a.model.objects = a.map.model.objects;
  a.without = a.map.plan.without;
  quick_.prepare(a.model);
  bad = begin_generation(a, /*later=*/false);
  if (!bad.bad()) bad = begin_copy(world, a, a.map.plan);
  if (bad.bad()) return abandon_capture(world, bad);
  Trouble worse = await_command(/*described_is_enough=*/true, kCommandTimeoutNs, &world);
  os::set_slice(control_tid_, os::Slice::kLong);
  if (!worse.bad()) worse = check_process(channel()->process.childless != 0, &a.status);
  const auto end_threads = [&] {
    const Trouble late = world.end_describe();
    if (!worse.bad()) worse = late;
  };
  if (!worse.bad() && !described) worse = begin_threads(world, &traits, a);
  if (!has_few_files(pid_, tid)) end_threads();
  if (!worse.bad()) {
    worse = describe_semaphores(world, pid_, hello_.semaphores, semaphore_users_, a.model);
  }
  if (!worse.bad()) worse = describe_files(pid_, tid, pidfd_.get(), others_, a.model);
  if (!worse.bad()) keeper().describe_open(pid_, tid, a.model);
  end_threads();
  if (!worse.bad()) fault_point(FaultPoint::kThreadsDescribed);
  if (!worse.bad()) worse = describe_process(world, a.status, a.map.plan, a.model);
  if (!worse.bad()) {
    worse = complete_traits(world, pid_, channel()->process, std::move(traits), a.model);
  }
  settle_posix_timers(rawsys::now_ns() - asked_ns, a.model);
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
  if (bad.bad()) return bad;
  begin_capture();
  bad = begin_copy(world, a, plan);
  if (bad.bad()) return abandon_capture(world, bad);
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
  // What was written since the last early pass is left for that of the next checkpoint.
  channel()->protect = pages_.any_early() ? 0 : 1;
  give_ranges(format::kRangesGiven);
  return {};
}

void Session::give_ranges(format::RangesGiven what) {
  __atomic_store_n(&channel()->ranges_given, uint32_t{what}, __ATOMIC_RELEASE);
  rawsys::sys_futex(&channel()->ranges_given, FUTEX_WAKE, 0x7fffffff);
}

// The control thread begins: it describes the process, and then waits for begin_copy().
void Session::begin_capture() {
  format::ChannelHeader* c = channel();
  c->described = 0;
  c->ranges_given = format::kRangesAwaited;
  c->cursor_range = c->cursor_addr = 0;
  keep_apart();
  c->apart = control_cpus_ ? 1 : 0;
  c->scan_off = control_cpus_ && pagemap_ ? scan_off_ : 0;
  begin_command(format::kCommandCapture);
}

// Instead of end_copy(), where begin_copy() was not reached or has failed.
Trouble Session::abandon_capture(World& world, const Trouble& why) {
  give_ranges(format::kRangesNone);
  (void)end_command(kCommandTimeoutNs, &world);
  let_together();
  return why;
}

// In the stop this process and the control thread work at the same time. Whom a futex wakes often
// gets the processor of the one that wakes it, and then waits for it, although another is idle: so
// the control thread is kept off ours. On the other one it must not wait for somebody's slice of
// some milliseconds to end; but once it works, the program's threads come first, which tell about
// themselves in some microseconds each.
void Session::keep_apart() {
  const int cpu = sched_getcpu();
  if (control_cpus_ && kept_off_ == cpu) return;
  share_processors();
  os::set_slice(control_tid_, os::Slice::kShort);
  control_cpus_ = os::keep_off(control_tid_, cpu);
  kept_off_ = cpu;
}

void Session::let_together() {
  os::set_slice(control_tid_, os::Slice::kLong);
  share_processors();
}

void Session::share_processors() {
  if (!control_cpus_) return;
  (void)sched_setaffinity(control_tid_, sizeof(*control_cpus_), &*control_cpus_);
  control_cpus_.reset();
}

Trouble Session::write_portion(World& world, Attempt& a) {
  if (!a.free_known) find_free_ranges(world.reader(), a);
  a.runs = without(pages_.resolve(a.runs), a.free_ranges);
  for (const format::Run& r : a.runs) {
    if (r.staging_page != format::kPagesSame) a.portions_pages += r.pages;
  }
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
    let_together();
    if (bad.bad() || worse.bad()) return bad;
    bad = read_runs(&a.runs);
    if (bad.bad()) return bad;
    a.copied_pages += c->staging_used - c->staging_first;
    staged_bytes_ = (early_pages_ + a.copied_pages) * kPageSize;
    if (c->more == 0) break;
    // Staging is full: this much must be written before the rest can be taken.
    bad = write_portion(world, a);
    if (bad.bad()) return bad;
    channel()->scan_off = 0;  // we may have to share a processor
    begin_command(format::kCommandCapture);
  }
  pages_.note_final(answered_ranges(), std::min<uint64_t>(c->range_count, most_ranges()), a.model);
  fault_point(FaultPoint::kCaptured);
  return {};
}

}  // namespace cr::agent
