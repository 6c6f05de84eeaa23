// SPDX-License-Identifier: MIT
// image_reader_test.cc - the reader takes a right image and refuses every wrong one, for the reason
// that docs/format/image.md gives.
#include "format/image_reader.h"
#include "format/sockets.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <memory>

#include "store/buffer.h"
#include "tests/unit/format/synthetic_image.h"

using cr::Errc;
using cr::kPageSize;
using cr_test::SyntheticImage;
namespace format = cr::format;

namespace {

// Reads from a copy of exactly this size, so that a sanitizer sees one byte too far.
Errc read_copy(const uint8_t* data, size_t bytes) {
  std::unique_ptr<uint8_t[]> copy(new uint8_t[bytes]);
  memcpy(copy.get(), data, bytes);
  auto r = format::read_image(copy.get(), bytes);
  return r ? Errc::kOk : r.error().code;
}
Errc read_copy(const std::vector<uint8_t>& file) { return read_copy(file.data(), file.size()); }

// The verdict on an image whose superblock was changed, with right checksums.
Errc with_super(const std::function<void(format::SuperBlock&)>& change) {
  SyntheticImage image;
  std::vector<uint8_t> file = image.bytes();
  change(image.super);
  SyntheticImage::seal(file, &image.super);
  return read_copy(file);
}

// The verdict on an image that was made from a changed model.
Errc with_model(const std::function<void(cr::store::Model&)>& change) {
  SyntheticImage image;
  change(image.model);
  return read_copy(image.bytes());
}

// The verdict on an image whose metadata bytes were changed, with right checksums.
Errc with_metadata(const std::function<void(uint8_t*)>& change) {
  SyntheticImage image;
  std::vector<uint8_t> file = image.bytes();
  change(file.data() + image.super.metadata_off);
  SyntheticImage::seal(file, &image.super);
  return read_copy(file);
}

format::SectionHeader* section(uint8_t* metadata, uint32_t kind) {
  auto* h = reinterpret_cast<format::SectionHeader*>(metadata + sizeof(format::MetadataHeader));
  while (h->kind != kind) h++;
  return h;
}

Errc with_section(uint32_t kind, const std::function<void(format::SectionHeader&)>& change) {
  return with_metadata([&](uint8_t* m) { change(*section(m, kind)); });
}

void expect(Errc got, Errc wanted, const char* what) {
  cr_expect(got == wanted, "%s: the reader says %s, not %s", what, cr::name_of(got),
            cr::name_of(wanted));
}

#define DAMAGED(what) expect(what, Errc::kDamaged, #what)

}  // namespace

Test(image_reader, reads_what_is_there) {
  SyntheticImage made;
  const std::vector<uint8_t> file = made.bytes();
  auto r = format::read_image(file.data(), file.size());
  cr_assert(r.has_value(), "%s", r.error().what);
  const format::ImageView& v = *r;
  cr_expect(v.super.sequence == 7);
  cr_expect(v.segments.size() == 2);
  cr_expect(v.threads.size() == 1);
  cr_expect(v.sigactions.size() == 64);
  cr_expect_str_eq(v.string(v.process->program), "/bin/prog");
  cr_expect_str_eq(reinterpret_cast<const char*>(v.blob(v.process->cmdline).data()), "prog");
  cr_expect_str_eq(reinterpret_cast<const char*>(v.slot(1)), "a page of a file");
  cr_expect(format::verify_slots(v, 0, 2) == 2);
  cr_expect(format::slot_address(v, 1) == 0x400000);
  cr_expect(format::slot_address(v, 2) == 0);
  cr_expect(format::find_extent(v, 0x10fff) == &v.extents[0]);
  cr_expect(format::find_extent(v, 0x11000) == nullptr);
  cr_expect(format::find_extent(v, 0x401800)->slot == format::kSlotZero);
}

