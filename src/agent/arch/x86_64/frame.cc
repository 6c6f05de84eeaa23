// SPDX-License-Identifier: MIT
// frame.cc (x86_64) - see frame.h. Layout: the kernel's struct ucontext (304 bytes), padding to
// 320,
// the XSAVE area, FP_XSTATE_MAGIC2.
// Invariant: as frame.h. Context: N (agent). Source of the layout: arch/x86/include/uapi/asm/
// sigcontext.h and Intel SDM volume 1, chapter 13 (XSAVE).
#include "agent/frame.h"

#include <cpuid.h>

#include <stddef.h>
#include <string.h>

#include <algorithm>

#include "format/plan.h"

namespace cr::agent {
namespace {

struct KernelSigcontext {
  FrameRegisters r;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
};
struct KernelUcontext {
  uint64_t flags, link;
  uint64_t stack_sp;
  uint32_t stack_flags, pad;
  uint64_t stack_bytes;
  KernelSigcontext sc;
  uint64_t sigmask;
};
static_assert(sizeof(KernelSigcontext) == 256);
static_assert(sizeof(KernelUcontext) == 304);
constexpr uint64_t kXstateOff = format::kFrameXstateOff;
static_assert(offsetof(KernelUcontext, sc) + offsetof(KernelSigcontext, fpstate) ==
              format::kFrameFpstatePointerOff);
constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;
constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr uint64_t kAmx = 3ull << 17;

struct SwBytes {  // at offset 464 of the XSAVE area
  uint32_t magic1, extended_bytes;
  uint64_t xfeatures;
  uint32_t xstate_bytes, padding[7];
};
static_assert(sizeof(SwBytes) == 48);

// Asked once: in a virtual machine each CPUID is an exit.
uint64_t ask_xcr0() {
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return 0;
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return static_cast<uint64_t>(hi) << 32 | lo;
}

uint64_t read_xcr0() {
  static const uint64_t xcr0 = ask_xcr0();
  return xcr0;
}

// Where each feature ends in a standard-format XSAVE area.
struct XstateEnds {
  uint64_t end[63] = {};
  XstateEnds() {
    for (unsigned i = 2; i < 63; i++) {
      uint32_t size, off, c, d;
      __cpuid_count(0xd, i, size, off, c, d);
      end[i] = off + static_cast<uint64_t>(size);
    }
  }
};

// Size of a standard-format XSAVE area for these features.
uint64_t xstate_bytes(uint64_t features) {
  static const XstateEnds ends;
  uint64_t end = 576;
  for (unsigned i = 2; i < 63; i++) {
    if ((features >> i & 1) != 0) end = std::max(end, ends.end[i]);
  }
  return end;
}

format::CpuRecord ask_cpu() {
  format::CpuRecord c{};
  uint32_t a, b, x, d;
  if (__get_cpuid(1, &a, &b, &x, &d) != 0) {
    c.leaf1_ecx = x;
    c.leaf1_edx = d;
  }
  if (__get_cpuid_count(7, 0, &a, &b, &x, &d) != 0) {
    c.leaf7_ebx = b;
    c.leaf7_ecx = x;
    c.leaf7_edx = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &x, &d) != 0) c.leaf7_1_eax = a;
  }
  if (__get_cpuid(0x80000001, &a, &b, &x, &d) != 0) {
    c.ext1_ecx = x;
    c.ext1_edx = d;
  }
  c.xcr0 = read_xcr0();
  c.xstate_bytes = xstate_bytes(c.xcr0 & ~kAmx);
  return c;
}

}  // namespace

