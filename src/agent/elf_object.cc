// SPDX-License-Identifier: MIT
// elf_object.cc - see elf_object.h. Invariant: as there. Context: N (agent).
#include "agent/elf_object.h"

#include <cxxabi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "agent/elf_file.h"

namespace cr::agent {
namespace {

constexpr uint64_t kMostSymbols = 1 << 22;
constexpr uint64_t kMostHeaders = 256;
constexpr uint64_t kMostNoteBytes = 1 << 16;
constexpr uint64_t kMostNameBytes = 1 << 16;

std::string demangle(const std::string& name) {
  if (!name.starts_with("_Z")) return name;
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  if (text == nullptr) return name;
  std::string result = text;
  free(text);
  return result;
}

// Orders by address; of several names for one address, the best is the last.
void sort_symbols(std::vector<Symbol>& all) {
  for (Symbol& s : all) s.name.resize(std::min(s.name.size(), s.name.find('@')));
  auto leading = [](const Symbol& s) { return s.name.find_first_not_of('_'); };
  std::sort(all.begin(), all.end(), [&](const Symbol& a, const Symbol& b) {
    if (a.start != b.start) return a.start < b.start;
    if ((a.bytes == 0) != (b.bytes == 0)) return a.bytes == 0;
    if (leading(a) != leading(b)) return leading(a) > leading(b);
    return a.name > b.name;
  });
}

const Symbol* find_symbol(const std::vector<Symbol>& all, uint64_t addr) {
  auto it = std::upper_bound(all.begin(), all.end(), addr,
                             [](uint64_t a, const Symbol& s) { return a < s.start; });
  // A symbol without a size reaches to the next one; a sized one may lie inside a larger one.
  for (int tries = 0; it != all.begin() && tries < 16; tries++) {
    --it;
    if (it->bytes == 0 ? tries == 0 : addr - it->start < it->bytes) return &*it;
  }
  return nullptr;
}

}  // namespace

ObjectTable::ObjectTable(ImageMemory& memory) : memory_(memory) {
  for (const format::SegmentRecord& s : memory.image().segments) {
    const bool file = s.kind == format::kSegmentFile || s.kind == format::kSegmentFileShared;
    if (s.kind == format::kSegmentVdso || (file && s.file_off == 0)) add_object(s);
  }
  std::sort(objects_.begin(), objects_.end(),
            [](const ElfObject& a, const ElfObject& b) { return a.start < b.start; });
}

void ObjectTable::add_object(const format::SegmentRecord& first) {
  Elf64_Ehdr head;
  if (!memory_.read_object(first.start, &head) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
      head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr)) {
    return;
  }
  ElfObject o;
  o.first = &first;
  const bool vdso = first.kind == format::kSegmentVdso;
  o.path = vdso ? "[vdso]" : memory_.image().string(first.file);
  if (!read_program_headers(o, head)) return;
  objects_.push_back(std::move(o));
}

// A file that was mapped only to be read has program headers, too, but is not laid out by them.
bool ObjectTable::is_loaded_at(const ElfObject& o, const Elf64_Phdr& p) const {
  const uint64_t addr = o.bias + page_floor(p.p_vaddr);
  const format::SegmentRecord* s = memory_.segment(addr);
  if (s == nullptr) return false;
  if (s->file == 0 || o.first->file == 0) return true;  // anonymous by now; the vDSO
  const format::ImageView& image = memory_.image();
  return strcmp(image.string(s->file), image.string(o.first->file)) == 0 &&
         s->file_off + (addr - s->start) == page_floor(p.p_offset);
}

bool ObjectTable::read_program_headers(ElfObject& o, const Elf64_Ehdr& head) {
  std::vector<Elf64_Phdr> all(std::min<uint64_t>(head.e_phnum, kMostHeaders));
  const uint64_t base = o.first->start;
  if (all.empty() || !memory_.read(base + head.e_phoff, all.data(), all.size() * sizeof(all[0]))) {
    return false;
  }
  bool loaded = false;
  uint64_t low = ~0ull, high = 0;
  for (const Elf64_Phdr& p : all) {
    if (p.p_type != PT_LOAD || p.p_memsz == 0 || p.p_vaddr + p.p_memsz < p.p_vaddr) continue;
    if (!loaded) o.bias = base - (page_floor(p.p_vaddr) - page_floor(p.p_offset));
    if (!is_loaded_at(o, p)) return false;
    loaded = true;
    low = std::min(low, p.p_vaddr);
    high = std::max(high, p.p_vaddr + p.p_memsz);
  }
  if (!loaded) return false;
  o.start = o.bias + page_floor(low);
  o.end = o.bias + page_ceil(high);
  if (o.end <= o.start) return false;
  for (const Elf64_Phdr& p : all) {
    if (p.p_type == PT_GNU_EH_FRAME) o.eh_frame_hdr = o.bias + p.p_vaddr;
    if (p.p_type == PT_DYNAMIC) o.dynamic = o.bias + p.p_vaddr;
    if (p.p_type == PT_NOTE && o.build_id.empty()) {
      read_build_id(o, o.bias + p.p_vaddr, p.p_memsz);
    }
  }
  return true;
}