Test(image_reader, reports_the_damaged_page) {
  SyntheticImage made;
  std::vector<uint8_t> file = made.bytes();
  file[kPageSize * 2 + 100] ^= 1;  // in slot 1
  auto r = format::read_image(file.data(), file.size());
  cr_assert(r.has_value());
  cr_expect(format::verify_slots(*r, 0, 1) == 1);
  cr_expect(format::verify_slots(*r, 0, 2) == 1);
  uint64_t slot = 99;
  cr_expect(cr::store::verify_pages(*r, &slot) == 0x400000);
  cr_expect(slot == 1);
}

Test(image_reader, rejects_every_truncation) {
  const std::vector<uint8_t> file = SyntheticImage().bytes();
  for (size_t n = 0; n < file.size(); n++) {
    const Errc wanted = n == 0 ? Errc::kNotWhole : n < 16 ? Errc::kForeign : Errc::kDamaged;
    const Errc got = read_copy(file.data(), n);
    cr_assert(got == wanted, "%zu bytes: %s", n, cr::name_of(got));
  }
}

Test(image_reader, rejects_every_flipped_bit_of_the_superblock) {
  std::vector<uint8_t> file = SyntheticImage().bytes();
  for (size_t bit = 0; bit < sizeof(format::SuperBlock) * 8; bit++) {
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    const Errc got = read_copy(file);
    const Errc wanted = bit < 64                        ? Errc::kForeign
                        : bit < 96 && file[bit / 8] > 1 ? Errc::kTooNew
                        : bit >= 72 && bit < 96         ? Errc::kTooNew
                                                        : Errc::kDamaged;
    cr_assert(got == wanted, "bit %zu: %s", bit, cr::name_of(got));
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
  cr_assert(read_copy(file) == Errc::kOk);
}

Test(image_reader, rejects_every_flipped_bit_of_the_metadata) {
  SyntheticImage image;
  std::vector<uint8_t> file = image.bytes();
  for (size_t bit = image.super.metadata_off * 8; bit < file.size() * 8; bit++) {
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    auto r = format::read_image(file.data(), file.size());
    cr_assert(!r && r.error().code == Errc::kDamaged, "bit %zu", bit);
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
  cr_assert(read_copy(file) == Errc::kOk);
}

// With right checksums, a flipped bit gives another image or an error, but no crash.
Test(image_reader, survives_every_flipped_bit_with_right_checksums) {
  SyntheticImage image;
  std::vector<uint8_t> file = image.bytes();
  size_t refused = 0;
  for (size_t bit = image.super.metadata_off * 8; bit < file.size() * 8; bit++) {
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    SyntheticImage::seal(file, &image.super);
    refused += read_copy(file) != Errc::kOk ? 1 : 0;
    file[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
  }
  cr_expect(refused > 1000, "only %zu were refused", refused);
}

Test(image_reader, tells_the_four_kinds_of_error) {
  using SB = format::SuperBlock;
  expect(with_super([](SB& s) { s.magic[7] = '\r'; }), Errc::kForeign, "magic");
  expect(with_super([](SB& s) { s.format_version++; }), Errc::kTooNew, "version");
  expect(with_super([](SB& s) { s.format_version = 0; }), Errc::kDamaged, "version 0");
  expect(with_super([](SB& s) { s.header_bytes = 256; }), Errc::kDamaged, "header size");
  expect(with_super([](SB& s) { s.feature_incompat = 2; }), Errc::kTooNew, "incompat bit 1");
  expect(with_super([](SB& s) { s.feature_incompat = 1ull << 63; }), Errc::kTooNew, "incompat 63");
  expect(with_super([](SB& s) { s.feature_compat = ~0ull; }), Errc::kOk, "compatible features");
  expect(with_super([](SB& s) { s.feature_ro_compat = ~0ull; }), Errc::kOk, "read-compatible");
  expect(with_super([](SB& s) { s.machine = 183; }), Errc::kWrongMachine, "AArch64");
  expect(with_super([](SB& s) { s.page_bytes = 16384; }), Errc::kWrongMachine, "page size");
  expect(with_super([](SB& s) { s.write_lock = 0; }), Errc::kNotWhole, "being written");
  expect(with_super([](SB& s) { s.write_lock = 2; }), Errc::kNotWhole, "WRITE_LOCK 2");
}

// A later version may have another superblock behind its first 16 bytes.
Test(image_reader, tells_a_newer_version_from_its_first_bytes) {
  std::vector<uint8_t> file = SyntheticImage().bytes();
  file[8] = 2;
  expect(read_copy(file.data(), 16), Errc::kTooNew, "16 bytes");
  memset(&file[16], 0x55, file.size() - 16);
  expect(read_copy(file), Errc::kTooNew, "all bytes");
}

Test(image_reader, rejects_impossible_places) {
  using SB = format::SuperBlock;
  DAMAGED(with_super([](SB& s) { s.payload_off = 512; }));
  DAMAGED(with_super([](SB& s) { s.payload_off = 0; }));
  DAMAGED(with_super([](SB& s) { s.payload_off = 1ull << 63; }));
  DAMAGED(with_super([](SB& s) { s.payload_slots = 3; }));
  DAMAGED(with_super([](SB& s) { s.payload_slots = 1; }));
  DAMAGED(with_super([](SB& s) { s.payload_slots = 1ull << 52; }));
  DAMAGED(with_super([](SB& s) { s.payload_slots = ~0ull; }));
  DAMAGED(with_super([](SB& s) { s.metadata_off += 4; }));
  DAMAGED(with_super([](SB& s) { s.metadata_off += 8; }));
  DAMAGED(with_super([](SB& s) { s.metadata_off = ~7ull; }));
  DAMAGED(with_super([](SB& s) { s.metadata_off = 0; }));
  DAMAGED(with_super([](SB& s) { s.metadata_off -= kPageSize; }));
  DAMAGED(with_super([](SB& s) { s.metadata_bytes = ~0ull; }));
  DAMAGED(with_super([](SB& s) { s.metadata_bytes = 8; }));
}

Test(image_reader, rejects_impossible_sections) {
  using H = format::SectionHeader;
  DAMAGED(with_metadata([](uint8_t* m) { m[0] = 'X'; }));
  DAMAGED(with_metadata([](uint8_t* m) { m[11] = 0x7f; }));            // section_count
  for (uint32_t kind = 1; kind <= format::kSectionOverlays; kind++) {  // that the example has
    DAMAGED(with_section(kind, [](H& h) { h.element_bytes++; }));
    DAMAGED(with_section(kind, [](H& h) { h.off += 4; }));
    DAMAGED(with_section(kind, [](H& h) { h.off = ~7ull; }));
    DAMAGED(with_section(kind, [](H& h) { h.count = ~0ull; }));
    DAMAGED(with_section(kind, [](H& h) { h.count = 1ull << 60; }));
  }
  DAMAGED(with_section(format::kSectionFds, [](H& h) { h.kind = format::kSectionFiles; }));
  DAMAGED(with_section(format::kSectionProcess, [](H& h) { h.count = 0; }));
  DAMAGED(with_section(format::kSectionProcess, [](H& h) { h.count = 2; }));
  DAMAGED(with_section(format::kSectionProcess, [](H& h) { h.kind = 99; }));
  // An addition of a later version.
  expect(with_section(format::kSectionOverlays, [](H& h) { h.kind = 99; }), Errc::kOk, "unknown");
}

Test(image_reader, rejects_references_out_of_range) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { m.strings.back() = 'x'; }));
  DAMAGED(with_model([](M& m) { m.strings.front() = 'x'; }));
  DAMAGED(with_model([](M& m) { m.strings.clear(); }));
  DAMAGED(with_model([](M& m) { m.process.cwd = static_cast<uint32_t>(m.strings.size()); }));
  DAMAGED(with_model([](M& m) { m.process.environ.bytes = m.blobs.size() + 1; }));
  DAMAGED(with_model([](M& m) { m.process.auxv.off = ~0ull; }));
  DAMAGED(with_model([](M& m) { m.process.cmdline = {~0ull, 2}; }));
  DAMAGED(with_model([](M& m) { m.segments[0].file = 1000000; }));
  DAMAGED(with_model([](M& m) { m.files[0].path = 1000000; }));
  DAMAGED(with_model([](M& m) { m.files[0].content = {0, 1ull << 40}; }));
  DAMAGED(with_model([](M& m) { m.threads[0].frame.off = m.blobs.size(); }));
  DAMAGED(with_model([](M& m) { m.threads[0].affinity.bytes = 1ull << 40; }));
  DAMAGED(with_model([](M& m) { m.overlays[0].bytes.off = ~0ull; }));
}

