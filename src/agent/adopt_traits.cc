// SPDX-License-Identifier: MIT
// adopt_traits.cc - see traits.h; how a restored process gets them back.
// Invariant: as there. A thread takes on what takes a privilege first, and filters last.
// Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "agent/traits.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint32_t kMay = format::kCallMayFail;

struct Capabilities {
  uint32_t word[6];  // effective, permitted, inheritable; twice
};
Capabilities capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  Capabilities c{};
  for (size_t half = 0; half < 2; half++) {
    c.word[half * 3] = static_cast<uint32_t>(effective >> (32 * half));
    c.word[half * 3 + 1] = static_cast<uint32_t>(permitted >> (32 * half));
    c.word[half * 3 + 2] = static_cast<uint32_t>(inheritable >> (32 * half));
  }
  return c;
}

// Ids first, with the kernel's rules of what they do to capabilities switched off; those rules, and
// what it takes to set them, last.
void adopt_credentials(const format::ImageView& image, const format::ThreadTraitsRecord& t,
                       const std::string& who, Recipe& r) {
  constexpr uint64_t kSetPcap = uint64_t{1} << CAP_SETPCAP;
  constexpr uint32_t kFreely =
      issecure_mask(SECURE_NO_SETUID_FIXUP) | issecure_mask(SECURE_KEEP_CAPS);
  const uint32_t header[2] = {_LINUX_CAPABILITY_VERSION_3, 0};
  for (uint64_t cap = 0; cap <= CAP_LAST_CAP; cap++) {
    if ((t.capabilities[3] >> cap & 1) != 0) continue;
    r.call(who + "dropping a capability", __NR_prctl, {PR_CAPBSET_DROP, cap, 0, 0, 0}, kMay);
  }
  const auto groups = image.blob(t.groups);
  r.call(who + "supplementary groups", __NR_setgroups,
         {groups.size() / sizeof(uint32_t), r.data(groups.data(), groups.size())});
  r.call(who + "securebits", __NR_prctl, {PR_SET_SECUREBITS, kFreely, 0, 0, 0});
  r.call(who + "group ids", __NR_setresgid, {t.gids[0], t.gids[1], t.gids[2]});
  r.call(who + "user ids", __NR_setresuid, {t.uids[0], t.uids[1], t.uids[2]});
  r.call(who + "group id of files", __NR_setfsgid, {t.gids[3]}, kMay);
  r.call(who + "user id of files", __NR_setfsuid, {t.uids[3]}, kMay);
  const auto [inheritable, permitted, effective] =
      std::tuple(t.capabilities[0], t.capabilities[1], t.capabilities[2]);
  const Capabilities meanwhile =
      capabilities(permitted | kSetPcap, permitted | kSetPcap, inheritable);
  r.call(who + "capabilities", __NR_capset,
         {r.data(header, sizeof(header)), r.data(&meanwhile, sizeof(meanwhile))});
  for (uint64_t cap = 0; cap <= CAP_LAST_CAP; cap++) {
    if ((t.capabilities[4] >> cap & 1) == 0) continue;
    r.call(who + "an ambient capability", __NR_prctl,
           {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0});
  }
  r.call(who + "securebits", __NR_prctl, {PR_SET_SECUREBITS, t.securebits, 0, 0, 0});
  const Capabilities last = capabilities(effective, permitted, inheritable);
  r.call(who + "capabilities", __NR_capset,
         {r.data(header, sizeof(header)), r.data(&last, sizeof(last))});
}

void adopt_filters(const format::ImageView& image, const format::ThreadTraitsRecord& t,
                   const std::string& who, Recipe& r) {
  if ((t.what & format::kTraitSeccompStrict) != 0) {
    r.call(who + "seccomp", __NR_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0});
  }
  if ((t.what & format::kTraitSeccomp) == 0) return;
  const auto blob = image.blob(t.filters);
  for (size_t at = 0; at < blob.size();) {
    format::SeccompFilter f;
    memcpy(&f, blob.data() + at, sizeof(f));
    at += sizeof(f);
    const size_t bytes = f.instructions * size_t{8};
    r.call(who + "seccomp filter", format::kCallFilter,
           {f.flags, r.data(blob.data() + at, bytes), f.instructions});
    at += bytes;
  }
}

void adopt_speculation(uint32_t which, uint32_t value, const std::string& who, Recipe& r) {
  constexpr uint32_t kSettable = PR_SPEC_ENABLE | PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | 16;
  r.call(who + "speculation", __NR_prctl, {PR_SET_SPECULATION_CTRL, which, value & kSettable, 0, 0},
         kMay);
}

