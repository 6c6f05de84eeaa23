// SPDX-License-Identifier: MIT
// backtrace.cc - see backtrace.h. Invariant: as there. Context: N (agent).
// The layout of .eh_frame_hdr: Linux Standard Base, Core, "Exception Frames".
#include "agent/backtrace.h"

#include <libunwind.h>
#include <string.h>

#include "agent/frame.h"

// Exported by libunwind-<arch> for those who bring their own tables, but in no header.
extern "C" int UNW_OBJ(dwarf_search_unwind_table)(unw_addr_space_t as, unw_word_t ip,
                                                  unw_dyn_info_t* di, unw_proc_info_t* pi,
                                                  int need_unwind_info, void* arg);

namespace cr::agent {
namespace {

constexpr size_t kMostFrames = 256;
constexpr uint64_t kMostFrameBytes = 64ull << 20;

// The encodings of pointers that linkers put into .eh_frame_hdr.
constexpr uint8_t kPcrelSdata4 = 0x1b, kUdata4 = 0x03, kDatarelSdata4 = 0x3b;

}  // namespace

struct Unwinder::Impl {
  ImageMemory& memory;
  ObjectTable& objects;
  unw_addr_space_t space = nullptr;
  FrameRegisters registers{};
  uint64_t without_table = 0;  // the last address that no unwind table knows

  Impl(ImageMemory& m, ObjectTable& o) : memory(m), objects(o) {}
  bool table_of(uint64_t ip, unw_dyn_info_t* ret);
  uint64_t* register_of(unw_regnum_t number);
  void follow_frame_pointers(unw_cursor_t* cursor, Backtrace& out);
};

namespace {

using Impl = Unwinder::Impl;

Impl& self(void* arg) { return *static_cast<Impl*>(arg); }

int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t* ret, int need_info,
                   void* arg) {
  unw_dyn_info_t table;
  memset(&table, 0, sizeof(table));
  int r = -UNW_ENOINFO;
  if (self(arg).table_of(ip, &table)) {
    r = UNW_OBJ(dwarf_search_unwind_table)(space, ip, &table, ret, need_info, arg);
  }
  if (r != 0) self(arg).without_table = ip;
  return r;
}

void put_unwind_info(unw_addr_space_t, unw_proc_info_t*, void*) {}

int get_dyn_info_list_addr(unw_addr_space_t, unw_word_t*, void*) { return -UNW_ENOINFO; }

int access_mem(unw_addr_space_t, unw_word_t addr, unw_word_t* value, int write, void* arg) {
  if (write != 0) return -UNW_EINVAL;
  return self(arg).memory.read_object(addr, value) ? 0 : -UNW_EINVAL;
}

int access_reg(unw_addr_space_t, unw_regnum_t number, unw_word_t* value, int write, void* arg) {
  const uint64_t* r = self(arg).register_of(number);
  if (r == nullptr || write != 0) return -UNW_EBADREG;
  *value = *r;
  return 0;
}

int access_fpreg(unw_addr_space_t, unw_regnum_t, unw_fpreg_t*, int, void*) { return -UNW_EBADREG; }

int resume(unw_addr_space_t, unw_cursor_t*, void*) { return -UNW_EINVAL; }

int get_proc_name(unw_addr_space_t, unw_word_t, char*, size_t, unw_word_t*, void*) {
  return -UNW_ENOINFO;
}

unw_accessors_t make_accessors() {
  unw_accessors_t a;
  memset(&a, 0, sizeof(a));
  a.find_proc_info = find_proc_info;
  a.put_unwind_info = put_unwind_info;
  a.get_dyn_info_list_addr = get_dyn_info_list_addr;
  a.access_mem = access_mem;
  a.access_reg = access_reg;
  a.access_fpreg = access_fpreg;
  a.resume = resume;
  a.get_proc_name = get_proc_name;
  return a;
}

unw_accessors_t g_accessors = make_accessors();

}  // namespace

bool Unwinder::Impl::table_of(uint64_t ip, unw_dyn_info_t* ret) {
  const ElfObject* o = objects.find(ip);
  if (o == nullptr || o->eh_frame_hdr == 0) return false;
  struct {
    uint8_t version, frame_encoding, count_encoding, table_encoding;
    int32_t frame;
    uint32_t count;
  } head;
  if (!memory.read_object(o->eh_frame_hdr, &head) || head.version != 1 ||
      head.frame_encoding != kPcrelSdata4 || head.count_encoding != kUdata4 ||
      head.table_encoding != kDatarelSdata4) {
    return false;
  }
  ret->format = UNW_INFO_FORMAT_REMOTE_TABLE;
  ret->start_ip = o->start;
  ret->end_ip = o->end;
  ret->u.rti.segbase = o->eh_frame_hdr;
  ret->u.rti.table_data = o->eh_frame_hdr + sizeof(head);
  ret->u.rti.table_len = head.count;  // in words of 8 bytes: one entry each
  return true;
}

