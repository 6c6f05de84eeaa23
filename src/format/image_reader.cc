// SPDX-License-Identifier: MIT
// image_reader.cc - see image_reader.h.
// Invariant: as there; no arithmetic on a field of the file before it was compared with what is
// left of the file. Context: N, H, S, R.
#include "format/image_reader.h"

#include "format/checksum.h"

namespace cr::format {
namespace {

Error damaged(const char* what) { return {Errc::kDamaged, 0, what}; }

bool inside(uint64_t off, uint64_t bytes, uint64_t total) {
  return off <= total && bytes <= total - off;
}

bool equal(const void* a, const void* b, size_t n) { return __builtin_memcmp(a, b, n) == 0; }

bool maps_object(const SegmentRecord& s) {
  return s.kind == kSegmentObject || (s.kind == kSegmentFile && (s.flags & kSegmentOfObject) != 0);
}

class MetadataReader {
 public:
  explicit MetadataReader(ImageView& v)
      : v_(v), data_(v.file + v.super.metadata_off), bytes_(v.super.metadata_bytes) {}

  Result<void> read_all();

 private:
  Result<void> read_sections();
  Result<void> check_process();
  Result<void> check_segments();
  Result<void> check_extents();
  Result<void> check_objects();
  bool in_object(uint64_t addr, uint64_t end) const;
  Result<void> check_threads();
  Result<void> check_files();
  bool good(StringRef r) const { return r < v_.strings.size(); }
  bool good_state(const FileRecord& f) const;
  bool good(BlobRef r) const { return inside(r.off, r.bytes, v_.blobs.size()); }

  template <typename T>
  Result<void> take(const SectionHeader& h, std::span<const T>* out) {
    if (h.element_bytes != sizeof(T)) return damaged("a section's element size is wrong");
    if (h.off % 8 != 0 || h.off > bytes_ || h.count > (bytes_ - h.off) / sizeof(T)) {
      return damaged("a section reaches beyond the metadata");
    }
    *out = {reinterpret_cast<const T*>(data_ + h.off), h.count};
    return {};
  }