Test(image_reader, rejects_an_impossible_process) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { m.process.pid = 0; }));
  DAMAGED(with_model([](M& m) { m.process.pid = -5; }));
  DAMAGED(with_model([](M& m) { m.process.control_entry = 0; }));
  DAMAGED(with_model([](M& m) { m.process.control_state = 0; }));
  DAMAGED(with_model([](M& m) { m.sigactions.resize(63); }));
  DAMAGED(with_model([](M& m) { m.sigactions.resize(65); }));
  DAMAGED(with_model([](M& m) { m.siginfos[0].info[0] = 0; }));
  DAMAGED(with_model([](M& m) { m.siginfos[0].info[0] = 65; }));
  DAMAGED(with_model([](M& m) { m.siginfos[0].info[3] = 0x80; }));
}

Test(image_reader, rejects_impossible_segments) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { std::swap(m.segments[0], m.segments[1]); }));
  DAMAGED(with_model([](M& m) { m.segments[0].end = 0x401000; }));  // overlap
  DAMAGED(with_model([](M& m) { m.segments[1].start = 0x11000; }));
  DAMAGED(with_model([](M& m) { m.segments[0].start += 8; }));
  DAMAGED(with_model([](M& m) { m.segments[0].end += 8; }));
  DAMAGED(with_model([](M& m) { m.segments[0].end = m.segments[0].start; }));
  DAMAGED(with_model([](M& m) { m.segments[1].end = 0x800000000000; }));
  DAMAGED(with_model([](M& m) { m.segments[1].end = 0; }));
  DAMAGED(with_model([](M& m) { m.segments[0].kind = 0; }));
  DAMAGED(with_model([](M& m) { m.segments[0].kind = 9; }));
  DAMAGED(with_model([](M& m) { m.segments[0].prot = 8; }));
}

