// SPDX-License-Identifier: MIT
// quick_plan.cc - what a program that captures itself must know: whether it is simple enough, and
// the plan by which it finds out that nothing else has changed.
// Invariant: as quick.h says; what the plan does not tell, the program does not do.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "The quick path".
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>

#include "agent/frame.h"
#include "agent/quick.h"
#include "agent/quick_words.h"
#include "agent/session.h"
#include "agent/time_namespace.h"
#include "format/quick_scan.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

using format::QuickHead;
using quick::load;
using quick::now_ns;
using quick::set;

// Of the look at files; the program has other things to look at, and the agent writes.
constexpr double kAgentShare = 0.6;
constexpr int kRead = O_RDONLY | O_CLOEXEC;

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

// The lines of the map's text; none if the kernel does not answer such questions (before 6.11), or
// tells it otherwise than the text.
std::vector<format::QuickMapping> mappings_of(const std::string& map) {
  constexpr uint64_t kLongestName = 4095;
  std::vector<format::QuickMapping> all;
  const format::QuickMapping* file = nullptr;
  all.reserve(format::kQuickMostMappings);
  for (size_t at = 0; at < map.size();) {
    const size_t end = std::min(map.find('\n', at), map.size());
    const std::string line = map.substr(at, end - at);
    format::QuickMapping m{};
    char access[5] = "";
    int name = 0;
    if (sscanf(line.c_str(), "%lx-%lx %4s %lx %x:%x %lu %n", &m.start, &m.end, access, &m.offset,
               &m.dev_major, &m.dev_minor, &m.ino, &name) != 7 ||
        all.size() == format::kQuickMostMappings) {
      return {};
    }
    m.flags = (access[0] == 'r' ? rawsys::kProcmapReadable : 0) |
              (access[1] == 'w' ? rawsys::kProcmapWritable : 0) |
              (access[2] == 'x' ? rawsys::kProcmapExecutable : 0) |
              (access[3] == 's' ? rawsys::kProcmapShared : 0);
    m.name_off = at + static_cast<size_t>(name);
    m.name_bytes = end - m.name_off;
    at = end + 1;
    const std::string_view text = std::string_view(map).substr(m.name_off, m.name_bytes);
    if (text == "[vsyscall]") continue;  // the kernel's own, the same in each process
    // A line feed in it is printed otherwise than it is.
    if (m.name_bytes > kLongestName || text.find('\\') != text.npos) return {};
    m.ask_name = file == nullptr || m.ino == 0 || file->ino != m.ino ||
                         file->dev_major != m.dev_major || file->dev_minor != m.dev_minor ||
                         std::string_view(map).substr(file->name_off, file->name_bytes) != text
                     ? 1
                     : 0;
    all.push_back(m);
    if (m.ino != 0) file = &all.back();
  }
  return all;
}

}  // namespace

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

// How the map is compared from now on.
void QuickPath::note_mappings() {
  QuickHead& h = *head();
  mappings_.clear();
  h.plan.mapping_count = 0;
  if (getenv("CR_NO_PROCMAP_QUERY") != nullptr) return;
  mappings_ = mappings_of(map_);
  // Or it has changed since the stop: the text, as the image has it, is for the program to compare.
  if (!map_is_same()) mappings_.clear();
  h.plan.mapping_count = mappings_.size();
  std::ranges::copy(mappings_, h.mappings);
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
  // Of the program's thread: the control thread has descriptors of its own.
  const auto path = [this](const char* name) { return os::task_path(s_.pid_, s_.pid_, name); };
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
  const bool seen = names_are_same();
  if (!seen) names_.clear();
  return seen;
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
  note_mappings();
  h.plan.private_split = private_split_ = split_files();
  model_ = model;
  model_.extents.clear();
  model_.checksums.clear();
  put_away();
  h.hot = h.unmarked = 0;
  h.last_pages = h.last_run_count = 0;
  h.copies = format::kCopiesNone;
  h.marking = 0;
  h.refused = format::kQuickDone;
  offered_ns_ = now_ns();
  ahead_ns_ = clock_ahead(s_.pid_);
  set(h.enabled, 1);
}

}  // namespace cr::agent
