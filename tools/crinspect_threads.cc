// SPDX-License-Identifier: MIT
// crinspect_threads.cc - each thread's state, registers, signal mask and call chain.
// Invariant: as crinspect_commands.h. Context: N.
#include <string.h>

#include "agent/backtrace.h"
#include "agent/frame.h"
#include "agent/syscall_names.h"
#include "tools/crinspect_commands.h"
#include "tools/crinspect_words.h"

namespace cr::tools {
namespace {

std::string register_rows(const agent::FrameRegisters& r) {
  const struct {
    const char* name;
    uint64_t value;
  } all[] = {{"rax", r.rax}, {"rbx", r.rbx}, {"rcx", r.rcx}, {"rdx", r.rdx},
             {"rsi", r.rsi}, {"rdi", r.rdi}, {"rbp", r.rbp}, {"rsp", r.rsp},
             {"r8", r.r8},   {"r9", r.r9},   {"r10", r.r10}, {"r11", r.r11},
             {"r12", r.r12}, {"r13", r.r13}, {"r14", r.r14}, {"r15", r.r15}};
  std::string out;
  for (size_t i = 0; i < std::size(all); i++) {
    out += text_of("%s%-3s 0x%016lx%s", i % 4 == 0 ? "  " : "  ", all[i].name, all[i].value,
                   i % 4 == 3 ? "\n" : "");
  }
  return out;
}

template <typename T>
T at(std::span<const uint8_t> area, size_t off) {
  T v{};
  if (off + sizeof(v) <= area.size()) memcpy(&v, area.data() + off, sizeof(v));
  return v;
}

std::string hex_bytes(std::span<const uint8_t> bytes) {  // most significant first
  std::string out = "0x";
  for (size_t i = bytes.size(); i-- > 0;) out += text_of("%02x", bytes[i]);
  return out;
}

// The XSAVE area (Intel SDM volume 1, chapter 13): x87 and SSE at fixed places, AVX behind the
// header at 576. Where later components are depends on the processor; they are not shown.
std::string vector_rows(std::span<const uint8_t> area) {
  constexpr size_t kX87 = 32, kSse = 160, kHeader = 512, kAvx = 576;
  const auto in_use = at<uint64_t>(area, kHeader);
  const bool avx = (in_use & 4) != 0 && area.size() >= kAvx + 256;
  std::string out;
  for (size_t i = 0; i < 8; i++) {
    out += text_of("  st%zu   ", i) + hex_bytes(area.subspan(kX87 + 16 * i, 10)) + "\n";
  }
  for (size_t i = 0; i < 16; i++) {
    out += text_of("  %s%-2zu ", avx ? "ymm" : "xmm", i);
    std::string low = hex_bytes(area.subspan(kSse + 16 * i, 16));
    if (avx) low = hex_bytes(area.subspan(kAvx + 16 * i, 16)) + low.substr(2);
    out += low + "\n";
  }
  if ((in_use & ~7ull) != 0) {
    out += "  other processor state in use (XSTATE_BV): " + hex(in_use & ~7ull) + "\n";
  }
  return out;
}

std::string state_text(const format::ThreadRecord& t) {
  if (t.syscall_nr < 0) return "running";
  return "blocked in system call " + agent::syscall_name(t.syscall_nr) +
         text_of(" (%ld)", static_cast<long>(t.syscall_nr));
}

std::string registers_text(const Settings& settings, Checkpoint& c, const format::ThreadRecord& t) {
  const auto frame = c.image.view.blob(t.frame);
  const agent::FrameRegisters r = agent::frame_registers(frame.data());
  const agent::FrameRest rest = agent::frame_rest(frame);
  std::string out = register_rows(r);
  out += text_of("  rip 0x%016lx  eflags 0x%lx [%s]  cs 0x%x  ss 0x%x\n", r.rip, r.eflags,
                 eflags_words(r.eflags).c_str(), rest.cs, rest.ss);
  out += text_of("  fs_base 0x%016lx  gs_base 0x%016lx\n", t.fs_base, t.gs_base);
  if (rest.xstate.empty()) return out + "  no floating-point state\n";
  out += text_of("  mxcsr 0x%x  fctrl 0x%x  fstat 0x%x  ftag 0x%x\n", at<uint32_t>(rest.xstate, 24),
                 at<uint16_t>(rest.xstate, 0), at<uint16_t>(rest.xstate, 2),
                 at<uint8_t>(rest.xstate, 4));
  if (settings.all_registers) out += vector_rows(rest.xstate);
  return out;
}

std::string attributes_text(Checkpoint& c, const format::ThreadRecord& t) {
  const auto frame = c.image.view.blob(t.frame);
  const agent::FrameRest rest = agent::frame_rest(frame);
  std::string out = "  signals blocked: " + signal_set_words(agent::frame_sigmask(frame.data()));
  if (rest.altstack_bytes != 0) {
    out += text_of("\n  alternate signal stack: 0x%lx, %lu bytes", rest.altstack_sp,
                   rest.altstack_bytes);
  }
  if (t.sched_policy != 0 || t.nice != 0) {
    out += text_of("\n  scheduling: policy %d, priority %d, nice %d", t.sched_policy,
                   t.sched_priority, t.nice);
  }
  return out + thread_trait_words(c.image.view, t.tid) + "\n";
}

std::string chain_text(Checkpoint& c, agent::Unwinder& unwinder, const format::ThreadRecord& t) {
  const agent::Backtrace b = unwinder.run(t);
  std::string out;
  for (size_t i = 0; i < b.frames.size(); i++) {
    const agent::StackFrame& f = b.frames[i];
    const agent::Place p = c.objects.place(f.ip, f.is_return);
    out += text_of("  #%-2zu 0x%016lx ", i, f.ip) +
           printable(p.object.empty() ? "in no program or library" : agent::to_string(p, f.ip));
    if (f.is_signal_frame) {
      out += p.function == "cr_resume_entry" ? "  [continues an interrupted call]"
                                             : "  [signal delivered here]";
    }
    if (f.by_frame_pointer) out += "  [by frame pointer]";
    out += "\n";
  }
  if (!b.note.empty()) out += "  (the call chain ends here: " + b.note + ")\n";
  return out;
}

}  // namespace

Output print_threads(const Settings& settings, Checkpoint& c) {
  Output output;
  agent::Unwinder unwinder(c.memory, c.objects);
  for (const format::ThreadRecord& t : c.image.view.threads) {
    const std::string flags = thread_flag_words(t.flags);
    output.out += text_of("%sthread %d \"%s\"%s: %s\n", output.out.empty() ? "" : "\n", t.tid,
                          printable(t.name).c_str(),
                          flags.empty() ? "" : (" (" + flags + ")").c_str(), state_text(t).c_str());
    output.out += registers_text(settings, c, t);
    output.out += attributes_text(c, t);
    output.out += chain_text(c, unwinder, t);
  }
  return output;
}

}  // namespace cr::tools
