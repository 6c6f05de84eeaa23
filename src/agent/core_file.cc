// SPDX-License-Identifier: MIT
// core_file.cc - see core_file.h. Invariant: as there. Context: N (agent).
#include "agent/core_file.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "agent/core_notes.h"
#include "os/fd.h"

namespace cr::agent {
namespace {

// A hole in anonymous memory of more than this gets a header of its own, without content, so that
// a sparse terabyte does not make the file longer than file systems allow.
constexpr uint64_t kLargeHole = 64ull << 20;

struct Piece {
  uint64_t addr, bytes;
  bool content;  // of the file; else the debugger knows it is there but not what it holds
  uint32_t prot;
  uint64_t off = 0;  // in the core file
};

class CoreWriter {
 public:
  CoreWriter(ImageMemory& memory, std::string path)
      : memory_(memory), image_(memory.image()), path_(std::move(path)) {}
  Trouble write();

 private:
  void cut_segment(const format::SegmentRecord& s);
  void push(uint64_t from, uint64_t to, bool content, uint32_t prot);
  Trouble write_headers(const std::string& notes, uint64_t notes_off);
  Trouble write_pages();
  Trouble write_objects();
  Trouble write_overlays();
  Trouble put(const void* data, uint64_t bytes, uint64_t off);
  uint64_t off_of(uint64_t addr) const;
  uint64_t end_of_object(const format::SegmentRecord& s) const;
  Trouble failed(const char* doing) {
    return trouble(Errc::kSystem, errno, path_ + ": " + doing + ": " + strerror(errno));
  }

  ImageMemory& memory_;
  const format::ImageView& image_;
  std::string path_;
  os::Fd fd_;
  std::vector<Piece> pieces_;
  size_t next_extent_ = 0;
};

void CoreWriter::push(uint64_t from, uint64_t to, bool content, uint32_t prot) {
  if (from >= to) return;
  if (!pieces_.empty()) {
    Piece& last = pieces_.back();
    if (last.addr + last.bytes == from && last.content == content && last.prot == prot &&
        memory_.segment(last.addr) == memory_.segment(from)) {
      last.bytes = to - last.addr;
      return;
    }
  }
  pieces_.push_back({from, to - from, content, prot, 0});
}

// What lies behind cannot be read.
uint64_t CoreWriter::end_of_object(const format::SegmentRecord& s) const {
  const uint64_t bytes = page_ceil(image_.objects[s.file_bytes].bytes);
  return bytes <= s.file_off ? s.start : std::min(s.end, s.start + (bytes - s.file_off));
}

// Extents have content. Between them there are zeros, or in a file what the debugger can read
// there.
void CoreWriter::cut_segment(const format::SegmentRecord& s) {
  const bool file = s.kind == format::kSegmentFile || s.kind == format::kSegmentFileShared ||
                    s.kind == format::kSegmentVvar;
  auto gap = [&](uint64_t from, uint64_t to) {
    const bool bounded = to - from <= kLargeHole && s.prot != 0;
    push(from, to, !file && bounded, s.prot);
  };
  if (s.kind == format::kSegmentObject) {
    const uint64_t end = end_of_object(s);
    push(s.start, end, end - s.start <= kLargeHole, s.prot);
    return push(end, s.end, false, s.prot);
  }
  uint64_t at = s.start;
  for (; next_extent_ < image_.extents.size(); next_extent_++) {
    const format::ExtentRecord& e = image_.extents[next_extent_];
    if (e.addr >= s.end) break;
    const uint64_t end = e.addr + e.pages * kPageSize;
    gap(at, e.addr);
    push(e.addr, end, true, s.prot);
    at = end;
  }
  gap(at, s.end);
}

Trouble CoreWriter::put(const void* data, uint64_t bytes, uint64_t off) {
  const auto* p = static_cast<const uint8_t*>(data);
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t r = pwrite(fd_.get(), p + done, bytes - done, static_cast<off_t>(off + done));
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) return failed("writing");
    done += static_cast<uint64_t>(r);
  }
  return {};
}

uint64_t CoreWriter::off_of(uint64_t addr) const {
  auto it = std::upper_bound(pieces_.begin(), pieces_.end(), addr,
                             [](uint64_t a, const Piece& p) { return a < p.addr; });
  --it;
  return it->off + (addr - it->addr);
}

Trouble CoreWriter::write_pages() {
  for (const format::ExtentRecord& e : image_.extents) {
    if (e.slot == format::kSlotZero || e.addr >= format::kObjectSpace) continue;
    const uint64_t bad = format::verify_slots(image_, e.slot, e.slot + e.pages);
    if (bad != e.slot + e.pages) {
      char text[96];
      snprintf(text, sizeof(text), "the page at 0x%lx (slot %lu) is damaged: its checksum is wrong",
               static_cast<unsigned long>(e.addr + (bad - e.slot) * kPageSize),
               static_cast<unsigned long>(bad));
      return trouble(Errc::kDamaged, 0, text);
    }
    Trouble t = put(image_.slot(e.slot), e.pages * kPageSize, off_of(e.addr));
    if (t.bad()) return t;
  }
  return {};
}

