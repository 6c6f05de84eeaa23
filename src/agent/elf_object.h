// SPDX-License-Identifier: MIT
// elf_object.h - the program and the libraries of a saved process: where they were loaded, their
// functions' names, and their tables for unwinding.
// Invariant: neither the bytes of the image nor those of a file on disk are trusted; nothing is
// read
// outside of them. A file on disk only gives names if it is the one that was loaded (same build id,
// or the same size and modification time).
// Context: N (agent).
#pragma once

#include <elf.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "agent/image_memory.h"

namespace cr::agent {

struct Symbol {
  uint64_t start = 0, bytes = 0;
  std::string name;  // as the linker has it
};

struct ElfObject {
  std::string path;
  uint64_t bias = 0;  // address = bias + address in the file
  uint64_t start = 0, end = 0;
  uint64_t eh_frame_hdr = 0;  // address, 0: none
  uint64_t dynamic = 0;       // address, 0: none
  std::string build_id;       // bytes
  const format::SegmentRecord* first = nullptr;

  bool symbols_read = false;
  std::vector<Symbol> symbols;  // sorted by start
};

// Where an address is, for people.
struct Place {
  std::string function;  // demangled; empty: unknown
  uint64_t function_off = 0;
  std::string object;  // path, empty: in no object
  uint64_t object_off = 0;
};

class ObjectTable {
 public:
  explicit ObjectTable(ImageMemory& memory);

  // nullptr: the address is in no object.
  ElfObject* find(uint64_t addr);
  // is_return: addr is a return address; the call before it is meant.
  Place place(uint64_t addr, bool is_return);
  const std::vector<ElfObject>& objects() const { return objects_; }

 private:
  void add_object(const format::SegmentRecord& first);
  bool read_program_headers(ElfObject& o, const Elf64_Ehdr& head);
  bool is_loaded_at(const ElfObject& o, const Elf64_Phdr& p) const;
  void read_build_id(ElfObject& o, uint64_t addr, uint64_t bytes);
  void read_dynamic_symbols(ElfObject& o);
  uint64_t count_dynamic_symbols(uint64_t gnu_hash, uint64_t sysv_hash);

  ImageMemory& memory_;
  std::vector<ElfObject> objects_;  // sorted by start
};

// "deep_one+0x1c (/usr/bin/prog)", "/usr/lib/libx.so+0x1234" or "0x7f0012345678".
std::string to_string(const Place& place, uint64_t addr);

}  // namespace cr::agent
