// SPDX-License-Identifier: MIT
// image_reader.cc - see image_reader.h.
// Invariant: as there; no arithmetic on a field of the file before it was compared with what is
// left of the file. Context: N, H, S, R.
#include "format/image_reader.h"

#include "format/checksum.h"
#include "format/sockets.h"

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
  Result<void> check_tree();
  Result<void> check_traits();
  bool good_filters(BlobRef r) const;
  bool good(StringRef r) const { return r < v_.strings.size(); }
  bool good_state(const FileRecord& f) const;
  bool good_socket(const SocketState& s) const;
  bool good_pty(const FileRecord& f) const;
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
      case kSectionTree:
        CR_TRYV(take(h, &v_.tree));
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
      case kSectionThreadTraits:
        CR_TRYV(take(h, &v_.thread_traits));
        break;
      case kSectionProcessTraits:
        CR_TRYV(take(h, &v_.process_traits));
        break;
      case kSectionPlugins:
        CR_TRYV(take(h, &v_.plugins));
        break;
      case kSectionSemaphores:
        CR_TRYV(take(h, &v_.semaphores));
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
  const bool ended = (p.flags & kProcessEnded) != 0;
  if (p.pid <= 0 || (!ended && (p.control_entry == 0 || p.control_state == 0))) {
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
    if (o.kind < kObjectNamed || o.kind > kObjectAnon || !good(o.name)) {
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
  if ((v_.process->flags & (kProcessHeapOnly | kProcessEnded)) != 0) {
    if (!v_.threads.empty()) return damaged("an image without a process has threads");
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
    case kFileSocket:
      return sizeof(SocketState);
    case kFilePtyMaster:
      return sizeof(PtyState);
    default:
      return 0;
  }
}

bool MetadataReader::good_socket(const SocketState& s) const {
  constexpr uint64_t kMostAddress = 128;  // struct sockaddr_storage
  const auto good_array = [&](BlobRef r, uint64_t bytes) {
    return good(r) && r.off % 8 == 0 && r.bytes % bytes == 0;
  };
  const auto good_address = [&](BlobRef r) { return good(r) && r.bytes <= kMostAddress; };
  if (s.phase < kSocketUnconnected || s.phase > kSocketAddressed || s.shutdown > 3 ||
      !good_address(s.local) || !good_address(s.remote) ||
      !good_array(s.options, sizeof(SocketOption)) || !good_array(s.queue, sizeof(SocketMessage))) {
    return false;
  }
  for (const SocketOption& o : v_.states<SocketOption>(s.options)) {
    if (!good(o.value)) return false;
  }
  for (const SocketMessage& m : v_.states<SocketMessage>(s.queue)) {
    if (!good(m.bytes) || !good_address(m.from) || !good_array(m.files, sizeof(uint32_t))) {
      return false;
    }
    for (const uint32_t file : v_.states<uint32_t>(m.files)) {
      if (file >= v_.files.size()) return false;
    }
  }
  return true;
}

// The lines are all of the input.
bool MetadataReader::good_pty(const FileRecord& f) const {
  const PtyState& s = v_.states<PtyState>(f.content).front();
  if (s.number != f.pair || !good(s.input) || !good(s.output) || !good(s.lines) ||
      s.lines.off % 8 != 0 || s.lines.bytes % sizeof(PtyLine) != 0) {
    return false;
  }
  uint64_t left = s.input.bytes;
  for (const PtyLine& l : v_.states<PtyLine>(s.lines)) {
    const bool empty_end = l.end == kPtyLineEnded && l.bytes == 0;
    if (l.bytes > left || l.end > kPtyLineEof || empty_end) return false;
    left -= l.bytes;
  }
  return left == 0;
}

bool MetadataReader::good_state(const FileRecord& f) const {
  if (f.kind == kFileTerminal && f.content.bytes != 0) {
    return f.content.off % 8 == 0 && f.content.bytes == sizeof(TerminalState);
  }
  if (f.kind == kFileFifo) {
    return f.file_bytes >= kFifoInside && f.file_bytes <= kFifoWriterOutside;
  }
  const uint64_t bytes = state_bytes(f.kind);
  if (bytes == 0) return true;
  if (f.content.off % 8 != 0 || f.content.bytes % bytes != 0) return false;
  if (f.kind == kFileSocket) {
    return f.content.bytes == bytes && good_socket(v_.states<SocketState>(f.content).front());
  }
  if (f.kind != kFileEpoll && f.kind != kFileInotify && f.content.bytes != bytes) return false;
  if (f.kind == kFilePtyMaster) return good_pty(f);
  if (f.kind != kFileInotify) return true;
  for (const InotifyWatch& w : v_.states<InotifyWatch>(f.content)) {
    if (w.wd < 1 || !good(w.path)) return false;
  }
  return true;
}

Result<void> MetadataReader::check_files() {
  constexpr uint64_t kMostOffset = ~uint64_t{0} >> 1;
  for (const FileRecord& f : v_.files) {
    const bool known = (f.kind >= kFileRegular && f.kind <= kFileShared) ||
                       (f.kind >= kFileEventfd && f.kind <= kFilePtySlave) ||
                       f.kind == kFileSocket || f.kind == kFilePlugin;
    if (!known || !good(f.path) || !good(f.content) || !good_state(f)) {
      return damaged("a file record is impossible");
    }
    if (f.kind == kFileShared && v_.tree.empty()) {
      return damaged("a file record refers to another process, and there is none");
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

// The first process's image has all, itself first; another's has itself.
Result<void> MetadataReader::check_tree() {
  if ((v_.process->flags & kProcessEnded) != 0 && v_.tree.empty()) {
    return damaged("a process that has ended has an image of its own");
  }
  if (v_.tree.empty()) return {};
  const bool first = v_.tree[0].member == 0;
  if (!first && v_.tree.size() != 1) return damaged("the tree begins with another process");
  for (const TreeRecord& t : v_.tree) {
    const bool dead = (t.flags & (kTreeZombie | kTreeEnded)) != 0;
    const bool own_image = t.member != kTreeNoImage;
    if (t.pid <= 0 || t.ppid < 0 || t.pgid < 0 || t.sid < 0 || t.name[sizeof(t.name) - 1] != 0 ||
        (first && (t.member == 0) != (&t == &v_.tree[0])) || (!dead && !own_image)) {
      return damaged("a tree record is impossible");
    }
  }
  return {};
}

bool MetadataReader::good_filters(BlobRef r) const {
  const auto blob = v_.blob(r);
  for (uint64_t at = 0; at < blob.size();) {
    SeccompFilter f;
    if (blob.size() - at < sizeof(f)) return false;
    __builtin_memcpy(&f, blob.data() + at, sizeof(f));
    at += sizeof(f);
    if (f.instructions == 0 || f.instructions > kMostFilterInstructions ||
        f.instructions * 8ull > blob.size() - at) {
      return false;
    }
    at += f.instructions * 8ull;
  }
  return true;
}

Result<void> MetadataReader::check_traits() {
  constexpr uint64_t kMostGroups = 65536, kLeastSchedule = 48, kMostEntries = 8192;
  constexpr uint64_t kMostSemaphores = 65536;
  for (const ThreadTraitsRecord& t : v_.thread_traits) {
    if (t.tid <= 0 || !good(t.groups) || !good(t.tls_entries) || !good(t.schedule) ||
        !good(t.filters) || t.groups.bytes % 4 != 0 || t.groups.bytes / 4 > kMostGroups ||
        t.tls_entries.bytes % 16 != 0 || t.tls_entries.bytes > 48 || !good_filters(t.filters) ||
        (t.schedule.bytes != 0 && t.schedule.bytes < kLeastSchedule)) {
      return damaged("a thread's traits are impossible");
    }
  }
  if (v_.process_traits.size() > 1) return damaged("there are two records of the process's traits");
  for (const PluginRecord& p : v_.plugins) {
    if (p.restore == 0 || !good(p.name)) return damaged("a plug-in's record is impossible");
  }
  for (const SemaphoreSetRecord& s : v_.semaphores) {
    const uint64_t bytes = s.values.bytes;
    if (s.id < 0 || !good(s.values) || !good(s.adjustments) || bytes == 0 || bytes % 2 != 0 ||
        bytes / 2 > kMostSemaphores || s.values.off % 2 != 0 || s.adjustments.off % 2 != 0 ||
        (s.adjustments.bytes != 0 && s.adjustments.bytes != bytes)) {
      return damaged("a record of semaphores is impossible");
    }
  }
  for (const ProcessTraitsRecord& p : v_.process_traits) {
    if (!good(p.descriptor_table) || p.descriptor_table.bytes % 8 != 0 ||
        p.descriptor_table.off % 8 != 0 || p.descriptor_table.bytes / 8 > kMostEntries) {
      return damaged("the process's traits are impossible");
    }
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
  CR_TRYV(check_tree());
  CR_TRYV(check_traits());
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
