// SPDX-License-Identifier: MIT
// elf_file.h - symbols and build id of an ELF file on disk, or of its debug file.
// Invariant: as elf_object.h. Context: N (agent).
#pragma once

#include <stdint.h>

#include <span>
#include <string>
#include <vector>

#include "agent/elf_object.h"

namespace cr::agent {

// The functions of an ELF file's .symtab and .dynsym, at bias + their value.
void read_file_symbols(std::span<const uint8_t> file, uint64_t bias, std::vector<Symbol>* to);

// The bytes of the build id in PT_NOTE data; empty if there is none.
std::string find_build_id(std::span<const uint8_t> notes);
std::string file_build_id(std::span<const uint8_t> file);

// Adds the functions of the object's file and of its separate debug file, where these are the
// right ones.
void add_symbols_from_disk(const format::ImageView& image, ElfObject& object);

// Is this symbol the name of code?
bool names_code(unsigned char info, uint16_t section);

}  // namespace cr::agent
