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
#include "agent/session.h"
#include "agent/time_namespace.h"
#include "format/quick_scan.h"
#include "os/cpus.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::QuickHead;
using format::QuickSlot;

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
// Of the look at files; the program has other things to look at, and the agent writes.
constexpr double kAgentShare = 0.6;
constexpr int kRead = O_RDONLY | O_CLOEXEC;

// Not by a system call.
uint64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

template <typename T>
T load(const T& word) {
  return __atomic_load_n(&word, __ATOMIC_SEQ_CST);
}
void set(uint32_t& word, uint32_t value) { __atomic_store_n(&word, value, __ATOMIC_SEQ_CST); }

uint64_t hexadecimal(const std::string& status, const char* field) {
  return strtoull(os::status_field(status, field).c_str(), nullptr, 16);
}

// Real, effective, saved.
void three_ids(const std::string& status, const char* field, uint32_t (&ret)[3]) {
  const std::string text = os::status_field(status, field);
  char* at = const_cast<char*>(text.c_str());
  for (uint32_t& id : ret) id = static_cast<uint32_t>(strtoul(at, &at, 10));
}

bool is_simple_kind(uint32_t kind) {
  return kind == format::kFileRegular || kind == format::kFileDirectory ||
         kind == format::kFileDevice || kind == format::kFileTerminal ||
         kind == format::kFileStdPipe;
}

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

bool QuickPath::is_simple(const store::Model& m) const {
  if (m.threads.size() != 1 || (m.threads[0].flags & format::kThreadLeader) == 0 ||
      !m.siginfos.empty() || !m.objects.empty() || !m.locks.empty() || !m.owners.empty() ||
      !m.posix_timers.empty() || !m.thread_traits.empty() || !m.plugins.empty() ||
      !m.semaphores.empty() || m.fds.size() > format::kQuickMostFds) {
    return false;
  }
  for (const format::TimerRecord& t : m.process.itimers) {
    const format::TimerRecord none{};
    if (memcmp(&t, &none, sizeof(t)) != 0) return false;
  }
  const auto shared = [](const format::SegmentRecord& s) {
    return s.kind == format::kSegmentAnonShared;
  };
  return std::ranges::none_of(m.segments, shared) &&
         std::ranges::all_of(m.files,
                             [](const format::FileRecord& f) { return is_simple_kind(f.kind); });
}

// The address space that a heap has reserved and not made accessible is not looked at: no page of
// it can be written, and it is large.
bool QuickPath::note_ranges(const store::Model& model) {
  const AddressSet without = s_.excluded_ranges(), heaps = s_.heap_ranges();
  const auto in_heap = [&](const format::SegmentRecord& seg) {
    return std::ranges::any_of(heaps.ranges(), [&](const AddressRange& h) {
      return h.start <= seg.start && seg.end <= h.end;
    });
  };
  std::vector<format::QuickRange> anonymous, of_files;
  size_t hint = 0;
  for (const format::SegmentRecord& seg : model.segments) {
    if (seg.kind == format::kSegmentFile) {
      if (!of_files.empty() && of_files.back().end == seg.start) {
        of_files.back().end = seg.end;
      } else {
        of_files.push_back({seg.start, seg.end});
      }
    } else if (seg.kind == format::kSegmentAnon || seg.kind == format::kSegmentStack) {
      if (seg.prot == 0 && in_heap(seg)) continue;
      split(
          without.ranges(), seg.start, seg.end, &hint, [](uint64_t, uint64_t) {},
          [&](uint64_t from, uint64_t to) {
            // One call for all that lie side by side.
            if (!anonymous.empty() && anonymous.back().end == from) {
              anonymous.back().end = to;
            } else {
              anonymous.push_back({from, to});
            }
          });
    }
  }
  if (anonymous.size() + of_files.size() > format::kQuickMostRanges) return false;
  QuickHead& h = *head();
  std::ranges::copy(anonymous, h.ranges);
  std::ranges::copy(of_files, h.ranges + anonymous.size());
  h.plan.anon_count = anonymous.size();
  h.plan.file_count = of_files.size();
  ranges_ = std::move(anonymous);
  ranges_.insert(ranges_.end(), of_files.begin(), of_files.end());
  files_ = std::move(of_files);
  std::ranges::sort(ranges_, {}, &format::QuickRange::start);
  return true;
}

void QuickPath::prepare(const store::Model& model) {
  ranges_noted_ = memory_ && wanted() && note_ranges(model);
  if (memory_) head()->list_private = ranges_noted_ ? 1 : 0;
}

