// SPDX-License-Identifier: MIT
// restore_objects.cc - see restore_objects.h. Invariant: as there. Context: N (agent).
#include "agent/restore_objects.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "agent/describe_objects.h"
#include "agent/restore_files.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::ObjectRecord;

constexpr uint32_t kTmpfile = O_TMPFILE & ~O_DIRECTORY;
constexpr uint64_t kPiece = 256 << 10;

std::string path_of(const os::Fd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); }

// Calls each(offset in the object, slot, pages) for what the image has of it.
template <typename F>
Trouble for_each_extent(const format::ImageView& image, const ObjectRecord& o, F each) {
  auto e = std::ranges::lower_bound(image.extents, o.addr, {}, &format::ExtentRecord::addr);
  for (; e != image.extents.end() && e->addr - o.addr < page_ceil(o.bytes); ++e) {
    if (e->slot == format::kSlotZero) continue;
    Trouble bad = each(e->addr - o.addr, e->slot, e->pages);
    if (bad.bad()) return bad;
  }
  return {};
}

// By the kernel from the file: where memory is short that is an error and no signal.
Trouble fill_segment(const store::LoadedImage& loaded, const ObjectRecord& o,
                     const SysvSegment& segment) {
  uint8_t* const data = segment.attached.data();
  uint64_t at = 0;
  const auto checked = [](long e) {
    if (e == 0) return Trouble{};
    return trouble(Errc::kNoMemory, static_cast<int>(-e),
                   std::string("the content of System V shared memory cannot be put back: ") +
                       strerror(static_cast<int>(-e)));
  };
  const auto zero_to = [&](uint64_t to) {
    static constexpr uint8_t kZeros[kPageSize] = {};
    long e = 0;
    for (; !segment.fresh && e == 0 && at < to; at += kPageSize) {
      e = segment.attached.write(at, kZeros, kPageSize);
    }
    return checked(e);
  };
  Trouble bad =
      for_each_extent(loaded.view, o, [&](uint64_t off, uint64_t slot, uint64_t pages) -> Trouble {
        const uint64_t bytes = pages * kPageSize;
        Trouble zeros = zero_to(off);
        if (zeros.bad()) return zeros;
        at = off + bytes;
        const uint64_t from = loaded.view.super.payload_off + slot * kPageSize;
        return checked(rawsys::read_all_at(loaded.fd.get(), data + off, bytes, from));
      });
  return bad.bad() ? bad : zero_to(page_ceil(o.bytes));
}

}  // namespace

Trouble ObjectMaker::failed(const ObjectRecord& o, const std::string& what, int error) const {
  return trouble(error == ENOENT ? Errc::kNotFound : Errc::kSystem, error,
                 "shared memory " + name(o) + ": " + what +
                     (error != 0 ? std::string(": ") + strerror(error) : ""));
}

// ---- making and opening -----------------------------------------------------------------------

Trouble ObjectMaker::set_size(const ObjectRecord& o, Made& m) {
  m.fresh = true;
  fresh_bytes_ += o.bytes;
  if (geteuid() == 0) (void)!fchown(m.fd.get(), o.uid, o.gid);
  if (fchmod(m.fd.get(), o.mode & 07777) != 0 ||
      ftruncate(m.fd.get(), static_cast<off_t>(o.bytes)) != 0) {
    return failed(o, "cannot be given its size and mode", errno);
  }
  return {};
}

Trouble ObjectMaker::make_memfd(const ObjectRecord& o, Made& m) {
  constexpr unsigned kNoexecSeal = 8, kExec = 16;  // Linux 6.3
  constexpr uint32_t kSealExec = 0x20;
  const std::string own = name(o).substr(strlen("/memfd:"));
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  m.fd = os::Fd(memfd_create(own.c_str(), flags | kExec));
  if (!m.fd && errno == EACCES && (o.seals & kSealExec) != 0) {  // vm.memfd_noexec
    m.fd = os::Fd(memfd_create(own.c_str(), flags | kNoexecSeal));
  }
  if (!m.fd && errno == EINVAL) m.fd = os::Fd(memfd_create(own.c_str(), flags));
  return m.fd ? set_size(o, m) : failed(o, "the memfd cannot be made", errno);
}

