// SPDX-License-Identifier: MIT
// read_objects.cc - see read_objects.h. Invariant: as there. Context: N (agent).
#include "agent/read_objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "agent/sysv_segment.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::ObjectRecord;

// Of these it is known that a page that was written only in memory is no hole.
bool tells_holes(int fd) {
  constexpr long kTmpfs = 0x01021994, kExt = 0xef53, kXfs = 0x58465342, kBtrfs = 0x9123683e;
  struct statfs fs {};
  if (fstatfs(fd, &fs) != 0) return false;
  return fs.f_type == kTmpfs || fs.f_type == kExt || fs.f_type == kXfs || fs.f_type == kBtrfs;
}

class ObjectReader {
 public:
  ObjectReader(const ObjectOwner& owner, store::Model& model, const ObjectSink& sink,
               uint32_t number)
      : owner_(owner), model_(model), sink_(sink), number_(number), o_(model.objects[number]) {
    for (const os::MapEntry& m : owner.maps) {
      if (may_be_object(m) && find_object(model, key_of(m)) == static_cast<int>(number)) {
        maps_.push_back(&m);
      }
    }
  }
  Trouble run(uint64_t addr);

 private:
  Trouble open_source();
  void open_descriptor();
  void open_mapping();
  Trouble open_sysv();
  Trouble check_attached() const;
  uint64_t end_in_mappings() const;
  std::vector<ObjectPart> parts() const;
  Trouble read_part(const ObjectPart& p);
  Trouble read_data(uint64_t from, uint64_t to);
  long read_piece(uint64_t off, uint8_t* to, uint64_t bytes) const;
  std::string name() const { return model_.strings.c_str() + o_.name; }
  Trouble failed(const std::string& what, int error) const {
    return trouble(Errc::kUnsupported, error,
                   "shared memory " + name() + ": " + what +
                       (error != 0 ? std::string(": ") + strerror(error) : ""));
  }

  const ObjectOwner& owner_;
  store::Model& model_;
  const ObjectSink& sink_;
  const uint32_t number_;
  ObjectRecord& o_;
  std::vector<const os::MapEntry*> maps_;
  os::Fd fd_;  // the first of these that there is
  bool searchable_ = true;
  SysvAttachment sysv_;
};

// A description of our own of what a descriptor of the program leads to: the offset of the
// program's stays where it is. Where that is not allowed its own is read, but not searched.
void ObjectReader::open_descriptor() {
  for (const format::FdRecord& r : model_.fds) {
    const format::FileRecord& f = model_.files[r.file];
    if (f.kind != format::kFileObject || f.pair != number_) continue;
    os::Fd fd = os::copy_of_fd(owner_.pidfd, owner_.tid, r.fd);
    const std::string again = "/proc/self/fd/" + std::to_string(fd.get());
    fd_ = os::Fd(fd ? open(again.c_str(), O_RDONLY | O_CLOEXEC) : -1);
    searchable_ = static_cast<bool>(fd_);
    if (fd_) return;
    if (fd && (f.open_flags & (O_ACCMODE | O_PATH)) != O_WRONLY) fd_ = std::move(fd);
    if (fd_) return;
  }
}

// That is privileged.
void ObjectReader::open_mapping() {
  for (const os::MapEntry* m : maps_) {
    char t[64];
    snprintf(t, sizeof(t), "map_files/%lx-%lx", static_cast<unsigned long>(m->start),
             static_cast<unsigned long>(m->end));
    const std::string path = "/proc/" + std::to_string(owner_.tid) + "/" + t;
    fd_ = os::Fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat st;
    if (fd_ && fstat(fd_.get(), &st) == 0 && st.st_ino == m->ino) return;
    fd_.reset();
  }
}

// A segment is attached as a whole: what lies between its parts must be free when it is again.
Trouble ObjectReader::check_attached() const {
  for (const os::MapEntry* m : maps_) {
    const uint64_t begin = m->start - m->offset, end = begin + page_ceil(o_.bytes);
    for (const os::MapEntry& other : owner_.maps) {
      if (other.start >= end || other.end <= begin) continue;
      const bool part = other.ino == m->ino && other.name == m->name && other.shared &&
                        other.start - other.offset == begin;
      if (part) continue;
      return failed("it was unmapped in part, and " + name_of_mapping(other) +
                        " lies there now: that cannot be saved yet; detach it (shmdt)",
                    0);
    }
  }
  return {};
}

Trouble ObjectReader::open_sysv() {
  shmid_ds ds{};
  if (shmctl(static_cast<int>(o_.ino), IPC_STAT, &ds) != 0) {
    return failed("it cannot be looked at (does the program have an IPC namespace of its own?)",
                  errno);
  }
  o_.bytes = ds.shm_segsz;
  o_.mode = ds.shm_perm.mode & 0777;
  o_.uid = ds.shm_perm.uid;
  o_.gid = ds.shm_perm.gid;
  o_.key = ds.shm_perm.__key;
  o_.changed_s = ds.shm_ctime;
  if ((ds.shm_perm.mode & SHM_DEST) != 0) o_.flags |= format::kObjectRemoved;
  Trouble bad = check_attached();
  if (bad.bad()) return bad;
  open_mapping();
  if (fd_) return {};
  sysv_ = SysvAttachment::attach(static_cast<int>(o_.ino), SHM_RDONLY);
  return sysv_ ? Trouble{} : failed("it cannot be read", errno);
}