Test(image_reader, rejects_impossible_extents) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { std::swap(m.extents[0], m.extents[1]); }));
  DAMAGED(with_model([](M& m) { m.extents[0].addr += 8; }));
  DAMAGED(with_model([](M& m) { m.extents[0].addr = 0x12000; }));   // between the segments
  DAMAGED(with_model([](M& m) { m.extents[0].addr = 0x500000; }));  // behind them
  DAMAGED(with_model([](M& m) { m.extents[1].addr = 0x401000; }));  // overlap
  DAMAGED(with_model([](M& m) { m.extents[2].pages = 2; }));        // beyond the segment
  DAMAGED(with_model([](M& m) { m.extents[0].pages = 0; }));
  DAMAGED(with_model([](M& m) { m.extents[2].pages = 1ull << 52; }));
  DAMAGED(with_model([](M& m) { m.extents[2].pages = ~0ull; }));
  DAMAGED(with_model([](M& m) { m.extents[1].slot = 2; }));
  DAMAGED(with_model([](M& m) { m.extents[1].slot = ~0ull - 1; }));
  DAMAGED(with_model([](M& m) { m.checksums.pop_back(); }));
  DAMAGED(with_model([](M& m) { m.checksums.push_back(0); }));
  DAMAGED(with_model([](M& m) { m.overlays[0].addr = 0x11ffc; }));  // beyond the segment
  DAMAGED(with_model([](M& m) { m.overlays[0].addr = ~0ull; }));
}

