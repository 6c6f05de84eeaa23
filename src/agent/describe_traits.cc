// SPDX-License-Identifier: MIT
// describe_traits.cc - see traits.h; the checkpoint's part and what restore() in place compares.
// Invariant: as there. Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "agent/traits.h"
#include "os/fd.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr int kSuspendSeccomp = 1 << 21;  // PTRACE_O_SUSPEND_SECCOMP
constexpr int kGetFilter = 0x420c, kGetMetadata = 0x420d, kGetThreadArea = 25;
constexpr int kSchedDeadline = 6;

constexpr const char* kCredentialFields[] = {"Uid",    "Gid",    "Groups", "CapInh",
                                             "CapPrm", "CapEff", "CapBnd", "CapAmb"};
// Those that a thread can change alone are looked at in each stop.
constexpr const char* kOfThread[] = {
    "mnt", "net", "ipc", "uts", "cgroup", "pid_for_children", "time_for_children"};
// That of the clocks is what a restore gives to a program.
constexpr const char* kOfProcess[] = {"mnt", "net", "ipc", "uts", "cgroup", "pid_for_children",
                                      "user"};

std::string thread_name(const Thread& t) { return "thread " + std::to_string(t.inner_tid); }

uint64_t number(const std::string& text, int base) { return strtoull(text.c_str(), nullptr, base); }

bool same_credentials(const std::string& a, const std::string& b) {
  return std::ranges::all_of(kCredentialFields, [&](const char* f) {
    return os::status_field(a, f) == os::status_field(b, f);
  });
}

// From the line that begins with `first` to before the one that begins with `behind`.
std::string_view lines_of(std::string_view status, std::string_view first,
                          std::string_view behind) {
  const size_t begin = status.find(first);
  if (begin == std::string_view::npos) return {};
  const size_t end = status.find(behind, begin + 1);
  return status.substr(begin, end == std::string_view::npos ? end : end - begin);
}

// In credentials, capabilities, no_new_privs and filters. One look, because it is the usual case.
bool is_as_control(const std::string& status, const std::string& control) {
  constexpr const char* kLines[][2] = {
      {"\nUid:", "\nFDSize:"}, {"\nGroups:", "\n"}, {"\nCapInh:", "\nSpeculation"}};
  return std::ranges::all_of(kLines, [&](const auto& l) {
    const std::string_view theirs = lines_of(status, l[0], l[1]);
    return !theirs.empty() && theirs == lines_of(control, l[0], l[1]);
  });
}

// Is in the last lines.
uint64_t voluntary_switches(const std::string& status) {
  constexpr std::string_view kField = "\nvoluntary_ctxt_switches:";
  const size_t at = status.rfind(kField);
  return at == std::string::npos ? 0 : strtoull(status.c_str() + at + kField.size(), nullptr, 10);
}

std::vector<uint32_t> numbers(const std::string& text) {
  std::vector<uint32_t> out;
  const char* at = text.c_str();
  for (char* end = nullptr;; at = end) {
    const auto value = static_cast<uint32_t>(strtoul(at, &end, 10));
    if (end == at) return out;
    out.push_back(value);
  }
}

void read_credentials(const std::string& status, format::ThreadTraitsRecord& r,
                      store::Model& model) {
  const auto uids = numbers(os::status_field(status, "Uid"));
  const auto gids = numbers(os::status_field(status, "Gid"));
  for (size_t i = 0; i < 4 && i < uids.size() && i < gids.size(); i++) {
    r.uids[i] = uids[i];
    r.gids[i] = gids[i];
  }
  const auto groups = numbers(os::status_field(status, "Groups"));
  r.groups = model.add_blob(groups.data(), groups.size() * sizeof(groups[0]));
  for (size_t i = 0; i < 5; i++) {
    r.capabilities[i] = number(os::status_field(status, kCredentialFields[3 + i]), 16);
  }
  r.what |= format::kTraitCredentials;
}

template <size_t kCount>
struct Namespaces {
  ino_t inode[kCount] = {};  // 0: this kernel has none of that kind, or hides it
};

