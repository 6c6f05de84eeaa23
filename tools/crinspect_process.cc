// SPDX-License-Identifier: MIT
// crinspect_process.cc - what belongs to the process as a whole: ids, limits, layout, processor,
// environment; and its signals and timers.
// Invariant: as crinspect_commands.h. Context: N.
#include <string.h>
#include <sys/resource.h>

#include "agent/frame.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

class Lines {
 public:
  void add(const char* label, const std::string& value) {
    out_ += text_of("%-18s %s\n", label, value.c_str());
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

std::string limit_text(uint64_t v) {
  return v == RLIM_INFINITY ? "unlimited" : text_of("%lu", static_cast<unsigned long>(v));
}

std::string range(uint64_t from, uint64_t to) { return hex(from) + "-" + hex(to); }

void add_layout(const format::ProcessRecord& p, Lines& l) {
  const format::MmRecord& m = p.mm;
  l.add("code", range(m.start_code, m.end_code));
  l.add("data", range(m.start_data, m.end_data));
  l.add("heap", range(m.start_brk, m.brk));
  l.add("stack begins", hex(m.start_stack));
  l.add("arguments", range(m.arg_start, m.arg_end));
  l.add("environment", range(m.env_start, m.env_end));
  l.add("vDSO", range(p.vdso_start, p.vdso_start + p.vdso_bytes));
  l.add("vvar", range(p.vvar_start, p.vvar_start + p.vvar_bytes));
  l.add("control thread",
        text_of("id %u, begins at %s, stack below %s, state %s (%lu bytes)", p.control_tid,
                hex(p.control_entry).c_str(), hex(p.control_stack_top).c_str(),
                hex(p.control_state).c_str(), p.control_state_bytes));
}

void add_limits(const format::ProcessRecord& p, Lines& l) {
  static constexpr const char* kNames[16] = {
      "CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
      "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
  for (size_t i = 0; i < std::size(kNames); i++) {
    const format::RlimitRecord& r = p.rlimits[i];
    l.add((std::string("limit ") + kNames[i]).c_str(),
          limit_text(r.soft) + (r.soft == r.hard ? "" : " of " + limit_text(r.hard)));
  }
}

// The dispositions that are not the default.
std::string dispositions_text(Checkpoint& c) {
  std::string out = "dispositions (the others are the default):\n";
  const auto actions = c.image.view.sigactions;
  for (size_t i = 0; i < actions.size(); i++) {
    const format::SigactionRecord& a = actions[i];
    if (a.handler == 0) continue;  // SIG_DFL
    out += text_of("  %-12s ", signal_word(static_cast<int>(i) + 1).c_str());
    if (a.handler == 1) {
      out += "ignored\n";
      continue;
    }
    out += printable(agent::to_string(c.objects.place(a.handler, false), a.handler));
    const std::string flags = sigaction_flag_words(a.flags);
    if (!flags.empty()) out += ", " + flags;
    if (a.mask != 0) out += ", blocks " + signal_set_words(a.mask);
    out += "\n";
  }
  return out;
}

std::string pending_text(const format::ImageView& v) {
  std::string out = "pending signals:\n";
  for (const format::SiginfoRecord& s : v.siginfos) {
    int32_t part[3];  // si_signo, si_errno, si_code
    memcpy(part, s.info, sizeof(part));
    out += text_of("  %-12s code %d, for ", signal_word(part[0]).c_str(), part[2]) +
           (s.tid == 0 ? "the process\n" : text_of("thread %d\n", s.tid));
  }
  return v.siginfos.empty() ? "pending signals: none\n" : out;
}

std::string timers_text(const format::ImageView& v) {
  const format::ProcessRecord& p = *v.process;
  static constexpr const char* kNames[3] = {"ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"};
  std::string out;
  for (size_t i = 0; i < 3; i++) {
    const format::TimerRecord& t = p.itimers[i];
    if (t.value_us == 0 && t.interval_us == 0) continue;
    out += text_of("  %-14s %.6f s left", kNames[i], static_cast<double>(t.value_us) / 1e6);
    if (t.interval_us != 0)
      out += text_of(", every %.6f s", static_cast<double>(t.interval_us) / 1e6);
    out += "\n";
  }
  for (const format::PosixTimerRecord& t : v.posix_timers) {
    out += "  " + posix_timer_words(t) + "\n";
  }
  return out.empty() ? "timers: none\n" : "timers:\n" + out;
}

}  // namespace

Output print_process(const Settings&, Checkpoint& c) {
  const format::ImageView& v = c.image.view;
  const format::ProcessRecord& p = *v.process;
  Lines l;
  l.add("program", printable(v.string(p.program)));
  l.add("directory", printable(v.string(p.cwd)));
  l.add("ids", text_of("pid %d, parent %d, group %d, session %d, user %u, group %u", p.pid, p.ppid,
                       p.pgid, p.sid, p.uid, p.gid));
  l.add("umask", text_of("%04o", p.umask));
  l.add("personality", hex(p.personality));
  l.add("dumpable", text_of("%u", p.dumpable));
  std::string flags;
  if ((p.flags & format::kProcessLeaderGone) != 0) flags += " main-thread-ended";
  if ((p.flags & format::kProcessThpDisabled) != 0) flags += " thp-disabled";
  if ((p.flags & format::kProcessChildSubreaper) != 0) flags += " child-subreaper";
  l.add("flags", flags.empty() ? "none" : flags.substr(1));
  l.add("host",
        printable(v.string(p.hostname)) + ", Linux " + printable(v.string(p.kernel_release)));
  const std::string missing = agent::missing_cpu_features(p.cpu, agent::this_cpu());
  l.add("processor state", text_of("XCR0 0x%lx, %lu bytes", p.cpu.xcr0, p.cpu.xstate_bytes));
  l.add("processor here",
        missing.empty() ? "has all features that the image may use" : "lacks: " + missing);
  add_layout(p, l);
  add_limits(p, l);
  for (const auto& [label, words] : process_trait_words(v)) l.add(label, words);
  for (const auto& [label, ref] : {std::pair{"argument", p.cmdline}, {"variable", p.environ}}) {
    const auto blob = v.blob(ref);
    for (size_t at = 0; at < blob.size();) {
      const char* word = reinterpret_cast<const char*>(blob.data()) + at;
      const size_t n = strnlen(word, blob.size() - at);
      l.add(label, printable({word, n}));
      at += n + 1;
    }
  }
  return {0, l.take(), ""};
}

Output print_signals(const Settings&, Checkpoint& c) {
  const format::ImageView& v = c.image.view;
  std::string out = dispositions_text(c) + pending_text(v) + timers_text(v);
  out += "blocked signals:\n";
  for (const format::ThreadRecord& t : v.threads) {
    out += text_of("  thread %d \"%s\": ", t.tid, printable(t.name).c_str()) +
           signal_set_words(agent::frame_sigmask(v.blob(t.frame).data())) + "\n";
  }
  return {0, out, ""};
}

}  // namespace cr::tools