void ObjectTable::read_build_id(ElfObject& o, uint64_t addr, uint64_t bytes) {
  std::vector<uint8_t> notes(std::min(bytes, kMostNoteBytes));
  if (memory_.read(addr, notes.data(), notes.size())) o.build_id = find_build_id(notes);
}

// The dynamic section does not say how many symbols there are: the hash tables do.
uint64_t ObjectTable::count_dynamic_symbols(uint64_t gnu_hash, uint64_t sysv_hash) {
  uint32_t head[4];
  if (sysv_hash != 0 && memory_.read(sysv_hash, head, 8)) {
    return std::min<uint64_t>(head[1], kMostSymbols);
  }
  if (gnu_hash == 0 || !memory_.read_object(gnu_hash, &head)) return 0;
  const uint64_t buckets = head[0], first_symbol = head[1], bloom_words = head[2];
  if (buckets > kMostSymbols || bloom_words > kMostSymbols) return 0;
  std::vector<uint32_t> bucket(buckets);
  const uint64_t bucket_addr = gnu_hash + sizeof(head) + bloom_words * 8;
  if (!memory_.read(bucket_addr, bucket.data(), buckets * 4)) return 0;
  uint64_t last = 0;
  for (const uint32_t b : bucket) last = std::max<uint64_t>(last, b);
  if (last < first_symbol) return first_symbol;
  const uint64_t chain_addr = bucket_addr + buckets * 4;
  for (; last < kMostSymbols; last++) {
    uint32_t hash;
    if (!memory_.read_object(chain_addr + (last - first_symbol) * 4, &hash)) return 0;
    if ((hash & 1) != 0) break;
  }
  return last + 1;
}

void ObjectTable::read_dynamic_symbols(ElfObject& o) {
  uint64_t symbols = 0, names = 0, name_bytes = 0, gnu_hash = 0, sysv_hash = 0;
  // ld.so has put addresses in, except into the vDSO.
  auto address = [&](uint64_t v) { return v < o.start ? v + o.bias : v; };
  for (uint64_t i = 0; o.dynamic != 0 && i < 1024; i++) {
    Elf64_Dyn d;
    if (!memory_.read_object(o.dynamic + i * sizeof(d), &d) || d.d_tag == DT_NULL) break;
    if (d.d_tag == DT_SYMTAB) symbols = address(d.d_un.d_ptr);
    if (d.d_tag == DT_STRTAB) names = address(d.d_un.d_ptr);
    if (d.d_tag == DT_STRSZ) name_bytes = d.d_un.d_val;
    if (d.d_tag == DT_GNU_HASH) gnu_hash = address(d.d_un.d_ptr);
    if (d.d_tag == DT_HASH) sysv_hash = address(d.d_un.d_ptr);
  }
  if (symbols == 0 || names == 0) return;
  const uint64_t count = count_dynamic_symbols(gnu_hash, sysv_hash);
  for (uint64_t i = 0; i < count; i++) {
    Elf64_Sym s;
    if (!memory_.read_object(symbols + i * sizeof(s), &s)) break;
    if (!names_code(s.st_info, s.st_shndx) || s.st_name >= name_bytes) continue;
    Symbol to{o.bias + s.st_value, s.st_size, ""};
    if (memory_.read_string(names + s.st_name, kMostNameBytes, &to.name)) {
      o.symbols.push_back(std::move(to));
    }
  }
}

ElfObject* ObjectTable::find(uint64_t addr) {
  auto it = std::upper_bound(objects_.begin(), objects_.end(), addr,
                             [](uint64_t a, const ElfObject& o) { return a < o.start; });
  if (it == objects_.begin()) return nullptr;
  --it;
  return addr < it->end ? &*it : nullptr;
}

Place ObjectTable::place(uint64_t addr, bool is_return) {
  Place p;
  ElfObject* o = find(addr);
  if (o == nullptr) return p;
  p.object = o->path;
  p.object_off = addr - o->bias;
  if (!o->symbols_read) {
    o->symbols_read = true;
    read_dynamic_symbols(*o);
    add_symbols_from_disk(memory_.image(), *o);
    sort_symbols(o->symbols);
  }
  const Symbol* s = find_symbol(o->symbols, is_return ? addr - 1 : addr);
  if (s == nullptr) return p;
  p.function = demangle(s->name);
  p.function_off = addr - s->start;
  return p;
}

std::string to_string(const Place& p, uint64_t addr) {
  char off[32];
  if (p.object.empty()) {
    snprintf(off, sizeof(off), "0x%lx", static_cast<unsigned long>(addr));
    return off;
  }
  if (p.function.empty()) {
    snprintf(off, sizeof(off), "+0x%lx", static_cast<unsigned long>(p.object_off));
    return p.object + off;
  }
  snprintf(off, sizeof(off), "+0x%lx", static_cast<unsigned long>(p.function_off));
  return p.function + off + " (" + p.object + ")";
}

}  // namespace cr::agent