// dir: the task's ns, open; -1: to be opened. first: those before it are not asked for.
template <size_t kCount>
Namespaces<kCount> namespaces_of(pid_t pid, pid_t tid, const char* const (&kinds)[kCount],
                                 int dir = -1, size_t first = 0) {
  Namespaces<kCount> n;
  os::Fd own;
  if (dir < 0) {
    own = os::Fd(open(os::task_path(pid, tid, "ns").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    dir = own.get();
  }
  for (size_t i = first; dir >= 0 && i < kCount; i++) {
    // "mnt:[4026531841]": less than half of what a look at the file itself costs.
    char text[64];
    const ssize_t length = readlinkat(dir, kinds[i], text, sizeof(text) - 1);
    if (length <= 0) continue;
    text[length] = '\0';
    const char* number = strchr(text, '[');
    if (number != nullptr) n.inode[i] = strtoull(number + 1, nullptr, 10);
  }
  return n;
}

using OfThread = Namespaces<std::size(kOfThread)>;

// Changing one takes CAP_SYS_ADMIN (a user namespace, which would give it, is not for a process
// with several threads): so the others are not asked.
bool may_change_namespaces(const std::string& control) {
  return (number(os::status_field(control, "CapPrm"), 16) >> CAP_SYS_ADMIN & 1) != 0;
}

// unshare(2) and setns(2) act on one thread, so the control thread is where the others began.
// The control thread has descriptors of its own: those are compared with the first thread's.
Trouble check_namespaces(pid_t pid, pid_t control_tid, pid_t first_tid, const OfThread* began,
                         const Thread& t) {
  const long same = rawsys::sys(__NR_kcmp, control_tid, t.tid, KCMP_FS, 0, 0);
  if (began != nullptr) {
    // Another mount namespace takes a root of its own (unshare makes one, setns asks for one).
    const size_t first = same == 0 ? 1 : 0;
    const OfThread now = namespaces_of(pid, t.tid, kOfThread, t.namespaces_fd.get(), first);
    for (size_t i = 0; i < std::size(kOfThread); i++) {
      if (now.inode[i] == began->inode[i] || now.inode[i] == 0) continue;
      return trouble(Errc::kUnsupported, 0,
                     thread_name(t) + " has entered another namespace (" + kOfThread[i] +
                         "): that cannot be saved; checkpoint before it does");
    }
  }
  if (same > 0) {
    return trouble(Errc::kUnsupported, 0,
                   thread_name(t) +
                       " has a working directory, root and umask of its own "
                       "(unshare(CLONE_FS)): that cannot be saved");
  }
  if (rawsys::sys(__NR_kcmp, first_tid, t.tid, KCMP_FILES, 0, 0) > 0) {
    return trouble(Errc::kUnsupported, 0,
                   thread_name(t) +
                       " has descriptors of its own (unshare(CLONE_FILES)): that cannot be saved");
  }
  return {};
}

// The instructions of the filters that the thread has beyond those it was started with.
Trouble read_filters(const Thread& t, uint64_t inherited, uint64_t count,
                     format::ThreadTraitsRecord& r, store::Model& model) {
  std::string all;
  for (uint64_t i = inherited; i < count; i++) {
    std::vector<sock_filter> code(format::kMostFilterInstructions);
    const long n = rawsys::sys(__NR_ptrace, kGetFilter, t.tid, i, code.data());
    if (n <= 0 || static_cast<uint64_t>(n) > code.size()) {
      return trouble(Errc::kUnsupported, n < 0 ? static_cast<int>(-n) : 0,
                     thread_name(t) + ": its seccomp filter cannot be read (" +
                         strerror(n < 0 ? static_cast<int>(-n) : EINVAL) + ")");
    }
    struct {
      uint64_t filter_off, flags;
    } metadata{i, 0};
    rawsys::sys(__NR_ptrace, kGetMetadata, t.tid, sizeof(metadata), &metadata);
    const format::SeccompFilter head{static_cast<uint32_t>(n),
                                     static_cast<uint32_t>(metadata.flags)};
    all.append(reinterpret_cast<const char*>(&head), sizeof(head));
    all.append(reinterpret_cast<const char*>(code.data()),
               static_cast<size_t>(n) * sizeof(code[0]));
  }
  r.filters = model.add_blob(all.data(), all.size());
  r.what |= format::kTraitSeccomp;
  return {};
}

// A thread that is filtered may not be made to report unless its filters are suspended.
Trouble check_filters(const std::string& status, const std::string& control, const Thread& t,
                      format::ThreadTraitsRecord& r, store::Model& model) {
  const uint64_t mode = number(os::status_field(status, "Seccomp"), 10);
  const uint64_t count = number(os::status_field(status, "Seccomp_filters"), 10);
  const uint64_t inherited = number(os::status_field(control, "Seccomp_filters"), 10);
  if (mode == number(os::status_field(control, "Seccomp"), 10) && count == inherited) return {};
  const char* kind = mode == 1 ? "is in seccomp's strict mode" : "has a seccomp filter";
  const long e = rawsys::sys(__NR_ptrace, PTRACE_SETOPTIONS, t.tid, 0, kSuspendSeccomp);
  if (e < 0) {
    return trouble(Errc::kUnsupported, static_cast<int>(-e),
                   thread_name(t) + " " + kind +
                       ": to save that takes root (CAP_SYS_ADMIN); checkpoint before it does "
                       "that, or run crrun as root");
  }
  if (mode == 1) {
    r.what |= format::kTraitSeccompStrict;
    return {};
  }
  const bool privileged =
      (number(os::status_field(status, "CapEff"), 16) >> CAP_SYS_ADMIN & 1) != 0 ||
      os::status_field(status, "NoNewPrivs") == "1";
  if (!privileged) {
    return trouble(Errc::kUnsupported, 0,
                   thread_name(t) +
                       " has a seccomp filter and has given up what it takes to install one "
                       "(CAP_SYS_ADMIN or no_new_privs): that cannot be saved");
  }
  return read_filters(t, inherited, count, r, model);
}

// What the kernel says of a thread from outside.
Trouble look_at_thread(const Thread& t, format::ThreadTraitsRecord& r, store::Model& model) {
  const long io = rawsys::sys(__NR_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, t.tid);
  if (io > 0 && IOPRIO_PRIO_CLASS(io) != IOPRIO_CLASS_NONE) {
    r.io_priority = static_cast<int32_t>(io);
    r.what |= format::kTraitIoPriority;
  }
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
  } schedule{};
  if (rawsys::sys(__NR_sched_getattr, t.tid, &schedule, sizeof(schedule), 0) >= 0 &&
      (schedule.policy == kSchedDeadline || schedule.flags != 0)) {
    r.schedule = model.add_blob(&schedule, std::min<size_t>(schedule.size, sizeof(schedule)));
    r.what |= format::kTraitSchedule;
  }
  uint8_t entries[3][16] = {};
  bool any = false;
  for (uint32_t i = 0; i < 3; i++) {
    constexpr uint32_t kFirstEntry = 12, kEmpty = 0x28;  // not present, not writable
    uint32_t desc[4] = {};
    if (rawsys::sys(__NR_ptrace, kGetThreadArea, t.tid, kFirstEntry + i, desc) < 0) continue;
    any = any || desc[1] != 0 || desc[2] != 0 || (desc[3] & ~kEmpty) != 0;
    memcpy(entries[i], desc, sizeof(desc));
  }
  if (any) {
    r.tls_entries = model.add_blob(entries, sizeof(entries));
    r.what |= format::kTraitTlsEntries;
  }
  uint64_t io_bitmap[1024];
  iovec iov{io_bitmap, sizeof(io_bitmap)};
  constexpr int kNtIoPermissions = 0x201;
  if (rawsys::sys(__NR_ptrace, PTRACE_GETREGSET, t.tid, kNtIoPermissions, &iov) == 0 &&
      iov.iov_len != 0) {
    return trouble(
        Errc::kUnsupported, 0,
        thread_name(t) + " may use I/O ports (ioperm): that cannot be saved; give them up before");
  }
  return {};
}

}  // namespace