uint64_t QuickPath::add_path(const std::string& text) {
  QuickHead& h = *head();
  if (text.size() > sizeof(h.paths) - paths_used_) return ~uint64_t{0};
  const uint64_t at = paths_used_;
  memcpy(h.paths + at, text.data(), text.size());
  paths_used_ += text.size();
  return at;
}

bool QuickPath::fill_files(const store::Model& m) {
  QuickHead& h = *head();
  h.plan.fd_count = m.fds.size();
  for (size_t i = 0; i < m.fds.size(); i++) {
    const format::FileRecord& f = m.files[m.fds[i].file];
    format::QuickFd& q = h.fds[i];
    q = {};
    q.fd = m.fds[i].fd;
    q.file = m.fds[i].file;
    q.cloexec = m.fds[i].cloexec;
    q.kind = f.kind;
    q.open_flags = f.open_flags;
    q.mode = f.mode;
    q.dev = f.dev;
    q.ino = f.ino;
    q.position = f.position;
    q.copied_ctime_ns = s_.files_.copied_ctime_ns(f.dev, f.ino);
    q.has_modes = f.kind == format::kFileTerminal && f.content.bytes != 0 ? 1 : 0;
    if (q.has_modes != 0) memcpy(q.modes, m.blobs.data() + f.content.off, sizeof(q.modes));
    const std::string path = m.strings.c_str() + f.path;
    q.path_bytes = path.size();
    q.path_off = add_path(path);
    if (q.path_off == ~uint64_t{0}) return false;
  }
  return true;
}

void QuickPath::fill_thread(const store::Model& m) {
  format::QuickPlan& p = head()->plan;
  const format::ThreadRecord& t = m.threads[0];
  const auto* frame = reinterpret_cast<const uint8_t*>(m.blobs.data()) + t.frame.off;
  const FrameRest rest = frame_rest({frame, t.frame.bytes});
  p.tid = t.tid;
  p.sigmask = frame_sigmask(frame);
  p.altstack_sp = rest.altstack_sp;
  p.altstack_bytes = rest.altstack_bytes;
  p.altstack_flags = rest.altstack_flags;
  p.has_pkru = (rest.xfeatures >> 9 & 1) != 0 ? 1 : 0;
  p.fs_base = t.fs_base;
  p.gs_base = t.gs_base;
  p.pdeathsig = t.pdeathsig;
  p.clear_child_tid = t.clear_child_tid;
  p.robust_list = t.robust_list;
  p.robust_list_bytes = t.robust_list_bytes;
  p.timer_slack_ns = t.timer_slack_ns;
  p.rseq_addr = t.rseq_addr;
  p.rseq_bytes = t.rseq_bytes;
  p.rseq_signature = t.rseq_signature;
  memcpy(p.name, t.name, sizeof(p.name));
  p.no_new_privs = (t.flags & format::kThreadNoNewPrivs) != 0 ? 1 : 0;
  p.keepcaps = (t.flags & format::kThreadKeepCaps) != 0 ? 1 : 0;
  p.sched_policy = t.sched_policy;
  p.sched_priority = t.sched_priority;
  p.nice = t.nice;
  p.affinity_bytes =
      static_cast<uint32_t>(std::min<uint64_t>(t.affinity.bytes, sizeof(p.affinity)));
  memcpy(p.affinity, m.blobs.data() + t.affinity.off, p.affinity_bytes);
}

bool QuickPath::fill_plan(const store::Model& m, const std::string& map,
                          const std::string& status) {
  QuickHead& h = *head();
  format::QuickPlan& p = h.plan;
  const format::ProcessRecord& r = m.process;
  if (map.size() >= sizeof(h.maps)) return false;
  memcpy(h.maps, map.data(), map.size());
  p.maps_bytes = map.size();
  paths_used_ = 0;
  const std::string cwd = m.strings.c_str() + r.cwd;
  p.cwd_bytes = cwd.size();
  p.cwd_off = add_path(cwd);
  p.pid = r.pid;
  p.ppid = r.ppid;
  p.pgid = r.pgid;
  p.sid = r.sid;
  p.umask = r.umask;
  p.personality = r.personality;
  p.dumpable = r.dumpable;
  p.thp_disabled = (r.flags & format::kProcessThpDisabled) != 0 ? 1 : 0;
  p.child_subreaper = (r.flags & format::kProcessChildSubreaper) != 0 ? 1 : 0;
  p.brk = r.mm.brk;
  three_ids(status, "Uid", p.uid);
  three_ids(status, "Gid", p.gid);
  p.caps[0] = hexadecimal(status, "CapEff");
  p.caps[1] = hexadecimal(status, "CapPrm");
  p.caps[2] = hexadecimal(status, "CapInh");
  memcpy(p.rlimits, r.rlimits, sizeof(p.rlimits));
  std::ranges::copy(m.sigactions, p.sigactions);
  fill_thread(m);
  return fill_files(m);
}

