// SPDX-License-Identifier: MIT
// synthetic_image.h - a small image made without a process, for the tests of its reader.
// Invariant: the same bytes every time (docs/format/image.md shows them); not written by the code
// that writes real images, so that both are checked against the specification.
// Context: N.
#pragma once

#include <string.h>

#include <string>
#include <vector>

#include "format/checksum.h"
#include "format/image.h"
#include "store/model.h"

namespace cr_test {

namespace format = cr::format;

struct SyntheticImage {
  cr::store::Model model;
  std::vector<std::string> pages;  // one for each slot
  format::SuperBlock super{};

  // A process of one thread, with a page of memory of its own and one of a file.
  SyntheticImage() {
    add_memory();
    add_process();
    add_thread();
    add_file();
    model.sigactions.resize(64);
    model.sigactions[14] = {0x401000, 0x04000000, 0x401010, 0};  // SIGTERM
    format::SiginfoRecord s{};
    s.info[0] = 10;  // SIGUSR1
    model.siginfos.push_back(s);
    const uint64_t word = 0x1122334455667788;
    model.overlays.push_back({0x10ff8, model.add_blob(&word, sizeof(word))});
  }

  // Not part of the documented bytes: two objects, a mapping of the second from its second page on,
  // a descriptor of the first.
  void add_objects() {
    using cr::kPageSize, format::kObjectSpace;
    format::ObjectRecord o{};
    o.kind = format::kObjectMemfd;
    o.flags = format::kObjectWhole;
    o.bytes = kPageSize + 1;
    o.addr = kObjectSpace;
    o.name = model.add_string("/memfd:a");
    model.objects.push_back(o);
    o.kind = format::kObjectNamed;
    o.bytes = 3 * kPageSize;
    o.addr = kObjectSpace + 16 * kPageSize;
    model.objects.push_back(o);
    format::SegmentRecord s{};
    s.start = 0x500000;
    s.end = 0x502000;
    s.kind = format::kSegmentObject;
    s.prot = 3;
    s.file_off = kPageSize;
    s.file_bytes = 1;
    model.segments.push_back(s);
    model.extents.push_back({kObjectSpace + kPageSize, 1, 0});
    model.extents.push_back({kObjectSpace + 18 * kPageSize, 1, 1});
    model.files[0].kind = format::kFileObject;
    model.files[0].pair = 0;
    super.feature_incompat = format::kIncompatObjects;
  }

  // The file's content, all offsets and checksums filled in.
  std::vector<uint8_t> bytes() {
    const std::vector<uint8_t> metadata = model.serialize();
    memcpy(super.magic, format::kImageMagic, sizeof(super.magic));
    super.format_version = format::kImageVersion;
    super.header_bytes = sizeof(super);
    super.machine = format::kMachineX86_64;
    super.page_bytes = cr::kPageSize;
    super.write_lock = 1;
    super.epoch = 1;
    super.sequence = 7;
    super.attempt = 9;
    super.realtime_ns = 1735689600000000000;  // 2025-01-01 00:00:00 UTC
    super.monotonic_ns = 1000000000;
    super.payload_off = cr::kPageSize;
    super.payload_slots = pages.size();
    super.metadata_off = cr::kPageSize * (1 + pages.size());
    super.metadata_bytes = metadata.size();
    super.pause_ns = 2000000;
    super.memory_bytes = 0x4000;
    for (uint8_t i = 0; i < 16; i++) super.session_id[i] = i;
    std::vector<uint8_t> out(super.metadata_off);
    for (size_t i = 0; i < pages.size(); i++) {
      memcpy(&out[cr::kPageSize * (1 + i)], pages[i].data(), cr::kPageSize);
    }
    out.insert(out.end(), metadata.begin(), metadata.end());
    seal(out, &super);
    return out;
  }

  // Puts `super` into the file with the right checksums of itself and of the metadata.
  static void seal(std::vector<uint8_t>& file, format::SuperBlock* super) {
    if (super->metadata_off <= file.size() &&
        super->metadata_bytes <= file.size() - super->metadata_off) {
      super->metadata_xxh3 =
          format::checksum(file.data() + super->metadata_off, super->metadata_bytes);
    }
    super->checksum = format::superblock_checksum(*super);
    memcpy(file.data(), super, sizeof(*super));
  }

 private:
  void add_page(const char* text) {
    std::string page(cr::kPageSize, '\0');
    memcpy(page.data(), text, strlen(text));
    model.checksums.push_back(format::checksum(page.data(), page.size()));
    pages.push_back(page);
  }

  void add_memory() {
    add_page("a page of anonymous memory");
    add_page("a page of a file");
    format::SegmentRecord s{};
    s.start = 0x10000;
    s.end = 0x12000;
    s.kind = format::kSegmentAnon;
    s.prot = 3;
    model.segments.push_back(s);
    s.start = 0x400000;
    s.end = 0x402000;
    s.kind = format::kSegmentFile;
    s.prot = 5;
    s.flags = format::kSegmentEmbedded;
    s.file = model.add_string("/bin/prog");
    s.dev = 0x801;
    s.ino = 1234;
    s.file_bytes = 0x1800;
    s.file_mtime_ns = 1700000000000000000;
    model.segments.push_back(s);
    model.extents.push_back({0x10000, 1, 0});
    model.extents.push_back({0x400000, 1, 1});
    model.extents.push_back({0x401000, 1, format::kSlotZero});
  }

  void add_process() {
    format::ProcessRecord& p = model.process;
    p.pid = p.pgid = p.sid = 100;
    p.ppid = 1;
    p.uid = p.gid = 1000;
    p.umask = 022;
    p.dumpable = 1;
    p.control_tid = 101;
    p.program = model.segments[1].file;
    p.exe_name = model.add_string("prog");
    p.cwd = model.add_string("/");
    p.hostname = model.add_string("host");
    p.kernel_release = model.add_string("6.1.0");
    p.cmdline = model.add_blob("prog\0-v", 8);
    p.environ = model.add_blob("A=1", 4);
    const uint64_t auxv[2] = {0, 0};  // AT_NULL
    p.auxv = model.add_blob(auxv, sizeof(auxv));
    p.control_entry = 0x400100;
    p.control_state = 0x10000;
    p.control_state_bytes = 64;
  }

  void add_thread() {
    format::ThreadRecord t{};
    t.tid = 100;
    t.flags = format::kThreadLeader;
    t.syscall_nr = -1;
    memcpy(t.name, "prog", 4);
    const std::string frame(320 + 576 + 4, '\0');
    t.frame = model.add_blob(frame.data(), frame.size());
    const uint64_t cpus = 3;
    t.affinity = model.add_blob(&cpus, sizeof(cpus));
    model.threads.push_back(t);
  }

  void add_file() {
    format::FileRecord f{};
    f.kind = format::kFileRegular;
    f.open_flags = 1;  // O_WRONLY
    f.position = f.file_bytes = 42;
    f.path = model.add_string("/tmp/out");
    f.mode = 0100644;
    f.std_fd = -1;
    model.files.push_back(f);
    model.fds.push_back({1, 0, 0, 0});
    model.fds.push_back({3, 0, 1, 0});
  }
};

}  // namespace cr_test