Trouble check_control_filters(pid_t pid, pid_t control_tid) {
  static const std::string ours = os::read_or_empty("/proc/self/status");
  const std::string theirs = os::read_or_empty(os::task_path(pid, control_tid, "status"));
  if (theirs.empty()) {
    return trouble(Errc::kCannotStop, EAGAIN, "the control thread has just ended; try again");
  }
  if (os::status_field(theirs, "Seccomp") == os::status_field(ours, "Seccomp") &&
      os::status_field(theirs, "Seccomp_filters") == os::status_field(ours, "Seccomp_filters")) {
    return {};
  }
  return trouble(Errc::kUnsupported, 0,
                 "the program has put a seccomp filter on all of its threads "
                 "(SECCOMP_FILTER_FLAG_TSYNC), the library's own included: that cannot be saved; "
                 "checkpoint before it does");
}

std::string entered_namespace(pid_t pid, pid_t tid, pid_t home) {
  const auto there = namespaces_of(pid, tid, kOfProcess);
  const auto here = namespaces_of(home, home, kOfProcess);
  for (size_t i = 0; i < std::size(kOfProcess); i++) {
    if (there.inode[i] == 0 || here.inode[i] == 0) continue;
    if (there.inode[i] != here.inode[i]) return kOfProcess[i];
  }
  return "";
}