// What several mappings share is in the core of each.
Trouble CoreWriter::write_objects() {
  uint8_t page[kPageSize];
  for (const Piece& p : pieces_) {
    const format::SegmentRecord* s = memory_.segment(p.addr);
    if (!p.content || s == nullptr || s->kind != format::kSegmentObject) continue;
    for (uint64_t at = p.addr; at < p.addr + p.bytes; at += kPageSize) {
      if (format::find_extent(image_, format::object_address(image_, *s, at)) == nullptr) continue;
      if (!memory_.read(at, page, sizeof(page))) return failed("reading shared memory");
      Trouble t = put(page, sizeof(page), off_of(at));
      if (t.bad()) return t;
    }
  }
  return {};
}

Trouble CoreWriter::write_overlays() {
  for (const format::OverlayRecord& o : image_.overlays) {
    for (uint64_t done = 0; done < o.bytes.bytes;) {
      const uint64_t addr = o.addr + done;
      const uint64_t n = std::min(o.bytes.bytes - done, kPageSize - addr % kPageSize);
      auto it = std::upper_bound(pieces_.begin(), pieces_.end(), addr,
                                 [](uint64_t a, const Piece& p) { return a < p.addr; });
      if (it != pieces_.begin() && (--it)->content) {
        Trouble t = put(image_.blob(o.bytes).data() + done, n, off_of(addr));
        if (t.bad()) return t;
      }
      done += n;
    }
  }
  return {};
}

Trouble CoreWriter::write_headers(const std::string& notes, uint64_t notes_off) {
  Elf64_Ehdr h;
  memset(&h, 0, sizeof(h));
  memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  h.e_ident[EI_DATA] = ELFDATA2LSB;
  h.e_ident[EI_VERSION] = EV_CURRENT;
  h.e_type = ET_CORE;
  h.e_machine = EM_X86_64;
  h.e_version = EV_CURRENT;
  h.e_phoff = sizeof(h);
  h.e_ehsize = sizeof(h);
  h.e_phentsize = sizeof(Elf64_Phdr);
  std::vector<Elf64_Phdr> all(1);
  all[0].p_type = PT_NOTE;
  all[0].p_offset = notes_off;
  all[0].p_filesz = notes.size();
  all[0].p_align = 4;
  for (const Piece& p : pieces_) {
    Elf64_Phdr ph{};
    ph.p_type = PT_LOAD;
    ph.p_flags = ((p.prot & 1) != 0 ? PF_R : 0u) | ((p.prot & 2) != 0 ? PF_W : 0u) |
                 ((p.prot & 4) != 0 ? PF_X : 0u);
    ph.p_offset = p.off;
    ph.p_vaddr = p.addr;
    ph.p_filesz = p.content ? p.bytes : 0;
    ph.p_memsz = p.bytes;
    ph.p_align = kPageSize;
    all.push_back(ph);
  }
  // More headers than the field can count: the first section header has the number.
  Elf64_Shdr section{};
  const uint64_t section_off = sizeof(h) + all.size() * sizeof(all[0]);
  const bool many = all.size() >= PN_XNUM;
  h.e_phnum = many ? PN_XNUM : static_cast<Elf64_Half>(all.size());
  if (many) {
    h.e_shoff = section_off;
    h.e_shnum = 1;
    h.e_shentsize = sizeof(section);
    section.sh_info = static_cast<Elf64_Word>(all.size());
    section.sh_size = 1;
  }
  Trouble t = put(&h, sizeof(h), 0);
  if (!t.bad()) t = put(all.data(), all.size() * sizeof(all[0]), sizeof(h));
  if (!t.bad() && many) t = put(&section, sizeof(section), section_off);
  if (!t.bad()) t = put(notes.data(), notes.size(), notes_off);
  return t;
}

Trouble CoreWriter::write() {
  for (const format::SegmentRecord& s : image_.segments) cut_segment(s);
  const std::string notes = make_core_notes(image_);
  const uint64_t notes_off =
      sizeof(Elf64_Ehdr) + (pieces_.size() + 1) * sizeof(Elf64_Phdr) + sizeof(Elf64_Shdr);
  uint64_t at = page_ceil(notes_off + notes.size());
  for (Piece& p : pieces_) {
    p.off = at;
    if (p.content) at += p.bytes;
  }
  // The core holds all of the program's memory: nobody else may read it.
  fd_ = os::Fd(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  struct stat st;
  if (!fd_ || fstat(fd_.get(), &st) != 0) return failed("opening");
  if (!S_ISREG(st.st_mode)) {
    return trouble(Errc::kInvalid, 0, path_ + ": is no regular file, so it cannot hold a core");
  }
  Trouble t;
  if (fchmod(fd_.get(), 0600) != 0) return failed("setting its mode");
  if (ftruncate(fd_.get(), static_cast<off_t>(at)) != 0) t = failed("setting the file's size");
  if (!t.bad()) t = write_headers(notes, notes_off);
  if (!t.bad()) t = write_pages();
  if (!t.bad()) t = write_objects();
  if (!t.bad()) t = write_overlays();
  if (!t.bad() && !fd_.close()) t = failed("closing");
  if (t.bad()) unlink(path_.c_str());
  return t;
}

}  // namespace

Trouble write_core(ImageMemory& memory, const std::string& path) {
  return CoreWriter(memory, path).write();
}

}  // namespace cr::agent
