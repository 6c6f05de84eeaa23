// SPDX-License-Identifier: MIT
// elf_file.cc - see elf_file.h. Invariant: as there. Context: N (agent).
#include "agent/elf_file.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace cr::agent {
namespace {

bool inside(uint64_t off, uint64_t bytes, uint64_t total) {
  return off <= total && bytes <= total - off;
}

template <typename T>
bool get(std::span<const uint8_t> from, uint64_t off, T* ret) {
  if (!inside(off, sizeof(T), from.size())) return false;
  memcpy(ret, from.data() + off, sizeof(T));
  return true;
}

bool read_header(std::span<const uint8_t> file, Elf64_Ehdr* ret) {
  return get(file, 0, ret) && memcmp(ret->e_ident, ELFMAG, SELFMAG) == 0 &&
         ret->e_ident[EI_CLASS] == ELFCLASS64;
}

void read_symbol_section(std::span<const uint8_t> file, const Elf64_Shdr& table,
                         const Elf64_Shdr& names, uint64_t bias, std::vector<Symbol>* to) {
  if (!inside(table.sh_offset, table.sh_size, file.size()) ||
      !inside(names.sh_offset, names.sh_size, file.size())) {
    return;
  }
  for (uint64_t at = 0; table.sh_size - at >= sizeof(Elf64_Sym); at += sizeof(Elf64_Sym)) {
    Elf64_Sym s;
    memcpy(&s, file.data() + table.sh_offset + at, sizeof(s));
    if (!names_code(s.st_info, s.st_shndx) || s.st_name >= names.sh_size) continue;
    const char* name = reinterpret_cast<const char*>(file.data()) + names.sh_offset + s.st_name;
    to->push_back({bias + s.st_value, s.st_size, {name, strnlen(name, names.sh_size - s.st_name)}});
  }
}

os::Mapping map_file(const std::string& path) {
  auto fd = os::open_file(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  if (!fd || fstat(fd->get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return {};
  auto m = os::Mapping::map(fd->get(), static_cast<size_t>(st.st_size), PROT_READ, MAP_PRIVATE);
  return m ? std::move(*m) : os::Mapping();
}

// Where distributions put the symbols that they strip from programs.
std::string debug_file_of(const std::string& build_id) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (const char c : build_id) {
    hex.push_back(kHex[static_cast<uint8_t>(c) >> 4]);
    hex.push_back(kHex[c & 15]);
  }
  return "/usr/lib/debug/.build-id/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".debug";
}

std::span<const uint8_t> bytes_of(const os::Mapping& m) { return {m.data(), m.size()}; }

}  // namespace

bool names_code(unsigned char info, uint16_t section) {
  const int type = ELF64_ST_TYPE(info);
  return (type == STT_FUNC || type == STT_GNU_IFUNC) && section != SHN_UNDEF;
}

void read_file_symbols(std::span<const uint8_t> file, uint64_t bias, std::vector<Symbol>* to) {
  Elf64_Ehdr head;
  if (!read_header(file, &head) || head.e_shentsize != sizeof(Elf64_Shdr)) return;
  auto section = [&](uint64_t i, Elf64_Shdr* ret) {
    return i < head.e_shnum && head.e_shoff <= file.size() &&
           get(file, head.e_shoff + i * sizeof(Elf64_Shdr), ret);
  };
  Elf64_Shdr table, names;
  for (uint64_t i = 0; section(i, &table); i++) {
    if (table.sh_type != SHT_SYMTAB && table.sh_type != SHT_DYNSYM) continue;
    if (section(table.sh_link, &names)) read_symbol_section(file, table, names, bias, to);
  }
}

std::string find_build_id(std::span<const uint8_t> notes) {
  uint64_t at = 0;
  Elf64_Nhdr h;
  while (get(notes, at, &h)) {
    const uint64_t name = at + sizeof(h);
    const uint64_t desc = name + ((uint64_t{h.n_namesz} + 3) & ~3ull);
    if (!inside(desc, h.n_descsz, notes.size())) break;
    if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && h.n_descsz > 2 && h.n_descsz <= 64 &&
        memcmp(notes.data() + name, "GNU", 4) == 0) {
      return {reinterpret_cast<const char*>(notes.data()) + desc, h.n_descsz};
    }
    at = desc + ((uint64_t{h.n_descsz} + 3) & ~3ull);
  }
  return "";
}

std::string file_build_id(std::span<const uint8_t> file) {
  Elf64_Ehdr head;
  if (!read_header(file, &head) || head.e_phentsize != sizeof(Elf64_Phdr)) return "";
  Elf64_Phdr p;
  for (uint64_t i = 0; i < head.e_phnum && head.e_phoff <= file.size(); i++) {
    if (!get(file, head.e_phoff + i * sizeof(p), &p)) break;
    if (p.p_type != PT_NOTE || !inside(p.p_offset, p.p_filesz, file.size())) continue;
    const std::string id = find_build_id(file.subspan(p.p_offset, p.p_filesz));
    if (!id.empty()) return id;
  }
  return "";
}

void add_symbols_from_disk(const format::ImageView& image, ElfObject& o) {
  os::Mapping file = map_unchanged_file(image, *o.first);
  if (!file && !o.build_id.empty() && o.path.starts_with('/')) {
    file = map_file(o.path);
    if (file_build_id(bytes_of(file)) != o.build_id) file.reset();
  }
  if (file) read_file_symbols(bytes_of(file), o.bias, &o.symbols);
  if (o.build_id.empty()) return;
  const os::Mapping debug = map_file(debug_file_of(o.build_id));
  if (debug && file_build_id(bytes_of(debug)) == o.build_id) {
    read_file_symbols(bytes_of(debug), o.bias, &o.symbols);
  }
}

}  // namespace cr::agent