Trouble ObjectMaker::make_unnamed(const ObjectRecord& o, Made& m) {
  const std::string path = name(o), directory = path.substr(0, path.find_last_of('/') + 1);
  const int flags = O_TMPFILE | O_RDWR | O_CLOEXEC;
  m.fd = os::Fd(open(directory.c_str(), flags, 0600));
  if (!m.fd) m.fd = os::Fd(open(dir_.c_str(), flags, 0600));
  if (!m.fd) m.fd = os::Fd(memfd_create("cr-unnamed", MFD_CLOEXEC));
  return m.fd ? set_size(o, m) : failed(o, "the unnamed file cannot be made", errno);
}

// All of its content is in the image.
Trouble ObjectMaker::make_again(const ObjectRecord& o, Made& m) {
  const std::string path = name(o);
  m.fd = os::Fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!m.fd) return failed(o, "it is gone and cannot be made again", errno);
  plan_.undo.add([path] { unlink(path.c_str()); });
  plan_.warnings.push_back(path + " was gone; it is made again with its content");
  return set_size(o, m);
}

Trouble ObjectMaker::check_size(const ObjectRecord& o, const Made& m) const {
  if (m.bytes_now >= o.bytes) return {};
  uint64_t at = m.bytes_now;
  for (const ObjectPart& p : stored_parts(o, image_.segments, number(o))) {
    if (p.from <= at) at = std::max(at, p.to);
  }
  if (at >= o.bytes) return {};
  return trouble(Errc::kUnsupported, 0,
                 "the mapped file " + name(o) + " is shorter (" + std::to_string(m.bytes_now) +
                     " bytes) than at the checkpoint (" + std::to_string(o.bytes) +
                     "), and the image holds only what was mapped of it; put it back");
}

Trouble ObjectMaker::open_named(const ObjectRecord& o, Made& m) {
  const std::string path = name(o);
  struct stat st;
  if (lstat(path.c_str(), &st) != 0 && errno == ENOENT &&
      !rename_back(o.ino, image_.super.realtime_ns, path, plan_.warnings)) {
    const auto parts = stored_parts(o, image_.segments, number(o));
    const bool all =
        o.bytes == 0 || (parts.size() == 1 && parts[0].from == 0 && parts[0].to == o.bytes);
    if (all) return make_again(o, m);
    return trouble(Errc::kNotFound, ENOENT,
                   "the mapped file " + path +
                       " was removed since the checkpoint, and the image holds only what was "
                       "mapped of it; put it back, then try again");
  }
  m.fd = os::Fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!m.fd) return failed(o, "the mapped file cannot be opened for writing", errno);
  if (fstat(m.fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return failed(o, "the mapped file is no regular file any more", 0);
  }
  m.bytes_now = static_cast<uint64_t>(st.st_size);
  return check_size(o, m);
}

// Another process of the tree has it already.
Trouble ObjectMaker::share_segment(const ObjectRecord& o, int id, Made& m) {
  SysvSegment segment;
  segment.id = id;
  segment.attached = SysvAttachment::attach(id, 0);
  if (!segment.attached) return failed(o, "cannot be attached", errno);
  m.filled = true;
  m.segment = static_cast<int>(plan_.segments.size());
  plan_.segments.push_back({std::move(segment), false, number(o)});
  return {};
}

Trouble ObjectMaker::make_segment(const ObjectRecord& o, Made& m) {
  if (shared_ != nullptr && shared_->segments.contains(o.ino)) {
    return share_segment(o, shared_->segments[o.ino], m);
  }
  SysvSegment segment;
  std::string warning;
  const bool read_only = !may_write(image_.segments, number(o));
  Trouble bad = find_or_make_segment(o, name(o), {live_, read_only}, &segment, &warning);
  if (bad.bad()) return bad;
  if (!warning.empty()) plan_.warnings.push_back(warning);
  m.fresh = segment.fresh;
  if (m.fresh) fresh_bytes_ += o.bytes;
  if (m.fresh && (o.flags & format::kObjectRemoved) == 0) {
    plan_.undo.add([id = segment.id] { shmctl(id, IPC_RMID, nullptr); });
  }
  if (shared_ != nullptr) shared_->segments[o.ino] = segment.id;
  m.segment = static_cast<int>(plan_.segments.size());
  plan_.segments.push_back({std::move(segment), !m.fresh && !read_only, number(o)});
  return {};
}

