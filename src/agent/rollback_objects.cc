// SPDX-License-Identifier: MIT
// rollback_objects.cc - see rollback_objects.h. Invariant: as there. Context: N (agent).
#include "agent/rollback_objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "agent/describe_objects.h"
#include "format/checksum.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::ObjectRecord;

class ObjectDiff {
 public:
  ObjectDiff(const ObjectsNow& now, uint32_t number, ObjectChange::One& out)
      : now_(now), image_(now.image), number_(number), o_(image_.objects[number]), out_(out) {
    out_.name = image_.string(o_.name);
    out_.bytes = o_.bytes;
  }
  std::string run();

 private:
  bool take(os::Fd fd);
  bool open_descriptor();
  bool open_mapping();
  std::string open();
  std::string compare();
  std::string seals_allow() const;
  long read(uint64_t off, uint8_t* to, uint64_t bytes) const;
  std::string why(const char* what) const { return "shared memory " + out_.name + " " + what; }

  const ObjectsNow& now_;
  const format::ImageView& image_;
  const uint32_t number_;
  const ObjectRecord& o_;
  ObjectChange::One& out_;
};

// If it is the one.
bool ObjectDiff::take(os::Fd fd) {
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0 || st.st_ino != o_.ino || !S_ISREG(st.st_mode)) return false;
  out_.bytes_now = static_cast<uint64_t>(st.st_size);
  out_.fd = std::move(fd);
  return true;
}

// A description of our own, for writing.
bool ObjectDiff::open_descriptor() {
  return std::ranges::any_of(image_.fds, [&](const format::FdRecord& r) {
    const format::FileRecord& f = image_.files[r.file];
    if (f.kind != format::kFileObject || f.pair != number_) return false;
    os::Fd fd(static_cast<int>(syscall(__NR_pidfd_getfd, now_.pidfd, r.fd, 0)));
    if (!fd) return false;
    const std::string again = "/proc/self/fd/" + std::to_string(fd.get());
    return take(os::Fd(::open(again.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC)));
  });
}

bool ObjectDiff::open_mapping() {
  return std::ranges::any_of(now_.maps, [&](const os::MapEntry& m) {
    if (m.ino != o_.ino || m.dev != o_.dev || !m.shared) return false;
    char t[80];
    snprintf(t, sizeof(t), "/proc/%d/map_files/%lx-%lx", static_cast<int>(now_.pid),
             static_cast<unsigned long>(m.start), static_cast<unsigned long>(m.end));
    return take(os::Fd(::open(t, O_RDWR | O_NONBLOCK | O_CLOEXEC)));
  });
}

std::string ObjectDiff::open() {
  if (o_.kind == format::kObjectSysv) {
    if (!is_segment_there(o_)) return why("is not the segment that it was");
    out_.segment = SysvAttachment::attach(static_cast<int>(o_.ino), 0);
    out_.bytes_now = o_.bytes;
    return out_.segment ? "" : why("cannot be attached");
  }
  const bool named = o_.kind == format::kObjectNamed;
  const bool found = named
                         ? take(os::Fd(::open(out_.name.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC)))
                         : open_descriptor() || open_mapping();
  return found ? "" : why("was closed or replaced, or has no descriptor");
}

long ObjectDiff::read(uint64_t off, uint8_t* to, uint64_t bytes) const {
  if (out_.segment) return out_.segment.read(off, to, bytes);
  return rawsys::read_all_at(out_.fd.get(), to, bytes, off);
}

std::string ObjectDiff::compare() {
  static constexpr uint8_t kZeros[kPageSize] = {};
  uint8_t here[kPageSize];
  for (const ObjectPart& p : stored_parts(o_, image_.segments, number_)) {
    for (uint64_t at = p.from; at < p.to; at += kPageSize) {
      const format::ExtentRecord* e = format::find_extent(image_, o_.addr + at);
      const uint64_t bytes = std::min(kPageSize, p.to - at);
      const uint8_t* want = nullptr;
      if (e != nullptr && e->slot != format::kSlotZero) {
        const uint64_t slot = e->slot + (o_.addr + at - e->addr) / kPageSize;
        want = image_.slot(slot);
        if (format::checksum(want, kPageSize) != image_.checksums[slot]) {
          return why("is damaged in the image");
        }
      }
      const bool there = at + bytes <= out_.bytes_now && this->read(at, here, bytes) == 0;
      if (there && memcmp(here, want != nullptr ? want : kZeros, bytes) == 0) continue;
      out_.pages.push_back({at, bytes, want});
    }
  }
  return "";
}

// A seal stays.
std::string ObjectDiff::seals_allow() const {
  if (o_.kind != format::kObjectMemfd) return "";
  const auto seals = static_cast<uint32_t>(fcntl(out_.fd.get(), F_GET_SEALS));
  constexpr uint32_t kNoWriting = F_SEAL_WRITE | 0x10;  // F_SEAL_FUTURE_WRITE
  if (seals != o_.seals) return why("was sealed");
  if ((seals & kNoWriting) != 0 && !out_.pages.empty()) return why("is sealed against writing");
  const bool grows = out_.bytes > out_.bytes_now, shrinks = out_.bytes < out_.bytes_now;
  const bool fixed =
      (grows && (seals & F_SEAL_GROW) != 0) || (shrinks && (seals & F_SEAL_SHRINK) != 0);
  return fixed ? why("is sealed against its size") : "";
}

std::string ObjectDiff::run() {
  const bool others = o_.kind == format::kObjectSysv && !may_write(image_.segments, number_);
  if (others && is_segment_there(o_)) {
    out_.bytes_now = o_.bytes;
    return "";
  }
  std::string text = open();
  if (text.empty()) text = compare();
  return text.empty() ? seals_allow() : text;
}

}  // namespace

std::string find_object_change(const ObjectsNow& now, ObjectChange* ret) {
  for (uint32_t i = 0; i < now.image.objects.size(); i++) {
    ObjectChange::One one;
    std::string why = ObjectDiff(now, i, one).run();
    if (!why.empty()) return why;
    ret->all.push_back(std::move(one));
  }
  return "";
}

std::string put_objects_back(ObjectChange& change) {
  static constexpr uint8_t kZeros[kPageSize] = {};
  for (ObjectChange::One& o : change.all) {
    if (o.bytes != o.bytes_now && ftruncate(o.fd.get(), static_cast<off_t>(o.bytes)) != 0) {
      return "the size of " + o.name + ": " + strerror(errno);
    }
    for (const ObjectChange::Pages& p : o.pages) {
      const uint8_t* from = p.from != nullptr ? p.from : kZeros;
      const long e = o.segment ? o.segment.write(p.off, from, p.bytes)
                               : rawsys::write_all_at(o.fd.get(), from, p.bytes, p.off);
      if (e != 0) return "writing " + o.name + ": " + strerror(static_cast<int>(-e));
    }
  }
  change.all.clear();  // nothing of the program's is held open here
  return "";
}

}  // namespace cr::agent
