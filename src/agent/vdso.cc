// SPDX-License-Identifier: MIT
// vdso.cc - see vdso.h. Invariant: as there. Context: N (agent).
#include "agent/vdso.h"

#include <elf.h>
#include <string.h>

#include <map>
#include <string>

#include "os/fd.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

template <typename T>
bool read_at(std::span<const uint8_t> bytes, uint64_t off, T* ret) {
  if (off > bytes.size() || bytes.size() - off < sizeof(T)) return false;
  memcpy(ret, bytes.data() + off, sizeof(T));
  return true;
}

// Dynamic function symbols: name -> offset. The vDSO is linked at 0 (addresses are offsets).
std::map<std::string, uint64_t> functions(std::span<const uint8_t> v) {
  std::map<std::string, uint64_t> out;
  Elf64_Ehdr eh;
  if (!read_at(v, 0, &eh) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0) return out;
  for (unsigned i = 0; i < eh.e_shnum; i++) {
    Elf64_Shdr sh, str;
    if (!read_at(v, eh.e_shoff + i * sizeof(sh), &sh) || sh.sh_type != SHT_DYNSYM) continue;
    if (!read_at(v, eh.e_shoff + sh.sh_link * sizeof(str), &str)) continue;
    for (uint64_t off = 0; off + sizeof(Elf64_Sym) <= sh.sh_size; off += sizeof(Elf64_Sym)) {
      Elf64_Sym sym;
      if (!read_at(v, sh.sh_offset + off, &sym)) break;
      if (ELF64_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_shndx == SHN_UNDEF) continue;
      const uint64_t name_off = str.sh_offset + sym.st_name;
      if (name_off >= v.size() || sym.st_value >= v.size()) continue;
      const char* name = reinterpret_cast<const char*>(v.data() + name_off);
      const size_t n = strnlen(name, v.size() - name_off);
      out[std::string(name, n)] = sym.st_value;
    }
  }
  return out;
}

}  // namespace

OwnVdso own_vdso() {
  OwnVdso own;
  auto text = os::read_file("/proc/self/maps");
  if (!text) return own;
  auto maps = os::parse_maps(*text);
  if (!maps) return own;
  uint64_t first = 0;
  for (const os::MapEntry& m : *maps) {
    if (first == 0 && m.name.starts_with("[vvar")) first = m.start;
    if (m.name != "[vdso]") continue;
    if (first == 0) first = m.start;
    own.text = {reinterpret_cast<const uint8_t*>(m.start), m.end - m.start};
    own.distance = m.start - first;
    own.bytes = m.end - first;
  }
  return own;
}

bool match_vdso(std::span<const uint8_t> old_text, std::span<const uint8_t> new_text,
                std::vector<format::PlanVdsoPatch>* ret_patches) {
  const auto old_functions = functions(old_text), new_functions = functions(new_text);
  if (old_functions.empty() || new_functions.empty()) return false;
  std::map<uint64_t, uint64_t> by_offset;  // several names share an address
  for (const auto& [name, off] : old_functions) {
    auto it = new_functions.find(name);
    if (it != new_functions.end()) {
      by_offset[off] = it->second;
    } else if (by_offset.find(off) == by_offset.end() && name.starts_with("__vdso_")) {
      if (name != "__vdso_sgx_enter_enclave") return false;
    }
  }
  for (const auto& [off, to] : by_offset) ret_patches->push_back({off, to});
  return true;
}

}  // namespace cr::agent