Result<std::vector<uint8_t>> make_frame(const user_regs_struct& regs,
                                        const std::vector<uint8_t>& xstate, uint64_t sigmask,
                                        const format::ThreadReport& report) {
  uint64_t in_use;
  if (xstate.size() < 576) return Error{Errc::kUnsupported, 0, "a processor without XSAVE"};
  memcpy(&in_use, xstate.data() + 512, sizeof(in_use));
  if ((in_use & kAmx) != 0) return Error{Errc::kUnsupported, 0, "AMX tile registers in use"};
  const uint64_t features = read_xcr0() & ~kAmx;
  const uint64_t bytes = xstate_bytes(features);
  if (xstate.size() < bytes) return Error{Errc::kUnsupported, 0, "the XSAVE area is too short"};

  std::vector<uint8_t> out(kXstateOff + bytes + 4, 0);
  KernelUcontext uc{};
  uc.flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
  uc.stack_sp = report.altstack_sp;
  uc.stack_flags = report.altstack_flags & ~1u;  // SS_ONSTACK follows from the stack pointer
  uc.stack_bytes = report.altstack_bytes;
  uc.sigmask = sigmask;
  uc.sc.r = {regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13,
             regs.r14, regs.r15, regs.rdi, regs.rsi, regs.rbp, regs.rbx,
             regs.rdx, regs.rax, regs.rcx, regs.rsp, regs.rip, regs.eflags & ~0x100ull};
  uc.sc.cs = static_cast<uint16_t>(regs.cs);
  uc.sc.ss = static_cast<uint16_t>(regs.ss);
  memcpy(out.data(), &uc, sizeof(uc));
  memcpy(out.data() + kXstateOff, xstate.data(), bytes);
  SwBytes sw{};
  sw.magic1 = kMagic1;
  sw.extended_bytes = static_cast<uint32_t>(bytes) + 4;
  sw.xfeatures = features;
  sw.xstate_bytes = static_cast<uint32_t>(bytes);
  memcpy(out.data() + kXstateOff + 464, &sw, sizeof(sw));
  memcpy(out.data() + kXstateOff + bytes, &kMagic2, sizeof(kMagic2));
  return out;
}

FrameRegisters frame_registers(const uint8_t* frame) {
  KernelUcontext uc;
  memcpy(&uc, frame, sizeof(uc));
  return uc.sc.r;
}

uint64_t frame_sigmask(const uint8_t* frame) {
  KernelUcontext uc;
  memcpy(&uc, frame, sizeof(uc));
  return uc.sigmask;
}

void set_frame_of_call(std::span<uint8_t> frame, const format::QuickContext& c) {
  constexpr uint64_t kEflags = 0x202, kX87AndSse = 3, kPkru = 1ull << 9;
  constexpr unsigned kPkruNumber = 9;
  constexpr uint64_t kMxcsrMaskOff = 28, kHeaderOff = 512;
  KernelUcontext uc;
  memcpy(&uc, frame.data(), sizeof(uc));
  uc.sc.r = {};
  uc.sc.r.r12 = c.r12;
  uc.sc.r.r13 = c.r13;
  uc.sc.r.r14 = c.r14;
  uc.sc.r.r15 = c.r15;
  uc.sc.r.rbp = c.rbp;
  uc.sc.r.rbx = c.rbx;
  uc.sc.r.rax = 1;
  uc.sc.r.rsp = c.rsp;
  uc.sc.r.rip = c.rip;
  uc.sc.r.eflags = kEflags;
  memcpy(frame.data(), &uc, sizeof(uc));
  uint8_t* const x = frame.data() + kXstateOff;
  uint32_t mxcsr_mask;
  memcpy(&mxcsr_mask, x + kMxcsrMaskOff, sizeof(mxcsr_mask));
  memset(x, 0, 416);  // x87 and SSE registers
  memcpy(x, &c.fpu_control, sizeof(c.fpu_control));
  memcpy(x + 24, &c.mxcsr, sizeof(c.mxcsr));
  memcpy(x + kMxcsrMaskOff, &mxcsr_mask, sizeof(mxcsr_mask));
  uint64_t in_use;
  memcpy(&in_use, x + kHeaderOff, sizeof(in_use));
  const uint64_t pkru = read_xcr0() & kPkru;
  in_use = kX87AndSse | pkru;
  memcpy(x + kHeaderOff, &in_use, sizeof(in_use));
  if (pkru == 0) return;
  uint32_t size, off, unused;
  static const uint32_t pkru_off = [&] {
    __cpuid_count(0xd, kPkruNumber, size, off, unused, unused);
    return off;
  }();
  memcpy(x + pkru_off, &c.pkru, sizeof(c.pkru));
}

FrameRest frame_rest(std::span<const uint8_t> frame) {
  KernelUcontext uc;
  memcpy(&uc, frame.data(), sizeof(uc));
  FrameRest r{};
  r.cs = uc.sc.cs;
  r.ss = uc.sc.ss;
  r.altstack_sp = uc.stack_sp;
  r.altstack_bytes = uc.stack_bytes;
  r.altstack_flags = uc.stack_flags;
  SwBytes sw;
  if (frame.size() < kXstateOff + 464 + sizeof(sw)) return r;
  memcpy(&sw, frame.data() + kXstateOff + 464, sizeof(sw));
  if (sw.magic1 != kMagic1 || sw.xstate_bytes < 576 ||
      sw.xstate_bytes > frame.size() - kXstateOff) {
    return r;
  }
  r.xfeatures = sw.xfeatures;
  r.xstate = frame.subspan(kXstateOff, sw.xstate_bytes);
  return r;
}