Trouble ObjectMaker::make(const ObjectRecord& o, Made& m) {
  switch (o.kind) {
    case format::kObjectMemfd:
      return make_memfd(o, m);
    case format::kObjectAnon:
      m.fd = os::Fd(memfd_create("shared-anonymous", MFD_CLOEXEC));
      return m.fd ? set_size(o, m) : failed(o, "it cannot be made", errno);
    case format::kObjectUnnamed:
      return make_unnamed(o, m);
    case format::kObjectSysv:
      return make_segment(o, m);
    default:
      return open_named(o, m);
  }
}

Trouble ObjectMaker::prepare() {
  made_.resize(image_.objects.size());
  for (const ObjectRecord& o : image_.objects) {
    Trouble bad = make_or_share(o, made_[number(o)]);
    if (bad.bad()) return bad;
  }
  return {};
}

// Of memory without a name several processes get one and the same. Who maps more of it may know
// more of it.
Trouble ObjectMaker::make_or_share(const ObjectRecord& o, Made& m) {
  const bool nameless = o.kind == format::kObjectMemfd || o.kind == format::kObjectUnnamed ||
                        o.kind == format::kObjectAnon;
  if (shared_ == nullptr || !nameless) return make(o, m);
  auto it = shared_->objects.find({o.dev, o.ino});
  if (it == shared_->objects.end()) {
    Trouble bad = make(o, m);
    if (bad.bad()) return bad;
    os::Fd copy(fcntl(m.fd.get(), F_DUPFD_CLOEXEC, 0));
    shared_->objects[{o.dev, o.ino}] = {std::move(copy), o.bytes};
    return {};
  }
  SharedMakings::Object& made = it->second;
  m.fd = os::Fd(fcntl(made.fd.get(), F_DUPFD_CLOEXEC, 0));
  m.fresh = m.given = true;
  m.filled = o.bytes <= made.bytes;
  if (m.filled) return {};
  if (ftruncate(m.fd.get(), static_cast<off_t>(o.bytes)) != 0) {
    return failed(o, "cannot be given its size", errno);
  }
  fresh_bytes_ += o.bytes - made.bytes;
  made.bytes = o.bytes;
  return {};
}

// ---- content ----------------------------------------------------------------------------------

Trouble ObjectMaker::fill_fresh(const ObjectRecord& o, Made& m) {
  Trouble bad = for_each_extent(image_, o, [&](uint64_t off, uint64_t slot, uint64_t pages) {
    const uint64_t bytes = std::min(pages * kPageSize, o.bytes - off);
    const long e = rawsys::write_all_at(m.fd.get(), image_.slot(slot), bytes, off);
    return e == 0 ? Trouble{} : failed(o, "writing its content", static_cast<int>(-e));
  });
  if (bad.bad() || o.kind != format::kObjectMemfd || o.seals == 0) return bad;
  // A memfd that nobody may write to has no mapping for writing. In any other case there may be
  // some, from before it was sealed: it is sealed when they have been made.
  constexpr int kAddSeals = F_ADD_SEALS;
  if ((o.seals & F_SEAL_WRITE) != 0) {
    return fcntl(m.fd.get(), kAddSeals, o.seals) == 0 ? Trouble{} : failed(o, "sealing it", errno);
  }
  int source = -1;
  bad = index_of(m, o, /*writing=*/true, &source);
  if (bad.bad()) return bad;
  plan_.object_changes.push_back(
      {static_cast<uint32_t>(source), format::kObjectChangeSeal, 0, 0, o.seals});
  plan_.changed_names.push_back(name(o));
  return {};
}

Trouble ObjectMaker::fill_attached(const ObjectRecord& o, Made& m) {
  if (!m.fresh) return {};  // by finish_segments()
  return fill_segment(loaded_, o, plan_.segments[static_cast<size_t>(m.segment)].segment);
}

bool ObjectMaker::is_there(const Made& m, uint64_t off, const uint8_t* want, uint64_t bytes) const {
  if (live_ || off + bytes > m.bytes_now) return false;
  std::vector<uint8_t> here(bytes);
  if (rawsys::read_all_at(m.fd.get(), here.data(), bytes, off) != 0) return false;
  return want != nullptr ? memcmp(here.data(), want, bytes) == 0
                         : std::ranges::all_of(here, [](uint8_t b) { return b == 0; });
}

