// SPDX-License-Identifier: MIT
// quick.cc - see quick.h. Invariant: as there. Context: N (agent).
#include "agent/quick.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <string_view>

#include "agent/frame.h"
#include "agent/quick_words.h"
#include "agent/session.h"
#include "format/quick_map.h"
#include "format/quick_scan.h"
#include "os/cpus.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::QuickHead;
using format::QuickSlot;
using quick::load;
using quick::now_ns;
using quick::set;

// Ordinary checkpoints see what quick ones do not look at; so often one is taken in between.
constexpr uint64_t kOrdinaryEveryNs = 1000000000;
// Asked for as often as this, a program is offered the quick path.
constexpr uint64_t kOftenNs = 250000000;
constexpr uint64_t kWaitForAttemptNs = 50000000;
// Who calls so often is likely to call again at once: better looked out for than waited for.
constexpr uint64_t kSpinNs = 150000;
constexpr uint64_t kAskNs = 12000;  // from one call to the next one's question
// Below, the agent looks from time to time and need not be woken, which costs the program time.
constexpr uint64_t kNapGapNs = 5000000, kLeastNapNs = 200000, kMostNapNs = 1000000;
constexpr uint64_t kMostFailedAttempts = 3;

}  // namespace

QuickHead* QuickPath::head() const { return format::quick_head(s_.channel()); }

void QuickPath::reset() {
  delta_.reset();
  asked_ns_ = 0;
  often_ = ranges_noted_ = false;
  failed_attempts_ = 0;
  mapped_.clear();
  s_.channel()->quick_ready = memory_ ? 1 : 0;
  if (!memory_) return;
  QuickHead& h = *head();
  h.enabled = h.busy = h.marking = h.announce = h.agent_sleeps = h.list_private = 0;
  h.published = h.finished = finished_ = 0;
}

void QuickPath::asked() {
  const uint64_t now = now_ns();
  often_ =
      asked_ns_ != 0 && (now - asked_ns_ < kOftenNs || now - offered_ns_ < 2 * kOrdinaryEveryNs);
  asked_ns_ = now;
}

bool QuickPath::wanted() const {
  return often_ && failed_attempts_ < kMostFailedAttempts && s_.options_.heap == HeapMode::kNone &&
         s_.back_end() == format::kTrackerUserfaultfd &&
         s_.channel_map_.size() >= format::kSharedBytes && getenv("CR_NO_QUICK") == nullptr;
}

// All of it is allocated before anybody writes to it.
void QuickPath::make_room() {
  if (memory_ || !wanted() ||
      fallocate(s_.channel_fd_.get(), 0, static_cast<off_t>(format::kQuickOff),
                static_cast<off_t>(format::kQuickBytes)) != 0) {
    return;
  }
  memory_ = true;
  set(s_.channel()->quick_ready, 1);
}

bool QuickPath::is_open() const {
  return memory_ && load(head()->enabled) != 0 && load(head()->refused) == format::kQuickDone;
}

void QuickPath::withdraw() {
  if (!memory_) return;
  QuickHead& h = *head();
  set(h.enabled, 0);
  const uint64_t begin = now_ns();
  while (load(h.busy) != 0 && now_ns() - begin < kWaitForAttemptNs) {
    while (waiting()) commit_next();  // it may wait for room
    const timespec moment{0, 20000};
    nanosleep(&moment, nullptr);
  }
  if (load(h.busy) != 0) {  // halted in the middle: what comes of it is not wanted
    h.generation = ++generation_;
    s_.pages_.forget();
  }
  while (waiting()) commit_next();
  if (load(h.marking) != 0) {
    s_.pages_.forget();
    failed_attempts_++;
    if (load(h.busy) == 0) h.marking = 0;
  }
  put_away();
  broken_ = false;
}

// What it has mapped the next one takes over: unmapping it takes milliseconds, in which the program
// might wait, and so does filling another mapping.
void QuickPath::put_away() {
  if (delta_ != nullptr) old_delta_ = std::move(delta_);
}

void QuickPath::clean_up() {
  if (!is_open()) old_delta_.reset();
}

bool QuickPath::waiting() const { return memory_ && load(head()->published) != finished_; }

// Is the program's map as it was? As same_map() in the program.
bool QuickPath::map_is_same() {
  if (!mappings_.empty()) {
    auto& scratch = *reinterpret_cast<format::QuickScratch*>(scratch_.data());
    return format::same_mappings({mappings_.data(), mappings_.size(), map_.data()}, maps_fd_.get(),
                                 scratch);
  }
  map_now_.resize(map_.size() + 1);
  size_t used = 0;
  ssize_t n = 0;
  while (used < map_now_.size() &&
         (n = pread(maps_fd_.get(), map_now_.data() + used, map_now_.size() - used,
                    static_cast<off_t>(used))) > 0) {
    used += static_cast<size_t>(n);
  }
  return n >= 0 && used == map_.size() && memcmp(map_now_.data(), map_.data(), used) == 0;
}