// A segment descriptor as modify_ldt(2) and set_thread_area(2) take it.
struct UserDesc {
  uint32_t entry, base, limit, flags;
};
UserDesc user_desc(uint32_t entry, uint64_t d) {
  const auto bits = [d](int from, int count) {
    return static_cast<uint32_t>(d >> from & ((uint64_t{1} << count) - 1));
  };
  const uint32_t base = bits(16, 16) | bits(32, 8) << 16 | bits(56, 8) << 24;
  const uint32_t limit = bits(0, 16) | bits(48, 4) << 16;
  const uint32_t read_only = bits(41, 1) ^ 1, missing = bits(47, 1) ^ 1;
  return {entry, base, limit,
          bits(54, 1) | bits(42, 2) << 1 | read_only << 3 | bits(55, 1) << 4 | missing << 5 |
              bits(52, 1) << 6};
}

// Writes `text` to a file of the process's own in /proc.
void write_own(const char* path, const std::string& text, Recipe& r) {
  const size_t opened =
      r.call(path, __NR_openat,
             {static_cast<uint64_t>(AT_FDCWD), r.data(path, strlen(path) + 1), O_WRONLY}, kMay);
  r.call(path, __NR_write, {Recipe::result(opened), r.data(text.data(), text.size()), text.size()},
         kMay);
  r.call(path, __NR_close, {Recipe::result(opened)}, kMay);
}

}  // namespace

const format::ThreadTraitsRecord* traits_of(const format::ImageView& image, int32_t tid) {
  const auto it = std::ranges::find(image.thread_traits, tid, &format::ThreadTraitsRecord::tid);
  return it == image.thread_traits.end() ? nullptr : &*it;
}

void adopt_traits(const format::ImageView& image, const format::ThreadRecord& thread,
                  ThreadRecipes& recipes) {
  const format::ThreadTraitsRecord* t = traits_of(image, thread.tid);
  if (t == nullptr) return;
  Recipe& r = recipes.traits;
  const std::string who = "thread " + std::to_string(thread.tid) + ": ";
  const auto has = [&](uint32_t what) { return (t->what & what) != 0; };
  const auto entries = image.blob(t->tls_entries);
  for (size_t at = 0; at + sizeof(UserDesc) <= entries.size(); at += sizeof(UserDesc)) {
    r.call(who + "segment descriptors", __NR_set_thread_area,
           {r.data(entries.data() + at, sizeof(UserDesc))});
  }
  if (has(format::kTraitIoPriority)) {
    r.call(who + "I/O priority", __NR_ioprio_set, {1, 0, t->io_priority});
  }
  if (has(format::kTraitSchedule)) {
    const auto schedule = image.blob(t->schedule);
    r.call(who + "scheduling", __NR_sched_setattr,
           {0, r.data(schedule.data(), schedule.size()), 0});
  }
  if (has(format::kTraitMachineCheck)) {
    r.call(who + "machine checks", __NR_prctl,
           {PR_MCE_KILL, PR_MCE_KILL_SET, t->machine_check, 0, 0});
  }
  constexpr int kSetIoFlusher = 57, kArchSetCpuid = 0x1012;
  if (has(format::kTraitIoFlusher)) {
    r.call(who + "PR_SET_IO_FLUSHER", __NR_prctl, {kSetIoFlusher, 1, 0, 0, 0});
  }
  if (has(format::kTraitStoreBypass)) {
    adopt_speculation(PR_SPEC_STORE_BYPASS, t->store_bypass, who, r);
  }
  if (has(format::kTraitIndirectBranch)) {
    adopt_speculation(PR_SPEC_INDIRECT_BRANCH, t->indirect_branch, who, r);
  }
  if (has(format::kTraitCredentials)) {
    adopt_credentials(image, *t, who, r);
    // Changing credentials takes these away.
    r.call(who + "parent-death signal", __NR_prctl, {PR_SET_PDEATHSIG, thread.pdeathsig});
    const uint32_t dumpable = image.process->dumpable;
    if (dumpable <= 1) r.call(who + "dumpable", __NR_prctl, {PR_SET_DUMPABLE, dumpable});
  }
  if (has(format::kTraitPersonality)) {
    r.call(who + "personality", __NR_personality, {t->personality});
  }
  if (has(format::kTraitTsc)) r.call(who + "time stamps", __NR_prctl, {PR_SET_TSC, t->tsc});
  if (has(format::kTraitCpuid)) r.call(who + "cpuid", __NR_arch_prctl, {kArchSetCpuid, 0});
  adopt_filters(image, *t, who, recipes.filters);
}

