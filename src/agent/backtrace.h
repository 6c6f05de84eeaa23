// SPDX-License-Identifier: MIT
// backtrace.h - the call chain of a saved thread.
// Invariant: never leaves the image; a damaged or wrong stack ends the chain, with the reason.
// Context: N (agent). libunwind's remote interface unwinds (as perf does it): its memory is the
// image's, its registers are the thread's, its tables are the loaded objects' own .eh_frame_hdr.
// libunwind-coredump is not used: it wants ELF header and code in one segment and reads libraries
// from disk, where they may be gone or new; the image has them as they were.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "agent/elf_object.h"
#include "agent/image_memory.h"
#include "format/image.h"

namespace cr::agent {

struct StackFrame {
  uint64_t ip = 0;
  bool is_return = false;         // a return address, not the place of an instruction to be run
  bool is_signal_frame = false;   // put between by the kernel or by us, no function called it
  bool by_frame_pointer = false;  // found without unwind tables: may be wrong
};

struct Backtrace {
  std::vector<StackFrame> frames;
  std::string note;  // why the chain ends before its beginning; empty: it does not
};

class Unwinder {
 public:
  Unwinder(ImageMemory& memory, ObjectTable& objects);
  ~Unwinder();
  Unwinder(const Unwinder&) = delete;
  Unwinder& operator=(const Unwinder&) = delete;

  Backtrace run(const format::ThreadRecord& thread);

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace cr::agent