// As compare_map() and compare_private() in the program.
bool QuickPath::looks_same() {
  char c;
  struct stat tasks;
  if (fstat(tasks_fd_.get(), &tasks) != 0 || tasks.st_nlink != format::kQuickTaskLinks) {
    return false;
  }
  for (int i = 0; i < 16; i++) {
    rlimit now{};
    const format::RlimitRecord& then = model_.process.rlimits[i];
    if (prlimit(s_.pid_, static_cast<__rlimit_resource>(i), nullptr, &now) != 0 ||
        now.rlim_cur != then.soft || now.rlim_max != then.hard) {
      return false;
    }
  }
  if (!map_is_same() || pread(timers_fd_.get(), &c, 1, 0) != 0) return false;
  if (!names_are_same() || !journal_is_same()) return false;
  auto& scratch = *reinterpret_cast<format::QuickScratch*>(scratch_.data());
  return format::compare_private({files_.data(), files_.size()}, {0, private_split_},
                                 {private_.data(), private_.size()}, scratch,
                                 pagemap_fd_.get()) == 0;
}

bool QuickPath::help() {
  QuickHead& h = *head();
  uint64_t asked = load(h.help);
  if (asked % format::kHelpStates != format::kHelpWanted || load(h.enabled) == 0) return false;
  const uint64_t number = asked - format::kHelpWanted;
  if (!__atomic_compare_exchange_n(&h.help, &asked, number + format::kHelpBegun, false,
                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    return false;
  }
  uint64_t begun = number + format::kHelpBegun;
  const uint64_t answer = number + (looks_same() ? format::kHelpSame : format::kHelpDiffers);
  __atomic_compare_exchange_n(&h.help, &begun, answer, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return true;
}

void QuickPath::note_arrival() {
  const uint64_t now = now_ns();
  gap_ns_ = now - arrived_ns_;
  arrived_ns_ = now;
}

// Where no two processors share a cache, as in many virtual machines, a thread is woken on the one
// where it was last, whoever is there now: the program would wait for us while another is idle.
void QuickPath::step_aside(uint32_t cpu) {
  const int here = static_cast<int>(cpu);
  if (sched_getcpu() != here) return;
  if (const auto all = os::keep_off(0, here)) (void)sched_setaffinity(0, sizeof(*all), &*all);
}

bool QuickPath::serve(size_t most) {
  if (!waiting()) return false;
  QuickHead& h = *head();
  static const bool spins = sysconf(_SC_NPROCESSORS_ONLN) > 1;  // reads a file
  for (size_t i = 0; i < most && waiting(); i++) {
    note_arrival();
    const bool quickly = spins && gap_ns_ < kSpinNs;
    set(h.agent_spins, quickly ? 1 : 0);
    // The program is likely to ask in a moment, and waits for the answer; for the commit it does
    // not.
    while (!help() && quickly && now_ns() - arrived_ns_ < kAskNs) __builtin_ia32_pause();
    commit_next();
    const uint64_t begin = now_ns();
    while (quickly && !waiting() && now_ns() - begin < kSpinNs) {
      (void)help();
      __builtin_ia32_pause();
    }
  }
  if (!waiting()) set(h.agent_spins, 0);
  if (offered_ns_ != 0 && now_ns() - offered_ns_ > kOrdinaryEveryNs) set(h.enabled, 0);
  return waiting();
}

uint64_t QuickPath::sleep(uint64_t timeout_ns) {
  if (!memory_) return timeout_ns;
  if (gap_ns_ < kNapGapNs && now_ns() - arrived_ns_ < 4 * kNapGapNs) {
    return waiting() ? 0 : std::min(timeout_ns, std::clamp(gap_ns_ / 2, kLeastNapNs, kMostNapNs));
  }
  set(head()->agent_sleeps, 1);
  if (!waiting()) return timeout_ns;
  wake();
  return 0;
}

void QuickPath::wake() {
  if (memory_) set(head()->agent_sleeps, 0);
}

void QuickPath::fail(const Trouble& bad) {
  set(head()->enabled, 0);
  broken_ = s_.failed_before_ = true;
  s_.pages_.forget();
  s_.last_captured_ = bad;
  delta_.reset();
}

// Takes the oldest slot.
void QuickPath::commit_next() {
  QuickHead& h = *head();
  const uint64_t number = finished_, published = load(h.published);
  const bool sound = published - number <= format::kQuickSlots;
  const auto finish = [&] {
    finished_ = sound ? number + 1 : published;
    __atomic_store_n(&h.finished, finished_, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&h.finished_word, 1, __ATOMIC_SEQ_CST);
    if (load(h.program_waits) != 0) rawsys::sys_futex(&h.finished_word, FUTEX_WAKE, 0x7fffffff);
  };
  QuickSlot slot;
  const bool readable = sound && read_slot(number, &slot);
  if (readable && slot.generation != generation_) {
    // Nothing is lost: an ordinary checkpoint was taken while the program stood here.
    s_.pages_.forget();
    set(h.enabled, 0);
    return finish();
  }
  if (readable) step_aside(slot.cpu);
  s_.begin_attempt();
  Trouble bad;
  if (broken_) {
    bad = trouble(s_.last_captured_.error.code, s_.last_captured_.error.sys_errno,
                  "the checkpoint before, on which this one builds, failed");
  } else if (!readable) {
    bad = trouble(Errc::kDamaged, 0, "the program captured nonsense");
  } else {
    s_.attempt_.pause_ns = slot.pause_ns;
    s_.attempt_.flags = format::kHistoryQuick;
    s_.attempt_begin_ns_ = begin_here(slot);
    bad = commit(slot);
  }
  if (bad.bad()) {
    s_.failures_++;
    fail(bad);
    s_.notice_ = "checkpoint failed: " + bad.text + "; the program runs on";
  }
  finish();
  s_.end_attempt(bad);
  s_.publish(bad.text);
}

// What is shared with the program may hold anything: copied, and checked.
bool QuickPath::read_slot(uint64_t number, QuickSlot* ret) {
  QuickHead& h = *head();
  *ret = h.slots[number % format::kQuickSlots];
  if (ret->ring_first > format::kQuickRingPages ||
      ret->ring_pages > format::kQuickRingPages - ret->ring_first ||
      ret->run_count > format::kQuickMostRuns || ret->file_count > format::kQuickMostFds ||
      page_ceil(ret->run_count * sizeof(format::Run)) > ret->ring_pages * kPageSize) {
    return false;
  }
  const uint8_t* ring = format::quick_ring(&h);
  const auto* table = reinterpret_cast<const format::Run*>(ring + ret->ring_first * kPageSize);
  runs_.assign(table, table + ret->run_count);
  std::ranges::sort(runs_, {}, &format::Run::addr);
  pages_.clear();
  uint64_t end = 0;
  size_t range = 0;
  for (const format::Run& r : runs_) {
    while (range < ranges_.size() && ranges_[range].end <= r.addr) range++;
    if (r.addr < end || r.addr % kPageSize != 0 || range == ranges_.size() ||
        r.addr < ranges_[range].start || r.pages > (ranges_[range].end - r.addr) / kPageSize) {
      return false;
    }
    end = r.addr + r.pages * kPageSize;
    if (r.staging_page == format::kPagesGone) continue;
    if (r.staging_page < ret->ring_first || r.staging_page > ret->ring_first + ret->ring_pages ||
        r.pages > ret->ring_first + ret->ring_pages - r.staging_page) {
      return false;
    }
    for (uint64_t p = 0; p < r.pages; p++) {
      pages_.push_back({r.addr + p * kPageSize, ring + (r.staging_page + p) * kPageSize, false});
    }
  }
  size_t segment = 0;
  for (store::DeltaPage& p : pages_) {
    while (segment < model_.segments.size() && model_.segments[segment].end <= p.addr) segment++;
    if (segment == model_.segments.size() || p.addr < model_.segments[segment].start) return false;
    p.of_file = model_.segments[segment].kind == format::kSegmentFile;
  }
  return true;
}

// Has the newest image pages that are gone now?
bool QuickPath::drops_pages() const {
  const std::vector<format::ExtentRecord>& e = s_.buffers_[s_.newest_].extents;
  size_t at = 0;
  for (const format::Run& r : runs_) {
    if (r.staging_page != format::kPagesGone) continue;
    while (at < e.size() && e[at].addr + e[at].pages * kPageSize <= r.addr) at++;
    if (at < e.size() && e[at].addr < r.addr + r.pages * kPageSize) return true;
  }
  return false;
}

// The newest image's pages, with those that were written in place of what they were.
std::vector<format::Run> QuickPath::all_runs() const {
  std::vector<AddressRange> changed;
  for (const format::Run& r : runs_) changed.push_back({r.addr, r.addr + r.pages * kPageSize});
  std::vector<format::Run> all;
  size_t hint = 0;
  for (const format::ExtentRecord& e : s_.buffers_[s_.newest_].extents) {
    split(
        changed, e.addr, e.addr + e.pages * kPageSize, &hint, [](uint64_t, uint64_t) {},
        [&](uint64_t from, uint64_t to) {
          all.push_back({from, (to - from) / kPageSize, format::kPagesSame});
        });
  }
  for (const format::Run& r : runs_) {
    if (r.staging_page != format::kPagesGone) all.push_back(r);
  }
  std::ranges::sort(all, {}, &format::Run::addr);
  return all;
}

// When the program began, by this process's clock: the program's may be another.
uint64_t QuickPath::begin_here(const QuickSlot& slot) const {
  return slot.begin_ns - static_cast<uint64_t>(ahead_ns_);
}

Trouble QuickPath::commit(const QuickSlot& slot) {
  if (!std::ranges::all_of(mapped_, [](const MappedFile& f) { return f.is_same(); })) {
    return trouble(Errc::kUnsupported, ESTALE,
                   "a mapped file was changed; the next checkpoint has it");
  }
  format::ThreadRecord& t = model_.threads[0];
  t.syscall_nr = -1;
  set_frame_of_call({reinterpret_cast<uint8_t*>(model_.blobs.data()) + t.frame.off, t.frame.bytes},
                    slot.context);
  for (uint64_t i = 0; i < slot.file_count; i++) {
    if (slot.files[i].file >= model_.files.size())
      return trouble(Errc::kDamaged, 0, "no such file");
    model_.files[slot.files[i].file].position = slot.files[i].position;
    model_.files[slot.files[i].file].file_bytes = slot.files[i].bytes;
  }
  format::SuperBlock super{};
  super.epoch = s_.epoch_;
  super.sequence = s_.sequence_ + 1;
  super.attempt = s_.attempt_number();
  memcpy(super.session_id, s_.session_id_, sizeof(super.session_id));
  if (!model_.process_traits.empty()) {
    format::ProcessTraitsRecord& p = model_.process_traits[0];
    p.boottime_ns += slot.begin_ns - p.monotonic_ns;
    p.monotonic_ns = slot.begin_ns;
  }
  super.monotonic_ns = begin_here(slot);
  super.realtime_ns = slot.realtime_ns;
  super.pause_ns = slot.pause_ns;
  super.memory_bytes = s_.memory_bytes_;
  s_.tracker_ = format::kTrackerUserfaultfd;
  s_.describe_interval(&super);
  const Trouble bad = commit_pages(&super);
  if (bad.bad()) return bad;
  s_.newest_ = 1 - s_.newest_;
  s_.sequence_++;
  s_.newest_epoch_ = s_.epoch_;
  whole_++;
  s_.last_captured_ = {};
  s_.staged_bytes_ = pages_.size() * kPageSize;
  s_.attempt_.memory_bytes = super.memory_bytes;
  s_.pause_ns_ = slot.pause_ns;
  s_.commit_ns_ = now_ns() - begin_here(slot);
  s_.realtime_ns_ = slot.realtime_ns;
  return {};
}

Trouble QuickPath::commit_pages(format::SuperBlock* super) {
  if (delta_ == nullptr || drops_pages() || !delta_->fits(pages_)) return commit_anew(super);
  auto r = delta_->commit(model_, pages_, super);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(s_.options_.dir, r.error()));
  }
  s_.image_bytes_ = s_.attempt_.written_bytes = delta_->bytes_written();
  return {};
}