Test(image_reader, rejects_impossible_threads) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { m.threads.clear(); }));
  DAMAGED(with_model([](M& m) { m.threads[0].tid = 0; }));
  DAMAGED(with_model([](M& m) { m.threads[0].frame.bytes = 895; }));
  DAMAGED(with_model([](M& m) { m.threads[0].frame.off += 4; }));
  DAMAGED(with_model([](M& m) { memset(m.threads[0].name, 'x', 16); }));
  DAMAGED(with_model([](M& m) { m.threads[0].flags = 0; }));
  DAMAGED(with_model([](M& m) { m.threads.push_back(m.threads[0]); }));  // two main threads
  DAMAGED(with_model([](M& m) { m.process.flags = format::kProcessLeaderGone; }));
}

Test(image_reader, rejects_impossible_files) {
  using M = cr::store::Model;
  DAMAGED(with_model([](M& m) { m.files[0].kind = 0; }));
  DAMAGED(with_model([](M& m) { m.files[0].kind = 99; }));
  DAMAGED(with_model([](M& m) { m.fds[0].fd = -1; }));
  DAMAGED(with_model([](M& m) { m.fds[1].fd = 1; }));
  DAMAGED(with_model([](M& m) { std::swap(m.fds[0], m.fds[1]); }));
  DAMAGED(with_model([](M& m) { m.fds[0].file = 1; }));
}

// ---- the buffer file around it (src/store/buffer.cc) -------------------------------------------

