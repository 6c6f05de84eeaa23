// SPDX-License-Identifier: MIT
// rollback_memory.h - restore() in place: what must be done to the memory of the running program so
// that it is again as the newest image has it.
// Invariant: finding out changes nothing; what is not sure to be as it was is put back, or refused.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "restore() in
// place".
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/describe_memory.h"
#include "format/calls.h"
#include "format/image_reader.h"
#include "os/proc.h"

namespace cr::agent {

// What is known of the program's memory.
struct MemoryNow {
  const std::vector<os::MapEntry>& maps;
  const format::ImageView& image;
  pid_t pid = 0, tid = 0;
  int mem = -1, pagemap = -1, image_file = -1;
  Leftover leftover;
  // Pages are tracked since that image was taken; without that all of them count as written.
  bool tracked = false;
  const std::vector<AddressRange>& without;              // was left out of it, ascending
  const std::vector<format::SegmentRecord>& file_parts;  // of these it has the file's own pages
  bool lazy_free = false;  // pages may have been given up since by MADV_FREE
  uint64_t control_stack = 0, control_stack_end = 0;  // is in use and stays as it is
  AddressRange library;                               // stays where it is
};

// Pages whose content the image has. slot: kSlotZero: zeros.
struct PageFill {
  uint64_t addr, pages, slot;
};

struct MemoryChange {
  struct MappedFile {
    std::string path;
    std::vector<size_t> calls;  // mmap calls that want its descriptor
  };
  std::vector<format::Call> calls;  // for the control thread, in this order
  std::vector<size_t> track;        // those that register [args[0], + args[1]) for tracking
  std::vector<format::Call> after;  // when the pages are written
  std::vector<MappedFile> files;    // to be opened there before
  std::vector<const format::SegmentRecord*> pieces;  // of which a part is mapped anew
  std::vector<PageFill> fills;                       // to be written
  std::vector<PageFill> compare;                     // to be written where it differs
};

// Fills *ret. Returns why this cannot be done in place; "" if it can.
std::string find_memory_change(const MemoryNow& now, MemoryChange* ret);

// The program had one mapping there, and has several when change.calls have been made: memory that
// was moved by mremap, or is of a file, is not joined with what is mapped beside it. Fills *ret
// with what maps the whole anew, from files that change.files has; a mapping whose pages in the
// image are damaged stays in pieces.
void find_pieces(const MemoryNow& now, const MemoryChange& change, MemoryChange* ret);

// The checksum of every page that is going to be read is right; else says where it is not.
std::string verify_change(const MemoryNow& now, const MemoryChange& change);

// Pages that the program itself may not write will have to be written: tries it with one of them,
// which keeps its content. "" if that works (the kernel's proc_mem.force_override may forbid it).
std::string try_forced_write(const MemoryNow& now, const MemoryChange& change);

// Writes the pages; the calls have been made. "" or what went wrong.
std::string fill_memory(const MemoryNow& now, const MemoryChange& change);

// What MADV_FREE has given up until now is counted from here on, and shown by smaps.
void settle_lazy_free();
// The kernel's count of pages that MADV_FREE gave up, of all processes; ~0 if it does not tell.
uint64_t lazy_free_count();

}  // namespace cr::agent