// Readable by the program: a copy by loads and stores then saves process_vm_readv, a quarter of the
// program's time in a quick checkpoint. But a page of a mapped file is gone, and reading it is the
// end, if somebody cuts the file off: of files with program text that would be the end in any case.
bool QuickPath::is_plain(const store::Model& m) const {
  using format::SegmentRecord;
  const auto is_text = [&](const SegmentRecord& seg) {
    return std::ranges::any_of(m.segments, [&](const SegmentRecord& s) {
      return s.dev == seg.dev && s.ino == seg.ino && (s.prot & PROT_EXEC) != 0;
    });
  };
  const auto touches = [](const std::vector<format::QuickRange>& all, const SegmentRecord& seg) {
    return std::ranges::any_of(
        all, [&](const format::QuickRange& r) { return seg.start < r.end && r.start < seg.end; });
  };
  return std::ranges::all_of(m.segments, [&](const SegmentRecord& seg) {
    const bool of_file = seg.kind == format::kSegmentFile;
    if (!touches(of_file ? private_ : ranges_, seg)) return true;
    return (seg.prot & PROT_READ) != 0 && (!of_file || is_text(seg));
  });
}

// By how long the look at each file takes, which is by its pages in memory. Not within a run of
// private pages.
uint64_t QuickPath::split_files() {
  auto& scratch = *reinterpret_cast<format::QuickScratch*>(scratch_.data());
  std::vector<double> cost;
  double left = 0;
  for (const format::QuickRange& r : files_) {
    const uint64_t begin = now_ns();
    (void)format::each_private({&r, 1}, r, scratch, pagemap_fd_.get(),
                               [](const format::QuickRange&) -> long { return 0; });
    cost.push_back(static_cast<double>(now_ns() - begin));
    left += cost.back() * kAgentShare;
  }
  for (size_t i = 0; i < files_.size(); i++) {
    const format::QuickRange& r = files_[i];
    if (left >= cost[i]) {
      left -= cost[i];
      continue;
    }
    const uint64_t at =
        r.start +
        page_ceil(static_cast<uint64_t>(static_cast<double>(r.end - r.start) * left / cost[i]));
    for (const format::QuickRange& p : private_) {
      if (p.start < at && at < p.end) return p.start;
    }
    return at;
  }
  return ~uint64_t{0};
}

bool QuickPath::MappedFile::is_same() const {
  struct stat st;
  return fstat(fd.get(), &st) == 0 && static_cast<uint64_t>(st.st_size) == bytes &&
         st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec == mtime_ns;
}

// That the names still lead to them is seen in the text of the map ("(deleted)").
bool QuickPath::open_mapped(const store::Model& m) {
  mapped_.clear();
  uint64_t last_ino = 0, last_dev = 0;
  for (const format::SegmentRecord& seg : m.segments) {
    const bool file = seg.kind == format::kSegmentFile || seg.kind == format::kSegmentFileShared;
    if (!file || (seg.flags & format::kSegmentDeleted) != 0) continue;
    if (seg.ino == last_ino && seg.dev == last_dev) continue;
    last_ino = seg.ino;
    last_dev = seg.dev;
    MappedFile f{os::Fd(open(m.strings.c_str() + seg.file, O_PATH | O_CLOEXEC)), seg.file_bytes,
                 seg.file_mtime_ns};
    struct stat st;
    if (fstat(f.fd.get(), &st) != 0 || st.st_ino != seg.ino || !f.is_same()) return false;
    mapped_.push_back(std::move(f));
  }
  return true;
}

// false: its paths are others seen from here (in another root, say), and the program looks at them.
bool QuickPath::open_names(const store::Model& m) {
  names_.clear();
  const auto path = [this](const char* name) {
    return os::task_path(s_.pid_, s_.control_tid_, name);
  };
  descriptors_fd_ = os::Fd(open(path("fd").c_str(), kRead | O_DIRECTORY));
  for (const format::FdRecord& fd : m.fds) {
    const format::FileRecord& f = m.files[fd.file];
    if (f.kind != format::kFileRegular && f.kind != format::kFileDirectory) continue;
    const std::string number = std::to_string(fd.fd);
    NamedFile n{
        os::Fd(open((path("fdinfo/") + number).c_str(), kRead)), {}, m.strings.c_str() + f.path};
    rawsys::str_copy(n.number, number.c_str(), sizeof(n.number));
    names_.push_back(std::move(n));
  }
  return names_are_same();
}