// Pages that the buffers have no place for, or the first after an ordinary checkpoint.
Trouble QuickPath::commit_anew(format::SuperBlock* super) {
  put_away();
  const std::string& dir = s_.options_.dir;
  const int next = 1 - s_.newest_;
  const auto failed = [&](const Error& e) {
    return trouble(e.code, e.sys_errno, store::describe_error(store::buffer_path(dir, next), e));
  };
  const std::vector<format::Run> runs = all_runs();
  auto w = store::BufferWriter::open(dir, next, s_.options_.durable, s_.buffers_[next]);
  if (!w) return failed(w.error());
  auto r = (*w)->begin(*super);
  if (r) r = (*w)->set_last(dir, s_.newest_, s_.buffers_[s_.newest_]);
  store::Model model = model_;
  const auto keep_zero = [](void* context, uint64_t addr) {
    return store::is_of_file(*static_cast<const store::Model*>(context), addr);
  };
  if (r) r = (*w)->append(model, format::quick_ring(head()), runs, keep_zero, &model);
  if (r) r = (*w)->commit(model, super);
  if (!r) return failed(r.error());
  s_.image_bytes_ = s_.attempt_.written_bytes = (*w)->bytes_written();
  std::vector<uint64_t> behind;
  for (const store::DeltaPage& p : pages_) behind.push_back(p.addr);
  if (drops_pages()) return {};  // the other buffer still has them
  auto delta = store::DeltaWriter::open(dir, s_.options_.durable, s_.buffers_, next,
                                        std::move(behind), old_delta_.get());
  old_delta_.reset();
  if (delta) delta_ = std::move(*delta);
  return {};
}

}  // namespace cr::agent