void ObjectMaker::add_change(const ObjectRecord& o, int source, uint64_t off, uint64_t bytes,
                             uint64_t image_off) {
  if (!plan_.object_changes.empty()) {
    format::PlanObjectChange& last = plan_.object_changes.back();
    const bool zero = image_off == 0;
    const bool follows = zero ? last.value == 0 : last.value + last.bytes == image_off;
    if (last.source == static_cast<uint32_t>(source) && last.off + last.bytes == off && follows &&
        last.what == (zero ? format::kObjectChangeZero : format::kObjectChangeWrite)) {
      last.bytes += bytes;
      return;
    }
  }
  const uint32_t what = image_off == 0 ? format::kObjectChangeZero : format::kObjectChangeWrite;
  plan_.object_changes.push_back({static_cast<uint32_t>(source), what, off, bytes, image_off});
  plan_.changed_names.push_back(name(o));
}

// A file that there is: what differs is written when all else is done.
Trouble ObjectMaker::list_changes(const ObjectRecord& o, Made& m) {
  int source = -1;
  Trouble bad = index_of(m, o, /*writing=*/true, &source);
  if (bad.bad()) return bad;
  if (live_ || m.bytes_now != o.bytes) {
    plan_.object_changes.push_back(
        {static_cast<uint32_t>(source), format::kObjectChangeSize, 0, 0, o.bytes});
    plan_.changed_names.push_back(name(o));
  }
  for (const ObjectPart& p : stored_parts(o, image_.segments, number(o))) {
    for (uint64_t at = p.from; at < p.to; at += kPageSize) {
      const format::ExtentRecord* e = format::find_extent(image_, o.addr + at);
      const bool zero = e == nullptr || e->slot == format::kSlotZero;
      const uint64_t slot = zero ? 0 : e->slot + (o.addr + at - e->addr) / kPageSize;
      const uint64_t bytes = std::min(kPageSize, p.to - at);
      if (is_there(m, at, zero ? nullptr : image_.slot(slot), bytes)) continue;
      add_change(o, source, at, bytes, zero ? 0 : image_.super.payload_off + slot * kPageSize);
    }
  }
  return {};
}

Trouble ObjectMaker::fill() {
  for (const ObjectRecord& o : image_.objects) {
    Made& m = made_[number(o)];
    Trouble bad = m.filled         ? Trouble{}
                  : m.segment >= 0 ? fill_attached(o, m)
                  : m.fresh        ? fill_fresh(o, m)
                                   : list_changes(o, m);
    if (bad.bad()) return bad;
  }
  return {};
}

// ---- what the program gets --------------------------------------------------------------------