  ImageView& v_;
  const uint8_t* data_;
  uint64_t bytes_;
};

Result<void> MetadataReader::read_sections() {
  MetadataHeader head;
  if (bytes_ < sizeof(head)) return damaged("the metadata is too short");
  __builtin_memcpy(&head, data_, sizeof(head));
  if (!equal(head.magic, kMetadataMagic, sizeof(head.magic)))
    return damaged("the metadata's magic is wrong");
  if (head.section_count > (bytes_ - sizeof(head)) / sizeof(SectionHeader)) {
    return damaged("the section table reaches beyond the metadata");
  }
  std::span<const ProcessRecord> process;
  uint32_t seen = 0;
  for (uint32_t i = 0; i < head.section_count; i++) {
    SectionHeader h;
    __builtin_memcpy(&h, data_ + sizeof(head) + i * sizeof(h), sizeof(h));
    if (h.kind == 0 || h.kind >= kSectionKinds) continue;  // compatible addition of a later version
    if ((seen >> h.kind & 1) != 0) return damaged("a section occurs twice");
    seen |= 1u << h.kind;
    switch (h.kind) {
      case kSectionProcess:
        CR_TRYV(take(h, &process));
        break;
      case kSectionStrings:
        CR_TRYV(take(h, &v_.strings));
        break;
      case kSectionSegments:
        CR_TRYV(take(h, &v_.segments));
        break;
      case kSectionExtents:
        CR_TRYV(take(h, &v_.extents));
        break;
      case kSectionChecksums:
        CR_TRYV(take(h, &v_.checksums));
        break;
      case kSectionThreads:
        CR_TRYV(take(h, &v_.threads));
        break;
      case kSectionBlobs:
        CR_TRYV(take(h, &v_.blobs));
        break;
      case kSectionFds:
        CR_TRYV(take(h, &v_.fds));
        break;
      case kSectionFiles:
        CR_TRYV(take(h, &v_.files));
        break;
      case kSectionSigactions:
        CR_TRYV(take(h, &v_.sigactions));
        break;
      case kSectionSiginfos:
        CR_TRYV(take(h, &v_.siginfos));
        break;
      case kSectionOverlays:
        CR_TRYV(take(h, &v_.overlays));
        break;
      case kSectionObjects:
        CR_TRYV(take(h, &v_.objects));
        break;
      case kSectionPosixTimers:
        CR_TRYV(take(h, &v_.posix_timers));
        break;
      case kSectionLocks:
        CR_TRYV(take(h, &v_.locks));
        break;
      case kSectionOwners:
        CR_TRYV(take(h, &v_.owners));
        break;
    }
  }
  if (process.size() != 1) return damaged("there is not exactly one process record");
  v_.process = &process[0];
  if (v_.strings.empty() || v_.strings.front() != 0 || v_.strings.back() != 0) {
    return damaged("the string table is not terminated");
  }
  return {};
}

Result<void> MetadataReader::check_process() {
  const ProcessRecord& p = *v_.process;
  if (!good(p.program) || !good(p.exe_name) || !good(p.cwd) || !good(p.hostname) ||
      !good(p.kernel_release) || !good(p.cmdline) || !good(p.environ) || !good(p.auxv)) {
    return damaged("the process record refers beyond its tables");
  }
  if (p.pid <= 0 || p.control_entry == 0 || p.control_state == 0) {
    return damaged("the process record is incomplete");
  }
  if (v_.sigactions.size() != 64) return damaged("there are not 64 signal dispositions");
  for (const SiginfoRecord& s : v_.siginfos) {
    int32_t sig;
    __builtin_memcpy(&sig, s.info, sizeof(sig));
    if (sig < 1 || sig > 64) return damaged("a pending signal has an impossible number");
  }
  for (const PosixTimerRecord& t : v_.posix_timers) {
    if (t.id < 0 || t.signal < 0 || t.signal > 64 || t.notify < 0 || t.notify > 7) {
      return damaged("a timer record is impossible");
    }
  }
  return {};
}

Result<void> MetadataReader::check_segments() {
  constexpr uint64_t kTop = 0x7ffffffff000;
  uint64_t at = 0;
  for (const SegmentRecord& s : v_.segments) {
    if (s.start % kPageSize != 0 || s.end % kPageSize != 0 || s.start >= s.end || s.start < at ||
        s.end > kTop) {
      return damaged("segments are not sorted page ranges of the user address space");
    }
    if (s.kind < kSegmentAnon || s.kind > kSegmentObject || s.prot > 7 || !good(s.file)) {
      return damaged("a segment has an impossible kind, protection or file");
    }
    if (maps_object(s) && (s.file_bytes >= v_.objects.size() || s.file_off % kPageSize != 0 ||
                           s.file_off >= kObjectSpace)) {
      return damaged("a segment maps an object that does not exist");
    }
    at = s.end;
  }
  return {};
}

Result<void> MetadataReader::check_objects() {
  uint64_t at = kObjectSpace;
  for (const ObjectRecord& o : v_.objects) {
    if (o.kind < kObjectNamed || o.kind > kObjectSysv || !good(o.name)) {
      return damaged("an object has an impossible kind or name");
    }
    if (o.addr % kPageSize != 0 || o.addr < at || o.bytes >= kObjectSpace ||
        o.addr >= 2 * kObjectSpace) {
      return damaged("objects are not sorted ranges of their address space");
    }
    at = o.addr + o.bytes;
  }
  if (!v_.objects.empty() && (v_.super.feature_incompat & kIncompatObjects) == 0) {
    return damaged("there are objects, and the superblock does not say so");
  }
  return {};
}

bool MetadataReader::in_object(uint64_t addr, uint64_t end) const {
  for (const ObjectRecord& o : v_.objects) {
    if (addr >= o.addr && end - o.addr <= page_ceil(o.bytes)) return true;
  }
  return false;
}

Result<void> MetadataReader::check_extents() {
  if (v_.checksums.size() != v_.super.payload_slots) {
    return damaged("the number of page checksums is not the number of slots");
  }
  uint64_t at = 0;
  size_t seg = 0;
  for (const ExtentRecord& e : v_.extents) {
    if (e.addr % kPageSize != 0 || e.pages == 0 || e.addr < at || e.pages > (1ull << 40)) {
      return damaged("extents are not sorted page ranges");
    }
    const uint64_t end = e.addr + e.pages * kPageSize;
    while (seg < v_.segments.size() && v_.segments[seg].end <= e.addr) seg++;
    if (e.addr >= kObjectSpace) {
      if (!in_object(e.addr, end)) return damaged("an extent lies outside the objects");
    } else if (seg == v_.segments.size() || e.addr < v_.segments[seg].start ||
               end > v_.segments[seg].end) {
      return damaged("an extent lies outside the segments");
    }
    if (e.slot != kSlotZero && !inside(e.slot, e.pages, v_.super.payload_slots)) {
      return damaged("an extent refers to slots that do not exist");
    }
    at = end;
  }
  for (const OverlayRecord& o : v_.overlays) {
    if (!good(o.bytes) || o.bytes.bytes > kPageSize) return damaged("an overlay is out of range");
    bool found = false;
    for (const SegmentRecord& s : v_.segments) {
      found =
          found || (o.addr >= s.start && inside(o.addr - s.start, o.bytes.bytes, s.end - s.start));
    }
    if (!found) return damaged("an overlay lies outside the segments");
  }
  return {};
}

Result<void> MetadataReader::check_threads() {
  constexpr uint64_t kLeastFrame = 304 + 16 + 576;  // ucontext, padding, legacy area and header
  if ((v_.process->flags & kProcessHeapOnly) != 0) {
    if (!v_.threads.empty()) return damaged("the image of a heap alone has threads");
    return {};
  }
  if (v_.threads.empty()) return damaged("there is no thread");
  uint64_t leaders = 0;
  for (const ThreadRecord& t : v_.threads) {
    if (t.tid <= 0 || !good(t.frame) || t.frame.bytes < kLeastFrame || t.frame.off % 8 != 0 ||
        !good(t.affinity)) {
      return damaged("a thread record is impossible");
    }
    if (t.name[15] != 0) return damaged("a thread's name is not terminated");
    leaders += t.flags & kThreadLeader;
  }
  const bool gone = (v_.process->flags & kProcessLeaderGone) != 0;
  if (leaders != (gone ? 0u : 1u)) return damaged("there is not exactly one main thread");
  return {};
}

// What the content of such a file consists of; 0: bytes.
uint64_t state_bytes(uint32_t kind) {
  switch (kind) {
    case kFileEventfd:
      return sizeof(EventfdState);
    case kFileTimerfd:
      return sizeof(TimerfdState);
    case kFileSignalfd:
      return sizeof(SignalfdState);
    case kFileEpoll:
      return sizeof(EpollEntry);
    case kFileInotify:
      return sizeof(InotifyWatch);
    case kFilePidfd:
      return sizeof(PidfdState);
    default:
      return 0;
  }
}

bool MetadataReader::good_state(const FileRecord& f) const {
  if (f.kind == kFileFifo) {
    return f.file_bytes >= kFifoInside && f.file_bytes <= kFifoWriterOutside;
  }
  const uint64_t bytes = state_bytes(f.kind);
  if (bytes == 0) return true;
  if (f.content.off % 8 != 0 || f.content.bytes % bytes != 0) return false;
  if (f.kind != kFileEpoll && f.kind != kFileInotify) return f.content.bytes == bytes;
  if (f.kind == kFileEpoll) return true;
  for (const InotifyWatch& w : v_.states<InotifyWatch>(f.content)) {
    if (w.wd < 1 || !good(w.path)) return false;
  }
  return true;
}

Result<void> MetadataReader::check_files() {
  constexpr uint64_t kMostOffset = ~uint64_t{0} >> 1;
  for (const FileRecord& f : v_.files) {
    const bool known = (f.kind >= kFileRegular && f.kind <= kFileObject) ||
                       (f.kind >= kFileEventfd && f.kind <= kFileFifo);
    if (!known || !good(f.path) || !good(f.content) || !good_state(f)) {
      return damaged("a file record is impossible");
    }
    if (f.kind == kFileObject && f.pair >= v_.objects.size()) {
      return damaged("a file record refers to an object that does not exist");
    }
  }
  for (const LockRecord& l : v_.locks) {
    if (l.file >= v_.files.size() || l.kind < kLockFlock || l.kind > kLockLease || l.type > 1 ||
        l.start > kMostOffset || l.bytes > kMostOffset - l.start) {
      return damaged("a lock record is impossible");
    }
  }
  for (const OwnerRecord& o : v_.owners) {
    if (o.file >= v_.files.size() || o.type > 2 || o.signal < 0 || o.signal > 64) {
      return damaged("an owner record is impossible");
    }
  }
  int64_t last = -1;
  for (const FdRecord& f : v_.fds) {
    if (f.fd <= last || f.file >= v_.files.size())
      return damaged("a descriptor record is impossible");
    last = f.fd;
  }
  return {};
}

Result<void> MetadataReader::read_all() {
  CR_TRYV(read_sections());
  CR_TRYV(check_process());
  CR_TRYV(check_objects());
  CR_TRYV(check_segments());
  CR_TRYV(check_extents());
  CR_TRYV(check_threads());
  return check_files();
}

}  // namespace

Result<SuperBlock> read_superblock(const uint8_t* file, uint64_t file_bytes) {
  if (file_bytes == 0) return Error{Errc::kNotWhole, 0, "the buffer is empty"};
  SuperBlock sb;
  if (file_bytes < 16 || !equal(file, kImageMagic, sizeof(kImageMagic))) {
    return Error{Errc::kForeign, 0, "this is not an image file (wrong magic)"};
  }
  __builtin_memcpy(&sb, file, file_bytes < sizeof(sb) ? 16 : sizeof(sb));
  if (sb.format_version > kImageVersion) {
    return Error{Errc::kTooNew, 0, "the image was written by a newer version of this software"};
  }
  if (file_bytes < sizeof(sb)) return damaged("the file is cut off in its superblock");
  if (sb.format_version == 0 || sb.header_bytes != sizeof(sb)) {
    return damaged("the superblock's version or size is wrong");
  }
  if (superblock_checksum(sb) != sb.checksum) return damaged("the superblock's checksum is wrong");
  if ((sb.feature_incompat & ~kIncompatKnown) != 0) {
    return Error{Errc::kTooNew, 0, "the image uses features that this version does not know"};
  }
  if (sb.machine != kMachineX86_64) {
    return Error{Errc::kWrongMachine, 0, "the image is of another processor architecture"};
  }
  if (sb.page_bytes != kPageSize) {
    return Error{Errc::kWrongMachine, 0, "the image is of a machine with another page size"};
  }
  if (sb.write_lock != 1) {
    return Error{Errc::kNotWhole, 0, "the buffer was being written (WRITE_LOCK is 0)"};
  }
  return sb;
}

Result<ImageView> read_image(const uint8_t* file, uint64_t file_bytes) {
  ImageView v;
  CR_TRY(v.super, read_superblock(file, file_bytes));
  v.file = file;
  v.file_bytes = file_bytes;
  const SuperBlock& sb = v.super;
  if (sb.payload_off % kPageSize != 0 || sb.payload_off < kPageSize ||
      sb.payload_slots > file_bytes / kPageSize ||
      !inside(sb.payload_off, sb.payload_slots * kPageSize, file_bytes)) {
    return damaged("the payload reaches beyond the end of the file (truncated?)");
  }
  if (sb.metadata_off < sb.payload_off + sb.payload_slots * kPageSize) {
    return damaged("the metadata overlaps the payload");
  }
  if (sb.metadata_off % 8 != 0 || !inside(sb.metadata_off, sb.metadata_bytes, file_bytes)) {
    return damaged("the metadata reaches beyond the end of the file (truncated?)");
  }
  if (checksum(file + sb.metadata_off, sb.metadata_bytes) != sb.metadata_xxh3) {
    return damaged("the metadata's checksum is wrong");
  }
  CR_TRYV(MetadataReader(v).read_all());
  return v;
}

uint64_t verify_slots(const ImageView& image, uint64_t first, uint64_t last) {
  for (uint64_t i = first; i < last; i++) {
    if (checksum(image.slot(i), kPageSize) != image.checksums[i]) return i;
  }
  return last;
}

uint64_t slot_address(const ImageView& image, uint64_t slot) {
  for (const ExtentRecord& e : image.extents) {
    if (e.slot != kSlotZero && slot >= e.slot && slot - e.slot < e.pages) {
      return e.addr + (slot - e.slot) * kPageSize;
    }
  }
  return 0;
}

uint64_t object_address(const ImageView& image, const SegmentRecord& s, uint64_t addr) {
  if (!maps_object(s)) return 0;
  return image.objects[s.file_bytes].addr + s.file_off + (addr - s.start);
}

const ExtentRecord* find_extent(const ImageView& image, uint64_t addr) {
  size_t low = 0, high = image.extents.size();
  while (low < high) {
    const size_t mid = (low + high) / 2;
    const ExtentRecord& e = image.extents[mid];
    if (addr < e.addr) {
      high = mid;
    } else if (addr - e.addr >= e.pages * kPageSize) {
      low = mid + 1;
    } else {
      return &e;
    }
  }
  return nullptr;
}

}  // namespace cr::format