// As same_journal() in the program.
bool QuickPath::note_journal() {
  format::QuickPlan& p = head()->plan;
  const std::string log = s_.files_.log_path();
  p.journal_bytes = s_.files_.log_bytes();
  p.journal_off = log.empty() ? ~uint64_t{0} : add_path(log + '\0');
  if (log.empty()) {
    journal_fd_ = {};
    return true;
  }
  const size_t slash = log.find_last_of('/');
  journal_fd_ = os::Fd(open(log.substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  journal_log_ = log.substr(slash + 1);
  return journal_fd_ && p.journal_off != ~uint64_t{0};
}

bool QuickPath::journal_is_same() const {
  struct stat st {};
  if (!journal_fd_) return true;
  if (fstatat(journal_fd_.get(), journal_log_.c_str(), &st, 0) != 0 && errno != ENOENT)
    return false;
  return static_cast<uint64_t>(st.st_size) == s_.files_.log_bytes();
}

bool QuickPath::names_are_same() const {
  const auto is_same = [this](const NamedFile& n) {
    char link[4096], info[4096];
    const ssize_t linked = readlinkat(descriptors_fd_.get(), n.number, link, sizeof(link));
    const ssize_t told = pread(n.info.get(), info, sizeof(info), 0);
    if (linked < 0 || told <= 0 || told == sizeof(info)) return false;
    const std::string_view text(info, static_cast<size_t>(told));
    return std::string_view(link, static_cast<size_t>(linked)) == n.path &&
           text.find("\nlock:") == text.npos;
  };
  return std::ranges::all_of(names_, is_same);
}

void QuickPath::offer(const store::Model& model, const std::string& map,
                      const std::string& status) {
  if (!ranges_noted_) return;
  ranges_noted_ = false;
  QuickHead& h = *head();
  if (h.private_errno != 0 || load(h.busy) != 0 || !s_.pages_.is_whole() || !is_simple(model) ||
      !fill_plan(model, map, status) || !note_journal()) {
    return;
  }
  const uint64_t runs = load(h.plan.private_count);
  if (runs > format::kQuickMostRuns || !open_mapped(model)) return;
  private_.assign(h.private_runs, h.private_runs + runs);
  h.plan.plain = is_plain(model) ? 1 : 0;
  map_ = map;
  maps_fd_ = os::Fd(open(os::task_path(s_.pid_, s_.control_tid_, "maps").c_str(), kRead));
  timers_fd_ = os::Fd(open(("/proc/" + std::to_string(s_.pid_) + "/timers").c_str(), kRead));
  pagemap_fd_ = os::Fd(open(os::task_path(s_.pid_, s_.control_tid_, "pagemap").c_str(), kRead));
  const std::string process = "/proc/" + std::to_string(s_.pid_);
  tasks_fd_ = os::Fd(open((process + "/task").c_str(), kRead | O_DIRECTORY));
  h.plan.agent_sees_names = open_names(model) ? 1 : 0;
  scratch_.resize(sizeof(format::QuickScratch));
  h.plan.private_split = private_split_ = split_files();
  model_ = model;
  model_.extents.clear();
  model_.checksums.clear();
  delta_.reset();
  h.hot = h.unmarked = 0;
  h.last_pages = h.last_run_count = 0;
  h.copies = format::kCopiesNone;
  h.marking = 0;
  h.refused = format::kQuickDone;
  offered_ns_ = now_ns();
  ahead_ns_ = clock_ahead(s_.pid_);
  set(h.enabled, 1);
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
    sched_yield();
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
  delta_.reset();
  broken_ = false;
}

bool QuickPath::waiting() const { return memory_ && load(head()->published) != finished_; }

// Is the program's map as it was? As compare_map() and compare_private() in the program.
bool QuickPath::looks_same() {
  map_now_.resize(map_.size() + 1);
  size_t used = 0;
  ssize_t n = 0;
  while (used < map_now_.size() &&
         (n = pread(maps_fd_.get(), map_now_.data() + used, map_now_.size() - used,
                    static_cast<off_t>(used))) > 0) {
    used += static_cast<size_t>(n);
  }
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
  if (n < 0 || used != map_.size() || memcmp(map_now_.data(), map_.data(), used) != 0 ||
      pread(timers_fd_.get(), &c, 1, 0) != 0) {
    return false;
  }
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
  delta_.reset();
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
  auto delta =
      store::DeltaWriter::open(dir, s_.options_.durable, s_.buffers_, next, std::move(behind));
  if (delta) delta_ = std::move(*delta);
  return {};
}

}  // namespace cr::agent