namespace {

struct Directory {
  char path[64] = "/tmp/crtest-image-XXXXXX";
  Directory() { cr_assert_not_null(mkdtemp(path)); }
  ~Directory() {
    unlink(file().c_str());
    rmdir(path);
  }
  std::string file() const { return cr::store::buffer_path(path, 0); }
  void write(const std::vector<uint8_t>& bytes) const {
    const int fd = open(file().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0);
    cr_assert(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    close(fd);
  }
};

}  // namespace

Test(load_buffer, whole_missing_empty_and_writable_by_others) {
  const Directory d;
  expect(cr::store::load_buffer(d.path, 0).error.code, Errc::kNotWhole, "missing");
  d.write({});
  expect(cr::store::load_buffer(d.path, 0).error.code, Errc::kNotWhole, "empty");
  d.write(SyntheticImage().bytes());
  const cr::store::BufferState good = cr::store::load_buffer(d.path, 0);
  expect(good.error.code, Errc::kOk, "whole");
  cr_expect(good.image != nullptr && good.image->view.super.sequence == 7);
  chmod(d.file().c_str(), 0620);
  expect(cr::store::load_buffer(d.path, 0).error.code, Errc::kPermission, "group may write");
}

// What the real writer makes, the reader takes; before the commit it is not whole.
Test(load_buffer, writer_and_reader_agree) {
  const Directory d;
  SyntheticImage made;
  made.model.extents.clear();
  made.model.checksums.clear();
  cr::store::BufferIndex index;
  auto writer = cr::store::BufferWriter::open(d.path, 0, false, index);
  cr_assert(writer.has_value());
  cr_assert((*writer)->begin(made.super).has_value());
  expect(cr::store::load_buffer(d.path, 0).error.code, Errc::kNotWhole, "begun");
  std::string staging = made.pages[0] + std::string(kPageSize, '\0') + made.pages[1];
  const std::vector<format::Run> runs = {{0x10000, 2, 0}, {0x400000, 1, 2}};
  auto never = [](void*, uint64_t) { return false; };
  cr_assert((*writer)
                ->append(made.model, reinterpret_cast<const uint8_t*>(staging.data()), runs, never,
                         nullptr)
                .has_value());
  expect(cr::store::load_buffer(d.path, 0).error.code, Errc::kNotWhole, "pages written");
  made.super.sequence = 8;
  cr_assert((*writer)->commit(made.model, &made.super).has_value());
  const cr::store::BufferState b = cr::store::load_buffer(d.path, 0);
  cr_assert(b.image != nullptr, "%s", b.error.what);
  cr_expect(b.image->view.super.sequence == 8);
  cr_expect(b.image->view.extents.size() == 2, "the zero page needs no extent");
  uint64_t slot;
  cr_expect(cr::store::verify_pages(b.image->view, &slot) == 0);
}

// The state of a descriptor that is made anew is a struct of its kind, whole and aligned.
Test(image_reader, distrusts_the_state_of_objects) {
  using M = cr::store::Model;
  const auto with_object = [](uint32_t kind, size_t bytes, uint64_t skip) {
    return with_model([&](M& m) {
      const std::string state(bytes + 8, '\1');
      m.files[0].kind = kind;
      m.files[0].content = m.add_blob(state.data(), state.size());
      m.files[0].content.off += skip;
      m.files[0].content.bytes = bytes;
    });
  };
  using namespace cr::format;
  struct Row {
    uint32_t kind;
    size_t bytes;
    bool array;
  };
  constexpr Row kRows[] = {{kFileEventfd, sizeof(EventfdState), false},
                           {kFileTimerfd, sizeof(TimerfdState), false},
                           {kFileSignalfd, sizeof(SignalfdState), false},
                           {kFileEpoll, sizeof(EpollEntry), true},
                           {kFilePidfd, sizeof(PidfdState), false}};
  for (const Row& r : kRows) {
    expect(with_object(r.kind, r.bytes, 0), Errc::kOk, "whole");
    expect(with_object(r.kind, r.bytes - 1, 0), Errc::kDamaged, "too short");
    expect(with_object(r.kind, r.bytes, 4), Errc::kDamaged, "not aligned");
    expect(with_object(r.kind, 2 * r.bytes, 0), r.array ? Errc::kOk : Errc::kDamaged, "two");
    expect(with_object(r.kind, 0, 0), r.array ? Errc::kOk : Errc::kDamaged, "none");
  }
  const auto with_watch = [](int32_t wd, uint32_t path) {
    return with_model([&](M& m) {
      const InotifyWatch w{wd, 1, path, 0, 0, 0};
      m.files[0].kind = kFileInotify;
      m.files[0].content = m.add_blob(&w, sizeof(w));
    });
  };
  expect(with_watch(1, 1), Errc::kOk, "a watch");
  expect(with_watch(0, 1), Errc::kDamaged, "a watch without a number");
  expect(with_watch(1, 1u << 30), Errc::kDamaged, "a watch beyond the strings");
  expect(with_object(kFileFifo + 1, 8, 0), Errc::kDamaged, "an unknown kind");
  for (const uint64_t peer : {0, 1, 4, 5}) {
    expect(with_model([&](M& m) {
             m.files[0].kind = kFileFifo;
             m.files[0].file_bytes = peer;
           }),
           peer == 1 || peer == 4 ? Errc::kOk : Errc::kDamaged, "who is at the other end");
  }
}

Test(image_reader, distrusts_sockets) {
  using M = cr::store::Model;
  using namespace cr::format;
  struct Parts {
    SocketState state{};
    SocketOption option{};
    SocketMessage message{};
    uint32_t file = 0;
  };
  const auto with_socket = [](void (*change)(Parts&), uint64_t bytes = sizeof(SocketState)) {
    return with_model([&](M& m) {
      Parts p;
      p.state.phase = kSocketConnected;
      p.message.bytes = m.add_blob("text", 4);
      change(p);
      const BlobRef files = m.add_blob(&p.file, sizeof(p.file));
      if (p.message.files.bytes == 0) p.message.files = files;
      const BlobRef options = m.add_blob(&p.option, sizeof(p.option));
      if (p.state.options.bytes == 0) p.state.options = options;
      const BlobRef queue = m.add_blob(&p.message, sizeof(p.message));
      if (p.state.queue.bytes == 0) p.state.queue = queue;
      m.files[0].kind = kFileSocket;
      m.files[0].content = m.add_blob(&p.state, sizeof(p.state));
      m.files[0].content.bytes = bytes;
    });
  };
  static constexpr BlobRef kBeyond = {1u << 30, 72};
  expect(with_socket([](Parts&) {}), Errc::kOk, "a socket");
  expect(with_socket([](Parts&) {}, sizeof(SocketState) - 8), Errc::kDamaged, "too short");
  expect(with_socket([](Parts& p) { p.state.phase = 0; }), Errc::kDamaged, "no phase");
  expect(with_socket([](Parts& p) { p.state.phase = 9; }), Errc::kDamaged, "an unknown phase");
  expect(with_socket([](Parts& p) { p.state.shutdown = 4; }), Errc::kDamaged, "shut otherwise");
  expect(with_socket([](Parts& p) { p.state.local = kBeyond; }), Errc::kDamaged, "address beyond");
  expect(with_socket([](Parts& p) { p.state.remote = {0, 200}; }), Errc::kDamaged, "long address");
  expect(with_socket([](Parts& p) {
           p.state.queue = {0, 71};
         }),
         Errc::kDamaged, "part of a message");
  expect(with_socket([](Parts& p) { p.state.options = kBeyond; }), Errc::kDamaged,
         "options beyond");
  expect(with_socket([](Parts& p) { p.option.value = kBeyond; }), Errc::kDamaged, "value beyond");
  expect(with_socket([](Parts& p) { p.message.bytes = kBeyond; }), Errc::kDamaged, "bytes beyond");
  expect(with_socket([](Parts& p) { p.message.from = kBeyond; }), Errc::kDamaged, "sender beyond");
  expect(with_socket([](Parts& p) { p.message.files = {0, 3}; }), Errc::kDamaged, "part of a file");
  expect(with_socket([](Parts& p) { p.file = 1u << 20; }), Errc::kDamaged, "a file beyond");
}

Test(image_reader, distrusts_locks_and_owners) {
  using M = cr::store::Model;
  const auto with_lock = [](uint32_t file, uint32_t kind, uint32_t type, uint64_t start,
                            uint64_t bytes) {
    return with_model([&](M& m) { m.locks.push_back({file, kind, type, 0, start, bytes}); });
  };
  constexpr uint64_t kTop = ~uint64_t{0} >> 1;
  expect(with_lock(0, 1, 1, 0, 0), Errc::kOk, "a lock");
  expect(with_lock(0, 4, 0, kTop, 0), Errc::kOk, "a lock at the end");
  expect(with_lock(1, 1, 1, 0, 0), Errc::kDamaged, "its file");
  expect(with_lock(0, 0, 1, 0, 0), Errc::kDamaged, "its kind");
  expect(with_lock(0, 5, 1, 0, 0), Errc::kDamaged, "its kind");
  expect(with_lock(0, 1, 2, 0, 0), Errc::kDamaged, "its type");
  expect(with_lock(0, 2, 1, kTop + 1, 0), Errc::kDamaged, "its begin");
  expect(with_lock(0, 2, 1, kTop, 1), Errc::kDamaged, "its end");
  const auto with_owner = [](uint32_t file, uint32_t type, int32_t signal) {
    return with_model([&](M& m) { m.owners.push_back({file, type, 1, signal, 1, 0}); });
  };
  expect(with_owner(0, 2, 64), Errc::kOk, "an owner");
  expect(with_owner(1, 2, 64), Errc::kDamaged, "its file");
  expect(with_owner(0, 3, 64), Errc::kDamaged, "its type");
  expect(with_owner(0, 2, 65), Errc::kDamaged, "its signal");
  expect(with_owner(0, 2, -1), Errc::kDamaged, "its signal");
}

Test(image_reader, distrusts_timers) {
  using M = cr::store::Model;
  const auto with_timer = [](int32_t id, int32_t notify, int32_t signal) {
    return with_model([&](M& m) {
      m.posix_timers.push_back({id, 1, notify, signal, 0, 0, 0, 0, 0});
    });
  };
  expect(with_timer(0, 0, 64), Errc::kOk, "a timer");
  expect(with_timer(-1, 0, 1), Errc::kDamaged, "its id");
  expect(with_timer(0, 8, 1), Errc::kDamaged, "how it notifies");
  expect(with_timer(0, 0, 65), Errc::kDamaged, "its signal");
  expect(with_timer(0, 0, -1), Errc::kDamaged, "its signal");
}

Test(image_reader, distrusts_traits) {
  using namespace cr::format;
  using M = cr::store::Model;
  const auto with_traits = [](auto change) {
    return with_model([&](M& m) {
      ThreadTraitsRecord t{};
      t.tid = 1;
      t.what = kTraitSeccomp;
      struct {
        SeccompFilter head;
        uint64_t code[2];
      } filter{{2, 0}, {6, 6}};
      t.filters = m.add_blob(&filter, sizeof(filter));
      change(t);
      m.thread_traits.push_back(t);
    });
  };
  expect(with_traits([](auto&) {}), Errc::kOk, "traits");
  expect(with_traits([](auto& t) { t.tid = 0; }), Errc::kDamaged, "no thread");
  expect(with_traits([](auto& t) { t.filters.bytes -= 8; }), Errc::kDamaged, "half a filter");
  expect(with_traits([](auto& t) { t.filters.bytes += 4; }), Errc::kDamaged, "half of another");
  expect(with_traits([](auto& t) { t.filters.off = 1u << 30; }), Errc::kDamaged, "filters beyond");
  expect(with_traits([](auto& t) { t.groups = {0, 3}; }), Errc::kDamaged, "half a group");
  expect(with_traits([](auto& t) { t.tls_entries = {0, 64}; }), Errc::kDamaged, "four entries");
  expect(with_traits([](auto& t) { t.schedule = {0, 8}; }), Errc::kDamaged, "a short schedule");
  const auto with_process = [](auto change) {
    return with_model([&](M& m) {
      ProcessTraitsRecord p{};
      const uint64_t table[2] = {0, 1};
      p.descriptor_table = m.add_blob(table, sizeof(table));
      change(p, m);
      m.process_traits.push_back(p);
    });
  };
  expect(with_process([](auto&, M&) {}), Errc::kOk, "the process's traits");
  expect(with_process([](auto& p, M& m) { m.process_traits.push_back(p); }), Errc::kDamaged, "two");
  expect(with_process([](auto& p, M&) { p.descriptor_table.bytes = 12; }), Errc::kDamaged,
         "half a descriptor");
  expect(with_process([](auto& p, M&) { p.descriptor_table.off += 4; }), Errc::kDamaged,
         "a table that is not aligned");
  const auto with_plugin = [](uint64_t restore, StringRef name) {
    return with_model([&](M& m) { m.plugins.push_back({restore, 0, name}); });
  };
  expect(with_plugin(4096, 0), Errc::kOk, "a plug-in");
  expect(with_plugin(0, 0), Errc::kDamaged, "a plug-in without a function");
  expect(with_plugin(4096, 1u << 30), Errc::kDamaged, "its name");
  const auto with_set = [](auto change) {
    return with_model([&](M& m) {
      const uint16_t values[3] = {1, 0, 7};
      const int16_t adjustments[3] = {-1, 0, 2};
      SemaphoreSetRecord s{5,
                           0,
                           0,
                           0,
                           0600,
                           0,
                           m.add_blob(values, sizeof(values)),
                           m.add_blob(adjustments, sizeof(adjustments))};
      change(s);
      m.semaphores.push_back(s);
    });
  };
  using S = SemaphoreSetRecord;
  expect(with_set([](S&) {}), Errc::kOk, "semaphores");
  expect(with_set([](S& s) { s.id = -1; }), Errc::kDamaged, "a set's id");
  expect(with_set([](S& s) { s.values.bytes = 0; }), Errc::kDamaged, "a set of none");
  expect(with_set([](S& s) { s.values.bytes = 5; }), Errc::kDamaged, "half a semaphore");
  expect(with_set([](S& s) { s.values.off++; }), Errc::kDamaged, "values that are not aligned");
  expect(with_set([](S& s) { s.values.off = 1ull << 40; }), Errc::kDamaged, "values elsewhere");
  expect(with_set([](S& s) { s.adjustments.bytes = 4; }), Errc::kDamaged, "too few adjustments");
  expect(with_set([](S& s) { s.adjustments.bytes = 0; }), Errc::kOk, "no adjustments");
}