uint64_t* Unwinder::Impl::register_of(unw_regnum_t number) {
  FrameRegisters& r = registers;
  switch (number) {
    case UNW_X86_64_RAX:
      return &r.rax;
    case UNW_X86_64_RDX:
      return &r.rdx;
    case UNW_X86_64_RCX:
      return &r.rcx;
    case UNW_X86_64_RBX:
      return &r.rbx;
    case UNW_X86_64_RSI:
      return &r.rsi;
    case UNW_X86_64_RDI:
      return &r.rdi;
    case UNW_X86_64_RBP:
      return &r.rbp;
    case UNW_X86_64_RSP:
      return &r.rsp;
    case UNW_X86_64_R8:
      return &r.r8;
    case UNW_X86_64_R9:
      return &r.r9;
    case UNW_X86_64_R10:
      return &r.r10;
    case UNW_X86_64_R11:
      return &r.r11;
    case UNW_X86_64_R12:
      return &r.r12;
    case UNW_X86_64_R13:
      return &r.r13;
    case UNW_X86_64_R14:
      return &r.r14;
    case UNW_X86_64_R15:
      return &r.r15;
    case UNW_X86_64_RIP:
      return &r.rip;
    default:
      return nullptr;
  }
}

// Where libunwind gives up, functions that keep a frame pointer are still to be found.
void Unwinder::Impl::follow_frame_pointers(unw_cursor_t* cursor, Backtrace& out) {
  unw_word_t fp = 0;
  if (unw_get_reg(cursor, UNW_X86_64_RBP, &fp) != 0) return;
  while (fp != 0 && fp % 8 == 0 && out.frames.size() < kMostFrames) {
    uint64_t pair[2];  // the caller's frame pointer, the return address
    if (!memory.read_object(fp, &pair) || pair[1] == 0) return;
    const format::SegmentRecord* code = memory.segment(pair[1]);
    if (code == nullptr || (code->prot & 4) == 0) return;  // PROT_EXEC
    StackFrame f;
    f.ip = pair[1];
    f.is_return = f.by_frame_pointer = true;
    out.frames.push_back(f);
    if (pair[0] <= fp || pair[0] - fp > kMostFrameBytes) return;
    fp = pair[0];
  }
}

Unwinder::Unwinder(ImageMemory& memory, ObjectTable& objects)
    : impl_(std::make_unique<Impl>(memory, objects)) {
  impl_->space = unw_create_addr_space(&g_accessors, 0);
  if (impl_->space != nullptr) unw_set_caching_policy(impl_->space, UNW_CACHE_GLOBAL);
}

Unwinder::~Unwinder() {
  if (impl_->space != nullptr) unw_destroy_addr_space(impl_->space);
}

Backtrace Unwinder::run(const format::ThreadRecord& thread) {
  Backtrace out;
  impl_->registers = frame_registers(impl_->memory.image().blob(thread.frame).data());
  impl_->without_table = 0;
  StackFrame f;
  f.ip = impl_->registers.rip;
  unw_cursor_t cursor;
  if (impl_->space == nullptr || unw_init_remote(&cursor, impl_->space, impl_.get()) != 0) {
    out.frames.push_back(f);
    out.note = "libunwind could not begin";
    return out;
  }
  bool guessing = false;
  for (;;) {
    // libunwind says it of the interrupted function; the frame of the signal is the one before.
    const bool interrupted = !out.frames.empty() && unw_is_signal_frame(&cursor) > 0;
    if (interrupted) {
      out.frames.back().is_signal_frame = true;
      out.frames.back().is_return = false;  // the trampoline's first instruction
    }
    f.is_return = !out.frames.empty() && !interrupted;
    f.by_frame_pointer = guessing;
    out.frames.push_back(f);
    if (out.frames.size() == kMostFrames) {
      out.note = "more frames are left out";
      return out;
    }
    impl_->without_table = 0;
    const int r = unw_step(&cursor);
    // libunwind looks for the table entry of the call, one byte before the return address.
    guessing = guessing || (impl_->without_table != 0 && f.ip - impl_->without_table <= 1);
    unw_word_t ip = 0;
    if (r > 0 && unw_get_reg(&cursor, UNW_REG_IP, &ip) == 0 && ip != 0) {
      f.ip = ip;
      continue;
    }
    if (r < 0) {
      out.note = std::string("libunwind: ") + unw_strerror(r);
      const size_t before = out.frames.size();
      impl_->follow_frame_pointers(&cursor, out);
      if (out.frames.size() > before) out.note += "; went on by frame pointers";
    }
    return out;
  }
}

}  // namespace cr::agent