std::vector<format::Call> settle_traits(const format::ImageView& image, int32_t tid) {
  const format::ThreadTraitsRecord* then = traits_of(image, tid);
  const format::ThreadTraitsRecord none{};
  const format::ThreadTraitsRecord& t = then != nullptr ? *then : none;
  const auto kill = (t.what & format::kTraitMachineCheck) != 0
                        ? t.machine_check
                        : static_cast<uint32_t>(PR_MCE_KILL_DEFAULT);
  const auto tsc = (t.what & format::kTraitTsc) != 0 ? t.tsc : uint32_t{PR_TSC_ENABLE};
  const auto io = (t.what & format::kTraitIoPriority) != 0 ? t.io_priority : 0;
  const uint64_t personality =
      (t.what & format::kTraitPersonality) != 0 ? t.personality : image.process->personality;
  return {
      {__NR_personality, {personality}, 0, kMay, 0},
      {__NR_ioprio_set, {1, 0, static_cast<uint64_t>(io)}, 0, kMay, 0},
      {__NR_prctl, {PR_MCE_KILL, PR_MCE_KILL_SET, kill, 0, 0}, 0, kMay, 0},
      {__NR_prctl, {PR_SET_TSC, tsc}, 0, kMay, 0},
  };
}

void adopt_process_traits(const format::ImageView& image, Recipes& recipes) {
  if (image.process_traits.empty()) return;
  const format::ProcessTraitsRecord& p = image.process_traits[0];
  Recipe& r = recipes.early;
  write_own("/proc/self/oom_score_adj", std::to_string(p.oom_score_adj), r);
  if (p.coredump_filter != 0) {
    char text[16];
    snprintf(text, sizeof(text), "0x%x", p.coredump_filter);
    write_own("/proc/self/coredump_filter", text, r);
  }
  // Bit n of the registrations is the command that registers.
  for (uint32_t command = 1; command != 0 && command <= p.membarrier; command <<= 1) {
    if ((p.membarrier & command) == 0) continue;
    r.call("membarrier registration", __NR_membarrier, {command, 0, 0}, kMay);
  }
  const auto table = image.states<uint64_t>(p.descriptor_table);
  for (uint32_t i = 0; i < table.size(); i++) {
    if (table[i] == 0) continue;
    const UserDesc d = user_desc(i, table[i]);
    constexpr int kWriteNew = 0x11;
    r.call("local descriptor table", __NR_modify_ldt,
           {kWriteNew, r.data(&d, sizeof(d)), sizeof(d)});
  }
  constexpr int kSetMdwe = 65, kSetMemoryMerge = 67;
  if (p.merge_memory != 0) {
    recipes.late.call("merging memory", __NR_prctl, {kSetMemoryMerge, 1, 0, 0, 0}, kMay);
  }
  if (p.deny_exec_gain != 0) {
    recipes.late.call("PR_SET_MDWE", __NR_prctl, {kSetMdwe, p.deny_exec_gain, 0, 0, 0});
  }
}

std::string why_not_adopted(const format::ImageView& image, pid_t live) {
  constexpr uint32_t kPrivileged =
      format::kTraitCredentials | format::kTraitSeccompStrict | format::kTraitSeccomp;
  uint32_t what = 0;
  for (const auto& t : image.thread_traits) what |= t.what;
  const bool mdwe = !image.process_traits.empty() && image.process_traits[0].deny_exec_gain != 0;
  if ((what & kPrivileged) != 0 && geteuid() != 0) {
    return "the program had credentials or a seccomp filter of its own, which only root can give "
           "back; run crrestore as root";
  }
  if (live == 0) return "";
  const std::string status = os::read_or_empty("/proc/" + std::to_string(live) + "/status");
  const std::string ours = os::read_or_empty("/proc/self/status");
  const bool filtered =
      os::status_field(status, "Seccomp_filters") != os::status_field(ours, "Seccomp_filters");
  if ((what & kPrivileged) != 0 || mdwe || filtered) {
    return "credentials, seccomp filters and PR_SET_MDWE stay with a process that begins anew; end "
           "it, and use crrestore";
  }
  return "";
}

std::vector<std::string> traits_that_differ(const format::ImageView& image) {
  std::vector<std::string> out;
  cpu_set_t here;
  CPU_ZERO(&here);
  const bool known = sched_getaffinity(0, sizeof(here), &here) == 0;
  for (const format::ThreadRecord& t : image.threads) {
    const auto blob = image.blob(t.affinity);
    cpu_set_t then, both;
    if (!known || blob.size() != sizeof(then)) continue;
    memcpy(&then, blob.data(), sizeof(then));
    CPU_AND(&both, &then, &here);
    if (CPU_COUNT(&both) != 0) continue;
    out.push_back("thread " + std::to_string(t.tid) +
                  ": none of the processors that it may use can be used here; it may use all");
  }
  if (image.process_traits.empty() || geteuid() == 0) return out;
  const auto now = atoi(os::read_or_empty("/proc/self/oom_score_adj").c_str());
  const int32_t then = image.process_traits[0].oom_score_adj;
  if (then < now) {
    out.push_back("oom_score_adj was " + std::to_string(then) +
                  "; lowering it takes CAP_SYS_RESOURCE, so it is " + std::to_string(now));
  }
  return out;
}

}  // namespace cr::agent