// A description of its own: one for writing where the program may make the mapping writable.
Trouble ObjectMaker::index_of(Made& m, const ObjectRecord& o, bool writing, int* ret) {
  int& index = writing ? m.writing_index : m.reading_index;
  if (index < 0) {
    os::Fd fd(open(path_of(m.fd).c_str(), (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!fd) fd = os::Fd(fcntl(m.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd) return failed(o, "opening it again", errno);
    index = static_cast<int>(plan_.fds.size());
    plan_.fds.push_back(std::move(fd));
  }
  *ret = index;
  return {};
}

// A segment is attached as a whole; then what was unmapped of it goes.
Trouble ObjectMaker::map_attached(const format::SegmentRecord& s, Made& m,
                                  std::vector<format::PlanMap>* ret) {
  const uint64_t begin = s.start - s.file_off;
  if (std::ranges::find(m.attached, begin) != m.attached.end()) return {};
  m.attached.push_back(begin);
  const uint64_t end = begin + page_ceil(image_.objects[s.file_bytes].bytes);
  uint32_t prot = 0;
  std::vector<const format::SegmentRecord*> pieces;
  for (const format::SegmentRecord& p : image_.segments) {
    if (p.kind != format::kSegmentObject || p.file_bytes != s.file_bytes ||
        p.start - p.file_off != begin) {
      continue;
    }
    pieces.push_back(&p);
    prot |= p.prot | ((p.flags & format::kSegmentMayWrite) != 0 ? PROT_WRITE : 0u);
  }
  format::PlanMap attach{};
  attach.addr = begin;
  attach.bytes = end - begin;
  attach.file = -1;
  attach.how = format::kMapAttach;
  attach.sysv_id = plan_.segments[static_cast<size_t>(m.segment)].segment.id;
  attach.flags = ((prot & PROT_WRITE) != 0 ? 0u : static_cast<uint32_t>(SHM_RDONLY)) |
                 ((prot & PROT_EXEC) != 0 ? static_cast<uint32_t>(SHM_EXEC) : 0u);
  ret->push_back(attach);
  const auto hole = [&](uint64_t from, uint64_t to) {
    format::PlanMap h{};
    h.addr = from;
    h.bytes = to - from;
    h.file = -1;
    h.how = format::kMapHole;
    if (from < to) ret->push_back(h);
  };
  uint64_t at = begin;
  for (const format::SegmentRecord* p : pieces) {
    hole(at, p->start);
    format::PlanMap piece{};
    piece.addr = p->start;
    piece.bytes = p->end - p->start;
    piece.prot = p->prot;
    piece.file = -1;
    piece.segment_flags = p->flags;
    piece.how = format::kMapAttached;
    ret->push_back(piece);
    at = p->end;
  }
  hole(at, end);
  return {};
}

Trouble ObjectMaker::map(const format::SegmentRecord& s, std::vector<format::PlanMap>* ret) {
  const ObjectRecord& o = image_.objects[s.file_bytes];
  Made& m = made_[s.file_bytes];
  const bool shared = s.kind == format::kSegmentObject;
  if (m.segment >= 0) return map_attached(s, m, ret);
  format::PlanMap p{};
  p.addr = s.start;
  p.bytes = s.end - s.start;
  p.prot = s.prot;
  p.flags = shared ? MAP_SHARED : MAP_PRIVATE;
  if ((s.flags & format::kSegmentNoReserve) != 0) p.flags |= MAP_NORESERVE;
  p.file_off = s.file_off;
  p.segment_flags = s.flags;
  const bool may_write = (s.prot & PROT_WRITE) != 0 || (s.flags & format::kSegmentMayWrite) != 0;
  const bool sealed = (o.seals & F_SEAL_WRITE) != 0;
  int index = -1;
  Trouble bad = index_of(m, o, shared && may_write && !sealed, &index);
  if (bad.bad()) return bad;
  p.file = index;
  ret->push_back(p);
  return {};
}

Trouble ObjectMaker::open_descriptor(const format::FileRecord& f, os::Fd* ret) {
  const ObjectRecord& o = image_.objects[f.pair];
  Made& m = made_[f.pair];
  if (m.segment >= 0) return failed(o, "a descriptor of a System V segment", 0);
  const uint32_t settable = O_APPEND | O_NONBLOCK | O_NOATIME;
  os::Fd fd;
  // A file that was made by O_TMPFILE shows that in its flags: its description is the one for that.
  const bool made = o.kind == format::kObjectMemfd || (f.open_flags & kTmpfile) != 0;
  if (!m.given && m.fresh && made && (f.open_flags & O_ACCMODE) == O_RDWR) {
    m.given = true;
    fd = os::Fd(fcntl(m.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (fd && (f.open_flags & settable) != 0) fcntl(fd.get(), F_SETFL, f.open_flags & settable);
  } else {
    const uint32_t flags =
        f.open_flags & ~(kTmpfile | static_cast<uint32_t>(O_DIRECTORY | O_NOFOLLOW | O_CREAT |
                                                          O_EXCL | O_TRUNC | O_NOCTTY));
    fd = os::Fd(open(path_of(m.fd).c_str(), static_cast<int>(flags) | O_CLOEXEC));
  }
  if (!fd || lseek(fd.get(), static_cast<off_t>(f.position), SEEK_SET) < 0) {
    return failed(o, "opening it again", errno);
  }
  *ret = std::move(fd);
  return {};
}

Trouble finish_segments(RestorePlan& plan, const store::LoadedImage& image) {
  for (const PendingSegment& s : plan.segments) {
    if (!s.fill) continue;
    Trouble bad = fill_segment(image, image.view.objects[s.object], s.segment);
    if (bad.bad()) return bad;
  }
  plan.segments.clear();
  return {};
}

}  // namespace cr::agent