Trouble describe_thread_traits(World& world, pid_t pid, pid_t control_tid,
                               const std::string& control,
                               std::vector<format::ThreadTraitsRecord>* ret, store::Model& model) {
  const bool nested = os::in_pid_namespace(control);
  const bool asked = may_change_namespaces(control);
  const OfThread began = asked ? namespaces_of(pid, control_tid, kOfThread) : OfThread{};
  for (Thread& t : world.threads()) {
    if (t.inner_tid == 0) t.inner_tid = nested ? os::inner_tid(pid, t.tid) : t.tid;
    const std::string status = read_status(pid, t);
    t.switches = voluntary_switches(status);
    const bool usual = is_as_control(status, control);
    format::ThreadTraitsRecord r{};
    r.tid = t.inner_tid;
    Trouble bad = usual ? Trouble{} : check_filters(status, control, t, r, model);
    if (!bad.bad()) {
      bad = check_namespaces(pid, control_tid, world.threads()[0].tid, asked ? &began : nullptr, t);
    }
    if (!bad.bad()) bad = look_at_thread(t, r, model);
    if (bad.bad()) return bad;
    if (!usual && !same_credentials(status, control)) read_credentials(status, r, model);
    ret->push_back(r);
  }
  return {};
}

namespace {

// securebits come with the other credentials; keepcaps alone is in ThreadRecord.
void add_reported(const std::string& status, const format::ThreadReport& said,
                  format::ThreadTraitsRecord& r, store::Model& model) {
  constexpr uint32_t kKeepCaps = issecure_mask(SECURE_KEEP_CAPS);
  constexpr uint32_t kUnprotected = 1, kDefaultKill = PR_MCE_KILL_DEFAULT;
  r.securebits = said.securebits;
  if ((said.securebits & ~kKeepCaps) != 0 && (r.what & format::kTraitCredentials) == 0) {
    read_credentials(status, r, model);
  }
  const struct {
    bool has;
    uint32_t what;
    uint32_t* to;
    uint32_t value;
  } rows[] = {{said.machine_check != kDefaultKill, format::kTraitMachineCheck, &r.machine_check,
               said.machine_check},
              {said.tsc != PR_TSC_ENABLE, format::kTraitTsc, &r.tsc, said.tsc},
              {said.io_flusher != 0, format::kTraitIoFlusher, &r.io_flusher, said.io_flusher},
              {(said.store_bypass & kUnprotected) != 0 &&
                   (said.store_bypass & ~(PR_SPEC_PRCTL | PR_SPEC_ENABLE)) != 0,
               format::kTraitStoreBypass, &r.store_bypass, said.store_bypass},
              {(said.indirect_branch & kUnprotected) != 0 &&
                   (said.indirect_branch & ~(PR_SPEC_PRCTL | PR_SPEC_ENABLE)) != 0,
               format::kTraitIndirectBranch, &r.indirect_branch, said.indirect_branch},
              {said.no_cpuid != 0, format::kTraitCpuid, &r.cpuid, said.no_cpuid}};
  for (const auto& row : rows) {
    if (!row.has) continue;
    r.what |= row.what;
    *row.to = row.value;
  }
}

}  // namespace

