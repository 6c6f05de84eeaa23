// SPDX-License-Identifier: MIT
// core_notes.cc - see core_notes.h. Invariant: as there. Context: N (agent).
#include "agent/core_notes.h"

#include <elf.h>
#include <signal.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <algorithm>

#include "agent/frame.h"

namespace cr::agent {
namespace {

class Notes {
 public:
  explicit Notes(const format::ImageView& image) : image_(image) {}
  std::string make();

 private:
  void add(const char* owner, uint32_t type, const void* data, size_t bytes);
  void add_process();
  void add_files();
  void add_siginfo();
  void add_thread_status(const format::ThreadRecord& t);
  void add_thread_state(const format::ThreadRecord& t);

  const format::ImageView& image_;
  std::string out_;
};

void Notes::add(const char* owner, uint32_t type, const void* data, size_t bytes) {
  Elf64_Nhdr h;
  h.n_namesz = static_cast<Elf64_Word>(strlen(owner) + 1);
  h.n_descsz = static_cast<Elf64_Word>(bytes);
  h.n_type = type;
  auto pad = [&] { out_.resize((out_.size() + 3) & ~size_t{3}, '\0'); };
  out_.append(reinterpret_cast<const char*>(&h), sizeof(h));
  out_.append(owner, h.n_namesz);
  pad();
  out_.append(static_cast<const char*>(data), bytes);
  pad();
}

void Notes::add_process() {
  const format::ProcessRecord& p = *image_.process;
  prpsinfo_t info;
  memset(&info, 0, sizeof(info));
  info.pr_sname = 'S';
  info.pr_state = 1;
  info.pr_uid = p.uid;
  info.pr_gid = p.gid;
  info.pr_pid = p.pid;
  info.pr_ppid = p.ppid;
  info.pr_pgrp = p.pgid;
  info.pr_sid = p.sid;
  const char* name = image_.string(p.exe_name);
  memcpy(info.pr_fname, name, std::min(strlen(name), sizeof(info.pr_fname) - 1));
  const auto arguments = image_.blob(p.cmdline);
  size_t n = std::min(arguments.size(), sizeof(info.pr_psargs) - 1);
  memcpy(info.pr_psargs, arguments.data(), n);
  for (size_t i = 0; i + 1 < n; i++) {
    if (info.pr_psargs[i] == 0) info.pr_psargs[i] = ' ';
  }
  add("CORE", NT_PRPSINFO, &info, sizeof(info));
}

// NT_FILE: count, page size, then (start, end, offset in pages) of each, then the names.
void Notes::add_files() {
  std::string table, names;
  uint64_t count = 0;
  auto word = [&](uint64_t v) { table.append(reinterpret_cast<const char*>(&v), sizeof(v)); };
  for (const format::SegmentRecord& s : image_.segments) {
    if (s.file == 0) continue;
    word(s.start);
    word(s.end);
    word(s.file_off / kPageSize);
    names += image_.string(s.file);
    names.push_back('\0');
    count++;
  }
  const uint64_t head[2] = {count, kPageSize};
  const std::string all = std::string(reinterpret_cast<const char*>(head), 16) + table + names;
  add("CORE", NT_FILE, all.data(), all.size());
}

void Notes::add_siginfo() {
  const uint8_t none[128] = {};  // no signal ended it
  add("CORE", NT_SIGINFO, none, sizeof(none));
}

void Notes::add_thread_status(const format::ThreadRecord& t) {
  const auto frame = image_.blob(t.frame);
  const FrameRegisters r = frame_registers(frame.data());
  const FrameRest rest = frame_rest(frame);
  user_regs_struct u{};
  u.r8 = r.r8, u.r9 = r.r9, u.r10 = r.r10, u.r11 = r.r11;
  u.r12 = r.r12, u.r13 = r.r13, u.r14 = r.r14, u.r15 = r.r15;
  u.rdi = r.rdi, u.rsi = r.rsi, u.rbp = r.rbp, u.rbx = r.rbx;
  u.rdx = r.rdx, u.rax = r.rax, u.rcx = r.rcx, u.rsp = r.rsp;
  u.rip = r.rip, u.eflags = r.eflags;
  u.cs = rest.cs, u.ss = rest.ss;
  u.fs_base = t.fs_base, u.gs_base = t.gs_base;
  u.orig_rax = ~0ull;  // whatever call it was in is made again by its registers
  prstatus_t s;
  memset(&s, 0, sizeof(s));
  s.pr_pid = t.tid;
  s.pr_ppid = image_.process->ppid;
  s.pr_pgrp = image_.process->pgid;
  s.pr_sid = image_.process->sid;
  s.pr_sighold = frame_sigmask(frame.data());
  s.pr_fpvalid = rest.xstate.empty() ? 0 : 1;
  static_assert(sizeof(s.pr_reg) == sizeof(u));
  memcpy(&s.pr_reg, &u, sizeof(u));
  add("CORE", NT_PRSTATUS, &s, sizeof(s));
}

void Notes::add_thread_state(const format::ThreadRecord& t) {
  const FrameRest rest = frame_rest(image_.blob(t.frame));
  if (rest.xstate.empty()) return;
  std::string area(reinterpret_cast<const char*>(rest.xstate.data()), rest.xstate.size());
  // Where a signal frame has its own words, a core file has XCR0: from it follows the layout.
  memset(area.data() + 464, 0, 48);
  memcpy(area.data() + 464, &rest.xfeatures, sizeof(rest.xfeatures));
  add("CORE", NT_FPREGSET, area.data(), 512);
  add("LINUX", NT_X86_XSTATE, area.data(), area.size());
}

std::string Notes::make() {
  const auto threads = image_.threads;
  // Debuggers take the first thread for the current one.
  std::vector<const format::ThreadRecord*> order;
  for (const auto& t : threads) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return (a->flags & format::kThreadLeader) > (b->flags & format::kThreadLeader);
  });
  for (size_t i = 0; i < order.size(); i++) {
    add_thread_status(*order[i]);
    if (i == 0) {
      add_process();
      add_siginfo();
      const auto auxv = image_.blob(image_.process->auxv);
      add("CORE", NT_AUXV, auxv.data(), auxv.size());
      add_files();
    }
    add_thread_state(*order[i]);
  }
  return std::move(out_);
}

}  // namespace

std::string make_core_notes(const format::ImageView& image) { return Notes(image).make(); }

}  // namespace cr::agent