// Of memory that has no descriptor: the last byte that a mapping reaches.
uint64_t ObjectReader::end_in_mappings() const {
  uint64_t end = 0;
  for (const os::MapEntry* m : maps_) {
    if (!m->shared) continue;
    uint64_t low = m->start, high = m->end;  // readable up to low
    char c;
    while (low < high) {
      const uint64_t mid = low + (high - low) / kPageSize / 2 * kPageSize;
      if (owner_.read(mid, &c, 1)) {
        low = mid + kPageSize;
      } else {
        high = mid;
      }
    }
    end = std::max(end, m->offset + (low - m->start));
  }
  return end;
}

Trouble ObjectReader::open_source() {
  if (o_.kind == format::kObjectSysv) return open_sysv();
  open_descriptor();
  if (!fd_ && o_.kind == format::kObjectNamed) {
    fd_ = os::Fd(open(name().c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat st;
    if (fd_ && (fstat(fd_.get(), &st) != 0 || st.st_ino != o_.ino)) fd_.reset();
  }
  if (!fd_) open_mapping();
  struct stat st {};
  if (fd_ && fstat(fd_.get(), &st) == 0) {
    o_.bytes = static_cast<uint64_t>(st.st_size);
    o_.mode = st.st_mode;
    o_.uid = st.st_uid;
    o_.gid = st.st_gid;
    const int seals = o_.kind == format::kObjectMemfd ? fcntl(fd_.get(), F_GET_SEALS) : 0;
    o_.seals = seals > 0 ? static_cast<uint32_t>(seals) : 0;
    return {};
  }
  o_.bytes = end_in_mappings();
  o_.mode = S_IFREG | (o_.kind == format::kObjectMemfd ? 0777 : 0600);
  o_.uid = geteuid();
  o_.gid = getegid();
  const bool shared = std::ranges::any_of(maps_, [](const os::MapEntry* m) { return m->shared; });
  return shared ? Trouble{} : failed("its last descriptor is gone; try again", 0);
}

// What is stored of it.
std::vector<ObjectPart> ObjectReader::parts() const {
  return stored_parts(o_, model_.segments, number_);
}

long ObjectReader::read_piece(uint64_t off, uint8_t* to, uint64_t bytes) const {
  if (fd_) {
    while (bytes > 0) {
      const ssize_t n = pread(fd_.get(), to, bytes, static_cast<off_t>(off));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return -errno;
      if (n == 0) return 0;  // it became shorter: somebody else has it too
      to += n;
      off += static_cast<uint64_t>(n);
      bytes -= static_cast<uint64_t>(n);
    }
    return 0;
  }
  if (sysv_) return sysv_.read(off, to, bytes);
  for (const os::MapEntry* m : maps_) {
    const uint64_t end = m->offset + (m->end - m->start);
    if (!m->shared || off < m->offset || off + bytes > end) continue;
    return owner_.read(m->start + (off - m->offset), to, bytes) ? 0 : -EFAULT;
  }
  return bytes > kPageSize ? -E2BIG : 0;  // between two mappings; or nobody can tell
}

Trouble ObjectReader::read_data(uint64_t from, uint64_t to) {
  constexpr uint64_t kPiece = 256 << 10;
  std::vector<uint8_t> buffer(kPiece);
  for (uint64_t at = from; at < to;) {
    uint64_t bytes = std::min(to - at, kPiece);
    memset(buffer.data(), 0, kPiece);
    long e = read_piece(at, buffer.data(), bytes);
    if (e == -E2BIG) {
      bytes = std::min(bytes, kPageSize);
      e = read_piece(at, buffer.data(), bytes);
    }
    if (e != 0) return failed("its content cannot be read", static_cast<int>(-e));
    Trouble bad = sink_(o_.addr + at, buffer.data(), page_ceil(bytes));
    if (bad.bad()) return bad;
    at += bytes;
  }
  return {};
}

// Holes are passed over where they can be seen.
Trouble ObjectReader::read_part(const ObjectPart& p) {
  uint64_t at = p.from;
  while (at < p.to) {
    uint64_t data = at, hole = p.to;
    if (fd_ && searchable_ && tells_holes(fd_.get())) {
      const off_t d = lseek(fd_.get(), static_cast<off_t>(at), SEEK_DATA);
      if (d < 0 && errno == ENXIO) return {};
      if (d >= 0) {
        data = page_floor(static_cast<uint64_t>(d));
        const off_t h = lseek(fd_.get(), d, SEEK_HOLE);
        if (h > d) hole = std::min(p.to, page_ceil(static_cast<uint64_t>(h)));
      }
    }
    data = std::max(at, data);
    Trouble bad = data < hole ? read_data(data, hole) : Trouble{};
    if (bad.bad()) return bad;
    at = std::max(hole, at + 1);
  }
  return {};
}

Trouble ObjectReader::run(uint64_t addr) {
  Trouble bad = open_source();
  if (bad.bad()) return bad;
  if (o_.bytes >= format::kObjectSpace - (addr - format::kObjectSpace)) {
    return failed("it is too large", 0);
  }
  o_.addr = addr;
  for (const ObjectPart& p : parts()) {
    bad = read_part(p);
    if (bad.bad()) return bad;
  }
  return {};
}

}  // namespace

Trouble read_objects(const ObjectOwner& owner, store::Model& model, const ObjectSink& sink) {
  uint64_t addr = format::kObjectSpace;
  for (uint32_t i = 0; i < model.objects.size(); i++) {
    Trouble bad = ObjectReader(owner, model, sink, i).run(addr);
    if (bad.bad()) return bad;
    addr += page_ceil(model.objects[i].bytes) + kPageSize;  // no extent reaches across two
  }
  return {};
}

}  // namespace cr::agent