Trouble complete_traits(World& world, pid_t pid, const format::Process& process,
                        std::vector<format::ThreadTraitsRecord> records, store::Model& model) {
  if (process.protection_keys != 0) {
    return trouble(Errc::kUnsupported, 0,
                   "the program has allocated memory protection keys (pkey_alloc): they cannot be "
                   "saved yet; free them before the checkpoint");
  }
  if (process.descriptor_entries > format::kMostDescriptors) {
    return trouble(Errc::kUnsupported, 0,
                   "the program has more than " + std::to_string(format::kMostDescriptors) +
                       " entries in its local descriptor table (modify_ldt): that cannot be saved");
  }
  for (size_t i = 0; i < records.size() && i < world.threads().size(); i++) {
    const Thread& t = world.threads()[i];
    // securebits are rare: only then is the text read again.
    const bool bits = t.report.securebits != 0;
    add_reported(bits ? os::read_or_empty(os::task_path(pid, t.tid, "status")) : "", t.report,
                 records[i], model);
    if (t.report.personality != world.threads()[0].report.personality) {
      records[i].personality = t.report.personality;
      records[i].what |= format::kTraitPersonality;
    }
    if (records[i].what != 0) model.thread_traits.push_back(records[i]);
  }
  format::ProcessTraitsRecord p{};
  p.monotonic_ns = process.monotonic_ns;
  p.boottime_ns = process.boottime_ns;
  const pid_t tid = world.threads()[0].tid;
  const auto value = [&](const char* what, int base) {
    return strtol(os::read_or_empty(os::task_path(pid, tid, what)).c_str(), nullptr, base);
  };
  p.oom_score_adj = static_cast<int32_t>(value("oom_score_adj", 10));
  p.coredump_filter = static_cast<uint32_t>(strtoul(
      os::read_or_empty("/proc/" + std::to_string(pid) + "/coredump_filter").c_str(), nullptr, 16));
  p.membarrier = process.membarrier;
  p.deny_exec_gain = process.deny_exec_gain;
  p.merge_memory = process.merge_memory;
  p.descriptor_table = model.add_blob(process.descriptors,
                                      process.descriptor_entries * sizeof(process.descriptors[0]));
  model.process_traits.push_back(p);
  return {};
}

std::string traits_changed(World& world, pid_t pid, pid_t control_tid,
                           const format::Process& process, const format::ImageView& image) {
  store::Model now;
  std::vector<format::ThreadTraitsRecord> records;
  const std::string control = os::read_or_empty(os::task_path(pid, control_tid, "status"));
  const Trouble bad = describe_thread_traits(world, pid, control_tid, control, &records, now);
  if (bad.bad()) return bad.text;
  constexpr uint32_t kSeen = format::kTraitCredentials | format::kTraitSeccompStrict |
                             format::kTraitSeccomp | format::kTraitSchedule |
                             format::kTraitTlsEntries;
  for (const auto& r : records) {
    if ((r.what & (format::kTraitSeccomp | format::kTraitSeccompStrict)) == 0) continue;
    return "thread " + std::to_string(r.tid) + " has a seccomp filter";
  }
  for (const format::ThreadRecord& t : image.threads) {
    format::ThreadTraitsRecord then{}, is{};
    if (const auto* r = traits_of(image, t.tid)) then = *r;
    const auto it = std::ranges::find(records, t.tid, &format::ThreadTraitsRecord::tid);
    if (it != records.end()) is = *it;
    const std::string who = "thread " + std::to_string(t.tid);
    if ((then.what & (format::kTraitSeccomp | format::kTraitSeccompStrict)) != 0) {
      return who + " has a seccomp filter";
    }
    const bool missing = it == records.end() && then.what != 0;
    // securebits alone make a record of credentials that are otherwise as at the start.
    const bool bits = (then.what & format::kTraitCredentials) != 0 && then.securebits != 0;
    if (missing || (!bits && ((then.what ^ is.what) & kSeen) != 0)) {
      return who + ": its credentials, scheduling or segment descriptors were changed";
    }
    const auto same = [&](format::BlobRef a, format::BlobRef b) {
      return a.bytes == b.bytes &&
             memcmp(image.blob(a).data(), now.blobs.data() + b.off, a.bytes) == 0;
    };
    const bool ids = (is.what & format::kTraitCredentials) == 0 ||
                     (memcmp(then.uids, is.uids, sizeof(is.uids)) == 0 &&
                      memcmp(then.gids, is.gids, sizeof(is.gids)) == 0 &&
                      memcmp(then.capabilities, is.capabilities, sizeof(is.capabilities)) == 0 &&
                      same(then.groups, is.groups));
    if (bits || !ids || !same(then.schedule, is.schedule) ||
        !same(then.tls_entries, is.tls_entries)) {
      return who + ": its credentials, scheduling or segment descriptors were changed";
    }
  }
  if (process.protection_keys != 0) return "memory protection keys were allocated";
  const auto table = image.process_traits.empty()
                         ? std::span<const uint8_t>()
                         : image.blob(image.process_traits[0].descriptor_table);
  if (table.size() != process.descriptor_entries * sizeof(uint64_t) ||
      memcmp(table.data(), process.descriptors, table.size()) != 0) {
    return "the local descriptor table was changed";
  }
  return "";
}

}  // namespace cr::agent