format::CpuRecord this_cpu() {
  static const format::CpuRecord cpu = ask_cpu();
  return cpu;
}

std::string missing_cpu_features(const format::CpuRecord& image, const format::CpuRecord& here) {
  struct Feature {
    uint32_t format::CpuRecord::*word;
    unsigned bit;
    const char* name;
  };
  using R = format::CpuRecord;
  static constexpr Feature kFeatures[] = {
      {&R::leaf1_ecx, 0, "sse3"},          {&R::leaf1_ecx, 1, "pclmulqdq"},
      {&R::leaf1_ecx, 9, "ssse3"},         {&R::leaf1_ecx, 12, "fma"},
      {&R::leaf1_ecx, 13, "cx16"},         {&R::leaf1_ecx, 19, "sse4.1"},
      {&R::leaf1_ecx, 20, "sse4.2"},       {&R::leaf1_ecx, 22, "movbe"},
      {&R::leaf1_ecx, 23, "popcnt"},       {&R::leaf1_ecx, 25, "aes"},
      {&R::leaf1_ecx, 26, "xsave"},        {&R::leaf1_ecx, 28, "avx"},
      {&R::leaf1_ecx, 29, "f16c"},         {&R::leaf1_ecx, 30, "rdrand"},
      {&R::leaf7_ebx, 0, "fsgsbase"},      {&R::leaf7_ebx, 3, "bmi1"},
      {&R::leaf7_ebx, 4, "hle"},           {&R::leaf7_ebx, 5, "avx2"},
      {&R::leaf7_ebx, 8, "bmi2"},          {&R::leaf7_ebx, 9, "erms"},
      {&R::leaf7_ebx, 11, "rtm"},          {&R::leaf7_ebx, 16, "avx512f"},
      {&R::leaf7_ebx, 17, "avx512dq"},     {&R::leaf7_ebx, 18, "rdseed"},
      {&R::leaf7_ebx, 19, "adx"},          {&R::leaf7_ebx, 21, "avx512ifma"},
      {&R::leaf7_ebx, 23, "clflushopt"},   {&R::leaf7_ebx, 24, "clwb"},
      {&R::leaf7_ebx, 28, "avx512cd"},     {&R::leaf7_ebx, 29, "sha"},
      {&R::leaf7_ebx, 30, "avx512bw"},     {&R::leaf7_ebx, 31, "avx512vl"},
      {&R::leaf7_ecx, 1, "avx512vbmi"},    {&R::leaf7_ecx, 6, "avx512vbmi2"},
      {&R::leaf7_ecx, 8, "gfni"},          {&R::leaf7_ecx, 9, "vaes"},
      {&R::leaf7_ecx, 10, "vpclmulqdq"},   {&R::leaf7_ecx, 11, "avx512vnni"},
      {&R::leaf7_ecx, 12, "avx512bitalg"}, {&R::leaf7_ecx, 14, "avx512vpopcntdq"},
      {&R::leaf7_ecx, 22, "rdpid"},        {&R::leaf7_edx, 4, "fsrm"},
      {&R::leaf7_edx, 23, "avx512fp16"},   {&R::leaf7_1_eax, 4, "avxvnni"},
      {&R::leaf7_1_eax, 5, "avx512bf16"},  {&R::ext1_ecx, 5, "lzcnt"},
      {&R::ext1_ecx, 6, "sse4a"},          {&R::ext1_ecx, 8, "prefetchw"},
      {&R::ext1_ecx, 11, "xop"},           {&R::ext1_ecx, 16, "fma4"},
      {&R::ext1_ecx, 21, "tbm"},           {&R::ext1_edx, 27, "rdtscp"}};
  std::string missing;
  for (const Feature& f : kFeatures) {
    if ((image.*f.word >> f.bit & 1) != 0 && (here.*f.word >> f.bit & 1) == 0) {
      missing += (missing.empty() ? "" : " ") + std::string(f.name);
    }
  }
  const uint64_t states = image.xcr0 & ~here.xcr0 & ~kAmx;
  if (states != 0) missing += (missing.empty() ? "" : " ") + ("xstate:" + std::to_string(states));
  return missing;
}

}  // namespace cr::agent
