// SPDX-License-Identifier: MIT
// frame.h - a thread's registers as the signal frame from which rt_sigreturn restores them.
// Invariant: the frame is position independent; the restorer fills in its pointer to the FPU state.
// Context: N (agent).
#pragma once

#include <stdint.h>
#include <sys/user.h>

#include <span>
#include <string>
#include <vector>

#include "base/base.h"
#include "format/channel.h"
#include "format/image.h"
#include "format/quick.h"

namespace cr::agent {

// xstate: what PTRACE_GETREGSET(NT_X86_XSTATE) gave.
Result<std::vector<uint8_t>> make_frame(const user_regs_struct& regs,
                                        const std::vector<uint8_t>& xstate, uint64_t sigmask,
                                        const format::ThreadReport& report);

// Registers of a frame, for people.
struct FrameRegisters {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
      eflags;
};
FrameRegisters frame_registers(const uint8_t* frame);
uint64_t frame_sigmask(const uint8_t* frame);
// The frame becomes that of a thread in cr_save_registers(), which returns 1: its floating-point
// and vector registers are those of the beginning of a function.
void set_frame_of_call(std::span<uint8_t> frame, const format::QuickContext& context);
struct FrameRest {
  uint16_t cs, ss;
  uint64_t altstack_sp, altstack_bytes;
  uint32_t altstack_flags;
  uint64_t xfeatures;               // XCR0 when it was made
  std::span<const uint8_t> xstate;  // XSAVE area in standard format; empty if it does not fit
};
FrameRest frame_rest(std::span<const uint8_t> frame);

// This machine's capabilities, and the names of those the image needs and this machine lacks.
format::CpuRecord this_cpu();
std::string missing_cpu_features(const format::CpuRecord& image, const format::CpuRecord& here);

}  // namespace cr::agent
