// SPDX-License-Identifier: MIT
// image_reader_fuzz.cc - the reader of images, with hostile bytes.
// Invariant under test: whatever the file holds, read_image returns and reads nothing outside the
// file; what it accepts can be used by its references without further checks.
//
// Input: a whole file, if it begins with the magic; else changes to a right image, 5 bytes each: an
// offset into superblock and METADATA (2 bytes), how (1), a value (2). In both cases the checksums
// are made right as well, or hardly anything would get past them.
#include <string.h>

#include <algorithm>
#include <cstdlib>

#include "format/image_reader.h"
#include "tests/unit/format/synthetic_image.h"

namespace {

using namespace cr::format;
using Bytes = std::vector<uint8_t>;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void touch(std::span<const uint8_t> bytes) {
  for (const uint8_t b : bytes) g_sum += b;
}

void touch(const ImageView& v, StringRef r) { g_sum += strlen(v.string(r)); }

// Reads everything that the view refers to.
void use(const ImageView& v) {
  const ProcessRecord& p = *v.process;
  for (const StringRef r : {p.program, p.exe_name, p.cwd, p.hostname, p.kernel_release}) {
    touch(v, r);
  }
  for (const BlobRef& r : {p.cmdline, p.environ, p.auxv}) touch(v.blob(r));
  for (const SegmentRecord& s : v.segments) {
    touch(v, s.file);
    const uint64_t at = object_address(v, s, s.start);
    if (at != 0 && at < kObjectSpace) abort();
  }
  for (const ObjectRecord& o : v.objects) touch(v, o.name);
  for (const ExtentRecord& e : v.extents) {
    if (find_extent(v, e.addr) != &e) abort();
    if (e.slot == kSlotZero) continue;
    touch({v.slot(e.slot), 1});
    touch({v.slot(e.slot + e.pages - 1) + cr::kPageSize - 1, 1});
  }
  for (const ThreadRecord& t : v.threads) {
    touch(v.blob(t.frame));
    touch(v.blob(t.affinity));
    g_sum += strlen(t.name);
  }
  for (const FdRecord& f : v.fds) g_sum += v.files[f.file].kind;
  for (const FileRecord& f : v.files) {
    touch(v, f.path);
    if (f.kind == kFileObject) g_sum += v.objects[f.pair].bytes;
    touch(v.blob(f.content));
  }
  for (const OverlayRecord& o : v.overlays) touch(v.blob(o.bytes));
  for (uint64_t slot = 0; slot < v.super.payload_slots; slot++) {
    slot = verify_slots(v, slot, v.super.payload_slots);
    g_sum += slot_address(v, slot);
  }
}

void read(const Bytes& file) {
  Bytes exact(file);
  exact.shrink_to_fit();
  auto r = read_image(exact.data(), exact.size());
  if (r) use(*r);
}

// Gives the file right checksums, and a superblock that gets past the first looks.
void seal(Bytes& file) {
  if (file.size() < sizeof(SuperBlock)) return;
  SuperBlock sb;
  memcpy(&sb, file.data(), sizeof(sb));
  memcpy(sb.magic, kImageMagic, sizeof(sb.magic));
  sb.format_version = kImageVersion;
  sb.header_bytes = sizeof(sb);
  sb.machine = kMachineX86_64;
  sb.page_bytes = cr::kPageSize;
  sb.feature_incompat &= kIncompatKnown;
  sb.write_lock = 1;
  cr_test::SyntheticImage::seal(file, &sb);
}

Bytes changed_image(const uint8_t* data, size_t size) {
  static const Bytes kPlain = cr_test::SyntheticImage().bytes();
  static const Bytes kShared = [] {
    cr_test::SyntheticImage made;
    made.add_objects();
    return made.bytes();
  }();
  // An odd byte that changes nothing chooses.
  const Bytes& right = size % 5 != 0 && data[size - 1] % 2 != 0 ? kShared : kPlain;
  static const uint64_t kMetadata = 3 * cr::kPageSize;
  Bytes file = right;
  for (; size >= 5; data += 5, size -= 5) {
    uint16_t where, value;
    memcpy(&where, data, 2);
    memcpy(&value, data + 3, 2);
    uint64_t at = where % (sizeof(SuperBlock) + (file.size() - kMetadata));
    at = at < sizeof(SuperBlock) ? at : at - sizeof(SuperBlock) + kMetadata;
    uint64_t word = value;
    switch (data[2] % 6) {
      case 0:
        file[at] = static_cast<uint8_t>(value);
        continue;
      case 1:
        file[at] ^= static_cast<uint8_t>(value);
        continue;
      case 2:
        break;  // a small number
      case 3:
        word = ~word;
        break;
      case 4:
        word <<= 12;
        break;  // an address
      default:
        word <<= 48;
        break;
    }
    at &= ~7ull;
    memcpy(&file[at], &word, std::min<size_t>(sizeof(word), file.size() - at));
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const bool whole = size >= sizeof(kImageMagic) && memcmp(data, kImageMagic, 8) == 0;
  Bytes file = whole ? Bytes(data, data + size) : changed_image(data, size);
  read(file);
  seal(file);
  read(file);
  return 0;
}
