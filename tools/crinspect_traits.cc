// SPDX-License-Identifier: MIT
// crinspect_traits.cc - what threads and process have made of themselves, in words.
// Invariant: as crinspect_words.h. Context: N.
#include <algorithm>

#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {

std::string thread_trait_words(const format::ImageView& v, int32_t tid) {
  const auto it = std::ranges::find(v.thread_traits, tid, &format::ThreadTraitsRecord::tid);
  if (it == v.thread_traits.end()) return "";
  const format::ThreadTraitsRecord& t = *it;
  std::string out;
  const auto has = [&](uint32_t what) { return (t.what & what) != 0; };
  if (has(format::kTraitCredentials)) {
    out += text_of("\n  users %u %u %u %u, groups %u %u %u %u, others", t.uids[0], t.uids[1],
                   t.uids[2], t.uids[3], t.gids[0], t.gids[1], t.gids[2], t.gids[3]);
    for (const uint32_t g : v.states<uint32_t>(t.groups)) out += text_of(" %u", g);
    out += text_of(
        "\n  capabilities: inheritable 0x%lx, permitted 0x%lx, effective 0x%lx, bounding 0x%lx, "
        "ambient 0x%lx; securebits 0x%x",
        t.capabilities[0], t.capabilities[1], t.capabilities[2], t.capabilities[3],
        t.capabilities[4], t.securebits);
  }
  if (has(format::kTraitSeccompStrict)) out += "\n  seccomp: strict";
  if (has(format::kTraitSeccomp)) {
    out += text_of("\n  seccomp: %lu bytes of filters", t.filters.bytes);
  }
  const struct {
    uint32_t what;
    const char* name;
    uint32_t value;
  } rows[] = {{format::kTraitIoPriority, "I/O priority", static_cast<uint32_t>(t.io_priority)},
              {format::kTraitMachineCheck, "memory errors", t.machine_check},
              {format::kTraitTsc, "time stamps", t.tsc},
              {format::kTraitIoFlusher, "I/O flusher", t.io_flusher},
              {format::kTraitStoreBypass, "store bypass", t.store_bypass},
              {format::kTraitIndirectBranch, "indirect branches", t.indirect_branch},
              {format::kTraitCpuid, "cpuid faults", t.cpuid},
              {format::kTraitPersonality, "personality", t.personality}};
  for (const auto& row : rows) {
    if (has(row.what)) out += text_of("\n  %s: 0x%x", row.name, row.value);
  }
  if (has(format::kTraitSchedule)) out += "\n  scheduling: by sched_setattr";
  if (has(format::kTraitTlsEntries)) out += "\n  segment descriptors: of set_thread_area";
  return out;
}

std::vector<std::pair<const char*, std::string>> process_trait_words(const format::ImageView& v) {
  std::vector<std::pair<const char*, std::string>> out;
  if (v.process_traits.empty()) return out;
  const format::ProcessTraitsRecord& p = v.process_traits[0];
  out.emplace_back("clocks", text_of("monotonic %.6f s, since boot %.6f s",
                                     static_cast<double>(p.monotonic_ns) / 1e9,
                                     static_cast<double>(p.boottime_ns) / 1e9));
  out.emplace_back("oom_score_adj", text_of("%d", p.oom_score_adj));
  out.emplace_back("membarrier", text_of("registered for 0x%x", p.membarrier));
  const auto table = v.states<uint64_t>(p.descriptor_table);
  const auto used = std::ranges::count_if(table, [](uint64_t d) { return d != 0; });
  if (used != 0)
    out.emplace_back("descriptor table", text_of("%ld entries", static_cast<long>(used)));
  for (const format::PluginRecord& r : v.plugins) {
    out.emplace_back("plug-in", printable(v.string(r.name)));
  }
  for (const format::SemaphoreSetRecord& s : v.semaphores) {
    std::string words = text_of("id %d, key 0x%x, mode %04o:", s.id, s.key, s.mode);
    const auto values = v.states<uint16_t>(s.values);
    const auto adjustments = v.states<int16_t>(s.adjustments);
    for (size_t i = 0; i < values.size(); i++) {
      words += text_of(" %u", values[i]);
      if (!adjustments.empty() && adjustments[i] != 0) {
        words += text_of(" (%+d at its end)", adjustments[i]);
      }
    }
    out.emplace_back("semaphores", words);
  }
  return out;
}

}  // namespace cr::tools
